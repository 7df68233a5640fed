"""A training that starts from the weights of a finished model."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from radgen.core.errors import ConfigError, DataError, Preempted
from radgen.core.files import read_json
from radgen.data.phantoms import make_phantoms
from radgen.networks.registry import DENOISERS, make_denoiser
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.starting import finished_weights, start_from, take_weights
from radgen.training.train import train
from training_tools import tiny

WEIGHTS = "denoiser/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["UNet", "VGG16UNet"])
@pytest.mark.parametrize("preset", ["paper", "radgen"])
def test_an_equal_network_takes_everything_and_another_text_encoder_changes_the_projection_alone(name, preset):
    first = make_denoiser(name, preset, "tiny", 16, text_dim=24)
    second = make_denoiser(name, preset, "tiny", 16, text_dim=24)
    overlap = take_weights(second, first.state_dict())
    assert overlap.new == overlap.unused == []
    assert overlap.share == 1
    assert all(torch.equal(tensor, second.state_dict()[key]) for key, tensor in first.state_dict().items())
    wider = take_weights(make_denoiser(name, preset, "tiny", 16, text_dim=32), first.state_dict())
    assert {key.split(".")[0] for key in wider.new} == {"cond"}
    assert wider.new == wider.unused


def test_last_stages_of_two_decoders_agree():
    "At 128 px there is one stage more, and the stage that writes full size is the last of both."
    first = make_denoiser("UNet", size="tiny", sample_size=64, text_dim=24)
    second = make_denoiser("UNet", size="tiny", sample_size=128, text_dim=24)
    assert len(second.ups) == len(first.ups) + 1
    take_weights(second, first.state_dict())
    for key, tensor in first.ups[-1].state_dict().items():
        if key in second.ups[-1].state_dict() and "attn" not in key:
            assert torch.equal(tensor, second.ups[-1].state_dict()[key]), key


def test_first_weights_are_those_of_the_other_model_and_the_card_names_it(small, two_steps, tmp_path, capsys):
    cfg = replace(tiny(small, tmp_path), steps=0, init=two_steps.dir, ema_width=0.0)
    run = train(cfg)
    assert run.weights() == two_steps.weights()
    assert "tensors fit, 100 % of the parameters." in capsys.readouterr().err
    assert run.pipeline().config.about["start"] == f"{two_steps.dir.name}, weights {two_steps.weights()[:12]}"
    assert two_steps.weights()[:12] in (run.final() / "README.md").read_text()
    assert read_json(run.dir / "config.json")["init_weights"] == two_steps.weights()


def test_a_run_that_has_begun_needs_the_other_model_no_more(small, two_steps, tmp_path, monkeypatch):
    other = shutil.copytree(two_steps.dir, tmp_path / "other")
    whole = train(replace(tiny(small, tmp_path / "whole"), init=other))
    cut = replace(tiny(small, tmp_path / "cut"), init=other, checkpoint_every=4)
    with monkeypatch.context() as m:
        m.setattr("radgen.training.train.write_final", stop)
        with pytest.raises(Preempted):
            train(cut)
    shutil.rmtree(other)
    assert train(cut).weights() == whole.weights()


def stop(state):
    "What a scheduler does at the worst moment."
    raise Preempted("stopped")


def test_other_weights_are_refused_on_resume_and_a_copy_of_the_same_ones_is_not(small, two_steps, four_steps, tmp_path):
    cfg = replace(tiny(small, tmp_path), init=two_steps.dir)
    run = train(cfg)
    copy = shutil.copytree(two_steps.final(), tmp_path / "copy")
    assert train(replace(cfg, init=copy)).weights() == run.weights()
    for init in (None, four_steps.dir):
        with pytest.raises(ConfigError, match="started with other options .init_weights "):
            train(replace(cfg, init=init))


def test_models_that_cannot_be_a_start_are_one_sentence_each(small, two_steps, tmp_path):
    with pytest.raises(ConfigError, match="is no finished model"):
        finished_weights(tmp_path)
    ill = shutil.copytree(two_steps.final(), tmp_path / "ill")
    weights = load_file(ill / WEIGHTS)
    save_file({**weights, "stem.bias": weights["stem.bias"] * torch.nan}, ill / WEIGHTS)
    with pytest.raises(ConfigError, match="not finite .stem.bias"):
        finished_weights(ill)
    (ill / WEIGHTS).write_bytes(b"no safetensors")
    with pytest.raises(ConfigError, match="could not be read"):
        finished_weights(ill)
    (ill / WEIGHTS).rename(ill / "denoiser" / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="only a pickle"):
        finished_weights(ill)
    with pytest.raises(ConfigError, match="shares no tensor"):
        start_from(torch.nn.Linear(2, 2), two_steps.dir)
    with pytest.raises(ConfigError, match="is no finished model"):
        train(replace(tiny(small, tmp_path), init=tmp_path / "nowhere"))
    assert not (tmp_path / "r").exists()


def test_every_denoiser_names_the_stages_of_its_decoder_ups():
    "By which two sizes of image are matched."
    for name in DENOISERS:
        names = make_denoiser(name, "radgen", "tiny", 16, text_dim=24).state_dict()
        assert any(key.startswith("ups.") for key in names), name


@pytest.mark.soak
def test_steps_from_a_model_of_other_phantoms_beat_as_many_from_nothing(few, tmp_path):
    raw = make_phantoms(tmp_path / "raw", 200, 20, 20, seed=1)
    there = prepare(PrepareConfig(raw, tmp_path / "prepared", llm="rules"))
    first = train(replace(tiny(there, tmp_path / "first"), steps=400, batch_size=16))
    cfg = replace(tiny(few, tmp_path / "alone"), steps=200, batch_size=16, valid_every=800)
    alone = train(cfg)
    after = train(replace(cfg, runs=tmp_path / "after", init=first.dir))
    curves = [run.metrics().dropna(subset="valid_loss").valid_loss.to_numpy() for run in (alone, after)]
    assert (curves[1] < curves[0]).all()
