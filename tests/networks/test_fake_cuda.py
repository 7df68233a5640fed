"""Without a GPU, device handling is still tested: loss and sampling run forward on fake CUDA tensors, which raise on
every mix of host and device."""

import pytest
import torch
from networks_tools import NAMES
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.diffusion.guidance import guided
from radgen.networks.denoiser import TextConditioning
from radgen.networks.pretrained import Preprocess
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.training.batches import StepNoise, random_crop
from radgen.training.config import TrainConfig
from radgen.training.minimal import step_loss
from radgen.training.run import resolve, schedule_of


def loss_and_guidance(name, recipe, width=384):
    "One training loss and one guided evaluation on fake CUDA tensors, from images and vectors of texts on."
    cfg = resolve(TrainConfig("data", recipe=recipe, size="tiny", image_size=32, encoder="minilm"))
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = schedule_of(cfg)
        with torch.device("cuda"):
            model = make_denoiser(name, recipe, "tiny", 32, text_dim=width)
            drop, t = torch.rand(2) < cfg.text_drop, torch.randint(0, 1000, (2,))
            noise = StepNoise(torch.rand(2, 3), t, torch.randn(2, 1, 32, 32), drop)
            x0 = random_crop(torch.rand(2, 1, 40, 40), 32, cfg.crop, noise.crop)
            mask = torch.ones(2, 12, dtype=torch.bool)
            text = TextEmbedding(torch.randn(2, 12, width), mask, torch.randn(2, width))
            start = torch.zeros(2, dtype=torch.long)
        return step_loss(model, model, schedule, x0, text, noise, cfg), guided(model, x0, start, text, 2.0)


@pytest.mark.parametrize(
    "name, recipe, width", [*((n, "paper", 768) for n in NAMES), *((n, "radgen", 512) for n in NAMES)]
)
def test_every_network_and_recipe_stays_on_the_device(name, recipe, width):
    loss, out = loss_and_guidance(name, recipe, width)
    assert loss.device.type == "cuda"
    assert loss.shape == ()
    assert out.device.type == "cuda"
    assert out.shape == (2, 1, 32, 32)


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
