"""Schedules, posterior, the three predictions and the weights of the loss, against closed forms."""

import math

from typing import get_args, get_type_hints

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from diffusion_tools import CASE_IDS, CASES, IMAGES, NOISE, SCHEDULE_IDS, SCHEDULES, STEPS, ULP, normal, seeded, words
from torch import nn

from radgen.core.errors import ConfigError
from radgen.diffusion.config import LIMITED, samplers_for
from radgen.diffusion.process import (
    PREDICTIONS,
    Prediction,
    alpha_sigma,
    diffusion_loss,
    draw_times,
    exact_prediction,
    make_schedule,
    move_schedule,
    predict_noise,
    predict_x0,
    prediction_of,
    q_posterior,
    q_sample,
    resolution_shift,
    schedule_classes,
    snr,
    snr_at,
    snr_weights,
    target,
    time_steps,
)
from radgen.diffusion.samplers import make_sampler
from radgen.training.config import ResolvedConfig, TrainConfig

every_schedule = pytest.mark.parametrize("options", SCHEDULES, ids=SCHEDULE_IDS)
every_case = pytest.mark.parametrize("kind, options", CASES, ids=CASE_IDS)


def exact_bars(betas, zero_snr, shift):
    "alpha_bar in 64 bits from the definitions."
    if betas == "linear":
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    else:
        u = torch.arange(1001, dtype=torch.float64) / 1000
        curve = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    bars = (1 - beta).cumprod(0)
    if zero_snr:
        root = bars.sqrt()
        bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    ratio = snr(bars) / shift**2
    return ratio / (1 + ratio)


@every_schedule
def test_schedule_is_its_definition(options):
    bars = make_schedule("sample", **options).alphas_cumprod
    # Each of t + 1 factors is rounded as beta, as alpha and in the product, and again where the schedule was
    # rescaled: 8 at worst. The shift has a slope of at most shift**2.
    bound = 8 * ULP * torch.arange(1, 1001) * options["shift"] ** 2
    assert ((bars - exact_bars(**options)).abs() <= bound).all()
    assert (bars.diff() < 0).all()
    assert bars[0] < 1
    assert (bars[-1] == 0) == options["zero_snr"]


@pytest.mark.parametrize("size", [128, 256])
def test_averaging_undoes_the_shift_of_larger_images(size):
    k = size // 64
    averaged = nn.functional.avg_pool2d(normal(8, 1, size, size), k).std().item()
    assert resolution_shift(size) == k
    assert abs(averaged * k - 1) < 5 / math.sqrt(2 * 8 * 64 * 64)  # standard error of a standard deviation


def test_images_up_to_64_pixels_keep_the_papers_schedule():
    assert [resolution_shift(n) for n in (16, 32, 64)] == [1, 1, 1]
    assert make_schedule(shift=resolution_shift(32)).config.trained_betas is None


@every_schedule
def test_schedule_survives_saving(options, tmp_path):
    schedule = make_schedule("v_prediction", **options)
    schedule.save_pretrained(tmp_path)
    again = DDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, schedule.alphas_cumprod)
    for name in samplers_for("v_prediction"):  # which put 2**-24 where the SNR is 0, if they have to
        sampler = make_sampler(name, again, 20)
        assert (sampler.alphas_cumprod - schedule.alphas_cumprod).abs().max() <= 2**-24, name
        assert sampler.config.prediction_type == "v_prediction", name


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(prediction="noise"), "prediction is 'noise'.*epsilon.*flow"),
        (dict(betas="sigmoid"), "betas is 'sigmoid'.*cosine"),
        (dict(zero_snr=True), "divides by zero"),
        (dict(prediction="flow", zero_snr=True), "flow ends in pure noise without zero_snr"),
        (dict(shift=0.0), "shift is 0.0: it must be above 0"),
        (dict(shift=math.nan), "shift is nan"),
        (dict(T=0), "T is 0"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigError, match=message) as e:
        make_schedule(**options)
    assert "\n" not in str(e.value)


@every_schedule
def test_forward_process_and_posterior_are_the_librarys(options):
    schedule = make_schedule("sample", **options)
    x_t = q_sample(schedule, IMAGES, STEPS, NOISE)
    torch.testing.assert_close(x_t, schedule.add_noise(IMAGES, NOISE, STEPS), rtol=0, atol=1e-6)
    mean, var = q_posterior(schedule, IMAGES, x_t, STEPS)
    assert mean.shape == x_t.shape
    assert var.shape == (7, 1, 1, 1)
    for i, t in enumerate(STEPS.tolist()):
        z = normal(1, 1, 8, 8, seed=t)
        step = schedule.step(IMAGES[i : i + 1], t, x_t[i : i + 1], generator=seeded(t)).prev_sample
        torch.testing.assert_close(mean[i : i + 1] + var[i].sqrt() * z, step, rtol=0, atol=1e-6)
        assert abs(var[i].item() - schedule._get_variance(t).item()) < 1e-6, t
    assert var[0] == 0
    torch.testing.assert_close(mean[0], IMAGES[0], rtol=0, atol=2 * ULP)


@pytest.mark.parametrize("t, zero_snr", [(1, False), (50, True), (500, False), (999, False), (999, True)])
def test_posterior_is_bayes_rule_on_a_grid(t, zero_snr):
    "Likelihood times prior on a fine grid, without any algebra."
    schedule = make_schedule("sample", zero_snr=zero_snr)
    beta, before, x0, x_t = schedule.betas[t].double(), schedule.alphas_cumprod[t - 1].double(), 0.4, -0.3
    one = torch.ones(1, 1, 1, 1)
    mean, var = (v.double().item() for v in q_posterior(schedule, x0 * one, x_t * one, torch.tensor([t])))
    x = torch.linspace(mean - 8 * var**0.5, mean + 8 * var**0.5, 20001, dtype=torch.float64)
    log = -((x_t - (1 - beta).sqrt() * x) ** 2) / (2 * beta) - (x - before.sqrt() * x0) ** 2 / (2 * (1 - before))
    p = (log - log.max()).exp()
    p /= p.sum()
    m = (p * x).sum()
    v = (p * (x - m) ** 2).sum()
    rounding = 4 * ULP / beta  # 1 - alpha_bar/alpha_bar_before loses the digits that both share
    assert abs(m - mean) < rounding * abs(x_t - x0) + 4 * ULP
    assert abs(v / var - 1) < 2 * rounding + 1e-6


def test_small_steps_compose_to_the_forward_process():
    schedule = make_schedule()
    m, v = 1.0, 0.0
    for t in range(1000):
        beta = schedule.betas[t].double().item()
        m, v = (1 - beta) ** 0.5 * m, (1 - beta) * v + beta
        if t in (0, 10, 300, 999):
            a, s = alpha_sigma(schedule, torch.tensor([t]), IMAGES)
            assert abs(a.item() - m) < 2 * 1000 * ULP, t
            assert abs(s.item() ** 2 - v) < 2 * 1000 * ULP, t


@every_case
def test_each_prediction_gives_image_and_noise_back(kind, options):
    schedule = make_schedule(kind, **options)
    x_t, y = q_sample(schedule, IMAGES, STEPS, NOISE), target(schedule, IMAGES, STEPS, NOISE)
    a, s = alpha_sigma(schedule, STEPS, IMAGES)
    for back, truth, enlarged in (
        (predict_x0, IMAGES, 1 / a if kind == "epsilon" else 1.0),
        (predict_noise, NOISE, 1 / s if kind == "sample" else 1.0),
    ):
        got = back(schedule, x_t, STEPS, y)
        # three products and sums of numbers below 8, each rounded, and divided by a or s for noise and image
        assert got.isfinite().all(), back
        assert ((got - truth).abs() <= 8 * 8 * ULP * enlarged).all(), back
    if kind == "v_prediction":
        torch.testing.assert_close(y, schedule.get_velocity(IMAGES, NOISE, STEPS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind, options", CASES[::2], ids=CASE_IDS[::2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_sixteen_bits_are_mixed_in_thirty_two(kind, options, dtype):
    schedule = make_schedule(kind, **options)
    x0, noise = IMAGES.to(dtype), NOISE.to(dtype)
    for f in (q_sample, target):
        got, wanted = f(schedule, x0, STEPS, noise), f(schedule, x0.float(), STEPS, noise.float())
        assert got.isfinite().all(), f
        assert torch.equal(got, wanted.to(dtype)), f  # one rounding, at the very end
    x_t = q_sample(schedule, x0, STEPS, noise)
    assert predict_noise(schedule, x_t, STEPS, target(schedule, x0, STEPS, noise)).dtype == dtype
    losses = diffusion_loss(
        lambda x, t, text: torch.zeros_like(x), schedule, x0, words(7), STEPS, noise, 5.0, reduce=False
    )
    assert losses.isfinite().all()


@every_case
def test_weights_are_clipped_snr_in_each_parametrisation(kind, options):
    schedule, t = make_schedule(kind, **options), torch.arange(1000)
    weights, ratio = snr_weights(schedule, t, 5.0), exact_ratio(schedule, t)
    clip, alive = ratio.clamp(max=5), ratio > 0
    unit = unit_of(kind, ratio)
    wanted = clip / unit
    assert weights.dtype == torch.float32
    assert ((weights[alive] - wanted[alive]).abs() <= 2e-6 * wanted[alive]).all()  # six roundings
    assert (weights[~alive] == 1).all()
    assert (~alive).sum() == (options["zero_snr"] or kind == "flow")
    if kind != "flow":
        assert ((ratio[alive] / compute_snr(schedule, t).double()[alive] - 1).abs() < 1e-5).all()
    assert torch.equal(snr_weights(schedule, t, None), torch.ones(1000))
    assert torch.equal(snr_weights(schedule, t, 5.0, 0.0), weights)
    floored = snr_weights(schedule, t, 5.0, 0.05)
    assert ((floored - ratio.clamp(0.05, 5) / unit).abs() <= 2e-6 * floored).all()


def exact_ratio(schedule, t):
    "The SNR in 64 bits."
    if isinstance(schedule, DDPMScheduler):
        return snr(schedule.alphas_cumprod.double()[t])
    share = (t.double() + 1) / 1000
    return ((1 - share) / (schedule.config.shift * share)) ** 2


def unit_of(kind, ratio):
    "The square error of a prediction over that of the image, by hand."
    return {
        "epsilon": ratio,
        "v_prediction": ratio + 1,
        "sample": torch.ones_like(ratio),
        "flow": (1 + ratio.sqrt()) ** 2,
    }[kind]


@every_case
def test_loss_in_each_parametrisation_is_the_images_error_weighted(kind, options):
    schedule, t = make_schedule(kind, **options), torch.tensor([5, 50, 200, 400, 600, 800, 950])
    (a, s), wrong = alpha_sigma(schedule, t, IMAGES), IMAGES + 0.3 * normal(7, 1, 8, 8, seed=2)
    says = exact_prediction(schedule, q_sample(schedule, IMAGES, t, NOISE), t, wrong)
    ratio, error = (a**2 / s**2).flatten(), (wrong - IMAGES).square().mean((1, 2, 3))
    plain = unit_of(kind, ratio)
    # an error of 8 roundings in numbers of size 4 (1/s for the noise) against at least 0.3*a/s in the prediction
    slack = (2 * 32 * ULP / (s * 0.3 * torch.minimum(a / s, torch.ones(())))).flatten()
    for gamma, weight in ((None, plain), (5.0, ratio.clamp(max=5)), (1.0, ratio.clamp(max=1))):
        inputs = (lambda x, t, text: says, schedule, IMAGES, words(7), t, NOISE, gamma)
        losses = diffusion_loss(*inputs, reduce=False)
        assert ((losses / (weight * error) - 1).abs() < slack).all(), gamma
        assert diffusion_loss(*inputs) == losses.mean(), gamma


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
def test_first_step_of_sampling_is_learned(kind):
    schedule, bias = make_schedule(kind, zero_snr=kind != "flow"), torch.zeros(1, requires_grad=True)
    last = torch.tensor([999, 999])
    diffusion_loss(lambda x, t, text: bias + 0 * x, schedule, IMAGES[:2], words(2), last, NOISE[:2], 5.0).backward()
    assert bias.grad.isfinite()
    assert bias.grad != 0


def test_new_prediction_is_one_row():
    "Twice the noise on a diffusion path: target, loss, weights and image follow from the row."
    PREDICTIONS.register(
        "double",
        Prediction(
            target=lambda a, s, x0, noise: 2 * noise,
            x0=lambda a, s, x_t, y: (x_t - s * y / 2) / a,
            noise=lambda a, s, x_t, y: y / 2,
            weight=lambda ratio: 4 * ratio,
        ),
    )
    try:
        schedule, t = make_schedule("double"), STEPS[:5]
        assert prediction_of(schedule) == "double"
        x_t, y = q_sample(schedule, IMAGES[:5], t, NOISE[:5]), target(schedule, IMAGES[:5], t, NOISE[:5])
        torch.testing.assert_close(predict_noise(schedule, x_t, t, y), NOISE[:5], rtol=0, atol=1e-6)
        torch.testing.assert_close(predict_x0(schedule, x_t, t, y), IMAGES[:5], rtol=0, atol=1e-4)
        assert torch.equal(snr_weights(schedule, t), snr_weights(make_schedule(), t) / 4)
        loss = diffusion_loss(lambda x, t, text: y + 1, schedule, IMAGES[:5], words(5), t, NOISE[:5])
        assert abs(loss - 1) < 1e-5
    finally:
        del PREDICTIONS.entries["double"]


def test_options_of_training_and_samplers_name_the_same_predictions():
    names = set(PREDICTIONS)
    for config in (TrainConfig, ResolvedConfig):
        hint = get_type_hints(config)["prediction"]
        literals = {value for part in (hint, *get_args(hint)) for value in get_args(part) if isinstance(value, str)}
        assert literals == names, config
    assert {kind for kinds in LIMITED.values() for kind in kinds} == names


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.7])
def test_flow_is_the_librarys_straight_line(shift):
    schedule, t = make_schedule("flow", shift=shift), torch.arange(1000)
    a, s = alpha_sigma(schedule, t, IMAGES)
    assert a.shape == s.shape == (1000, 1, 1, 1)
    torch.testing.assert_close(s.flatten(), schedule.sigmas.flip(0), rtol=0, atol=4 * ULP)
    torch.testing.assert_close(a + s, torch.ones_like(a), rtol=0, atol=2 * ULP)
    assert (a[-1], s[-1]) == (0, 1)
    torch.testing.assert_close(snr_at(schedule, t), snr_at(make_schedule("flow"), t) / shift**2, rtol=1e-5, atol=0)
    library = schedule.scale_noise(IMAGES, schedule.timesteps.flip(0)[STEPS], NOISE)
    torch.testing.assert_close(q_sample(schedule, IMAGES, STEPS, NOISE), library, rtol=0, atol=1e-6)
    slope = (q_sample(schedule, IMAGES, STEPS, NOISE) - IMAGES) / s[STEPS]
    torch.testing.assert_close(slope[2:], target(schedule, IMAGES, STEPS, NOISE)[2:], rtol=0, atol=1e-4)


def test_flow_schedule_survives_saving(tmp_path):
    schedule = make_schedule("flow", shift=2.0, T=200)
    schedule.save_pretrained(tmp_path)
    again = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
    assert prediction_of(again) == "flow"
    assert time_steps(again) == 200
    t = torch.arange(200)
    assert torch.equal(torch.stack(alpha_sigma(again, t, t)), torch.stack(alpha_sigma(schedule, t, t)))
    assert set(schedule_classes()) == {"DDPMScheduler", "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize("said", ["flow", "noise"])
def test_schedule_of_another_prediction_is_refused(said):
    with pytest.raises(ConfigError, match=f"a DDPMScheduler that predicts '{said}' is not supported"):
        prediction_of(DDPMScheduler(prediction_type=said))


def test_moved_schedule_is_the_same():
    for kind in PREDICTIONS:
        schedule = make_schedule(kind)
        before = q_sample(schedule, IMAGES, STEPS, NOISE)
        assert move_schedule(schedule, "cpu") is schedule
        assert torch.equal(q_sample(schedule, IMAGES, STEPS, NOISE), before)


def test_times_are_drawn_uniformly_or_logit_normally():
    n, T = 200_000, 1000
    u = torch.rand(n, generator=seeded(5))
    uniform, logit_normal = (draw_times(kind, u, T) for kind in ("uniform", "logit_normal"))
    for t in (uniform, logit_normal):
        assert t.dtype == torch.int64
        assert t.min() >= 0
        assert t.max() < T
    assert (uniform.bincount(minlength=T) > 0).all()
    assert abs(uniform.float().mean() - 499.5) < 5 * T / 12**0.5 / n**0.5
    logit = torch.logit((logit_normal + 0.5) / T)
    assert abs(logit.mean()) < 5 / n**0.5
    assert abs(logit.std() - 1) < 5 / (2 * n) ** 0.5 + 1e-3  # and the width of a step
    for share in (0.1, 0.3, 0.9):  # the distribution function, by the normal one
        below = (logit_normal < share * T).float().mean().item()
        wanted = (1 + math.erf(math.log(share / (1 - share)) / math.sqrt(2))) / 2
        assert abs(below - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / n)


def test_times_stay_in_range_at_the_ends():
    u = torch.tensor([0.0, 1 - 2**-24, 1.0])
    for kind in ("uniform", "logit_normal"):
        assert draw_times(kind, u, 10).tolist() == [0, 9, 9]
    with pytest.raises(ConfigError, match="t_sampling is 'cosine': choose one of uniform, logit_normal"):
        draw_times("cosine", u, 10)


def test_floor_acts_at_the_noisy_end_only():
    schedule, t = make_schedule("v_prediction", betas="cosine"), torch.arange(1000)
    plain, floored = snr_weights(schedule, t, 5.0), snr_weights(schedule, t, 5.0, 0.05)
    clear = snr_at(schedule, t) >= 0.05
    assert torch.equal(plain[clear], floored[clear])
    assert plain[-1] < 3e-9  # row S3 of the list of faults
    assert (floored[~clear] > plain[~clear]).all()
    assert (floored[~clear] > 0.047).all()
    inputs = (lambda x, t, text: 0 * x, schedule, IMAGES, words(7), STEPS, NOISE)
    ratio = diffusion_loss(*inputs, 5.0, 0.05, reduce=False) / diffusion_loss(*inputs, 5.0, reduce=False)
    torch.testing.assert_close(ratio, (floored / plain)[STEPS])
