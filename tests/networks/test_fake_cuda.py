"""Without a GPU, device handling is still tested: loss and sampling run forward on fake CUDA tensors, which raise on
every mix of host and device."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from networks_tools import NAMES
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.diffusion.guidance import guided
from radgen.diffusion.latents import LatentSpace, encode_moments
from radgen.networks.denoiser import TextConditioning
from radgen.networks.pretrained import Preprocess
from radgen.networks.pretrained_unet import PretrainedUNet
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.training.batches import StepNoise, clean_images
from radgen.training.config import TrainConfig
from radgen.training.memory import with_memory
from radgen.training.minimal import step_loss
from radgen.training.optimizers import make_optimizer
from radgen.training.run import resolve, schedule_of


def loss_and_guidance(name, recipe, width=384, channels=1, **options):
    "One training step and one guided evaluation on fake CUDA tensors, from images and vectors of texts on."
    cfg = resolve(
        TrainConfig("data", model=name, recipe=recipe, size="tiny", image_size=32, encoder="minilm", **options)
    )
    flow = schedule_of(cfg) if cfg.prediction == "flow" else None  # it reads numbers, and has no table to be sent
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = flow or schedule_of(cfg)
        with torch.device("cuda"):
            model = make_denoiser(name, recipe, "tiny", 32, cfg.patch, text_dim=width, in_channels=channels)
            drop, t = torch.rand(2) < cfg.text_drop, torch.randint(0, 1000, (2,))
            noise = StepNoise(torch.rand(2, 3), t, torch.randn(2, channels, 32, 32), drop, torch.empty(2, 0))
            images = torch.zeros(2, 40, 40, *[3] * (channels > 1), dtype=torch.uint8)
            x0 = clean_images(cfg, images, noise)
            mask = torch.ones(2, 12, dtype=torch.bool)
            text = TextEmbedding(torch.randn(2, 12, width), mask, torch.randn(2, width))
            start = torch.zeros(2, dtype=torch.long)
        loss = step_loss(model, model, schedule, x0, text, noise, cfg)
        optimizer = make_optimizer(model, cfg.optimizer, cfg.lr)
        for parameter in model.parameters():  # a backward pass needs a GPU
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with torch.no_grad():
            return loss, guided(model, x0, start, text, 2.0)


CHOICES = [
    ("paper", 768, {}),
    ("radgen", 512, {}),
    ("radgen", 384, dict(patch=2, prediction="flow")),
    ("radgen", 384, dict(patch=4, optimizer="adamw", channels=3)),
]
FEW = {("UNet", 2), ("VGG16UNet", 0)}  # in `make test`
NETWORKS = [
    pytest.param(name, *choice, marks=() if (name, i) in FEW else pytest.mark.soak, id=f"{name}-{choice[0]}-{i}")
    for name in NAMES
    for i, choice in enumerate(CHOICES)
]


@pytest.mark.parametrize("name, recipe, width, options", NETWORKS)
def test_every_network_and_recipe_stays_on_the_device(name, recipe, width, options):
    loss, out = loss_and_guidance(name, recipe, width, **options)
    assert loss.device.type == "cuda"
    assert loss.shape == ()
    assert out.device.type == "cuda"
    assert out.shape == (2, options.get("channels", 1), 32, 32)


def test_an_injected_mix_up_in_the_slices_is_caught(monkeypatch):
    monkeypatch.setattr(Preprocess, "forward", lambda self, x: self.a.to("cpu") * x + self.b)
    with pytest.raises(Exception, match="(?i)device"):
        loss_and_guidance("VGG16UNet", "radgen")


def test_an_injected_mix_up_in_the_text_is_caught(monkeypatch):
    def on_the_host(self, text, drop):
        first = torch.arange(text.mask.shape[1], device="cpu") == 0  # where the chapter says device=text.mask.device
        return text._replace(mask=torch.where(drop[:, None], first, text.mask))

    monkeypatch.setattr(TextConditioning, "drop", on_the_host)
    with pytest.raises(Exception, match="(?i)device"):
        loss_and_guidance("UNet", "radgen")


@pytest.mark.parametrize("rank", [0, 2])
def test_a_pretrained_unet_stays_on_the_device(rank):
    cfg = replace(resolve(TrainConfig("data", size="tiny", image_size=32, patch=1, encoder="minilm")), crop=1.0)
    cfg = replace(cfg, latents="a VAE", latent_channels=4, latent_factor=2, prediction="epsilon")
    blocks = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), block_out_channels=(8, 16))
    blocks |= dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=4, layers_per_block=1)
    second = dict(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32)
    with torch.device("meta"):
        model = PretrainedUNet(dict(blocks, cross_attention_dim=24, attention_head_dim=2, **second), 16, 32, 9)
        model.adapt(rank)
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = schedule_of(cfg)
        with torch.device("cuda"):
            model = with_memory(model, "cuda")
            drop, t = torch.rand(2) < cfg.text_drop, torch.randint(0, 1000, (2,))
            noise = StepNoise(torch.rand(2, 3), t, torch.randn(2, 4, 16, 16), drop, torch.randn(2, 4, 16, 16))
            x0, mask = torch.randn(2, 4, 16, 16), torch.ones(2, 16, dtype=torch.bool)
            text = TextEmbedding(torch.randn(2, 16, 24), mask, torch.randn(2, 24))
        loss = step_loss(model, model, schedule, x0, text, noise, cfg)
        optimizer = make_optimizer(model, "adamw", 1e-4)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with torch.no_grad():
            out = guided(model, x0, t, text, 2.0)
    assert (loss.device.type, loss.shape) == ("cuda", ())
    assert (out.device.type, out.shape) == ("cuda", (2, 4, 16, 16))


@pytest.mark.parametrize("channels", [1, 3])
def test_latents_are_drawn_and_decoded_on_the_device(channels):
    cfg = replace(resolve(TrainConfig("data", size="tiny", image_size=32, patch=1, encoder="minilm")), crop=1.0)
    cfg = replace(cfg, latents="a VAE", latent_channels=4, latent_factor=2)
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = schedule_of(cfg)
        with torch.device("cuda"):
            vae = AutoencoderKL(
                channels, channels, **blocks, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1
            )
            model = make_denoiser("UNet", "radgen", "tiny", 16, text_dim=384, in_channels=4)
            drop, t = torch.rand(2) < cfg.text_drop, torch.randint(0, 1000, (2,))
            noise = StepNoise(torch.rand(2, 3), t, torch.randn(2, 4, 16, 16), drop, torch.randn(2, 4, 16, 16))
            images, mask = torch.rand(2, channels, 32, 32), torch.ones(2, 12, dtype=torch.bool)
            text = TextEmbedding(torch.randn(2, 12, 384), mask, torch.randn(2, 384))
        space = LatentSpace(vae, 0.5, channels)
        moments = encode_moments(vae, images).half()
        x0 = clean_images(cfg, moments, noise, space)
        assert (x0.device.type, x0.shape) == ("cuda", (2, 4, 16, 16))
        loss = step_loss(model, model, schedule, x0, text, noise, cfg)
        assert (loss.device.type, loss.shape) == ("cuda", ())
        decoded = vae.decode(x0 / space.scale).sample
        assert (decoded.device.type, decoded.shape) == ("cuda", (2, channels, 32, 32))
