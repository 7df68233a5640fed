"""Injected replicas are found whatever was done to them, and images that are none are not marked."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from radgen.core.errors import ConfigError
from radgen.evaluation.memorisation import (
    audit_memorisation,
    find_replicas,
    lower_fence,
    memorised_share,
    nearest,
    privacy_line,
    replicas_figure,
)
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare


def scenes(n, seed, size=48):
    "Smooth random images, no two alike."
    x = gaussian_filter(np.random.default_rng(seed).normal(size=(n, size, size)), (0, 4, 4))
    return np.clip(128 + 50 * x / x.std(), 0, 255).astype(np.uint8)


def replicas(x, seed=0):
    "What a copy may go through."
    rng = np.random.default_rng(seed)

    def cropped(a):
        side = round(len(a) * rng.uniform(0.85, 1))
        top, left = rng.integers(0, len(a) - side + 1, 2)
        part = torch.from_numpy(a[top : top + side, left : left + side].copy()).float()[None, None]
        return F.interpolate(part, a.shape, mode="bilinear", antialias=True)[0, 0].numpy()

    out = {
        "copied": x,
        "cropped": np.stack([cropped(a) for a in x]),
        "brightened": 1.25 * x.astype(float) + 10,
        "darkened": 0.7 * x,
        "noised": x + rng.normal(0, 10, x.shape),
    }
    return {k: np.clip(v, 0, 255).round().astype(np.uint8) for k, v in out.items()}


@pytest.fixture(scope="module")
def world():
    train, test = scenes(100, 0), scenes(40, 1)
    return train, test, lower_fence(find_replicas(test, train).ratio)


HARDER = [pytest.param(kind, marks=pytest.mark.soak) for kind in ("brightened", "darkened", "noised")]


@pytest.mark.parametrize("kind", ["copied", "cropped", *HARDER])
def test_replicas_are_found(world, kind):
    train, test, bound = world
    t = find_replicas(replicas(train[:10])[kind], train)
    assert (t.neighbour == np.arange(10)).all()
    assert (t.ratio < bound).all()


def test_other_images_are_not_marked(world):
    train, test, bound = world
    assert (find_replicas(scenes(40, 2), train).ratio < bound).mean() <= 0.05


def test_frame_of_a_crop_is_found(world):
    train = world[0]
    x = train[:10, 4:44, 6:46]  # 40 of 48 pixels; its centre lies at (26, 24), that of the image at (24, 24)
    part = torch.from_numpy(x.copy()).float()[:, None]
    full = F.interpolate(part, (48, 48), mode="bilinear", antialias=True)[:, 0]
    t = find_replicas(full.round().to(torch.uint8).numpy(), train)
    assert (t.neighbour == np.arange(10)).all()
    assert np.allclose(t.scale, 40 / 48, atol=0.02)
    assert np.allclose(t.x, 2 / 24, atol=0.03)
    assert np.allclose(t.y, 0, atol=0.03)


def test_audit_counts_and_sorts(world):
    train, test, _ = world
    mixed = np.concatenate([scenes(40, 3), replicas(train[:8])["cropped"]])
    audit, t = audit_memorisation(mixed, test, train)
    assert set(t.image[:8]) == set(range(40, 48))
    assert 8 <= audit.copies <= 10
    assert audit.lower < audit.share < audit.upper
    assert t.ratio.is_monotonic_increasing
    assert sorted(t.image) == list(range(48))
    assert f"{audit.copies} of 48 generated images" in privacy_line(audit, 48)
    assert len(replicas_figure(mixed, train, t).axes[0].images) == 12


def test_too_few_images_say_nothing(world):
    with pytest.raises(ConfigError, match="1 training images are too few"):
        find_replicas(world[1], world[0][:1])
    with pytest.raises(ConfigError, match="3 held-out images are too few"):
        audit_memorisation(world[1], world[1][:3], world[0])


def test_feature_space_finds_copies_to_the_byte():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    assert memorised_share(train[:50] + 1e-6, test, train) == 1
    assert memorised_share(rng.normal(size=(200, 8)), test, train) < 0.05
    i, d = nearest(train[[7, 9]] + 1e-4, train)
    assert i.tolist() == [7, 9] and d.max() < 1e-2


@pytest.mark.soak
def test_replicas_of_real_images_are_found(real, tmp_path):
    p = prepare(PrepareConfig(real, tmp_path / "prepared", llm="rules"))
    train, test = np.array(p.images("train", 64)), np.array(p.images("test", 64))
    bound = lower_fence(find_replicas(test, train).ratio)
    at = np.random.default_rng(0).choice(len(train), 20, replace=False)
    for kind, x in replicas(train[at]).items():
        t = find_replicas(x, train)
        assert (t.neighbour == at).mean() >= 0.95, kind
        assert (t.ratio < bound).mean() >= 0.9, kind
