"""Diffusion against closed forms: schedules, posterior, the three predictions, weights, guidance, and every sampler in a Gaussian world whose best network is known."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.training_utils import compute_snr
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from radgen.core.errors import ConfigError
from radgen.diffusion.guidance import guided
from radgen.diffusion.process import BETAS, PREDICTIONS, diffusion_loss, make_schedule, predict_noise, predict_x0, q_posterior, q_sample, resolution_shift, snr_weights, target
from radgen.diffusion.config import SAMPLERS
from radgen.diffusion.samplers import make_sampler
from radgen.text.embedding import TextEmbedding
from radgen.networks.unet import UNet, unet_options

ULP = 2**-24  # half a unit in the last place of a 32-bit number near 1
SCHEDULES = [dict(betas=b, zero_snr=z, shift=k) for b in BETAS for z in (False, True) for k in (1.0, 2.0, 4.0)]
ALL = [(p, s) for s in SCHEDULES for p in PREDICTIONS if not (p == "epsilon" and s["zero_snr"])]
called = lambda o: "-".join([o["betas"], *["zero"] * o["zero_snr"], *[f"shift{o['shift']:.0f}"] * (o["shift"] != 1)])
schedules = pytest.mark.parametrize("options", SCHEDULES, ids=called)
everywhere = pytest.mark.parametrize("kind, options", ALL, ids=[f"{p}-{called(s)}" for p, s in ALL])
samplers = pytest.mark.parametrize("name", SAMPLERS)
BUDGET = {"dpm++": 25, "ddim": 25, "unipc": 25, "ddpm": 1000}

gen = lambda seed=0: torch.Generator().manual_seed(seed)
rand = lambda *shape, seed=0: torch.randn(*shape, generator=gen(seed))
T = torch.tensor([0, 1, 20, 300, 700, 998, 999])
PICTURES = rand(7, 1, 8, 8).clamp(-1, 1)
NOISE = rand(7, 1, 8, 8, seed=1)


def coefficients(schedule, t):
    ab = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    return ab.sqrt(), (1 - ab).sqrt()


words = lambda n, pooled=None, L=3, D=24, seed=0: TextEmbedding(
    rand(n, L, D, seed=seed),
    torch.ones(n, L, dtype=torch.bool),
    rand(n, D, seed=seed + 1) if pooled is None else pooled.expand(n, -1),
)

# schedules


def exact_bars(betas, zero_snr, shift):
    "alpha_bar in 64 bits from the definitions."
    if betas == "linear":
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    else:
        f = lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        u = torch.arange(1001, dtype=torch.float64) / 1000
        beta = (1 - f(u[1:]) / f(u[:-1])).clamp(max=0.999)
    ab = (1 - beta).cumprod(0)
    if zero_snr:
        ab = ((ab.sqrt() - ab[-1].sqrt()) * ab[0].sqrt() / (ab[0].sqrt() - ab[-1].sqrt())) ** 2
    snr = ab / (1 - ab) / shift**2
    return snr / (1 + snr)


@schedules
def test_a_schedule_is_its_definition(options):
    ab = make_schedule("sample", **options).alphas_cumprod
    # Each of t + 1 factors is rounded as beta, as alpha and in the product, and again where the schedule was rescaled: 8 at worst. The shift has a slope of at most shift**2.
    bound = 8 * ULP * torch.arange(1, 1001) * options["shift"] ** 2
    assert ((ab - exact_bars(**options)).abs() <= bound).all()
    assert (ab.diff() < 0).all() and ab[0] < 1
    assert (ab[-1] == 0) == options["zero_snr"]


@schedules
def test_shift_lowers_log_snr_by_twice_its_logarithm_and_keeps_the_end(options):
    ab, plain = (make_schedule("sample", **{**options, **o}).alphas_cumprod.double() for o in ({}, dict(shift=1.0)))
    snr = lambda x: x / (1 - x)
    mid = slice(20, 900)
    # both are products of factors with at most 8 relative roundings each, and the ratio enlarges these by 1/(1 - alpha_bar)
    bound = 16 * ULP * torch.arange(1, 1001) / (1 - ab)
    assert ((snr(ab) * options["shift"] ** 2 / snr(plain) - 1).abs() < bound)[mid].all()
    assert (snr(ab)[-1] == 0) == options["zero_snr"]


def test_small_pictures_keep_the_papers_schedule_and_averaging_undoes_the_shift():
    assert [resolution_shift(n) for n in (16, 32, 64, 128, 256)] == [1, 1, 1, 2, 4]
    assert make_schedule(shift=resolution_shift(32)).config.trained_betas is None
    for size in (128, 256):
        k = size // 64
        pooled = nn.functional.avg_pool2d(rand(8, 1, size, size), k).std().item()
        assert abs(pooled * k - 1) < 5 / math.sqrt(2 * 8 * 64 * 64)  # standard error of a standard deviation


@schedules
def test_a_schedule_survives_saving(options, tmp_path):
    schedule = make_schedule("v_prediction", **options)
    schedule.save_pretrained(tmp_path)
    again = DDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, schedule.alphas_cumprod)
    for name in SAMPLERS:  # which put 2**-24 where the SNR is 0, if they have to
        s = make_sampler(name, again, 20)
        assert (
            s.alphas_cumprod - schedule.alphas_cumprod
        ).abs().max() <= 2**-24 and s.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(prediction="noise"), "cannot predict 'noise'"),
        (dict(betas="sigmoid"), "no schedule is called 'sigmoid'"),
        (dict(zero_snr=True), "divides by zero"),
        *[(dict(shift=x), "not a positive number") for x in (0.0, -1.0, math.inf, math.nan)],
        (dict(T=0), "too few"),
        (dict(prediction="sample", zero_snr=True, T=1), "never fewer than 2"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options, says):
    with pytest.raises(ConfigError, match=says) as e:
        make_schedule(**options)
    assert "\n" not in str(e.value)


def test_the_shortest_schedules_work():
    assert make_schedule(T=1).alphas_cumprod.tolist() == pytest.approx([1 - 1e-4])
    assert make_schedule("sample", zero_snr=True, T=2).alphas_cumprod[-1] == 0


# forward process and posterior


@schedules
def test_forward_process_and_posterior_are_the_librarys(options):
    schedule = make_schedule("sample", **options)
    x_t = q_sample(schedule, PICTURES, T, NOISE)
    torch.testing.assert_close(x_t, schedule.add_noise(PICTURES, NOISE, T), rtol=0, atol=1e-6)
    mean, var = q_posterior(schedule, PICTURES, x_t, T)
    assert mean.shape == x_t.shape and var.shape == (7, 1, 1, 1)
    for i, t in enumerate(T.tolist()):
        z = rand(1, 1, 8, 8, seed=t)
        step = schedule.step(PICTURES[i : i + 1], t, x_t[i : i + 1], generator=gen(t)).prev_sample
        torch.testing.assert_close(mean[i : i + 1] + var[i].sqrt() * z, step, rtol=0, atol=1e-6)
        assert abs(var[i].item() - schedule._get_variance(t).item()) < 1e-6
    assert var[0] == 0 and torch.allclose(mean[0], PICTURES[0], rtol=0, atol=2 * ULP)


@pytest.mark.parametrize("t", [1, 50, 500, 999])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_posterior_is_bayes_rule_on_a_grid(t, zero_snr):
    "Likelihood times prior on a fine grid, without any algebra."
    schedule = make_schedule("sample", zero_snr=zero_snr)
    beta, before, x0, x_t = schedule.betas[t].double(), schedule.alphas_cumprod[t - 1].double(), 0.4, -0.3
    mean, var = (
        v.double().item()
        for v in q_posterior(schedule, torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), x_t), torch.tensor([t]))
    )
    x = torch.linspace(mean - 8 * var**0.5, mean + 8 * var**0.5, 20001, dtype=torch.float64)
    log = -((x_t - (1 - beta).sqrt() * x) ** 2) / (2 * beta) - (x - before.sqrt() * x0) ** 2 / (2 * (1 - before))
    p = (log - log.max()).exp()
    p /= p.sum()
    m = (p * x).sum()
    v = (p * (x - m) ** 2).sum()
    rounding = 4 * ULP / beta  # 1 - alpha_bar/alpha_bar_before loses the digits that both share
    assert abs(m - mean) < rounding * abs(x_t - x0) + 4 * ULP and abs(v / var - 1) < 2 * rounding + 1e-6


def test_steps_compose_to_the_forward_process():
    "Mean and variance carried along one small step after another."
    schedule = make_schedule()
    m, v = 1.0, 0.0
    for t in range(1000):
        b = schedule.betas[t].double().item()
        m, v = (1 - b) ** 0.5 * m, (1 - b) * v + b
        if t in (0, 10, 300, 999):
            a, s = coefficients(schedule, torch.tensor([t]))
            assert abs(a.item() - m) < 2 * 1000 * ULP and abs(s.item() ** 2 - v) < 2 * 1000 * ULP


# predictions


@everywhere
def test_each_prediction_gives_picture_and_noise_back(kind, options):
    schedule = make_schedule(kind, **options)
    x_t, y, (a, s) = (
        q_sample(schedule, PICTURES, T, NOISE),
        target(schedule, PICTURES, T, NOISE),
        coefficients(schedule, T),
    )
    for back, truth, enlarged in (
        (predict_x0, PICTURES, 1 / a if kind == "epsilon" else 1.0),
        (predict_noise, NOISE, 1 / s if kind == "sample" else 1.0),
    ):
        got = back(schedule, x_t, T, y)
        # three products and sums of numbers below 8, each rounded, and divided by a or s in one of the six cases
        assert got.isfinite().all() and ((got - truth).abs() <= 8 * 8 * ULP * enlarged).all()
    if kind == "v_prediction":
        torch.testing.assert_close(y, schedule.get_velocity(PICTURES, NOISE, T), rtol=0, atol=1e-6)


@everywhere
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_sixteen_bits_are_mixed_in_thirty_two(kind, options, dtype):
    schedule = make_schedule(kind, **options)
    x0, noise = PICTURES.to(dtype), NOISE.to(dtype)
    for f in (q_sample, target):
        got, wanted = f(schedule, x0, T, noise), f(schedule, x0.float(), T, noise.float())
        assert got.dtype == dtype and got.isfinite().all()
        assert torch.equal(got, wanted.to(dtype))  # one rounding, at the very end
    x_t = q_sample(schedule, x0, T, noise)
    assert predict_noise(schedule, x_t, T, target(schedule, x0, T, noise)).dtype == dtype
    losses = diffusion_loss(lambda x, t, text: torch.zeros_like(x), schedule, x0, words(7), T, noise, 5.0, reduce=False)
    assert losses.isfinite().all()


# weights


@everywhere
def test_weights_are_clipped_snr_in_each_language(kind, options):
    schedule, t = make_schedule(kind, **options), torch.arange(1000)
    w, ab = snr_weights(schedule, t, 5.0), schedule.alphas_cumprod.double()
    snr = ab / (1 - ab)
    clip = snr.clamp(max=5)
    wanted = {"epsilon": clip / snr, "v_prediction": clip / (snr + 1), "sample": clip}[kind]
    assert w.dtype == torch.float32 and w.isfinite().all()
    alive = snr > 0
    assert ((w[alive] - wanted[alive]).abs() <= 1e-6 * wanted[alive]).all()  # three roundings
    assert (w[~alive] == 1).all() and (~alive).sum() == options["zero_snr"]
    mine, theirs = (ab / (1 - ab))[alive], compute_snr(schedule, t).double()[alive]
    assert ((mine / theirs - 1).abs() < 1e-5).all()
    assert torch.equal(snr_weights(schedule, t, None), torch.ones(1000))


@everywhere
def test_the_loss_in_each_language_is_the_pictures_error_weighted(kind, options):
    schedule, t = make_schedule(kind, **options), torch.tensor([5, 50, 200, 400, 600, 800, 950])
    (a, s), wrong = coefficients(schedule, t), PICTURES + 0.3 * rand(7, 1, 8, 8, seed=2)
    x_t = q_sample(schedule, PICTURES, t, NOISE)
    says = lambda x, t, text: target(schedule, wrong, t, (x_t - a * wrong) / s)
    snr, error = (a**2 / s**2).flatten(), (wrong - PICTURES).square().mean((1, 2, 3))
    plain = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(7)}[kind]
    for gamma, weight in ((None, plain), (5.0, snr.clamp(max=5)), (1.0, snr.clamp(max=1))):
        losses = diffusion_loss(says, schedule, PICTURES, words(7), t, NOISE, gamma, reduce=False)
        # an error of 8 roundings in numbers of size 4 (1/s for the noise) against one of at least 0.3*a/s in the prediction
        assert (
            (losses / (weight * error) - 1).abs()
            < 2 * 32 * ULP / (s * 0.3 * torch.minimum(a / s, torch.ones(()))).flatten()
        ).all()
        assert diffusion_loss(says, schedule, PICTURES, words(7), t, NOISE, gamma) == losses.mean()


@pytest.mark.parametrize("kind", PREDICTIONS[1:])
def test_the_first_step_of_sampling_is_learned(kind):
    schedule, bias = make_schedule(kind, zero_snr=True), torch.zeros(1, requires_grad=True)
    diffusion_loss(
        lambda x, t, text: bias + 0 * x, schedule, PICTURES[:2], words(2), torch.tensor([999, 999]), NOISE[:2], 5.0
    ).backward()
    assert bias.grad.isfinite() and bias.grad != 0


# guidance


@pytest.fixture(scope="module")
def net():
    "A tiny network whose layers that start at zero were opened, so that every token matters."
    torch.manual_seed(0)
    m = UNet(text_dim=24, **unet_options("paper", "tiny", 16)).eval()
    with torch.no_grad():
        for p in m.parameters():
            if not p.any():
                p.normal_(0, 0.1)
    return m


XT, TT = rand(3, 1, 16, 16, seed=7), torch.tensor([10, 500, 999])
sd = lambda z: z.std((1, 2, 3), keepdim=True)


@torch.no_grad()
def test_without_guidance_one_pass_answers_to_the_bit(net):
    text, neg, all_ = words(3), words(3, L=5, seed=9), torch.ones(3, dtype=torch.bool)
    passes = []
    hook = net.register_forward_pre_hook(lambda m, args: passes.append(len(args[0])))
    try:
        for rescale in (0.0, 1.0):
            assert torch.equal(guided(net, XT, TT, text, 1, neg, rescale), net(XT, TT, text))
            assert torch.equal(guided(net, XT, TT, text, 0.0, rescale=rescale), net(XT, TT, net.drop_text(text, all_)))
        assert passes == [3] * 8
        passes.clear()
        guided(net, XT, TT, text, 2.0, neg, 0.5)
        assert passes == [6]
    finally:
        hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("scale", [-2.0, 0.5, 3.0, 7.5])
@pytest.mark.parametrize("length", [None, 2, 3, 6], ids=["null", "shorter", "equal", "longer"])
def test_guidance_is_its_formula_and_rescaling_the_librarys(net, scale, length):
    text, neg = words(3), None if length is None else words(3, L=length, seed=9)
    c, n = net(XT, TT, text), net(XT, TT, net.drop_text(text, torch.ones(3, dtype=torch.bool)) if neg is None else neg)
    y = n + scale * (c - n)
    tight = dict(rtol=0, atol=1e-5 * (1 + abs(scale)))  # kernels add in another order in a batch of another size
    torch.testing.assert_close(guided(net, XT, TT, text, scale, neg), y, **tight)
    for phi in (0.25, 0.7, 1.0):
        z = guided(net, XT, TT, text, scale, neg, phi)
        torch.testing.assert_close(z, rescale_noise_cfg(y, c, phi), **tight)
        torch.testing.assert_close(sd(z), phi * sd(c) + (1 - phi) * sd(y), **tight)


def test_guidance_is_the_same_in_each_language():
    t, x, pics = (
        torch.full((7,), 400),
        rand(7, 1, 8, 8, seed=5),
        {"c": rand(7, 1, 8, 8, seed=3), "n": rand(7, 1, 8, 8, seed=4)},
    )
    got = []
    for kind in PREDICTIONS:
        schedule = make_schedule(kind)
        a, s = coefficients(schedule, t)
        say = {k: target(schedule, p, t, (x - a * p) / s) for k, p in pics.items()}

        class Says(nn.Module):
            def drop_text(self, text, drop):
                return text._replace(pooled=torch.where(drop[:, None], 0.0, text.pooled))

            def forward(self, x, t, text):
                return torch.where(
                    text.pooled[:, :1, None, None] > 0, *(say[k].repeat(len(x) // 7, 1, 1, 1) for k in "cn")
                )

        got.append(predict_x0(schedule, x, t, guided(Says(), x, t, words(7, torch.ones(24)), 3.0)))
    for g in got:
        torch.testing.assert_close(g, pics["n"] + 3 * (pics["c"] - pics["n"]), rtol=0, atol=1e-4)


def test_a_prediction_without_contrast_is_left_alone():
    "A network whose last layer starts at zero says 0 everywhere: nothing to rescale, and no 0/0."

    class Zero(nn.Module):
        def drop_text(self, text, drop):
            return text

        def forward(self, x, t, text):
            return torch.zeros_like(x)

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        y = guided(Zero(), XT.to(dtype), TT, words(3), 4.0, rescale=0.7)
        assert y.dtype == dtype and not y.any()


@pytest.mark.parametrize(
    "options, says",
    [
        *[(dict(scale=x), "not a finite number") for x in (math.nan, math.inf, -math.inf)],
        *[(dict(rescale=x), "outside 0..1") for x in (math.nan, -0.1, 1.01)],
    ],
)
def test_guidance_that_makes_no_sense_is_refused(net, options, says):
    with pytest.raises(ConfigError, match=says):
        guided(net, XT, TT, words(3), **options)


def test_everything_stays_on_the_device():
    "Fake CUDA tensors raise on every mix of host and device."
    with FakeTensorMode(allow_non_fake_inputs=False):
        schedule = make_schedule("v_prediction", zero_snr=True)
        with torch.device("cuda"):
            m, x, t = (
                UNet(text_dim=24, **unet_options("paper", "tiny", 16)),
                torch.randn(2, 1, 16, 16),
                torch.zeros(2, dtype=torch.long),
            )
            text, neg = (
                TextEmbedding(torch.randn(2, n, 24), torch.ones(2, n, dtype=torch.bool), torch.randn(2, 24))
                for n in (3, 5)
            )
        out = [guided(m, x, t, text, w, n, 0.5) for w in (0.0, 1.0, 3.0) for n in (None, neg)]
        out += [f(schedule, x, t, x) for f in (q_sample, target, predict_x0, predict_noise)] + [
            *q_posterior(schedule, x, x, t),
            diffusion_loss(m, schedule, x, text, t, x, 5.0, reduce=False),
        ]
    assert all(y.device.type == "cuda" and y.shape[0] == 2 for y in out)


# samplers


def walk(name, schedule, steps, x, answer, seed=0, path=False):
    w = make_sampler(name, schedule, steps)
    more, seen = {"generator": gen(seed)} if name == "ddpm" else {}, [x]
    assert w.timesteps[0] == len(schedule) - 1  # from pure noise on
    for t in w.timesteps:
        seen.append(w.step(answer(seen[-1], t.expand(len(x))), t, seen[-1], **more).prev_sample)
    return (torch.stack(seen), w.timesteps) if path else seen[-1]


def knows(schedule, picture):
    def answer(x, t):
        a, s = coefficients(schedule, t)
        return target(schedule, picture.expand_as(x), t, (x - a * picture) / s)

    return answer


@everywhere
@samplers
def test_a_perfect_denoiser_arrives(kind, options, name):
    schedule, picture = make_schedule(kind, **options), PICTURES[:1]
    end = walk(
        name, schedule, 50, rand(1, 1, 8, 8, seed=3), knows(schedule, picture)
    )  # the chapter takes all 1000 of DDPM
    assert end.isfinite().all() and (end - picture).abs().max() < 1e-5


@everywhere
@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "ddpm"])
def test_on_the_way_there_the_noise_is_the_one_it_began_with(kind, options, name):
    "With one picture in the world the exact solution keeps its noise: x_t = a x0 + s noise for every t, in any number of steps."
    schedule, picture, x = make_schedule(kind, **options), PICTURES[:1], rand(1, 1, 8, 8, seed=3)
    path, t = walk(name, schedule, 25, x, knows(schedule, picture), path=True)
    a, s = coefficients(schedule, t)
    noise = (x - a[0] * picture) / s[0]
    # Solvers replace SNR 0 by 2**-24, whose root is the weight of x_T (below 4) in the first guess. Else it is rounding: 8 of them a step, and a guess from noise divides its own by a before the next step multiplies it by the next a.
    carried = (a[1:] / a[:-1]).sum() if kind == "epsilon" else 25
    slack = 8 * 2**-12 * options["zero_snr"] + 8 * ULP * (1 + carried)
    assert ((path[:-1, 0] - (a * picture + s * noise)).abs() <= slack).all()


def test_the_same_generator_gives_the_same_walk():
    schedule = make_schedule("v_prediction")
    a, b, c = (walk("ddpm", schedule, 50, rand(2, 1, 8, 8), lambda x, t: 0.1 * x, seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    for name in SAMPLERS:  # the others draw nothing: the state of the global generator is theirs to leave alone
        if name == "ddpm":
            continue
        torch.manual_seed(0)
        before = torch.get_rng_state()
        a, b = (walk(name, schedule, 10, rand(2, 1, 8, 8), lambda x, t: 0.1 * x) for _ in range(2))
        assert torch.equal(a, b) and torch.equal(before, torch.get_rng_state())


def test_samplers_keep_what_the_schedule_says_about_clipping():
    for name in ("ddim", "ddpm"):
        for clip in (True, False):
            schedule = DDPMScheduler.from_config(make_schedule("sample").config, clip_sample=clip)
            end = walk(name, schedule, 10, rand(1, 1, 8, 8), lambda x, t: torch.full_like(x, 3.0))
            assert (end - (1.0 if clip else 3.0)).abs().max() < 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 61, 1000])
def test_the_way_back_has_the_steps_asked_for(sampler, steps):
    t = make_sampler(sampler, make_schedule(), steps).timesteps
    assert len(t) == steps and (t >= 0).all() and (t < 1000).all() and (t[1:] < t[:-1]).all()


def test_long_walks_do_not_drift_where_pictures_are_clipped():
    "Guidance asks for pictures darker than black; more steps must not make them brighter."
    schedule, mu, sd = make_schedule(betas="cosine"), -1.2, 0.2

    def answer(x, t):
        a, s = coefficients(schedule, t)
        x0 = mu + sd**2 * a * (x - a * mu) / (a * a * sd**2 + s * s)
        return target(schedule, x0, t, (x - a * x0) / s)

    x = torch.randn(500, 1, 2, 2, generator=gen())
    mean = {steps: walk("ddim", schedule, steps, x, answer).clamp(-1, 1).mean().item() for steps in (20, 60, 200)}
    z = (mu + 1) / sd
    truth = -1 + sd * (
        math.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * (1 + math.erf(z / math.sqrt(2))) / 2
    )  # what lies below -1 is moved there
    assert all(abs(m - truth) < 0.05 for m in mean.values()), mean


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ConfigError, match="no sampler is called 'euler'"):
        make_sampler("euler", make_schedule(), 20)


# a Gaussian world

SIGMA, MU, NULL = torch.tensor([[0.09, 0.05], [0.05, 0.06]]), torch.tensor([0.6, -0.3]), torch.tensor([0.1, 0.1])


class Best(nn.Module):
    "The optimal denoiser of N(text.pooled, SIGMA), by the inverse of the covariance."

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def drop_text(self, text, drop):
        return text._replace(pooled=torch.where(drop[:, None], NULL, text.pooled))

    def forward(self, x, t, text):
        a, s = (c.view(-1, 1) for c in coefficients(self.schedule, t[:1]))  # one step for all
        x0 = text.pooled + (x.flatten(1) - a * text.pooled) @ torch.linalg.solve(
            a**2 * SIGMA + s**2 * torch.eye(2), a * SIGMA
        )
        return target(self.schedule, x0.view_as(x), t, ((x.flatten(1) - a * x0) / s).view_as(x))


def gaussian(kind, **options):
    return DDPMScheduler.from_config(make_schedule(kind, **options).config, clip_sample=False)


def ask(schedule, scale=1.0, negative=None):
    say, best = (
        lambda mu, n: TextEmbedding(torch.zeros(n, 1, 1), torch.ones(n, 1, dtype=torch.bool), mu.expand(n, 2)),
        Best(schedule),
    )
    return lambda x, t: guided(best, x, t, say(MU, len(x)), scale, None if negative is None else say(negative, len(x)))


BASIS = torch.tensor([[0.0, 0], [1, 0], [0, 1]]).view(3, 1, 1, 2)


def split(y):
    return y.view(3, 2)[0], y.view(3, 2)[1:] - y.view(3, 2)[0]


def law(name, schedule, answer, whole=False, steps=None):
    "Exact mean and covariance of a sampler's output, since the walk is affine; `whole` adds to each DDPM step the variance that the guess of the picture leaves open."
    if name != "ddpm":
        b, A = split(walk(name, schedule, steps or BUDGET[name], BASIS, answer))
        return b, A.T @ A
    m, P, one = torch.zeros(2), torch.eye(2), torch.ones(1, 1, 1, 1)
    for t in reversed(range(1000)):
        tt = torch.full((3,), t)
        mean, var = q_posterior(schedule, predict_x0(schedule, BASIS, tt, answer(BASIS, tt)), BASIS, tt)
        b, A = split(mean)
        m, P = b + m @ A, A.T @ P @ A + var[0].item() * torch.eye(2)
        if whole:
            ab = schedule.alphas_cumprod[t]
            c = q_posterior(schedule, one, 0 * one, tt[:1])[0].item()
            P = P + c**2 * (SIGMA - ab * SIGMA @ torch.linalg.solve(ab * SIGMA + (1 - ab) * torch.eye(2), SIGMA))
    return m, P


def check(samples, m, P, ses=5):
    "Mean and covariance within standard errors of the law; five of them are exceeded once in two million draws."
    n, d = len(samples), P.diagonal()
    assert ((samples.mean(0) - m).abs() < ses * (d / n).sqrt()).all()
    assert ((samples.T.cov() - P).abs() < ses * ((d[:, None] * d + P**2) / n).sqrt()).all()


def off(P):
    return ((P - SIGMA).norm() / SIGMA.norm()).item()


def last_jump(schedule, steps):
    "Share of the covariance that the last jump loses, since it returns a conditional mean: lambda s^2/(a^2 lambda + s^2) along each axis. A fifth more is left to the solver."
    lam, b = torch.linalg.eigvalsh(SIGMA), schedule.alphas_cumprod[1000 // steps - 1]
    return ((lam * (1 - b) / (b * lam + 1 - b)).norm() / lam.norm()).item()


def ddim_covariance(schedule, steps):
    "Along an axis each step of DDIM is a factor: a' g + s' (1 - a g)/s, where g = a lambda/(a^2 lambda + s^2)."
    lam, Q = torch.linalg.eigh(SIGMA.double())
    w = make_sampler("ddim", schedule, steps)
    ab = torch.cat([schedule.alphas_cumprod[w.timesteps].double(), torch.ones(1, dtype=torch.float64)])[:, None]
    a, s = ab.sqrt(), (1 - ab).sqrt()
    g = (a * lam / (a**2 * lam + s**2))[:-1]
    factor = (a[1:] * g + s[1:] * (1 - a[:-1] * g) / s[:-1]).prod(0)
    return (Q * factor**2 @ Q.T).float()


GAUSS = [
    (n, p, o)
    for p, o in ALL
    if o["shift"] == 1
    for n in SAMPLERS
    if n != "ddpm"
    or (p, called(o)) in [("epsilon", "linear"), ("v_prediction", "cosine-zero"), ("sample", "linear-zero")]
]  # 1000 steps are slow


@pytest.mark.parametrize("name, kind, options", GAUSS, ids=[f"{n}-{p}-{called(s)}" for n, p, s in GAUSS])
def test_samples_are_the_data(name, kind, options):
    schedule = gaussian(kind, **options)
    m, P = law(name, schedule, ask(schedule))
    start = schedule.alphas_cumprod[-1].sqrt().item()
    assert (m - MU).norm() < start * MU.norm() + 4 * 2**-12 * options["zero_snr"] + 1e-3 * (
        name == "ddpm"
    )  # starting from mean 0 instead of a*MU
    if name in ("dpm++", "unipc"):
        assert off(P) < 1.2 * last_jump(schedule, BUDGET[name])
    if name == "ddim":
        assert torch.allclose(
            P,
            ddim_covariance(schedule, BUDGET[name]),
            rtol=0,
            atol=2e-4 if kind == "epsilon" and options["betas"] == "cosine" else 1e-5,
        )  # noise divided by an a of 5e-5 is rounded
    n = 2000 if name == "ddpm" else 20000
    check(walk(name, schedule, BUDGET[name], rand(n, 1, 1, 2, seed=11), ask(schedule), seed=12).view(n, 2), m, P)


@pytest.mark.parametrize("steps", [3, 7, 35, 60, 130, 600])
@pytest.mark.parametrize(
    "kind, options",
    [("epsilon", dict()), ("v_prediction", dict(betas="cosine")), ("sample", dict(zero_snr=True))],
    ids=str,
)
def test_ddim_follows_its_law_where_the_steps_do_not_divide(kind, options, steps):
    "The library's takes every step for 1000//steps long, and leaves noise behind where the next one begins elsewhere."
    schedule = gaussian(kind, **options)
    assert torch.allclose(
        law("ddim", schedule, ask(schedule), steps=steps)[1], ddim_covariance(schedule, steps), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["dpm++", "ddim", "unipc"])
def test_the_error_of_discretisation_vanishes_with_the_steps(name):
    "A solver of first order gains a factor of about 5 from five times as many steps; one of second order more."
    few, many = (
        off(law(name, schedule, ask(schedule), steps=k)[1])
        for schedule in [gaussian("v_prediction")]
        for k in (50, 250)
    )
    assert many < few / (4 if name == "ddim" else 8)


@pytest.mark.parametrize("options", [dict(), dict(betas="cosine", zero_snr=True), dict(shift=4.0)], ids=str)
def test_with_the_whole_variance_ddpm_is_exact(options):
    schedule = gaussian("v_prediction", **options)
    m, P = law("ddpm", schedule, ask(schedule), whole=True)
    assert off(P) < 1e-3


def test_zero_terminal_snr_removes_the_bias_of_the_mean():
    for options, bias in ((dict(), True), (dict(zero_snr=True), False)):
        schedule = gaussian("v_prediction", **options)
        b, A = split(walk("ddim", schedule, 25, BASIS, ask(schedule)))
        assert torch.allclose(
            b - MU, -schedule.alphas_cumprod[-1].sqrt() * MU @ A, rtol=0, atol=1e-6 if bias else 2**-14
        )  # the solver takes 2**-24 for an SNR of 0
        assert ((b - MU).norm() > 1e-4) == bias


@pytest.mark.parametrize(
    "name, negative",
    [*[(n, None) for n in SAMPLERS], *[(n, torch.tensor([0.5, 0.2])) for n in list(SAMPLERS)[:3]]],
    ids=[*SAMPLERS, *[f"{n}-negative" for n in list(SAMPLERS)[:3]]],
)
def test_guided_samples_are_the_cloud_that_theory_names(name, negative):
    schedule = gaussian("v_prediction", zero_snr=True)
    goal, answer = 3 * MU - 2 * (NULL if negative is None else negative), ask(schedule, 3.0, negative)
    m, P = law(name, schedule, answer)
    assert (m - goal).norm() < 4 * 2**-12 and torch.allclose(
        P, law(name, schedule, ask(schedule))[1], rtol=0, atol=1e-5
    )
    n = 2000 if name == "ddpm" else 20000
    check(walk(name, schedule, BUDGET[name], rand(n, 1, 1, 2, seed=13), answer, seed=14).view(n, 2), m, P)
