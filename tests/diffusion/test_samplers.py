"""Samplers in a world with one image, where the exact trajectory is known."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusion_tools import CASE_IDS, CASES, IMAGES, ULP, normal, seeded

from radgen.core.errors import ConfigError
from radgen.diffusion.config import SAMPLERS, samplers_for
from radgen.diffusion.process import alpha_sigma, exact_prediction, make_schedule, target
from radgen.diffusion.samplers import make_sampler, run_sampler

PAIRS = [  # each sampler with each prediction and with plain, rescaled and shifted schedules
    (name, *case)
    for i, case in enumerate(CASES)
    for j, name in enumerate(samplers_for(case[0]))
    if (i + j) % 2 == 0 or case[0] == "flow"
]
SOLVED = [(name, *case) for case in CASES[::2] for name in samplers_for(case[0]) if name != "ddpm"]
KINDS = [(name, kind) for kind in ("epsilon", "flow") for name in samplers_for(kind)]


def named(cases):
    "Names of cases of sampler, prediction and schedule."
    return [f"{name}-{CASE_IDS[CASES.index((kind, options))]}" for name, kind, options in cases]


@pytest.mark.parametrize("name, kind, options", PAIRS, ids=named(PAIRS))
def test_perfect_denoiser_arrives_at_its_image(name, kind, options):
    schedule, image = make_schedule(kind, **options), IMAGES[:1]
    start = normal(1, 1, 8, 8, seed=3)
    end = run_sampler(name, schedule, 50, start, lambda x, t: exact_prediction(schedule, x, t, image))
    assert end.isfinite().all()
    assert (end - image).abs().max() < 1e-5


@pytest.mark.parametrize("name, kind, options", SOLVED, ids=named(SOLVED))
def test_trajectory_keeps_the_noise_that_it_began_with(name, kind, options):
    "With one image in the world the exact solution is x_t = a x0 + s noise for every t, in any number of steps."
    schedule, image, start = make_schedule(kind, **options), IMAGES[:1], normal(1, 1, 8, 8, seed=3)
    path = []

    def denoise(x, t):
        path.append(x)
        return exact_prediction(schedule, x, t, image)

    run_sampler(name, schedule, 25, start, denoise)
    a, s = alpha_sigma(schedule, make_sampler(name, schedule, 25).timesteps.long(), image)
    noise = (start - a[0] * image) / s[0]
    # Solvers replace SNR 0 by 2**-24, whose root is the weight of x_T (below 4) in the first guess. Else it is
    # rounding: 8 of them a step, and a guess from noise divides its own by a before the next step multiplies it.
    carried = (a[1:] / a[:-1]).sum() if kind == "epsilon" else 25
    from_zero = options["zero_snr"] or kind == "flow"
    slack = 8 * 2**-12 * from_zero + 8 * ULP * (1 + carried)
    assert ((torch.cat(path) - (a * image + s * noise)).abs() <= slack).all()


def test_same_generator_gives_the_same_ddpm_samples():
    schedule, x = make_schedule("v_prediction"), normal(2, 1, 8, 8)
    a, b, c = (run_sampler("ddpm", schedule, 50, x, lambda x, t: 0.1 * x, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("name, kind", [pair for pair in KINDS if pair[0] != "ddpm"], ids=str)
def test_solvers_draw_no_random_numbers(name, kind):
    schedule, before = make_schedule(kind), torch.get_rng_state()
    a, b = (run_sampler(name, schedule, 10, normal(2, 1, 8, 8), lambda x, t: 0.1 * x) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
@pytest.mark.parametrize("clip", [True, False])
def test_samplers_clip_as_the_schedule_says(name, clip):
    schedule = DDPMScheduler.from_config(make_schedule("sample").config, clip_sample=clip)
    end = run_sampler(name, schedule, 10, normal(1, 1, 8, 8), lambda x, t: torch.full_like(x, 3.0))
    assert (end - (1.0 if clip else 3.0)).abs().max() < 1e-5


@pytest.mark.parametrize("name, kind", KINDS, ids=str)
def test_sampler_takes_the_number_of_steps_of_the_request(name, kind):
    for steps in (1, 2, 61, 1000):
        t = make_sampler(name, make_schedule(kind), steps).timesteps
        if name == "heun":  # which evaluates the network a second time at the end of each step but the last
            assert len(t) == 2 * steps - 1, steps
            t = t.unique().flip(0)
        assert len(t) == steps, steps
        assert t[0] == 999, steps
        assert t[-1] >= 0, steps
        assert (t[1:] < t[:-1]).all(), steps


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize("name", samplers_for("flow"))
def test_network_gets_the_time_step_whose_noise_it_sees(name, shift):
    "The noise of an input is that of the time step with it, which is one that the network was trained with."
    schedule, image, start = make_schedule("flow", shift=shift), IMAGES[:1], normal(1, 1, 8, 8, seed=3)
    seen = []

    def denoise(x, t):
        assert t.dtype == torch.int64
        a, s = alpha_sigma(schedule, t, x)
        seen.append((x - a * image - s * start).abs().max().item())  # the noise that it began with
        return exact_prediction(schedule, x, t, image)

    run_sampler(name, schedule, 7, start, denoise)
    assert max(seen) < 8 * 2**-12  # half of what one time step makes of noise of size 4


def test_ddim_on_the_straight_path_is_eulers_method():
    schedule, start = make_schedule("flow", shift=2.0), normal(4, 1, 8, 8)
    a, b = (run_sampler(name, schedule, 10, start, lambda x, t: (3 * x).sin()) for name in ("ddim", "euler"))
    assert (a - b).abs().max() < 8 * 2**-12  # the solver takes 1 - 2**-12 for s = 1


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2)])
def test_error_vanishes_with_the_order_of_the_method(name, order):
    "du/ds of a flow that is not straight: two classes of one pixel, whose exact end is known from many steps."
    schedule = make_schedule("flow", T=4000)

    def denoise(x, t):
        a, s = alpha_sigma(schedule, t, x)
        return exact_prediction(schedule, x, t, torch.tanh(a * x / (s**2 + 0.3)))

    start = normal(50, 1, 1, 1)
    exact = run_sampler("heun", schedule, 2000, start, denoise)
    few, many = ((run_sampler(name, schedule, n, start, denoise) - exact).abs().mean() for n in (50, 200))
    assert many < few / 4**order * 1.5


@pytest.mark.parametrize(
    "name, kind, able",
    [
        ("ddpm", "flow", "dpm.., ddim, unipc, euler, heun"),
        ("euler", "v_prediction", "dpm.., ddim, unipc, ddpm"),
        ("heun", "epsilon", "dpm.., ddim, unipc, ddpm"),
    ],
)
def test_sampler_of_another_prediction_is_refused(name, kind, able):
    message = f"the sampler {name} does not work for a model that predicts {kind}: choose one of {able}\\."
    with pytest.raises(ConfigError, match=message):
        make_sampler(name, make_schedule(kind), 20)


def test_sampler_of_ones_own_works_for_every_prediction():
    SAMPLERS.register("mine", SAMPLERS["ddim"])
    try:
        for kind in ("epsilon", "flow"):
            assert len(make_sampler("mine", make_schedule(kind), 5).timesteps) == 5
            assert "mine" in samplers_for(kind)
    finally:
        del SAMPLERS.entries["mine"]


def test_many_steps_do_not_drift_where_images_are_clipped():
    "Guidance asks for images darker than black; more steps must not make them brighter."
    schedule, mu, sd = make_schedule(betas="cosine"), -1.2, 0.2

    def denoise(x, t):
        a, s = alpha_sigma(schedule, t, x)
        x0 = mu + sd**2 * a * (x - a * mu) / (a * a * sd**2 + s * s)
        return target(schedule, x0, t, (x - a * x0) / s)

    x, z = normal(500, 1, 2, 2), (mu + 1) / sd
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), (1 + math.erf(z / math.sqrt(2))) / 2
    truth = -1 + sd * (density + z * below)  # what lies below -1 is moved there
    for steps in (20, 60, 200):
        mean = run_sampler("ddim", schedule, steps, x, denoise).clamp(-1, 1).mean().item()
        assert abs(mean - truth) < 0.05, steps


def test_unknown_sampler_is_refused():
    with pytest.raises(ConfigError, match="no sampler 'leapfrog': choose one of dpm"):
        make_sampler("leapfrog", make_schedule(), 20)
