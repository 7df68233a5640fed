"""The Fréchet distance against closed forms and other libraries."""

import numpy as np
import pytest
from cleanfid import fid as cleanfid
from torch_fidelity import metric_fid

from radgen.evaluation.distance import (
    Statistics,
    bootstrap,
    bootstrap_draws,
    fd_infinity,
    frechet_distance,
    half_sample_draws,
    matrix_root,
    real_baseline,
    statistics,
    subset_distances,
)
from radgen.evaluation.diversity import kernel_distance


@pytest.mark.parametrize("n,d", [(20, 128), (60, 60), (500, 16)])
def test_distance_agrees_with_other_libraries(n, d):
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    a, b = rng.normal(size=(n, d)) @ mix + 0.3, rng.normal(0, 1.3, size=(n + 10, d))
    ours = frechet_distance(statistics(a), statistics(b))
    first, second = ({"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b))
    fidelity = metric_fid.fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
    clean = cleanfid.frechet_distance(*first.values(), *second.values())
    assert ours == pytest.approx(fidelity, rel=1e-3)
    assert ours == pytest.approx(clean, rel=1e-3)


def test_distance_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5000, 4))
    assert frechet_distance(statistics(a), statistics(a + [3, 0, 0, 0])) == pytest.approx(9, abs=1e-6)
    # covariances that commute: the roots of their eigenvalues are subtracted
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    u, v, shift = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6), rng.normal(size=6)
    first = Statistics(shift, matrix_root(basis * u @ basis.T), 100)
    second = Statistics(np.zeros(6), matrix_root(basis * v @ basis.T), 100)
    expected = (shift**2).sum() + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n,d", [(20, 128), (500, 16)])
def test_shuffled_copy_is_at_zero_and_the_distance_is_symmetric(n, d):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, d)), rng.normal(size=(n + 10, d))
    assert frechet_distance(statistics(a), statistics(rng.permutation(a))) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(
        frechet_distance(statistics(b), statistics(a)), rel=1e-9
    )


def test_singular_covariance_has_a_root():
    s = np.diag([2.0, 0, 3])
    assert matrix_root(s).T @ matrix_root(s) == pytest.approx(s)
    constant = np.ones((50, 4))
    assert frechet_distance(statistics(constant), statistics(constant)) == 0


def test_statistics_are_those_of_numpy_in_parts_too():
    f = np.random.default_rng(0).normal(2, 3, size=(9000, 5)).astype(np.float32)
    s = statistics(f)
    assert s.mean == pytest.approx(f.mean(0, dtype=float))
    assert s.covariance == pytest.approx(np.cov(f.astype(float), rowvar=False))
    wide = statistics(f[:4].T)
    assert wide.covariance == pytest.approx(np.cov(f[:4].T.astype(float), rowvar=False), abs=1e-9)


def test_other_distribution_is_far_beyond_the_real_baseline():
    rng = np.random.default_rng(0)
    train, test, other = rng.normal(size=(500, 8)), rng.normal(size=(200, 8)), rng.normal(1, 1, size=(200, 8))
    assert frechet_distance(statistics(other), statistics(test)) > 5 * real_baseline(train, test, 200)[0]
    assert kernel_distance(other, test)[0] > 10 * abs(kernel_distance(train, test)[0])


def test_interval_holds_the_distance_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    f, real = rng.normal(0.3, 1, size=(800, 8)), statistics(rng.normal(size=(300, 8)))
    lo, hi = bootstrap(f, real)
    assert lo < frechet_distance(statistics(f), real) < hi
    assert hi - lo < 0.8 * np.ptp(bootstrap(f[:200], real))


def test_extrapolation_takes_the_bias_off():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 24)), rng.normal(size=(400, 24))
    assert abs(fd_infinity(subset_distances(a, b))) < 0.5 * frechet_distance(statistics(a), statistics(b))


def two_models(rng, n, d):
    "Features of two models for the same prompts: what is due to the prompt is the same for both."
    common = rng.normal(size=(n, d))
    return [common + rng.normal(shift, 0.5, (n, d)) for shift in (0.2, 0.3)]


@pytest.mark.parametrize("n, d", [(120, 6), (40, 40), (30, 60)])
def test_halves_spread_as_other_samples_do_also_with_more_features_than_images(n, d):
    "The standard error of one distance, and of a difference, paired and not; a bootstrap is off by a factor of two."
    rng = np.random.default_rng(0)
    real = statistics(rng.normal(size=(100, d)))
    others = np.array([[frechet_distance(statistics(f), real) for f in two_models(rng, n, d)] for _ in range(150)])
    found = []
    for _ in range(10):
        a, b = (half_sample_draws(f, real, 50) for f in two_models(rng, n, d))
        found.append([a.std(), (a - b).std(), np.hypot(a.std(), b.std())])
    true = [others[:, 0].std(), (others[:, 0] - others[:, 1]).std(), np.hypot(*others.std(0))]
    assert np.mean(found, 0) / true == pytest.approx(1.15, abs=0.3)
    resampled = bootstrap_draws(two_models(rng, n, d)[0], real, 50)
    assert (resampled.std() > 1.7 * true[0]) == (d >= n)


def test_halves_are_those_of_the_same_images_for_the_same_seed():
    f = np.random.default_rng(0).normal(size=(31, 4))
    real = statistics(f + 1)
    assert np.array_equal(half_sample_draws(f, real, 5, seed=3), half_sample_draws(f, real, 5, seed=3))
    draws = half_sample_draws(f, real, 20)
    assert draws.mean() == pytest.approx(frechet_distance(statistics(f), real))
