"""Sizes and options of the UNet."""

import pytest
import torch
from networks_tools import NAMES, D, inputs, make

from radgen.core.errors import ConfigError
from radgen.networks.registry import DENOISERS, make_denoiser
from radgen.networks.unet import unet_options


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("px, halvings", [(32, 3), (96, 3), (128, 4), (256, 5)])
@torch.no_grad()
def test_one_configuration_serves_all_sizes(name, px, halvings):
    with torch.device("meta"):
        model = make(f"{name}-radgen-1", px, opened=False)
    x, t, text = (part.to("meta") for part in inputs(2, px=px))
    assert model(x, t, text).shape == x.shape
    assert len(model.ups) == halvings


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_patches_take_pixels_as_channels_and_give_them_back(name):
    "With patches of p the network sees an image of a p-th of the size, and each pixel of a patch has its own output."
    with torch.device("meta"):
        whole = make(f"{name}-radgen-1", 32, opened=False)
        patched = make(f"{name}-radgen-2", 64, opened=False)
    assert patched.config.sample_size == 64 and len(patched.ups) == len(whole.ups)
    shapes = [(n, p.shape) for n, p in whole.named_parameters()]
    differing = [n for (n, s), q in zip(shapes, patched.parameters()) if s != q.shape]
    assert all(n.startswith(("stem", "to_rgb", "out")) for n in differing) and len(differing) >= 2
    model, (x, t, text) = make(f"{name}-radgen-2", 16), inputs(1)
    y = model(x, t, text)
    blocks = y.view(8, 2, 8, 2)
    assert (blocks.std((1, 3)) > 1e-4).any()  # the pixels of a patch differ


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("UNet", dict(sample_size=36), "36 pixels is not a multiple of 8"),
        ("UNet", dict(sample_size=0), "0 pixels is not"),
        ("UNet", dict(sample_size=44, patch=2), "makes channels of 2 x 2 pixels .* so use 48"),
        ("VGG16UNet", dict(sample_size=48, patch=4), "not a multiple of 32: .* so use 64"),
        ("UNet", dict(block="resnet"), "'resnet'"),
        ("UNet", dict(heads=5), "cannot be shared by 5"),
        ("UNet", dict(heads=0), "by 0"),
        ("VGG16UNet", dict(affine="caffe"), "'caffe'"),
        ("VGG16UNet", dict(widths=(32, 64, 128, 128)), r"not \(32, 64, 128\)"),
    ],
)
def test_configurations_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_denoiser(name, "radgen", "tiny", **{"sample_size": 32, "text_dim": D, **options})


def test_unknown_presets_and_sizes_are_refused():
    with pytest.raises(ConfigError, match="no size of network 'huge'"):
        unet_options("radgen", "huge", 32)
    with pytest.raises(ConfigError, match="no block 'resnet'"):
        unet_options("resnet", "tiny", 32)
    with pytest.raises(ConfigError, match="no denoiser 'unet'"):
        DENOISERS["unet"]
