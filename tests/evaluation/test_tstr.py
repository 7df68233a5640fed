"""Train on synthetic, test on real: what a classifier learns from good and bad images."""

import numpy as np
import pytest

from radgen.core.errors import ConfigError
from radgen.evaluation.alignment import auroc
from radgen.evaluation.tstr import train_and_score, train_on_synthetic


def blobs(n, seed):
    "Images with a bright disc, a dark bar, both or neither, and which."
    rng = np.random.default_rng(seed)
    y, x = rng.random((n, 2)) < 0.5, rng.normal(128, 20, (n, 32, 32))
    v, u = np.mgrid[:32, :32]
    for a, (disc, bar) in zip(x, y):
        cx, cy = rng.integers(8, 24, 2)
        if disc:
            a[(u - cx) ** 2 + (v - cy) ** 2 < 20] += 90
        if bar:
            a[rng.integers(4, 28)] -= 90
    return np.clip(x, 0, 255).astype(np.uint8), y


def mean_auroc(scores, name):
    return np.mean([s.auroc for s in scores if s.trained_on == name])


@pytest.mark.soak
def test_classifier_learns_from_good_images_and_not_from_wrong_labels():
    (train, labels), (test, truth), (good, asked) = blobs(200, 0), blobs(120, 1), blobs(200, 2)
    scores = train_on_synthetic(good, asked, train, labels, test, truth, seeds=(0,), steps=150)
    for name in ("real", "generated", "half of each"):
        assert mean_auroc(scores, name) > 0.9, name
    assert abs(mean_auroc(scores, "generated") - mean_auroc(scores, "real")) < 0.08
    wrong = np.random.default_rng(0).permutation(asked)
    assert auroc(truth, train_and_score(good, wrong, test, seed=0, steps=150)).mean() < 0.7


@pytest.mark.soak
def test_classifiers_depend_on_the_seed_alone():
    (train, labels), (test, truth), (good, asked) = blobs(60, 0), blobs(60, 1), blobs(60, 2)
    a, b = (train_on_synthetic(good, asked, train, labels, test, truth, seeds=(0, 1), steps=10) for _ in range(2))
    assert a == b
    assert len({s.auroc for s in a}) > 3


def test_too_few_images_or_concepts_are_rejected():
    (train, labels), (test, truth), (good, asked) = blobs(60, 0), blobs(60, 1), blobs(60, 2)
    with pytest.raises(ConfigError, match="7 images per side are too few"):
        train_on_synthetic(good[:7], asked[:7], train, labels, test, truth)
    with pytest.raises(ConfigError, match="no concept tells"):
        train_on_synthetic(good, asked, train, labels, test, np.ones_like(truth))
