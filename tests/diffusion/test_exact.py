"""Samplers in two worlds whose best network is known: Gaussian data by closed forms, and a finite set of images."""

import numpy as np
import pytest
import torch
from diffusion_tools import normal, seeded
from scipy.ndimage import gaussian_filter

from radgen.core.devices import to_unit
from radgen.diffusion.config import SamplingTrajectory, samplers_for
from radgen.diffusion.exact import (
    BASIS,
    COVARIANCE,
    FiniteDenoiser,
    GaussianDenoiser,
    MEAN,
    NULL_MEAN,
    affine_map,
    class_text,
    ddpm_law,
    exact_denoiser,
    excess,
    gaussian_schedule,
    label_text,
    relative_error,
    sampler_law,
)
from radgen.diffusion.generation import sample_batch
from radgen.diffusion.guidance import guided
from radgen.diffusion.process import (
    PREDICTIONS,
    alpha_sigma,
    diffusion_loss,
    make_schedule,
    predict_noise,
    predict_x0,
    q_sample,
    target,
)
from radgen.diffusion.samplers import make_sampler, run_sampler
from radgen.evaluation.memorisation import audit_memorisation

LONG = pytest.mark.soak  # a thousand steps of DDPM


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_exact_denoiser_is_the_conditional_mean(kind):
    "By the inverse of the covariance instead of its axes."
    schedule, x, t = gaussian_schedule(kind), normal(5, 1, 1, 2), torch.full((5,), 300)
    y = GaussianDenoiser(schedule)(x, t, class_text(MEAN, 5))
    a, s = (v.view(-1, 1)[0] for v in alpha_sigma(schedule, t, x))
    gain = torch.linalg.solve(a**2 * COVARIANCE + s**2 * torch.eye(2), a * COVARIANCE)
    wanted = MEAN + (x.flatten(1) - a * MEAN) @ gain
    torch.testing.assert_close(predict_x0(schedule, x, t, y).flatten(1), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [dict(), dict(shift=3.0)], ids=str)
@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_nothing_predicts_better_than_the_exact_denoiser(kind, options):
    "Its loss is the variance that x_t leaves open, in units of the prediction; stretched or shifted it is worse."
    schedule, n, g = gaussian_schedule(kind, **options), 20000, seeded(4)
    variances, axes = torch.linalg.eigh(COVARIANCE)
    clean = (MEAN + torch.randn(n, 2, generator=g) * variances.sqrt() @ axes.T).view(n, 1, 1, 2)
    noise, best, text = torch.randn(n, 1, 1, 2, generator=g), GaussianDenoiser(schedule), class_text(MEAN, n)
    for step in (100, 500, 900):
        t = torch.full((n,), step)
        a, s = (v.flatten()[0] for v in alpha_sigma(schedule, t[:1], clean))
        unit = {"epsilon": a**2 / s**2, "v_prediction": 1 / s**2, "sample": 1, "flow": 1 / s**2}[kind]
        theory = (variances * s**2 / (a**2 * variances + s**2)).mean() * unit
        losses = diffusion_loss(best, schedule, clean, text, t, noise, reduce=False)
        assert abs(losses.mean() - theory) < 5 * losses.std() / n**0.5, step
        for stretch in (0.9, 1.1):
            worse = diffusion_loss(lambda *inputs: stretch * best(*inputs), schedule, clean, text, t, noise)
            assert worse > losses.mean(), (step, stretch)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_round_trip_of_data_and_noise(kind):
    schedule, t = gaussian_schedule(kind, shift=2.0), torch.tensor([0, 100, 400, 800, 950])
    x0, noise = normal(5, 1, 1, 2, seed=1), normal(5, 1, 1, 2, seed=2)
    x_t, y = q_sample(schedule, x0, t, noise), target(schedule, x0, t, noise)
    a, s = alpha_sigma(schedule, t, x0)
    assert ((predict_x0(schedule, x_t, t, y) - x0).abs() < 1e-6 * (1 + 1 / a)).all()
    assert ((predict_noise(schedule, x_t, t, y) - noise).abs() < 1e-6 * (1 + 1 / s)).all()


def flow_covariance(name, schedule, steps):
    """Along an axis a step of Euler is 1 + h c, one of Heun 1 + h/2 (c + c'(1 + h c)), with c = (1 - g)/s. In 64 bits,
    from the definition of the path and of the samplers' time steps."""
    variances, axes = torch.linalg.eigh(COVARIANCE.double())
    i = torch.arange(steps, dtype=torch.float64)
    t = (1000 - i * 1000 / steps).round() - 1 if name == "euler" else torch.linspace(999, 0, steps).double().round()
    share = torch.cat([(t + 1) / 1000, torch.zeros(1).double()])
    k = schedule.config.shift
    s = k * share / (1 + (k - 1) * share)
    total = torch.ones(2, dtype=torch.float64)
    for start, end in zip(s, s[1:]):
        c, after = ((1 - (1 - v) * variances / ((1 - v) ** 2 * variances + v**2)) / v for v in (start, end))
        h = end - start
        total *= 1 + h * c if name == "euler" or end == 0 else 1 + h / 2 * (c + after * (1 + h * c))
    return (axes * total**2 @ axes.T).float()


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize(
    "name, steps", [("euler", 1), ("euler", 7), ("euler", 50), ("heun", 1), ("heun", 8), ("heun", 25)]
)
def test_flow_samplers_follow_their_law(name, steps, shift):
    schedule = gaussian_schedule("flow", shift=shift)
    m, P = sampler_law(name, schedule, steps, exact_denoiser(schedule))
    torch.testing.assert_close(P, flow_covariance(name, schedule, steps), rtol=0, atol=1e-5)
    torch.testing.assert_close(m, MEAN, rtol=0, atol=1e-5)  # the path begins at pure noise: nothing to correct


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
    variances, t = torch.linalg.eigvalsh(COVARIANCE), torch.tensor([1000 // steps - 1])
    a, s = (v[0] for v in alpha_sigma(schedule, t, t))
    return ((variances * s**2 / (a**2 * variances + s**2)).norm() / variances.norm()).item()


CASES = [
    ("dpm++", "epsilon", dict()),
    ("dpm++", "sample", dict(betas="cosine", zero_snr=True)),
    ("unipc", "v_prediction", dict(zero_snr=True)),
    ("unipc", "epsilon", dict(betas="cosine")),
    ("ddim", "sample", dict()),
    ("ddim", "v_prediction", dict(betas="cosine", zero_snr=True)),
    pytest.param("ddpm", "v_prediction", dict(betas="cosine", zero_snr=True), marks=LONG),
    ("dpm++", "flow", dict()),
    ("unipc", "flow", dict(shift=2.0)),
    ("ddim", "flow", dict()),
    ("euler", "flow", dict(shift=2.0)),
    ("heun", "flow", dict()),
]


@pytest.mark.parametrize("name, kind, options", CASES, ids=str)
def test_samples_follow_the_law_and_the_law_the_data(name, kind, options):
    schedule, steps, n = gaussian_schedule(kind, **options), 25, 20000
    if name == "ddpm":
        steps, n = 1000, 2000
    denoise = exact_denoiser(schedule)
    m, P = sampler_law(name, schedule, steps, denoise)
    last = torch.tensor([999])
    start = alpha_sigma(schedule, last, last)[0].item() * MEAN.norm()  # the bias of starting from mean 0
    from_zero = options.get("zero_snr", False) or kind == "flow"
    assert (m - MEAN).norm() < start + 4 * 2**-12 * from_zero + 1e-3 * (name == "ddpm")
    if name in ("dpm++", "unipc"):
        assert relative_error(P) < (1.5 if kind == "flow" else 1.2) * last_jump(schedule, steps)
    if name == "ddim" and kind == "flow":
        torch.testing.assert_close(P, flow_covariance("euler", schedule, steps), rtol=0, atol=1e-4)
    elif name == "ddim":
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


@pytest.mark.parametrize(
    "name, negative",
    [("dpm++", None), ("ddim", AWAY), ("unipc", AWAY), pytest.param("ddpm", None, marks=LONG)],
    ids=str,
)
def test_guided_samples_have_the_mean_that_theory_names(name, negative):
    schedule = gaussian_schedule(zero_snr=True)
    steps = 1000 if name == "ddpm" else 25
    goal = 3 * MEAN - 2 * (NULL_MEAN if negative is None else negative)
    m, P = sampler_law(name, schedule, steps, exact_denoiser(schedule, 3.0, negative))
    assert (m - goal).norm() < 4 * 2**-12
    unguided = sampler_law(name, schedule, steps, exact_denoiser(schedule))[1]
    torch.testing.assert_close(P, unguided, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dpm++", "euler", "heun"])
def test_guided_flow_has_the_mean_that_theory_names(name):
    schedule, goal = gaussian_schedule("flow"), 3 * MEAN - 2 * AWAY
    m, P = sampler_law(name, schedule, 25, exact_denoiser(schedule, 3.0, AWAY))
    assert (m - goal).norm() < 4 * 2**-12
    unguided = sampler_law(name, schedule, 25, exact_denoiser(schedule))[1]
    torch.testing.assert_close(P, unguided, rtol=0, atol=1e-5)


ATLAS = torch.where(normal(6, 1, 8, 8, seed=21) > 0, 0.8, -0.8)  # six unlike images in two classes
SIDES = torch.tensor([0, 0, 0, 1, 1, 1])
DRAWN = [
    pytest.param(name, kind, marks=LONG if name == "ddpm" else ())
    for kind in PREDICTIONS
    for name in samplers_for(kind)
]


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_finite_denoiser_is_the_posterior_mean(kind):
    "By densities in 64 bits instead of a softmax of products."
    schedule, x, t = make_schedule(kind), normal(5, 1, 8, 8), torch.tensor([300, 600, 700, 800, 900])
    world, text = FiniteDenoiser(schedule, ATLAS, SIDES), label_text(torch.tensor([0, 0, 1, 1, 1]), 2)
    a, s = (v.double().flatten(1) for v in alpha_sigma(schedule, t, x))
    flat = ATLAS.double().flatten(1)
    for pooled in (text.pooled, torch.ones(5, 2)):
        far = (x.double().flatten(1)[:, None] - a[:, None] * flat).square().sum(2) / (2 * s**2)
        density = pooled[:, SIDES].double() * torch.exp(-(far - far.min(1, keepdim=True).values))
        wanted = density / density.sum(1, keepdim=True) @ flat
        x0 = predict_x0(schedule, x, t, world(x, t, text._replace(pooled=pooled)))
        torch.testing.assert_close(x0.flatten(1).double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, kind", DRAWN, ids=str)
def test_every_sampler_draws_images_of_the_set_and_of_the_class(name, kind):
    schedule, n = make_schedule(kind, betas="cosine"), 24
    world, labels = FiniteDenoiser(schedule, ATLAS, SIDES), torch.arange(n) % 2
    generator = {"generator": seeded(7)} if name == "ddpm" else {}
    steps = {"ddpm": 1000, "heun": 15}.get(name, 30)
    start = normal(n, 1, 8, 8, seed=5)
    for scale in (0.0, 1.0, 3.0):

        def denoise(x, t, scale=scale):
            return guided(world, x, t, label_text(labels, 2), scale)

        drawn = run_sampler(name, schedule, steps, start, denoise, **generator)
        far = (drawn[:, None] - ATLAS[None]).abs().amax((2, 3, 4))
        nearest = far.argmin(1)
        assert far.min(1).values.max() < 1e-3, scale
        if scale:
            assert torch.equal(SIDES[nearest], labels), scale
        assert len(nearest.unique()) == 6, scale


@pytest.mark.parametrize("name, kind", [("dpm++", "v_prediction"), ("dpm++", "flow"), ("heun", "flow")], ids=str)
def test_images_of_the_set_are_drawn_by_their_share(name, kind):
    "Four equally likely images, one in a class of its own: without text each is a quarter of the samples."
    atlas, n = torch.tensor([-0.9, -0.3, 0.3, 0.9]).view(4, 1, 1, 1), 4000
    schedule = gaussian_schedule(kind)
    world, text = FiniteDenoiser(schedule, atlas), label_text(torch.zeros(n, dtype=torch.long), 1)
    drawn = run_sampler(name, schedule, 100, normal(n, 1, 1, 1, seed=3), lambda x, t: world(x, t, text))
    counts = (drawn.view(n, 1) - atlas.view(1, 4)).abs().argmin(1).bincount(minlength=4)
    assert (counts - n / 4).abs().max() < 5 * (n * 3 / 16) ** 0.5 + 0.01 * n


def scenes(n, seed, size=48):
    "Smooth random images, no two alike."
    x = gaussian_filter(np.random.default_rng(seed).normal(size=(n, size, size)), (0, 4, 4))
    return np.clip(128 + 50 * x / x.std(), 0, 255).astype(np.uint8)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["v_prediction", "flow"])
def test_memorisation_audit_reports_the_exact_denoiser(kind):
    "What it draws are training images, and the audit says so of each; of other images it does not."
    train, held_out, others = scenes(60, 0), scenes(40, 1), scenes(12, 2)
    schedule = make_schedule(kind)
    world = FiniteDenoiser(schedule, to_unit(torch.from_numpy(train))[:, None])
    trajectory = SamplingTrajectory(num_inference_steps=20, guidance_scale=1.0)
    noise = [seeded(i) for i in range(12)]
    drawn = sample_batch(world, schedule, label_text(torch.zeros(12, dtype=torch.long), 1), None, noise, trajectory)
    far = (drawn.short()[:, None] - torch.from_numpy(train).short()[None]).abs().amax((2, 3))
    assert far.min(1).values.max() <= 1
    audit, table = audit_memorisation(drawn.numpy(), held_out, train)
    assert audit.copies == 12
    by_image = table.sort_values("image")
    assert by_image.neighbour.tolist() == far.argmin(1).tolist()
    assert audit_memorisation(others, held_out, train)[0].copies <= 2
