"""Training on latents: every promise that pixels keep."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from autoencoders import make_tiny_vae, make_vae
from radgen.core.errors import ConfigError
from radgen.core.files import read_json, write_json
from radgen.diffusion.config import samplers_for
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.evaluation.config import CheckVaeConfig
from radgen.evaluation.reconstruction import check_vae
from radgen.networks.registry import DENOISERS, make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.tools.config import EmaConfig
from radgen.tools.ema import choose_ema
from radgen.training.batches import step_noise
from radgen.training.config import SampleConfig, TrainConfig
from radgen.training.run import load_run, resolve
from radgen.training.sampling import sample
from radgen.training.train import train
from test_training_checkpoints import same_bits
from training_tools import cut_off_before, tiny


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vaes")
    make_vae(folder / "kl")
    make_tiny_vae(folder / "tiny")
    make_vae(folder / "rgb", channels=3)
    return folder


@pytest.fixture
def latent(small, tmp_path, vaes):
    "Options of two steps at 16 px, of which the denoiser sees 8 x 8 positions."
    return replace(tiny(small, tmp_path), latents=str(vaes / "kl"))


@pytest.fixture(scope="module")
def finished(small, vaes, tmp_path_factory):
    "A finished run with a preview; not to be changed."
    cfg = replace(tiny(small, tmp_path_factory.mktemp("latent")), latents=str(vaes / "kl"), preview_every=8)
    return train(cfg)


@pytest.mark.parametrize(
    "kind, model",
    [
        ("kl", "UNet"),
        ("tiny", "UNet"),
        pytest.param("kl", "VGG16UNet", marks=pytest.mark.soak),
        pytest.param("tiny", "VGG16UNet", marks=pytest.mark.soak),
    ],
)
def test_every_network_trains_on_every_vae(latent, vaes, model, kind):
    run = train(replace(latent, model=model, latents=str(vaes / kind)))
    pipe = run.pipeline()
    assert (pipe.image_size, pipe.denoiser.config.sample_size, pipe.denoiser.config.in_channels) == (16, 8, 4)
    assert pipe("head", num_inference_steps=2).images[0].size == (16, 16)


def test_choices_follow_from_the_vae(latent):
    cfg = resolve(latent)
    assert (cfg.map_shape, cfg.patch, cfg.crop, cfg.shift) == ((4, 8), 1, 1.0, 1.0)
    assert resolve(cfg) == cfg
    with pytest.raises(ConfigError, match="is not a multiple of 16"):
        resolve(replace(latent, image_size=24))
    with pytest.raises(ConfigError, match="use --crop 1"):
        resolve(replace(latent, crop=0.9))


def test_latents_are_drawn_anew_in_each_step_and_again_for_the_same_seed(latent):
    cfg = resolve(latent)
    first, again, other = (step_noise(cfg, step, 3).draw for step in (0, 0, 1))
    assert first.shape == (3, 4, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    pixels, latents = step_noise(resolve(TrainConfig("d", image_size=8)), 0, 3), step_noise(cfg, 0, 3)
    assert pixels.draw.shape == (3, 0)
    assert torch.equal(pixels.crop, latents.crop)


@pytest.mark.parametrize("data, vae", [("small", "kl"), pytest.param("colour", "rgb", marks=pytest.mark.soak)])
def test_run_cut_off_goes_on_with_the_same_bits(latent, vaes, data, vae, request):
    folder = request.getfixturevalue(data).dir
    four = replace(latent, data_path=folder, latents=str(vaes / vae), steps=4, checkpoint_every=8, log_every=1)
    whole = train(replace(four, name="whole"))
    with cut_off_before(3):
        train(four)
    same_bits(train(four), whole)


def test_another_vae_is_refused_on_resume_and_a_copy_is_not(latent, vaes, tmp_path):
    run = train(latent)
    copy = shutil.copytree(vaes / "kl", tmp_path / "copy")
    assert train(replace(latent, latents=str(copy))).weights() == run.weights()
    with pytest.raises(ConfigError, match="started with other options .*vae_weights"):
        train(replace(latent, latents=str(vaes / "tiny")))
    with pytest.raises(ConfigError, match="started with other options"):
        train(replace(latent, latents=None))


def test_the_finished_model_needs_neither_its_run_nor_the_vae(finished, tmp_path):
    alone = shutil.copytree(finished.final(), tmp_path / "alone")
    pipe, own = RadGenPipeline.from_pretrained(alone), finished.pipeline()
    options = dict(num_inference_steps=3, output_type="pt")
    assert torch.equal(pipe("head", **options).images, own("head", **options).images)
    assert pipe.config.latent_scale == own.config.latent_scale != 1
    assert "_name_or_path" not in read_json(alone / "vae" / "config.json")
    config = load_run(alone).config
    assert (config.image_size, config.map_shape) == (16, (4, 8))
    folder = sample(SampleConfig(alone, prompts=("head",), n=2, steps=2, device="cpu"))
    assert len(list(folder.glob("0*.png"))) == 2
    write_json(alone / "model_index.json", {**read_json(alone / "model_index.json"), "vae": ["os", "system"]})
    with pytest.raises(Exception, match="as the vae: only"):
        RadGenPipeline.from_pretrained(alone)


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
def test_every_sampler_ends_with_images(latent, prediction):
    pipe = train(replace(latent, prediction=prediction)).pipeline()
    for name in samplers_for(prediction):
        images = pipe(["head", "chest"], sampler=name, num_inference_steps=2, output_type="pt").images
        assert images.shape == (2, 16, 16) and images.dtype == torch.uint8
    if prediction == "v_prediction":
        assert not pipe.scheduler.config.clip_sample


def test_previews_validation_card_and_another_ema_width(finished):
    assert (finished.dir / "previews.png").exists()
    assert np.isfinite(finished.metrics().valid_loss.dropna()).all()
    about = finished.pipeline().config.about
    assert about["options"]["latents"].startswith("kl, weights ")
    choose_ema(EmaConfig(finished.dir, width=0.1, device="cpu"))
    assert finished.pipeline()("head", num_inference_steps=2).images[0].size == (16, 16)


def test_a_model_of_latents_starts_another_one(latent, finished):
    run = train(replace(latent, steps=0, init=finished.dir, ema_width=0.0))
    assert run.weights() == finished.weights()


@pytest.mark.soak
def test_a_vae_of_colours_keeps_them_where_the_data_have_them(latent, vaes, colour, small, tmp_path):
    cfg = replace(latent, data_path=colour.dir, latents=str(vaes / "rgb"))
    run = train(cfg)
    alone = shutil.copytree(run.final(), tmp_path / "alone")
    pipe = RadGenPipeline.from_pretrained(alone)
    assert (run.config.channels, pipe.channels, load_run(alone).config.channels) == (3, 3, 3)
    assert pipe("head", num_inference_steps=2).images[0].mode == "RGB"
    choose_ema(EmaConfig(run.dir, width=0.1, device="cpu"))
    assert run.pipeline().channels == 3
    grey = train(replace(cfg, data_path=small.dir, name="grey")).pipeline()
    assert grey("head", num_inference_steps=2).images[0].mode == "L"
    with pytest.raises(ConfigError, match="is one of grey images and the data have colours: use a VAE for RGB"):
        train(replace(cfg, latents=str(vaes / "kl"), name="other"))
    with pytest.raises(ConfigError, match="is one of grey images and the data have colours"):
        check_vae(CheckVaeConfig(str(vaes / "kl"), colour.dir, image_size=16, min_images=10, device="cpu"))


def test_check_vae_refuses_what_does_not_fit(small, vaes):
    with pytest.raises(ConfigError, match="--image-size 15 is not a multiple of 2"):
        check_vae(CheckVaeConfig(str(vaes / "kl"), small.dir, image_size=15, device="cpu"))
    with pytest.raises(Exception, match="train images, too few for a distance"):
        check_vae(CheckVaeConfig(str(vaes / "kl"), small.dir, image_size=16, device="cpu"))


@pytest.mark.soak
def test_check_vae_measures_the_training_images(small, vaes):
    cfg = CheckVaeConfig(str(vaes / "kl"), small.dir, image_size=16, min_images=2, features="vgg16", device="cpu")
    found = asdict(check_vae(cfg))
    assert found["distance"] > found["floor"] > 0
    assert found["images"] == len(small.rows("train"))


def test_every_registered_network_takes_channels_of_latents():
    text = TextEmbedding(torch.randn(2, 3, 24), torch.ones(2, 3).bool(), torch.randn(2, 24))
    for name in DENOISERS:
        network = make_denoiser(name, "radgen", "tiny", 16, text_dim=24, in_channels=4).eval()
        x = torch.randn(2, 4, 16, 16)
        assert network(x, torch.tensor([0, 999]), text).shape == x.shape


def test_a_start_from_another_latent_space_is_said(latent, finished, vaes, capsys):
    train(replace(latent, steps=0, init=finished.dir))
    assert "another VAE" not in capsys.readouterr().err
    train(replace(latent, steps=0, init=finished.dir, latents=str(vaes / "tiny"), name="other"))
    assert "its latents were those of another VAE" in capsys.readouterr().err


def test_a_cast_pipeline_keeps_the_vae_in_float32_and_variants_are_loaded(finished, tmp_path):
    pipe = finished.pipeline().to(torch.bfloat16)
    assert (pipe.denoiser.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    exact = finished.pipeline()("head", num_inference_steps=2, output_type="pt").images.float()
    cast = pipe("head", num_inference_steps=2, output_type="pt").images.float()
    assert (exact - cast).abs().mean() < 5
    finished.pipeline().save_pretrained(tmp_path / "v", variant="fp16")
    again = RadGenPipeline.from_pretrained(tmp_path / "v", variant="fp16")
    assert torch.equal(again("head", num_inference_steps=2, output_type="pt").images.float(), exact)


def test_a_vae_that_changes_while_the_training_begins_is_refused(latent, monkeypatch):
    monkeypatch.setattr("radgen.training.latents.weights_fingerprint", lambda state: "other")
    with pytest.raises(ConfigError, match="changed while the training began"):
        train(latent)
