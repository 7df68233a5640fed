"""Kernel distance, precision, recall, density, coverage and MS-SSIM against other libraries and worked examples."""

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from torch_fidelity import metric_prc

from radgen.core.errors import ConfigError
from radgen.evaluation.diversity import intra_prompt_ms_ssim, kernel_distance, prdc

from evaluation_helpers import random_images


def test_kernel_distance_agrees_with_clean_fid():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(80, 8)), rng.normal(0.5, 1, size=(80, 8))
    assert kernel_distance(a, b, subsets=1, size=80)[0] == pytest.approx(
        cleanfid.kernel_distance(a, b, num_subsets=1, max_subset_size=80), rel=1e-9
    )
    mean, std = kernel_distance(a, rng.normal(size=(80, 8)), size=40)
    assert abs(mean) < std


def test_precision_and_recall_agree_with_torch_fidelity():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.6, size=(150, 4)), rng.normal(size=(120, 4))
    r = prdc(a, b, k=3)
    x, y = torch.from_numpy(a).float(), torch.from_numpy(b).float()
    expected = metric_prc.calculate_precision_recall_full(x, y, neighborhood=3)[:2]
    assert (r.precision, r.recall) == pytest.approx(expected)


def test_density_and_coverage_of_a_worked_example():
    real, fake = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [0.6], [30]])
    # balls of radius 1, 1, 1 and 8: the first two hold both near ones, the third none, the last none
    r = prdc(fake, real, k=1)
    assert r.density == pytest.approx(4 / 3)
    assert r.coverage == 0.5
    assert r.precision == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="too few for neighbourhoods of 5"):
        prdc(fake, real)


def test_ms_ssim_within_a_prompt():
    x = random_images(40, 64)
    assert intra_prompt_ms_ssim(np.repeat(x[:5], 2, 0), list("aabbccddee")) == pytest.approx((1, 5))
    assert intra_prompt_ms_ssim(x, ["same"] * 40)[0] < 0.2 and intra_prompt_ms_ssim(x[:3], list("abc")) is None
    for size in (12, 43, 44, 99, 176):
        assert intra_prompt_ms_ssim(random_images(4, size), list("aabb"))[1] == 2
    assert intra_prompt_ms_ssim(random_images(4, 11), list("aabb")) is None
