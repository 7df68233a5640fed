"""A run folder: what may be begun, continued or replaced, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from radgen.core.devices import pick_device
from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.core.files import file_digest, fingerprint
from radgen.core.precision import choose_precision
from radgen.training.config import SampleConfig
from radgen.tools.requests import data_of
from radgen.training.run import BEFORE, CHANGEABLE, as_begun, describe, load_run, open_run, resolve
from radgen.training.sampling import sample
from radgen.training.train import train
from training_tools import cut_off_before, final_weights, largest_difference, tiny


def change(path, **entries):
    "Change entries of a JSON file; None takes one out."
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


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
    change(path, content="0123456789abcdef")
    return folder


def test_other_data_are_refused(cfg, copied, two_steps, other_data):
    copied(two_steps)
    with pytest.raises(ConfigError, match="other options .data .* instead of 0123456789abcdef"):
        train(replace(cfg, data_path=other_data))


def test_data_prepared_anew_are_noticed_when_samples_are_asked_for(copied, two_steps, other_data):
    path = copied(two_steps).dir / "config.json"
    change(path, prepared=str(other_data))
    with pytest.raises(DataError, match="prepared again"):
        sample(SampleConfig(path.parent, n=1, steps=1, device="cpu"))


def test_run_folder_loads_from_elsewhere(two_steps, monkeypatch):
    monkeypatch.chdir(two_steps.dir.parent)
    assert load_run("r").config == two_steps.config


def test_unknown_option_is_refused_by_name_and_the_run_may_be_overwritten(cfg, copied, two_steps):
    change(copied(two_steps).dir / "config.json", temperature=0.7)
    with pytest.raises(DataError, match="another version of radgen, whose option temperature is unknown"):
        train(cfg)
    assert train(replace(cfg, overwrite=True)).weights() == two_steps.weights()


def test_option_that_a_run_lacks_has_its_default(cfg, copied, two_steps):
    change(copied(two_steps).dir / "config.json", compile=None, balance=None)
    run = load_run(cfg.runs / "r")
    assert (run.config.compile, run.config.balance) == (False, "none")
    assert train(cfg).weights() == two_steps.weights()


def test_run_goes_on_on_another_kind_of_machine(cfg, four_steps):
    cfg = replace(cfg, steps=4, checkpoint_every=8)
    with cut_off_before(3):
        train(replace(cfg, precision="bf16", gradient_checkpointing=True))
    run = train(replace(cfg, precision="no", log_with="none"))
    assert 0 < largest_difference(final_weights(run), final_weights(four_steps)) < 1e-2


def test_choice_of_precision_is_no_part_of_a_run(cfg, copied, two_steps):
    copied(two_steps)
    stored = json.loads((two_steps.dir / "config.json").read_text())
    assert stored["precision"] == "auto"
    for elsewhere in (dict(precision="bf16"), dict(device="auto"), dict(compile=True)):
        assert train(replace(cfg, **elsewhere)).weights() == two_steps.weights()


def test_run_begun_on_a_cpu_passes_the_check_on_a_gpu(cfg, copied, two_steps, small, monkeypatch):
    run = copied(two_steps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    there = resolve(as_begun(replace(cfg, device="auto", compile=True)))
    device = pick_device(there.device)
    assert (device.type, choose_precision(there.precision, device)) == ("cuda", "bf16")
    assert open_run(there, describe(there, small)) == run.dir


@pytest.fixture
def old_run(cfg):
    "A run that the version before `patch` began, cut off behind its checkpoint; the options of its command."
    old = replace(cfg, steps=4, checkpoint_every=8, valid_every=0)
    was = dict(optimizer="adamw", lr=1e-3, ema_width=0.0, patch=1)
    with cut_off_before(3):
        train(replace(old, **was))
    path = old.runs / "r" / "config.json"
    newer = dict.fromkeys((*BEFORE, "log_with", "init", "start", "id"))
    change(path, **newer, precision="no", checkpoint_every=2, log_every=10, valid_every=0.0, preview_every=10.0)
    stored = json.loads(path.read_text())
    identifying = {k: v for k, v in stored.items() if k not in CHANGEABLE - {"precision"}}
    state = old.runs / "r" / "checkpoints" / "step-00000002" / "state.json"
    change(state, run=fingerprint(identifying))
    optimizer = state.parent / "optimizer.pt"
    moments = torch.load(optimizer, weights_only=True)
    for group in moments["optimizer"]["param_groups"]:
        del group["rate"], group["muon"]
    torch.save(moments, optimizer)
    change(state, sha256={**json.loads(state.read_text())["sha256"], "optimizer.pt": file_digest(optimizer)})
    return old, was


def test_run_of_an_older_version_goes_on_as_it_was_begun(old_run, capsys):
    cfg, was = old_run
    whole = train(replace(cfg, **was, name="whole"))
    with cut_off_before(3):
        train(cfg)
    assert "going on from step 2" in capsys.readouterr().err
    run = train(cfg)  # and once more, now that config.json has all options
    assert run.weights() == whole.weights()
    assert (run.config.optimizer, run.config.patch, run.config.ema_width) == ("adamw", 1, 0.0)
    assert load_run(run.dir).config.checkpoint_every == cfg.checkpoint_every


def test_run_of_an_older_version_loads_without_going_on(old_run):
    config = load_run(old_run[0].runs / "r").config
    assert (config.optimizer, config.t_sampling, config.checkpoint_every) == ("adamw", "uniform", None)


@pytest.fixture
def without_data(copied, two_steps):
    "A finished run whose prepared folder is gone."
    run = copied(two_steps)
    change(run.dir / "config.json", prepared=str(run.dir / "gone"))
    return load_run(run.dir)


def test_run_without_its_data_generates_images(without_data):
    assert data_of(without_data) is None
    images = without_data.pipeline()("computed tomography, head", num_inference_steps=1).images
    assert images[0].size == (16, 16)
    with pytest.raises(DataError, match="the data of .* are not at .*--data-path"):
        without_data.prepared


def test_place_of_the_data_of_a_finished_run_is_recorded(without_data, cfg, small):
    assert train(cfg).weights() == without_data.weights()
    assert load_run(without_data.dir).prepared.dir == small.dir.resolve()


def test_finished_model_opens_without_its_run(two_steps, tmp_path):
    alone = Path(shutil.copytree(two_steps.final(), tmp_path / "alone"))
    (tmp_path / "run").mkdir()
    beside = Path(shutil.copytree(two_steps.final(), tmp_path / "run" / "final"))
    for path, final in ((alone, alone), (beside.parent, beside)):
        run = load_run(path)
        assert run.final() == final
        assert run.weights() == two_steps.weights()
        for name in ("encoder", "max_length", "image_size", "patch", "caption_mode", "equalize", "recipe", "model"):
            assert getattr(run.config, name) == getattr(two_steps.config, name), name
        with pytest.raises(DataError, match="a model without its run"):
            run.prepared
    assert load_run(two_steps.final()).dir == two_steps.dir


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
    monkeypatch.setattr("radgen.training.choices.best_vgg_weights", lambda: "torchvision")  # its file has appeared
    assert train(cfg).weights() == vgg_run.weights()
    with pytest.raises(ConfigError, match="vgg_weights keras instead of torchvision"):
        train(replace(cfg, vgg_weights="torchvision"))


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
