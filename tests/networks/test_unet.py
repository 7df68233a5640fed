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
        model = make(f"{name}-radgen", px, opened=False)
    x, t, text = (part.to("meta") for part in inputs(2, px=px))
    assert model(x, t, text).shape == x.shape
    assert len(model.ups) == halvings


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("UNet", dict(sample_size=36), "36 is not a multiple of 8"),
        ("UNet", dict(sample_size=0), "0 is not"),
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
