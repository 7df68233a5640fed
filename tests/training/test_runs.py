"""A run folder: what may be begun, continued or replaced, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest

from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.training.config import SampleConfig
from radgen.training.run import load_run
from radgen.training.sampling import sample
from radgen.training.train import train
from training_tools import tiny


@pytest.fixture(scope="module")
def vgg_run(small, tmp_path_factory):
    "A finished run with VGG16; not to be changed."
    return train(replace(tiny(small, tmp_path_factory.mktemp("vgg")), model="VGG16UNet"))


def test_finished_run_is_not_trained_again(cfg, copied, two_steps):
    metrics = copied(two_steps).dir / "metrics.csv"
    before = metrics.stat().st_mtime_ns
    assert train(cfg).weights() == two_steps.weights()
    assert metrics.stat().st_mtime_ns == before


def test_other_options_are_refused_by_name(cfg, copied, two_steps):
    copied(two_steps)
    with pytest.raises(ConfigError, match="other options .global_batch 4 instead of 8"):
        train(replace(cfg, batch_size=8))


@pytest.fixture
def other_data(small, tmp_path):
    "The same prepared folder with another fingerprint of its content."
    folder = shutil.copytree(small.dir, tmp_path / "other")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "0123456789abcdef"}))
    return folder


def test_other_data_are_refused(cfg, copied, two_steps, other_data):
    copied(two_steps)
    with pytest.raises(ConfigError, match="other options .data .* instead of 0123456789abcdef"):
        train(replace(cfg, data_path=other_data))


def test_data_prepared_anew_are_noticed_when_samples_are_asked_for(copied, two_steps, other_data):
    path = copied(two_steps).dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prepared": str(other_data)}))
    with pytest.raises(DataError, match="prepared anew"):
        sample(SampleConfig(path.parent, n=1, steps=1, device="cpu"))


def test_run_folder_loads_from_elsewhere(two_steps, monkeypatch):
    monkeypatch.chdir(two_steps.dir.parent)
    assert load_run("r").config == two_steps.config


def test_run_of_another_version_is_refused_and_may_be_overwritten(cfg, copied, two_steps):
    path = copied(two_steps).dir / "config.json"
    config = json.loads(path.read_text())
    del config["compile"]
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match="another version of radgen .compile is lacking"):
        train(cfg)
    assert train(replace(cfg, overwrite=True)).weights() == two_steps.weights()


@pytest.mark.parametrize(
    "name, content",
    [("thesis.txt", "years of work"), ("config.json", '{"architectures": ["Bert"]}')],
    ids=["text", "model of somebody"],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_files_is_not_taken_for_a_run(cfg, name, content, overwrite):
    folder = cfg.runs / "r"
    folder.mkdir()
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match="holds other files"):
        train(replace(cfg, overwrite=overwrite))
    assert (folder / name).read_text() == content


def test_killed_beginning_does_not_block_a_name(cfg, two_steps):
    (cfg.runs / "r").mkdir()
    (cfg.runs / "r" / ".tmp-abc.json").write_text("{")  # a kill in the write of config.json
    assert train(cfg).weights() == two_steps.weights()
    assert not list((cfg.runs / "r").glob(".tmp-*"))


def test_failed_start_leaves_nothing_and_takes_nothing(cfg, tmp_path, two_steps):
    (tmp_path / "empty").mkdir()
    wrong = replace(cfg, encoder=str(tmp_path / "empty"))
    with pytest.raises(RadgenError, match="--encoder minilm"):
        train(wrong)
    assert not (tmp_path / "r").exists()
    run = train(cfg)  # what the message advises works under the same name
    with pytest.raises(RadgenError, match="--encoder minilm"):
        train(replace(wrong, overwrite=True))
    assert run.weights() == two_steps.weights()
    assert train(replace(cfg, overwrite=True, seed=1)).weights() != two_steps.weights()


def test_vgg_weights_are_decided_once(vgg_run, monkeypatch):
    cfg = replace(vgg_run.config, vgg_weights=None)
    assert load_run(vgg_run.dir).config.vgg_weights == "keras"
    monkeypatch.setattr("radgen.training.run.best_vgg_weights", lambda: "torchvision")  # its file has appeared
    with pytest.raises(ConfigError, match="vgg_weights keras instead of torchvision"):
        train(cfg)
    assert train(replace(cfg, vgg_weights="keras")).weights() == vgg_run.weights()


def test_model_card_says_what_was_trained(vgg_run, small):
    card = (vgg_run.final() / "README.md").read_text(encoding="utf-8")
    for part in (
        "Apache-2.0",
        "C0040405",
        "MiniLM (stand-in for RadBERT) as text encoder",
        "Keras training",
        "not for diagnosis",
        "v\\_prediction",
    ):
        assert part in card, part
    assert str(small.dir.parent) not in card
