"""Feature networks: names, weights and what is refused."""

import numpy as np
import pytest
import torch

from radgen.core.errors import AssetError, ConfigError, DataError
from radgen.evaluation.config import EvaluateConfig, FEATURES
from radgen.evaluation.features import Features, cached_features, make_features

from evaluation_helpers import pixel_features, random_images


@pytest.fixture
def hub(tmp_path):
    "An empty torch hub cache."
    old = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path
    torch.hub.set_dir(old)


@pytest.fixture
def inception_weights(hub, monkeypatch):
    "Inception's file where the real one would lie: right layout, random numbers."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    path = hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    torch.save({}, path)
    with monkeypatch.context() as m:
        m.setattr(Inception, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        net = Inception("inception-v3-compat", ["2048"], str(path))
    torch.save(net.state_dict(), path)


def test_fid_is_inception_and_nothing_else(inception_weights):
    f = make_features("auto")
    assert f.name == "FID" and f.is_fid
    out = f(random_images(3))
    assert out.shape == (3, 2048) and np.isfinite(out).all() and out.std() > 0


def test_without_inception_the_stand_in_is_named(hub):
    f = make_features("auto")
    assert not f.is_fid and "not FID" in f.name
    with pytest.raises(AssetError, match="download"):
        make_features("inception")
    with pytest.raises(ConfigError, match="choose one of inception, vgg16, efficientnet, astra, rad-dino"):
        make_features("resnet")
    with pytest.raises(ConfigError, match="timm knows no network 'resnet7'"):
        make_features("timm:resnet7")


def test_efficientnet_is_a_named_stand_in():
    f = make_features("efficientnet")
    a = f(random_images(2))
    assert a.shape == (2, 1280)
    assert a.std() > 0
    assert f.name == "FD-EfficientNet-Lite0 (stand-in, not FID)"
    assert not f.net.training


@pytest.mark.soak
def test_inflated_kernels_are_summed_over_depth(tmp_path, monkeypatch):
    "The CT network's checkpoint, made on the spot from a flat one: what its slices sum to must come out."
    import timm

    torch.manual_seed(0)
    flat = timm.create_model("resnet152", num_classes=0).eval()
    depth = torch.tensor([0.25, 0.5, 0.25]).view(3, 1, 1)
    torch.save(
        {"state_dict": {k: v[:, :, None] * depth if v.ndim == 4 else v for k, v in flat.state_dict().items()}},
        tmp_path / "astra.pt",
    )
    monkeypatch.setattr("radgen.evaluation.features.fetch_asset", lambda name: tmp_path / f"{name}.pt")
    f, u = make_features("astra"), random_images(2)
    with torch.inference_mode():
        expected = flat(
            torch.nn.functional.interpolate(
                torch.from_numpy(u)[:, None].expand(-1, 3, -1, -1) / 255, (224, 224), mode="bilinear", antialias=True
            )
        )
    assert f(u) == pytest.approx(expected.numpy(), abs=1e-4) and f.name == "FD-CT-ResNet-152 (stand-in, not FID)"


def test_network_of_the_hub_is_a_named_stand_in(monkeypatch):
    import timm

    made = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, num_classes: made(name, num_classes=num_classes)
    )  # without the download
    f = make_features("timm:resnet10t")
    assert f(random_images(2)).shape == (2, 512) and f.name == "FD-resnet10t (stand-in, not FID)"

    def fails(*a, **k):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(AssetError, match="resnet10t could not be fetched from the hub .OSError."):
        make_features("timm:resnet10t")


def test_features_are_written_in_parts_and_kept(tmp_path):
    calls = []

    class Net(torch.nn.Module):
        def forward(self, u):
            calls.append(len(u))
            return u.float().mean((2, 3))

    f, x = Features("FD-mean", "none", Net()), random_images(150, 4)
    kept = cached_features(x, f, tmp_path)
    assert isinstance(kept, np.memmap)
    assert calls == [64, 64, 22]
    assert kept == pytest.approx(x.mean((1, 2))[:, None].repeat(3, 1), rel=1e-6)
    assert (cached_features(x, f, tmp_path) == kept).all()
    assert len(calls) == 3
    cached_features(x, Features("FD-other", "none", Net()), tmp_path)
    assert len(calls) == 6 and len(list(tmp_path.iterdir())) == 2


def test_features_that_are_no_numbers_are_refused(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, u):
            return torch.where(u[:, :1, 0, 0] == 7, torch.nan, 1.0)

    x = np.zeros((100, 2, 2), np.uint8)
    x[70] = 7
    with pytest.raises(DataError, match="image 70 are not finite"):
        cached_features(x, Features("FD-nan", "none", Net()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_features_are_computed_in_float32_without_tf32():
    "Cached features of a CPU are compared with those of a GPU, so no precision of training may reach them."
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(12, 4)

        def forward(self, u):
            y = self.layer(u.float().flatten(1))
            seen.append((y.dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return y

    f, x = Features("FD-net", "none", Net()), random_images(3, 2)
    alone = f(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert (f(x) == alone).all()
    assert seen == [(torch.float32, False, False)] * 2


@pytest.mark.parametrize("name", list(FEATURES))
def test_registered_network_has_a_function_that_builds_it(name):
    assert callable(FEATURES[name])


def test_network_is_added_by_one_entry(monkeypatch):
    monkeypatch.setitem(FEATURES.entries, "means", pixel_features)
    assert EvaluateConfig("runs/r", features="means").features == "means"
    f = make_features("means", "cpu")
    assert f(random_images(3)).shape == (3, 48)
    assert not f.net.training
