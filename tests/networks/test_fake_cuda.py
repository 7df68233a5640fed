"""Without a GPU, device handling is still tested: loss and sampling run forward on fake CUDA tensors, which raise on every mix of host and device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.diffusion.guidance import guided
from radgen.text.embedding import TextEmbedding
from radgen.training.config import TrainConfig
from radgen.training.run import resolve, schedule_of
from radgen.training.batches import Draws, random_crop
from radgen.training.minimal import step_loss
from radgen.networks.denoiser import TextConditioning
from radgen.networks.unet import UNet, unet_options
from radgen.networks.pretrained import Preprocess
from radgen.networks.vgg_unet import VGG16UNet, vgg_unet_options

WIDTHS = {"minilm": 384, "clip": 512, "radbert": 768}  # mpnet has RadBERT's


def loss_and_guidance(Model, options, encoder, recipe):
    "One training loss and one guided evaluation on fake CUDA tensors, from images and vectors of texts on."
    D, cfg = WIDTHS[encoder], resolve(TrainConfig("data", recipe=recipe, size="tiny", image_size=32, encoder=encoder))
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = schedule_of(cfg)
        with torch.device("cuda"):
            model = Model(text_dim=D, **options(recipe, "tiny", 32))
            d = Draws(
                torch.rand(2, 3), torch.randint(0, 1000, (2,)), torch.randn(2, 1, 32, 32), torch.rand(2) < cfg.text_drop
            )
            x0 = random_crop(torch.rand(2, 1, 40, 40), 32, cfg.crop, d.crop)
            text = TextEmbedding(torch.randn(2, 12, D), torch.ones(2, 12, dtype=torch.bool), torch.randn(2, D))
        return step_loss(model, model, schedule, x0, text, d, cfg), guided(
            model, x0, torch.zeros(2, dtype=torch.long, device="cuda"), text, 2.0
        )


@pytest.mark.parametrize("recipe", ["paper", "radgen"])
@pytest.mark.parametrize("encoder", WIDTHS)
@pytest.mark.parametrize(
    "Model, options", [(UNet, unet_options), (VGG16UNet, vgg_unet_options)], ids=["UNet", "VGG16UNet"]
)
def test_every_model_encoder_and_recipe_stays_on_the_device(Model, options, encoder, recipe):
    loss, out = loss_and_guidance(Model, options, encoder, recipe)
    assert loss.device.type == "cuda" and loss.shape == ()
    assert out.device.type == "cuda" and out.shape == (2, 1, 32, 32)


def test_a_planted_mix_up_in_the_slices_is_caught(monkeypatch):
    monkeypatch.setattr(Preprocess, "forward", lambda self, x: self.a.to("cpu") * x + self.b)
    with pytest.raises(Exception, match="(?i)device"):
        loss_and_guidance(VGG16UNet, vgg_unet_options, "minilm", "radgen")


@pytest.mark.parametrize(
    "Model, options", [(UNet, unet_options), (VGG16UNet, vgg_unet_options)], ids=["UNet", "VGG16UNet"]
)
def test_a_planted_mix_up_is_caught(Model, options, monkeypatch):
    def on_the_host(self, text, drop):
        first = torch.arange(text.mask.shape[1], device="cpu") == 0  # where the chapter says device=text.mask.device
        return text._replace(mask=torch.where(drop[:, None], first, text.mask))

    monkeypatch.setattr(TextConditioning, "drop", on_the_host)
    with pytest.raises(Exception, match="(?i)device"):
        loss_and_guidance(Model, options, "minilm", "radgen")
