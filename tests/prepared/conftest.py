"Shared by the tests of preparation."

import shutil
from pathlib import Path

import pytest

from radgen.data import entropy
from radgen.data.copies import inject_copies
from radgen.data.phantoms import make_phantoms


@pytest.fixture(scope="session")
def small_raw(tmp_path_factory):
    "A small data set with injected copies; not to be changed."
    folder = tmp_path_factory.mktemp("small")
    return inject_copies(make_phantoms(folder / "plain", 60, 12, 18, seed=3, workers=1), folder / "raw", n=20)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    "A cache of its own."
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def raw(small_raw, own_cache, tmp_path):
    "A copy of the small data set, which a test may change, and a cache of its own."
    return Path(shutil.copytree(small_raw, tmp_path / "raw"))


@pytest.fixture
def decoded(monkeypatch):
    "The images that measuring decodes."
    seen, load = [], entropy.load_grey

    def load_grey(image, grey):
        seen.append(Path(image).stem)
        return load(image, grey)

    monkeypatch.setattr("radgen.data.entropy.load_grey", load_grey)
    return seen


@pytest.fixture(autouse=True)
def no_figures(request, monkeypatch):
    "Not even begun, except in tests that ask for `figures`."
    if "figures" not in request.fixturenames:
        monkeypatch.setattr("radgen.prepared.prepare.write_figures", lambda *a: None)
