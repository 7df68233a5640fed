"""Samplers in the Gaussian world: their samples and their laws against closed forms."""

import pytest
import torch
from diffusion_tools import normal, seeded

from radgen.diffusion.exact import (
    BASIS,
    COVARIANCE,
    GaussianDenoiser,
    MEAN,
    NULL_MEAN,
    affine_map,
    class_text,
    ddpm_law,
    exact_denoiser,
    excess,
    gaussian_schedule,
    relative_error,
    sampler_law,
)
from radgen.diffusion.process import PREDICTIONS, alpha_sigma, predict_x0
from radgen.diffusion.samplers import make_sampler, run_sampler


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_exact_denoiser_is_the_conditional_mean(kind):
    "By the inverse of the covariance instead of its axes."
    schedule, x, t = gaussian_schedule(kind), normal(5, 1, 1, 2), torch.full((5,), 300)
    y = GaussianDenoiser(schedule)(x, t, class_text(MEAN, 5))
    a, s = (v.view(-1, 1)[0] for v in alpha_sigma(schedule, t, x))
    gain = torch.linalg.solve(a**2 * COVARIANCE + s**2 * torch.eye(2), a * COVARIANCE)
    wanted = MEAN + (x.flatten(1) - a * MEAN) @ gain
    torch.testing.assert_close(predict_x0(schedule, x, t, y).flatten(1), wanted, rtol=0, atol=1e-5)


def ddim_covariance(schedule, steps):
    "Along an axis each step of DDIM is a factor: a' g + s' (1 - a g)/s, where g = a lambda/(a^2 lambda + s^2)."
    variances, axes = torch.linalg.eigh(COVARIANCE.double())
    t = make_sampler("ddim", schedule, steps).timesteps
    bars = torch.cat([schedule.alphas_cumprod[t].double(), torch.ones(1, dtype=torch.float64)])[:, None]
    a, s = bars.sqrt(), (1 - bars).sqrt()
    g = (a * variances / (a**2 * variances + s**2))[:-1]
    factor = (a[1:] * g + s[1:] * (1 - a[:-1] * g) / s[:-1]).prod(0)
    return (axes * factor**2 @ axes.T).float()


def last_jump(schedule, steps):
    "Share of the covariance that the last jump loses, since it returns a conditional mean."
    variances, bar = torch.linalg.eigvalsh(COVARIANCE), schedule.alphas_cumprod[1000 // steps - 1]
    return ((variances * (1 - bar) / (bar * variances + 1 - bar)).norm() / variances.norm()).item()


CASES = [
    ("dpm++", "epsilon", dict()),
    ("dpm++", "sample", dict(betas="cosine", zero_snr=True)),
    ("unipc", "v_prediction", dict(zero_snr=True)),
    ("unipc", "epsilon", dict(betas="cosine")),
    ("ddim", "sample", dict()),
    ("ddim", "v_prediction", dict(betas="cosine", zero_snr=True)),
    ("ddpm", "v_prediction", dict(betas="cosine", zero_snr=True)),
]


@pytest.mark.parametrize("name, kind, options", CASES, ids=str)
def test_samples_follow_the_law_and_the_law_the_data(name, kind, options):
    schedule, steps, n = gaussian_schedule(kind, **options), 25, 20000
    if name == "ddpm":
        steps, n = 1000, 2000
    denoise = exact_denoiser(schedule)
    m, P = sampler_law(name, schedule, steps, denoise)
    start = schedule.alphas_cumprod[-1].sqrt().item() * MEAN.norm()  # the bias of starting from mean 0
    assert (m - MEAN).norm() < start + 4 * 2**-12 * options.get("zero_snr", False) + 1e-3 * (name == "ddpm")
    if name in ("dpm++", "unipc"):
        assert relative_error(P) < 1.2 * last_jump(schedule, steps)
    if name == "ddim":
        torch.testing.assert_close(P, ddim_covariance(schedule, steps), rtol=0, atol=1e-5)
    generator = {"generator": seeded(12)} if name == "ddpm" else {}
    samples = run_sampler(name, schedule, steps, normal(n, 1, 1, 2, seed=11), denoise, **generator)
    assert excess(samples.view(n, 2), m, P) < 5


@pytest.mark.parametrize(
    "steps, kind, options",
    [
        (3, "epsilon", dict()),
        (7, "v_prediction", dict(betas="cosine")),
        (35, "sample", dict(zero_snr=True)),
        (130, "v_prediction", dict(betas="cosine")),
        (600, "sample", dict(zero_snr=True)),
    ],
)
def test_ddim_follows_its_law_where_the_steps_do_not_divide(kind, options, steps):
    "The library's takes every step for 1000//steps long, and leaves noise behind where the next one begins elsewhere."
    schedule = gaussian_schedule(kind, **options)
    P = sampler_law("ddim", schedule, steps, exact_denoiser(schedule))[1]
    torch.testing.assert_close(P, ddim_covariance(schedule, steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, gain", [("dpm++", 8), ("ddim", 4), ("unipc", 8)])
def test_error_of_discretisation_vanishes_with_the_steps(name, gain):
    "A solver of first order gains a factor of about 5 from five times as many steps; one of second order more."
    schedule = gaussian_schedule()
    few, many = (relative_error(sampler_law(name, schedule, k, exact_denoiser(schedule))[1]) for k in (50, 250))
    assert many < few / gain


@pytest.mark.parametrize("options", [dict(betas="cosine", zero_snr=True), dict(shift=4.0)], ids=str)
def test_ddpm_with_the_whole_variance_is_exact(options):
    schedule = gaussian_schedule(**options)
    assert relative_error(ddpm_law(schedule, exact_denoiser(schedule), whole=True)[1]) < 1e-3


@pytest.mark.parametrize("zero_snr", [False, True])
def test_zero_terminal_snr_removes_the_bias_of_the_mean(zero_snr):
    schedule = gaussian_schedule(zero_snr=zero_snr)
    b, A = affine_map(run_sampler("ddim", schedule, 25, BASIS, exact_denoiser(schedule)))
    wanted = -schedule.alphas_cumprod[-1].sqrt() * MEAN @ A
    slack = 2**-14 if zero_snr else 1e-6  # the solver takes 2**-24 for an SNR of 0
    torch.testing.assert_close(b - MEAN, wanted, rtol=0, atol=slack)
    assert ((b - MEAN).norm() > 1e-4) == (not zero_snr)


AWAY = torch.tensor([0.5, 0.2])


@pytest.mark.parametrize("name, negative", [("dpm++", None), ("ddim", AWAY), ("unipc", AWAY), ("ddpm", None)], ids=str)
def test_guided_samples_have_the_mean_that_theory_names(name, negative):
    schedule = gaussian_schedule(zero_snr=True)
    steps = 1000 if name == "ddpm" else 25
    goal = 3 * MEAN - 2 * (NULL_MEAN if negative is None else negative)
    m, P = sampler_law(name, schedule, steps, exact_denoiser(schedule, 3.0, negative))
    assert (m - goal).norm() < 4 * 2**-12
    unguided = sampler_law(name, schedule, steps, exact_denoiser(schedule))[1]
    torch.testing.assert_close(P, unguided, rtol=0, atol=1e-5)
