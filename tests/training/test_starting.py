"""A training that starts from the weights of a finished model."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from radgen.core.errors import ConfigError, DataError, Preempted
from radgen.core.files import read_json
from radgen.data.phantoms import make_phantoms
from radgen.diffusion.pipeline import RadGenPipeline, update_card
from radgen.diffusion.process import make_schedule
from radgen.networks.registry import DENOISERS, make_denoiser
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.starting import finished_weights, start_from, take_weights
from radgen.training.train import train
from training_tools import cut_off_before, tiny

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
    assert read_json(run.dir / "config.json")["start"]["weights"] == two_steps.weights()


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
        with pytest.raises(ConfigError, match="started with other options .init "):
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
    wider = make_denoiser("UNet", "radgen", "small", 16, text_dim=384)
    with pytest.raises(ConfigError, match="choose the same --model, --recipe and --size"):
        start_from(wider, two_steps.dir, finished_weights(two_steps.dir))
    with pytest.raises(ConfigError, match="is no finished model"):
        train(replace(tiny(small, tmp_path), init=tmp_path / "nowhere"))
    assert not (tmp_path / "r").exists()


def test_a_start_that_cannot_work_deletes_and_leaves_nothing(small, two_steps, tmp_path, copied):
    run, cfg = copied(two_steps), tiny(small, tmp_path)
    with pytest.raises(ConfigError, match="--overwrite True replaces: choose another --name"):
        train(replace(cfg, init=run.final(), overwrite=True))
    wider = replace(cfg, size="small", init=two_steps.dir)
    for options in (replace(wider, overwrite=True), replace(wider, name="new")):
        with pytest.raises(ConfigError, match="choose the same --model"):
            train(options)
    assert run.weights() == two_steps.weights()
    assert not (tmp_path / "new" / "config.json").exists()


def test_weights_that_changed_since_the_start_are_refused(small, two_steps, four_steps, tmp_path):
    other = shutil.copytree(two_steps.dir, tmp_path / "other")
    cfg = replace(tiny(small, tmp_path), init=other)
    with cut_off_before(0):
        train(cfg)
    shutil.rmtree(other)
    shutil.copytree(four_steps.dir, other)
    with pytest.raises(ConfigError, match="has other weights than at the start"):
        train(cfg)


def test_vgg16_of_other_units_is_refused_and_another_prediction_is_told(small, two_steps, tmp_path, capsys):
    keras = make_denoiser("VGG16UNet", "radgen", "tiny", 16, text_dim=384, affine="keras")
    torchvision = make_denoiser("VGG16UNet", "radgen", "tiny", 16, text_dim=384, affine="torchvision")
    RadGenPipeline(keras, make_schedule("v_prediction"), "minilm").save_pretrained(tmp_path / "keras")
    with pytest.raises(ConfigError, match="give --vgg-weights keras"):
        start_from(torchvision, tmp_path / "keras", keras.state_dict())
    train(replace(tiny(small, tmp_path), init=two_steps.dir, prediction="flow"))
    assert "; its prediction was v_prediction." in capsys.readouterr().err


def test_a_model_of_data_with_another_licence_leaves_the_card_without_one(small, two_steps, tmp_path):
    other = shutil.copytree(two_steps.final(), tmp_path / "other")
    update_card(other, licence="CC BY-NC-SA 4.0")
    about = train(replace(tiny(small, tmp_path), init=other)).pipeline().config.about
    assert "licence" not in about
    assert about["start"].startswith("other, weights ")


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
