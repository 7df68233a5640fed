"""Files of VGG16 weights that are refused, and weights that cannot be downloaded."""

import pickle

import pytest
import torch
import torchvision
from networks_tools import Trap

from radgen.core.errors import AssetError
from radgen.networks.pretrained import vgg16_features


def write(path, case):
    "A file of weights that is wrong in one way."
    if case == "missing":
        torch.save({"features.0.weight": torch.ones(64, 3, 3, 3)}, path)
    elif case == "nan":
        state = torchvision.models.vgg16(weights=None).state_dict()
        kept = {k: v for k, v in state.items() if k.startswith("features.")}
        torch.save({**kept, "features.7.bias": kept["features.7.bias"] * torch.nan}, path)
    elif case == "pickle":
        path.write_bytes(pickle.dumps(Trap(), 2))
    elif case == "text":
        path.write_bytes(b"hello")
    else:
        torch.save([1, 2], path)


@pytest.mark.parametrize(
    "case, message",
    [
        ("missing", "features.0.bias"),
        ("nan", "features.7.bias"),
        ("pickle", "not a file of named tensors"),
        ("text", "not a file of named tensors"),
        ("list", "not a file of named tensors"),
    ],
)
def test_files_that_are_not_vgg16_are_refused(case, message, tmp_path):
    write(tmp_path / "own.pth", case)
    with pytest.raises(AssetError, match=message):
        vgg16_features(tmp_path / "own.pth")
    assert not Trap.ran


def test_without_a_network_torchvision_fails_and_auto_takes_the_stand_in(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(AssetError, match="no network.*weights='keras'.*vgg16-397923af.pth"):
        vgg16_features("torchvision")
    assert "stand-in" in vgg16_features("auto").source  # and the report says so
