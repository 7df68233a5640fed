"""The hardened step: bad losses, clipping, accumulation, frozen slices and networks with randomness of their own."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import radgen.training.loop
import radgen.training.train
from radgen.core.errors import ConfigError, RadgenError
from radgen.prepared.folder import load_prepared
from radgen.training.batches import initial_model, make_batches
from radgen.training.loop import TrainingState
from radgen.training.run import resolve, schedule_of
from radgen.training.train import train
from training_tools import cut_off_before, final_weights, largest_difference, last_weights

NAN = float("nan")


@pytest.fixture
def poison(monkeypatch):
    "A function that multiplies the loss of a step (0-based) by a number."
    step_loss, train_step = radgen.training.loop.step_loss, radgen.training.train.train_step
    current = None

    def noted(state, step, batch):
        nonlocal current
        current = step
        train_step(state, step, batch)

    def apply(steps, factor):
        def poisoned(*args):
            return step_loss(*args) * (factor if current in steps else 1)

        monkeypatch.setattr("radgen.training.train.train_step", noted)
        monkeypatch.setattr("radgen.training.loop.step_loss", poisoned)

    return apply


@pytest.mark.parametrize(
    "factor, message",
    [
        (NAN, "the loss is nan at step 24"),
        pytest.param(1e6, "the loss is .*, after at most .* at step 24", marks=pytest.mark.soak),
    ],
)
def test_bad_step_stops_with_its_images_and_keeps_the_checkpoint(cfg, poison, factor, message):
    cfg = replace(cfg, steps=26, checkpoint_every=40, log_every=28)
    poison([23], factor)
    with pytest.raises(RadgenError, match=message) as e:
        train(cfg)
    report = json.loads((cfg.runs / "r" / "bad-step-24.json").read_text())
    assert set(report["images"]) <= set(load_prepared(cfg.data_path).rows("train").id)
    assert len(report["images"]) == 4
    assert report["images"][0] in str(e.value)
    assert "lower --lr" in str(e.value)
    assert (cfg.runs / "r" / "last").read_text().strip() == "step-00000020"
    assert not (cfg.runs / "r" / "final").exists()


def test_run_goes_on_where_the_cause_of_a_bad_step_is_gone(cfg, four_steps, monkeypatch, poison):
    cfg = replace(cfg, steps=4, checkpoint_every=8)
    poison([2], NAN)
    with pytest.raises(RadgenError, match="the loss is nan at step 3"):
        train(cfg)
    monkeypatch.undo()
    assert train(cfg).weights() == four_steps.weights()


@pytest.mark.parametrize("factor", [NAN, pytest.param(1e6, marks=pytest.mark.soak)])
def test_bad_step_is_left_out_if_wanted(cfg, poison, factor):
    poison([22], factor)
    run = train(replace(cfg, steps=24, skip_bad_steps=True, log_every=1))
    metrics = run.metrics()
    assert metrics.step[metrics.loss.isna()].tolist() == [23]
    for name, weight in final_weights(run).items():
        assert torch.isfinite(weight).all(), name


def test_leaving_out_may_be_switched_on_to_go_on(cfg, poison):
    cfg = replace(cfg, steps=8, checkpoint_every=20)
    poison([5], NAN)
    with pytest.raises(RadgenError, match="at step 6"):
        train(cfg)
    run = train(replace(cfg, skip_bad_steps=True))
    for name, weight in final_weights(run).items():
        assert torch.isfinite(weight).all(), name


def test_leaving_out_has_an_end(cfg, poison):
    poison(range(50), NAN)
    with pytest.raises(RadgenError, match="20 steps in a row were left out at step 20"):
        train(replace(cfg, steps=50, skip_bad_steps=True))


@pytest.mark.parametrize("optimizer, tolerance", [("adamw", 1e-6), ("muon", 1e-5)])  # Muon amplifies rounding
def test_batches_of_a_step_are_one_step(cfg, optimizer, tolerance):
    cfg = replace(cfg, optimizer=optimizer)
    one = train(replace(cfg, batch_size=8, name="one", log_every=1))
    two = train(replace(cfg, batch_size=4, grad_accum=2, name="two", log_every=1))
    assert largest_difference(last_weights(one), last_weights(two)) < tolerance
    assert one.metrics().loss.tolist() == pytest.approx(two.metrics().loss.tolist(), abs=2e-6)
    assert one.metrics().epoch.tolist() == two.metrics().epoch.tolist()
    assert one.metrics().epoch.iloc[-1] == pytest.approx(2 * 8 / len(one.prepared.rows("train")), abs=1e-3)


def test_gradients_are_clipped(cfg):
    "AdamW forgets a common factor of the gradients, unless they are as small as its epsilon."
    start = final_weights(train(replace(cfg, name="start", steps=0)))
    moved = {}
    for name, norm in (("clipped", 1e-12), ("free", 1e6)):
        run = train(replace(cfg, name=name, steps=1, optimizer="adamw", lr=1e-3, max_grad_norm=norm))
        moved[name] = largest_difference(last_weights(run), start)
    assert moved["clipped"] < 0.1 * moved["free"]


def test_frozen_slices_have_no_moments_and_no_gradient(cfg, monkeypatch):
    "The backward pass leaves out what the step does not move."
    has_moments, computed = [], []
    original_step, original_clip = radgen.training.train.train_step, radgen.training.loop.clip_gradients

    def train_step(state, step, batch):
        original_step(state, step, batch)
        frozen = next(group for group in state.optimizer.param_groups if group["frozen_share"])["params"]
        has_moments.append([bool(state.optimizer.state.get(parameter)) for parameter in frozen])

    def clip_gradients(state):
        computed.append([parameter.grad is not None for parameter in state.model.vgg.parameters()])
        return original_clip(state)

    monkeypatch.setattr("radgen.training.train.train_step", train_step)
    monkeypatch.setattr("radgen.training.loop.clip_gradients", clip_gradients)
    train(replace(cfg, model="VGG16UNet_FrozenStart", steps=4))
    assert not any(has_moments[1])
    assert all(has_moments[2])
    assert [any(step) for step in computed] == [False, False, True, True]
    assert all(computed[2])


@pytest.mark.parametrize(
    "options, expected",
    [
        (dict(), []),
        (dict(attention_max=0), ["cond.null_token", "cond.tokens"]),
        (dict(model="VGG16UNet_Frozen"), []),
        (dict(gradient_checkpointing=True), []),
    ],
    ids=str,
)
def test_parameters_without_a_part_in_the_loss_are_found(cfg, small, options, expected):
    cfg = resolve(replace(cfg, **options))
    batches = make_batches(cfg, small)
    model = initial_model(cfg, batches.store.width)
    idle = radgen.training.loop.idle_parameters(model, schedule_of(cfg), batches)
    assert sorted({".".join(name.split(".")[:2]) for name in idle}) == expected


def test_events_are_counted_in_images(cfg):
    "Batches of four and of twelve images save, log and validate after the same images."
    options = dict(checkpoint_every=24, log_every=12, valid_every=36, keep_checkpoints=9)
    seen = {}
    for batch, steps in ((4, 18), (12, 6)):
        run = train(replace(cfg, name=str(batch), batch_size=batch, steps=steps, **options))
        metrics = run.metrics()
        saved = sorted(
            int(path.name.removeprefix("step-")) * batch for path in (run.dir / "checkpoints").glob("step-*")
        )
        seen[batch] = (metrics.images.tolist(), metrics.images[metrics.valid_loss.notna()].tolist(), saved)
    assert seen[4] == seen[12] == ([12, 24, 36, 48, 60, 72], [36, 72], [24, 48, 72])


@pytest.mark.parametrize(
    "given, total, interval", [(None, 300, 120), (None, 10_000, 1_000), (7, 10_000, 7)], ids=["short", "long", "given"]
)
def test_long_runs_log_less_often(given, total, interval):
    state = SimpleNamespace(total=total, batches=SimpleNamespace(size=100))
    assert TrainingState.interval(state, given, 1_000, 120) == interval


def test_network_with_dropout_goes_on_with_the_same_bits(cfg, monkeypatch):
    original = radgen.training.train.initial_model

    def with_dropout(*args):
        model = original(*args)
        model.mid[0].register_forward_hook(lambda m, args, out: torch.nn.functional.dropout(out, 0.2, m.training))
        return model

    monkeypatch.setattr("radgen.training.train.initial_model", with_dropout)
    cfg = replace(cfg, steps=4, checkpoint_every=8)
    whole = train(replace(cfg, name="whole"))
    with cut_off_before(3):
        train(cfg)
    torch.rand(7)  # the global generator is in another state now
    assert train(cfg).weights() == whole.weights()


def test_half_precision_needs_a_gpu(cfg, two_steps):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        train(replace(cfg, precision="fp16"))
    difference = largest_difference(final_weights(train(replace(cfg, precision="bf16"))), final_weights(two_steps))
    assert 0 < difference < 1e-2
