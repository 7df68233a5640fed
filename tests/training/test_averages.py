"""Averages of the weights: profiles, reconstruction, snapshots that survive a kill, and runs that use them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

import radgen.training.train
from radgen.core.errors import ConfigError, DataError, RadgenError
from radgen.training.averages import (
    WIDTHS,
    PowerAverages,
    average_names,
    copy_final,
    find_snapshots,
    make_average,
    mixing_weights,
    power_of_width,
    profile,
    reconstruct,
    remove_snapshots,
    save_snapshot,
    snapshot_steps,
)
from radgen.training.train import train
from training_tools import cut_off_before, final_weights, last_weights


def stored_profiles(times):
    "Times and exponents of snapshots of both widths."
    return np.repeat(times, 2), np.tile([power_of_width(width) for width in WIDTHS], len(times))


def test_profile_worked_example():
    "Two steps, exponent 1: the integral of 2 tau / 4 over (0, 1] and (1, 2]."
    assert profile(2, 1.0, 4).tolist() == [0.25, 0.75, 0.0, 0.0]


@pytest.mark.parametrize("width, gamma", [(0.05, 16.97), (0.1, 6.94)])
def test_exponents_are_those_of_the_paper(width, gamma):
    assert power_of_width(width) == pytest.approx(gamma, abs=0.005)
    g = power_of_width(width)
    assert (g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5 == pytest.approx(width)


def inner_product(ta, ga, tb, gb):
    "Of two continuous profiles, in closed form. Source: Karras et al. 2024, appendix C."
    exponent = gb if ta < tb else -ga
    return (ga + 1) * (gb + 1) * (ta / tb) ** exponent / ((ga + gb + 1) * max(ta, tb))


@pytest.mark.parametrize("ta, tb", [(3000, 5000), (5000, 3000), (4000, 4000)])
def test_inner_products_agree_with_the_closed_form(ta, tb):
    ga, gb = map(power_of_width, WIDTHS)
    assert profile(ta, ga, 5000) @ profile(tb, gb, 5000) == pytest.approx(inner_product(ta, ga, tb, gb), rel=1e-4)


@pytest.mark.parametrize("width", [0.02, 0.07, 0.2])
def test_weights_are_the_least_squares_solution(width):
    "They add up to 1, and no other weights that do come closer."
    times, gammas = stored_profiles(snapshot_steps(900))
    x, error = mixing_weights(times, gammas, 900, power_of_width(width))
    wanted = profile(900, power_of_width(width), 900)
    stored = np.stack([profile(t, g, 900) for t, g in zip(times, gammas)])
    assert x.sum() == pytest.approx(1)
    assert np.linalg.norm(x @ stored - wanted) / np.linalg.norm(wanted) == pytest.approx(error, rel=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        change = rng.standard_normal(len(x)) * 10 ** rng.uniform(-4, -1)
        other = x + change - change.mean()
        assert np.linalg.norm(other @ stored - wanted) >= (1 - 1e-9) * error * np.linalg.norm(wanted)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100, 123_457])
def test_snapshots_are_at_most_eight_and_end_with_the_run(total):
    steps = snapshot_steps(total)
    assert 1 <= len(steps) <= 8
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == total


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5)).to(memory_format=torch.channels_last)


def wander(net, run, total, ema, dead=()):
    "Move the weights at random `total` times with snapshots; all weights after each step, flat, in double precision."
    names = [name for name, _ in net.named_parameters()]
    seen = []
    for step in range(1, total + 1):
        for parameter in net.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        if step not in dead:
            ema.step(net.parameters())
            seen.append(flat(p.detach() for p in net.parameters()))
        if step in snapshot_steps(total):
            save_snapshot(run, step, ema, names, step == total)
    return torch.stack(seen)


def exact(seen, width):
    "The average by its profile."
    return torch.from_numpy(profile(len(seen), power_of_width(width), len(seen))) @ seen


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).double()


def test_averages_are_the_sums_by_their_profiles(tmp_path):
    net = small_net()
    ema = PowerAverages(net.parameters())
    seen = wander(net, tmp_path, 200, ema)
    for width, average in zip(ema.widths, ema.averages):
        assert (flat(average) - exact(seen, width)).abs().max() < 1e-6
    assert [t.shape for t in ema.shadow_params] == 2 * [p.shape for p in net.parameters()]


@pytest.mark.parametrize("width", [0.02, 0.04, 0.07, 0.12, 0.2])
def test_reconstruction_is_close_to_the_exact_average(tmp_path, width):
    net = small_net()
    seen = wander(net, tmp_path, 300, PowerAverages(net.parameters()))
    weights, error = reconstruct(tmp_path, width)
    found = flat(weights[name] for name, _ in net.named_parameters())
    change = (seen[-1] - exact(seen, width)).norm()
    assert (found - exact(seen, width)).norm() < (0.1 if width in (0.02, 0.2) else 0.01) * change
    assert error < 0.13


@pytest.mark.parametrize("width", WIDTHS)
def test_stored_width_is_reconstructed_to_the_bit(tmp_path, width):
    net = small_net()
    ema = PowerAverages(net.parameters())
    wander(net, tmp_path, 50, ema)
    weights, error = reconstruct(tmp_path, width)
    assert error < 1e-9
    for (name, _), average in zip(net.named_parameters(), ema.averages[WIDTHS.index(width)]):
        assert torch.equal(weights[name], average)


def test_times_are_counted_in_updates(tmp_path):
    "Steps that were left out do not move the averages."
    net = small_net()
    seen = wander(net, tmp_path, 100, PowerAverages(net.parameters()), dead=range(20, 60))
    assert find_snapshots(tmp_path)[-1].updates == 60
    weights, _ = reconstruct(tmp_path, 0.07)
    wanted = exact(seen, 0.07)
    assert (flat(weights[name] for name, _ in net.named_parameters()) - wanted).norm() < 0.05 * (
        seen[-1] - wanted
    ).norm()


@pytest.mark.parametrize("shown, index", [(0.03, 0), (0.05, 0), (0.07, 0), (0.08, 1), (0.2, 1)])
def test_copy_store_and_restore(shown, index):
    net = small_net()
    ema = PowerAverages(net.parameters(), shown=shown)
    for _ in range(3):
        net[1].weight.data += 1
        ema.step(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    ema.store(net.parameters())
    ema.copy_to(net.parameters())
    for parameter, average, old in zip(net.parameters(), ema.averages[index], before):
        assert torch.equal(parameter, average)
        if parameter is net[1].weight:
            assert not torch.equal(parameter, old)
    ema.restore(net.parameters())
    for parameter, old in zip(net.parameters(), before):
        assert torch.equal(parameter, old)


def test_width_zero_is_the_ema_of_diffusers():
    net = small_net()
    ema = make_average(net, 0.0, 0.99)
    theirs = EMAModel(net.parameters(), decay=0.99, use_ema_warmup=True, power=0.75, foreach=True)
    for _ in range(5):
        net[0].weight.data += torch.randn_like(net[0].weight)
        ema.step(net.parameters())
        theirs.step(net.parameters())
    assert type(ema) is EMAModel
    for ours, other in zip(ema.shadow_params, theirs.shadow_params):
        assert torch.equal(ours, other)
    assert average_names(ema, ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("width", [0.005, 0.21])
def test_width_out_of_range_is_refused(tmp_path, width):
    with pytest.raises(ConfigError, match="choose a width from 0.02 to 0.2"):
        make_average(small_net(), width, 0.99)
    with pytest.raises(ConfigError, match="choose a width from 0.02 to 0.2"):
        reconstruct(tmp_path, width)


def test_missing_and_damaged_snapshots_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="has no snapshots"):
        reconstruct(tmp_path, 0.07)
    net = small_net()
    wander(net, tmp_path, 100, PowerAverages(net.parameters()))
    paths = [snapshot.path for snapshot in find_snapshots(tmp_path)]
    for path in paths[:-1]:
        path.unlink()
    with pytest.raises(ConfigError, match=r"from the 1 snapshots .* choose a width nearer to 0.05 or 0.1"):
        reconstruct(tmp_path, 0.02)
    paths[-1].write_bytes(b"cut off")
    with pytest.raises(DataError, match="cannot be read"):
        reconstruct(tmp_path, 0.07)


def test_later_snapshots_and_partial_files_are_removed(tmp_path):
    net = small_net()
    wander(net, tmp_path, 4, PowerAverages(net.parameters()))
    (tmp_path / "averages" / ".tmp-x.safetensors").write_bytes(b"cut off")
    remove_snapshots(tmp_path, 2)
    assert [path.name for path in sorted((tmp_path / "averages").iterdir())] == [
        "step-00000001.safetensors",
        "step-00000002.safetensors",
    ]
    remove_snapshots(tmp_path / "other", 0)  # a run without any


def test_untrained_network_keeps_its_weights(tmp_path):
    "A run of no steps has no snapshots."
    net = small_net()
    ema = make_average(net, 0.07, 0.99)
    before = [p.detach().clone() for p in net.parameters()]
    copy_final(net, ema, tmp_path, 0.07)
    for parameter, old in zip(net.parameters(), before):
        assert torch.equal(parameter, old)


@pytest.fixture
def four(cfg):
    return replace(cfg, steps=4, checkpoint_every=8, log_every=1)


def snapshot_tensors(run):
    "Of all snapshots: file name -> tensors."
    return {path.name: load_file(path) for path in sorted((run.dir / "averages").glob("*"))}


@pytest.mark.soak
@pytest.mark.parametrize("step", [1, 3])
def test_run_cut_off_has_the_same_snapshots(four, four_steps, step):
    with cut_off_before(step):
        train(four)
    with cut_off_before(2 if step == 3 else 0):  # goes on, and is cut off again at once
        train(four)
    kept = sorted(path.stem for path in (four.runs / "r" / "averages").glob("*"))
    assert kept == (["step-00000001", "step-00000002"] if step == 3 else [])
    run = train(four)
    ours, theirs = snapshot_tensors(run), snapshot_tensors(four_steps)
    assert list(ours) == list(theirs) == [f"step-{step:08d}.safetensors" for step in (1, 2, 3, 4)]
    for name in ours:
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name]), name
    assert run.weights() == four_steps.weights()


def recorded(cfg):
    "Train, and record all weights after each step."
    original = radgen.training.train.train_step
    seen = []

    def train_step(state, step, batch):
        original(state, step, batch)
        seen.append(flat(p.detach() for p in state.model.parameters()))
        names[:] = [name for name, _ in state.model.named_parameters()]

    names: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radgen.training.train.train_step", train_step)
        run = train(cfg)
    return run, torch.stack(seen), names


@pytest.mark.soak
@pytest.mark.parametrize("width", [0.05, 0.07, 0.1])
def test_finished_model_is_the_average_of_its_width(cfg, width):
    run, seen, names = recorded(replace(cfg, steps=12, ema_width=width, lr=1e-2))
    weights = final_weights(run)
    found, wanted = flat(weights[name] for name in names), exact(seen, width)
    assert (found - wanted).norm() < 2e-3 * (seen[-1] - wanted).norm() + 1e-4 * wanted.norm()
    assert (found - wanted).norm() < 0.2 * (seen[-1] - wanted).norm()
    reconstructed, _ = reconstruct(run.dir, width)
    for name in names:
        assert torch.equal(weights[name], reconstructed[name]), name


def test_checkpoint_holds_both_averages(four_steps):
    averages, model = last_weights(four_steps, "ema"), last_weights(four_steps)
    names = {name.split("/", 1)[1] for name in averages}
    assert {name.split("/", 1)[0] for name in averages} == {"0.05", "0.1"}
    assert len(averages) == 2 * len(names)
    assert names <= set(model)


@pytest.mark.soak
def test_recipe_of_the_paper_keeps_one_average(cfg):
    run = train(replace(cfg, recipe="paper"))
    assert run.config.ema_width == 0
    assert not (run.dir / "averages").exists()
    assert last_weights(run, "ema").keys() <= last_weights(run).keys()


def test_width_may_change_on_resume_and_the_kind_may_not(four, four_steps):
    with cut_off_before(3):
        train(four)
    with pytest.raises(ConfigError, match="ema_width above 0 instead of 0"):
        train(replace(four, ema_width=0.0))
    other = next(width for width in WIDTHS if width != four_steps.config.ema_width)
    run = train(replace(four, ema_width=other))
    assert run.config.ema_width == other
    weights, theirs = final_weights(run), last_weights(four_steps, "ema")
    for name, value in theirs.items():
        width, parameter = name.split("/", 1)
        if float(width) == other:
            assert torch.equal(weights[parameter], value), parameter


def test_snapshot_on_a_full_disk_is_one_sentence(cfg, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("radgen.training.averages.save_file", full)
    with pytest.raises(RadgenError, match=r"could not write the snapshot of step 1 .* make room"):
        train(cfg)
    monkeypatch.undo()
    assert (train(cfg).dir / "averages" / "step-00000002.safetensors").exists()
