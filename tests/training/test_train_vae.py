"""The training of a VAE keeps what the training of a denoiser promises."""

import os
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from radgen.core.errors import ConfigError, Preempted, RadgenError
from radgen.core.files import read_json, write_json
from radgen.diffusion.saved import open_vae
from radgen.networks.pretrained import vgg16_features
from radgen.tools.doctor import folders
from radgen.training.autoencoder import PatchDiscriminator, PerceptualLoss, TrainableVae, divergence
from radgen.training.config import TrainVaeConfig
from radgen.training.run import load_run
from radgen.training.train import train
from radgen.training.train_vae import train_vae
from training_tools import tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def cfg(small, tmp_path):
    "Four steps at 16 px with a checkpoint after each."
    options = dict(image_size=16, width=8, steps=4, batch_size=2, checkpoint_every=2, perceptual=0.0, device="cpu")
    return TrainVaeConfig(small.dir, runs=tmp_path, **options)


def weights(run):
    return load_file(run / "final" / WEIGHTS)


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def cut_off_before(monkeypatch, step, action):
    "Within the patch a training is stopped by `action` before this step (0-based)."
    from radgen.training import train_vae as module

    original = module.vae_step

    def vae_step(state, index):
        if index == step:
            action()
        original(state, index)

    monkeypatch.setattr(module, "vae_step", vae_step)


def fail():
    raise MemoryError


COLOUR = dict(factor=8, perceptual=0.1, adversarial=0.1, adversarial_start=0.5)


@pytest.mark.parametrize(
    "data, options",
    [
        ("small", dict(perceptual=0.1)),
        pytest.param("small", dict(adversarial=0.1, adversarial_start=0.5), marks=pytest.mark.soak),
        pytest.param("colour", COLOUR, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_run_cut_off_goes_on_with_the_same_bits(cfg, monkeypatch, data, options, request):
    cfg = replace(cfg, data_path=request.getfixturevalue(data).dir, **options)
    whole = train_vae(replace(cfg, name="whole"))
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        cut_off_before(patch, 3, fail)
        train_vae(cfg)
    torch.rand(7)
    run = train_vae(cfg)
    assert same(weights(run), weights(whole))
    columns = ["step", "loss", "valid_loss"]
    assert pd.read_csv(run / "metrics.csv")[columns].equals(pd.read_csv(whole / "metrics.csv")[columns])


def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(cfg, monkeypatch):
    cfg = replace(cfg, checkpoint_every=1000)
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        cut_off_before(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train_vae(cfg)
    run = cfg.runs / "vae"
    assert (run / "last").read_text().strip() == "step-00000002"
    assert not (run / "final").exists()
    assert same(weights(train_vae(cfg)), weights(train_vae(replace(cfg, name="whole"))))


def test_the_finished_vae_is_read_by_diffusers_and_trained_on(cfg, small):
    run = train_vae(cfg)
    vae = AutoencoderKL.from_pretrained(run / "final")
    assert vae.config.in_channels == 1
    assert "Not for diagnosis" in (run / "final" / "README.md").read_text()
    assert (run / "reconstructions.png").exists()
    assert same(open_vae(run).state_dict(), vae.state_dict())
    options = replace(tiny(small, cfg.runs), image_size=32, latents=str(run), steps=1)
    assert train(options).pipeline().image_size == 32


def test_other_options_are_refused_and_overwrite_begins_again(cfg, small, capsys):
    run = train_vae(cfg)
    before = weights(run)
    assert train_vae(replace(cfg, log_every=2)) == run  # finished
    assert "is finished" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="kl 1e-06 instead of 0.1"):
        train_vae(replace(cfg, kl=0.1))
    train_vae(replace(cfg, kl=0.1, overwrite=True))
    assert not same(weights(run), before)
    write_json(cfg.runs / "denoiser" / "config.json", {"data_path": "x", "recipe": "radgen"})
    with pytest.raises(ConfigError, match="no run of train-vae"):
        train_vae(replace(cfg, name="denoiser", overwrite=True))
    with pytest.raises(ConfigError, match="holds other files and no run"):
        train(replace(tiny(small, cfg.runs), name="vae"))


def test_a_loss_that_is_not_finite_stops_with_one_sentence(cfg, monkeypatch):
    monkeypatch.setattr("radgen.training.autoencoder.divergence", lambda *moments: torch.tensor(float("nan")))
    with pytest.raises(RadgenError, match="the loss is nan at step 1: begin again with a --lr below 0.001"):
        train_vae(cfg)


def test_options_that_cannot_work_leave_a_finished_run_alone(cfg):
    run = train_vae(cfg)
    before = weights(run)
    for wrong in (dict(vgg_weights="nowhere", perceptual=0.1), dict(image_size=8, adversarial=0.1)):
        with pytest.raises(RadgenError):
            train_vae(replace(cfg, overwrite=True, **wrong))
        with pytest.raises(RadgenError):
            train_vae(replace(cfg, name="new", **wrong))
    assert same(weights(run), before)
    assert not (cfg.runs / "new").exists()
    train_vae(replace(cfg, name="new"))


def test_an_unfinished_or_foreign_run_is_named_as_what_it_is(cfg, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        cut_off_before(patch, 3, fail)
        train_vae(cfg)
    run = cfg.runs / "vae"
    with pytest.raises(ConfigError, match="is a run that has not finished"):
        open_vae(run)
    with pytest.raises(RadgenError, match="is a run of train-vae: train a denoiser .* --latents"):
        load_run(run)
    runs = cfg.runs / "runs"
    runs.mkdir()
    run.rename(runs / "vae")
    assert folders(cfg.runs)["begun"] == []


def test_vgg_weights_are_decided_once(cfg, monkeypatch):
    monkeypatch.setattr("radgen.training.train_vae.best_vgg_weights", lambda: "keras")
    run = train_vae(cfg)
    assert read_json(run / "config.json")["vgg_weights"] == "keras"
    monkeypatch.setattr("radgen.training.train_vae.best_vgg_weights", lambda: "torchvision")
    assert train_vae(cfg) == run


@pytest.mark.soak
def test_training_lowers_the_error(small, tmp_path):
    options = dict(image_size=32, width=16, batch_size=8, lr=3e-3, ema_decay=0.9, log_every=80, device="cpu")
    run = train_vae(TrainVaeConfig(small.dir, steps=30, perceptual=0.0, runs=tmp_path, **options))
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics.valid_loss.iloc[-1] < 0.9 * metrics.valid_loss.iloc[0]


def test_decoder_and_discriminator_have_gradients_of_their_own():
    model = TrainableVae(TrainVaeConfig("data", width=8, adversarial=1.0))
    x, noise = torch.rand(2, 1, 64, 64), torch.zeros(2, 4, 16, 16)
    losses = model.losses(x, noise, PerceptualLoss(vgg16_features()), True)
    losses.adversarial.backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in model.critic.parameters())
    model.zero_grad()
    losses.critic.backward()
    assert all(parameter.grad is None for parameter in model.vae.parameters())
    assert all(parameter.grad is not None for parameter in model.critic.parameters())
    assert TrainableVae(TrainVaeConfig("data", width=8)).critic is None


def test_divergence_is_that_of_the_library_and_patches_are_small():
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0, 1)).mean()
    torch.testing.assert_close(divergence(mean, log_variance), expected)
    assert PatchDiscriminator()(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 6, 6)
    assert np.isfinite(PatchDiscriminator()(torch.zeros(1, 1, 32, 32)).detach().numpy()).all()
