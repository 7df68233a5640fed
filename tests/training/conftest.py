"""A handful of phantoms and two tiny runs, which the tests of training share; a test that changes a run copies it."""

import shutil
from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    "Sixty training phantoms and some more, prepared without a language model."
    from radgen.data.phantoms import make_phantoms
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    return prepare(PrepareConfig(make_phantoms(folder / "raw", 60, 10, 10), folder / "prepared", llm="rules"))


@pytest.fixture
def cfg(small, tmp_path):
    "Two steps, in a folder of the test's own."
    from training_tools import tiny

    return tiny(small, tmp_path)


@pytest.fixture(scope="session")
def two_steps(small, tmp_path_factory):
    "A finished run of two steps; not to be changed."
    from radgen.training.train import train
    from training_tools import tiny

    return train(tiny(small, tmp_path_factory.mktemp("two")))


@pytest.fixture(scope="session")
def four_steps(small, tmp_path_factory):
    "A finished run of four steps with checkpoints after two and four; not to be changed."
    from radgen.training.train import train
    from training_tools import tiny

    return train(replace(tiny(small, tmp_path_factory.mktemp("four")), steps=4, checkpoint_every=8, log_every=1))


@pytest.fixture
def copied(tmp_path):
    "A function that copies a run into the test's own folder, where it may be changed; it goes on under the same name."
    from radgen.training.run import load_run

    def copy(run):
        return load_run(shutil.copytree(run.dir, tmp_path / "r"))

    return copy
