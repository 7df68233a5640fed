"""Without a GPU, device handling is still tested: loss and sampling run forward on fake CUDA tensors, which raise on every mix of host and device."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.diffusion import diffusion_loss, guided, make_schedule
from radgen.encoders import TextEmbedding
from radgen.unet import SIZES, UNet
from radgen.vgg_unet import VGG16UNet

def fake_text(B, L=12, D=32): return TextEmbedding(torch.randn(B, L, D), torch.ones(B, L, dtype=torch.bool), torch.randn(B, D))

@pytest.mark.parametrize("block", ["paper", "radgen"])
@pytest.mark.parametrize("Model", [UNet, VGG16UNet])
@pytest.mark.parametrize("prediction, gamma", [("epsilon", None), ("v_prediction", 5.0)])
def test_loss_and_guidance_stay_on_the_device(Model, block, prediction, gamma):
    sizes = SIZES["tiny"] if Model is UNet else {**SIZES["tiny"], "widths": (64, 128, 256, SIZES["tiny"]["widths"][3])}
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = make_schedule(prediction)
        with torch.device("cuda"):
            model = Model(sample_size=32, text_dim=32, block=block, **sizes)
            x, text = torch.randn(2, 1, 32, 32), fake_text(2)
            t = torch.randint(0, 1000, (2,))
            text = model.drop_text(text, torch.rand(2) < 0.5)
            loss = diffusion_loss(model, schedule, x, text, t, torch.randn_like(x), gamma)
            assert loss.device.type == "cuda" and loss.shape == ()
            out = guided(model, x, t, text, 2.0)
            assert out.device.type == "cuda" and out.shape == x.shape

def test_the_check_catches_a_host_tensor():
    with FakeTensorMode(), pytest.raises(Exception, match="device"):
        torch.randn(2, device="cuda") + torch.arange(2)
