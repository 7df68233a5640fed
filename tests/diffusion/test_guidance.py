"""Guidance against its formula, rescaling against the library's, and devices."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusion_tools import normal, words
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.diffusion.guidance import guided
from radgen.diffusion.process import (
    PREDICTIONS,
    diffusion_loss,
    exact_prediction,
    make_schedule,
    predict_noise,
    predict_x0,
    q_posterior,
    q_sample,
    target,
)
from radgen.networks.unet import UNet, unet_options
from radgen.text.embedding import TextEmbedding

X_T, T = normal(3, 1, 16, 16, seed=7), torch.tensor([10, 500, 999])
ALL = torch.ones(3, dtype=torch.bool)


@pytest.fixture(scope="module")
def net():
    "A tiny network whose layers that start at zero were opened, so that every token matters."
    torch.manual_seed(0)
    m = UNet(text_dim=24, **unet_options("paper", "tiny", 16)).eval()
    with torch.no_grad():
        for p in m.parameters():
            if not p.any():
                p.normal_(0, 0.1)
    return m


def spread(z):
    "Standard deviation over the pixels of each image."
    return z.std((1, 2, 3), keepdim=True)


@torch.no_grad()
def test_without_guidance_one_pass_answers_to_the_bit(net):
    text, negative, passes = words(3), words(3, length=5, seed=9), []
    hook = net.register_forward_pre_hook(lambda m, args: passes.append(len(args[0])))
    try:
        for rescale in (0.0, 1.0):
            assert torch.equal(guided(net, X_T, T, text, 1, negative, rescale), net(X_T, T, text))
            assert torch.equal(guided(net, X_T, T, text, 0.0, rescale=rescale), net(X_T, T, net.drop_text(text, ALL)))
        assert passes == [3] * 8
        passes.clear()
        guided(net, X_T, T, text, 2.0, negative, 0.5)
        assert passes == [6]
    finally:
        hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("scale, length", [(-2.0, None), (0.5, 2), (3.0, None), (3.0, 6), (7.5, 3)])
def test_guidance_is_its_formula_and_rescaling_the_librarys(net, scale, length):
    text, negative = words(3), None if length is None else words(3, length=length, seed=9)
    cond, null = net(X_T, T, text), net(X_T, T, net.drop_text(text, ALL) if negative is None else negative)
    y = null + scale * (cond - null)
    tight = dict(rtol=0, atol=1e-5 * (1 + abs(scale)))  # kernels add in another order in a batch of another size
    torch.testing.assert_close(guided(net, X_T, T, text, scale, negative), y, **tight)
    for phi in (0.25, 1.0):
        z = guided(net, X_T, T, text, scale, negative, phi)
        torch.testing.assert_close(z, rescale_noise_cfg(y, cond, phi), **tight)
        torch.testing.assert_close(spread(z), phi * spread(cond) + (1 - phi) * spread(y), **tight)


class TwoImages(nn.Module):
    "Predicts one image where there is text and another one where there is none."

    def __init__(self, schedule, x_t, t, with_text, without):
        super().__init__()
        self.with_text = exact_prediction(schedule, x_t, t, with_text)
        self.without = exact_prediction(schedule, x_t, t, without)

    def drop_text(self, text, drop):
        return text._replace(pooled=torch.where(drop[:, None], 0.0, text.pooled))

    def forward(self, x, t, text):
        copies = len(x) // len(self.with_text)
        told = text.pooled[:, :1, None, None] > 0
        return torch.where(told, *(y.repeat(copies, 1, 1, 1) for y in (self.with_text, self.without)))


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_guidance_is_the_same_in_each_parametrisation(kind):
    t, x, schedule = torch.full((7,), 400), normal(7, 1, 8, 8, seed=5), make_schedule(kind)
    told, null = normal(7, 1, 8, 8, seed=3), normal(7, 1, 8, 8, seed=4)
    y = guided(TwoImages(schedule, x, t, told, null), x, t, words(7, torch.ones(24)), 3.0)
    torch.testing.assert_close(predict_x0(schedule, x, t, y), null + 3 * (told - null), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_prediction_without_contrast_is_left_alone(dtype):
    "A network whose last layer starts at zero says 0 everywhere: nothing to rescale, and no 0/0."

    class Zero(nn.Module):
        def drop_text(self, text, drop):
            return text

        def forward(self, x, t, text):
            return torch.zeros_like(x)

    y = guided(Zero(), X_T.to(dtype), T, words(3), 4.0, rescale=0.7)
    assert y.dtype == dtype
    assert not y.any()


def test_everything_stays_on_the_device():
    "Fake CUDA tensors raise on every mix of host and device."
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = make_schedule("v_prediction", zero_snr=True)
        with torch.device("cuda"):
            m = UNet(text_dim=24, **unet_options("paper", "tiny", 16))
            x, t = torch.randn(2, 1, 16, 16), torch.zeros(2, dtype=torch.long)
            text, negative = (
                TextEmbedding(torch.randn(2, n, 24), torch.ones(2, n, dtype=torch.bool), torch.randn(2, 24))
                for n in (3, 5)
            )
        out = [guided(m, x, t, text, w, n, 0.5) for w in (0.0, 1.0, 3.0) for n in (None, negative)]
        out += [f(schedule, x, t, x) for f in (q_sample, target, predict_x0, predict_noise)]
        out += [*q_posterior(schedule, x, x, t), diffusion_loss(m, schedule, x, text, t, x, 5.0, reduce=False)]
    for y in out:
        assert y.device.type == "cuda"
        assert y.shape[0] == 2
