"""Folders of weights that must not be loaded: another model's, incomplete, not finite, or a pickle."""

import pickle

import pytest
import torch
from networks_tools import WEIGHTS, Trap, make
from safetensors.torch import load_file, save_file

from radgen.core.errors import ConfigError
from radgen.networks.unet import UNet
from radgen.networks.vgg_unet import VGG16UNet


@pytest.fixture
def saved(tmp_path):
    make("UNet-radgen-1").save_pretrained(tmp_path)
    return tmp_path


def test_another_models_folder_is_refused(saved):
    with pytest.raises(ConfigError, match="holds a UNet, not a VGG16UNet"):
        VGG16UNet.from_pretrained(saved)


@pytest.mark.parametrize("change", ["nan", "missing", "unknown", "shape"])
def test_weights_that_are_not_whole_are_refused(saved, change):
    state, name = load_file(saved / WEIGHTS), "mid.1.conv2.weight"
    if change == "nan":
        state[name] = state[name] * torch.nan
    elif change == "missing":
        del state[name]
    elif change == "unknown":
        name = "extra.weight"
        state[name] = torch.ones(2)
    else:
        state[name] = torch.ones(3, 1, 3, 3)
    save_file(state, saved / WEIGHTS)
    with pytest.raises(ConfigError, match=name):
        UNet.from_pretrained(saved)


def test_truncated_file_is_refused(saved):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:5000])
    with pytest.raises(ConfigError, match="could not be read as safetensors"):
        UNet.from_pretrained(saved)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS])
def test_pickle_is_not_opened(saved, name):
    (saved / WEIGHTS).unlink()
    (saved / name).write_bytes(pickle.dumps(Trap(), 2))
    with pytest.raises(ConfigError, match="safetensors"):
        UNet.from_pretrained(saved)
    assert not Trap.ran


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nowhere holds no model"):
        UNet.from_pretrained(tmp_path / "nowhere")
