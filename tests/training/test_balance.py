"""How often each training image is drawn, and that balanced draws keep what a resume needs."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from training_tools import cut_off_before, final_weights, largest_difference, last_weights

from radgen.core.errors import ConfigError
from radgen.data.tables import IMAGE_TYPES
from radgen.prepared.folder import load_prepared
from radgen.training.balance import balance_text, balanced_epoch, draw_shares, draws_table, image_labels, plot_draws
from radgen.training.batches import batch_indices, make_batches
from radgen.training.run import resolve
from radgen.training.train import train

KINDS = ["types", "concepts"]


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([{"A"}, {"A"}, {"A"}, {"B"}], [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ([{"A"}, {"A"}, {"A", "B"}], [1 / 5, 1 / 5, 3 / 5]),  # the rarest label decides: B has one image, A has three
        ([{"A", "B"}, {"A", "B"}, {"A"}], [3 / 8, 3 / 8, 2 / 8]),
        ([{"A"}], [1]),
    ],
    ids=["one label each", "two labels", "two labels twice", "one image"],
)
def test_shares_are_those_worked_out_by_hand(labels, expected):
    assert np.allclose(draw_shares(labels), expected)


@pytest.mark.parametrize("sizes", [(900, 80, 15, 4, 1), (50, 50), (9_990, 10)], ids=str)
def test_labels_are_drawn_equally_often_as_far_as_the_bound_allows(sizes):
    labels = [{str(label)} for label, n in enumerate(sizes) for _ in range(n)]
    shares = draw_shares(labels)
    n = len(labels)
    assert shares.sum() == pytest.approx(1)
    assert shares.max() <= 20 / n * (1 + 1e-9)
    assert (shares > 0).all()
    drawn = draws_table(labels, shares).set_index("label").share_of_draws
    free = [drawn[str(label)] for label, size in enumerate(sizes) if shares[sum(sizes[:label])] < 20 / n * (1 - 1e-9)]
    assert np.allclose(free, free[0])
    for label, size in enumerate(sizes):
        assert drawn[str(label)] <= free[0] * (1 + 1e-9)
        if drawn[str(label)] < free[0] * (1 - 1e-9):
            assert drawn[str(label)] == pytest.approx(20 * size / n)


def test_bound_may_cut_off_twice():
    "What the first label leaves would lift the second over the bound."
    labels = [{"A"}] * 90 + [{"B"}] * 5 + [{"C"}] * 5
    shares = draw_shares(labels, most=1.05)
    assert np.allclose(shares[90:], 0.0105)
    assert np.allclose(shares[:90], (1 - 0.105) / 90)
    assert np.allclose(draw_shares(labels, most=1), 0.01)


def test_epoch_rounds_every_share_up_or_down_and_is_right_on_average():
    shares = draw_shares([{"A"}] * 70 + [{"B"}] * 20 + [{"C"}] * 7)
    n = len(shares)
    epochs = [balanced_epoch(shares, np.random.default_rng([3, epoch])) for epoch in range(600)]
    times = np.array([np.bincount(epoch, minlength=n) for epoch in epochs])
    assert (times.sum(1) == n).all()
    assert (times >= np.floor(n * shares)).all()
    assert (times <= np.ceil(n * shares)).all()
    assert np.abs(times.mean(0) - n * shares).max() < 0.1
    joint = (times[:, 0] * times[:, 1]).mean()  # neighbours of the table are independent of each other
    assert abs(joint - times[:, 0].mean() * times[:, 1].mean()) < 0.05


def test_repetitions_of_an_image_are_spread_over_the_epoch():
    shares = np.array([0.5] + [0.5 / 199] * 199)
    gaps = np.diff(np.flatnonzero(balanced_epoch(shares, np.random.default_rng(0)) == 0))
    assert len(gaps) == 99
    assert gaps.max() > 4


def test_equal_shares_draw_each_image_once_per_epoch():
    for n in (1, 3, 97, 4096):
        assert sorted(balanced_epoch(np.full(n, 1 / n), np.random.default_rng(n))) == list(range(n))


def test_order_without_balance_is_what_it_was():
    "The draws of every run before this option existed."
    assert batch_indices(10, 4, 2, seed=1).tolist() == [6, 3, 7, 2]
    order = np.random.default_rng([5, 0]).permutation(12)
    assert batch_indices(12, 12, 0, seed=5).tolist() == order.tolist()


def test_batches_are_a_function_of_seed_and_step():
    shares = draw_shares([{"A"}] * 30 + [{"B"}] * 7)
    in_order = [batch_indices(37, 5, step, 3, shares).tolist() for step in range(20)]
    assert [batch_indices(37, 5, step, 3, shares).tolist() for step in reversed(range(20))] == in_order[::-1]
    assert np.concatenate(in_order)[:37].tolist() == batch_indices(37, 37, 0, 3, shares).tolist()
    assert batch_indices(37, 5, 0, 4, shares).tolist() != in_order[0]


@pytest.mark.parametrize("balance", KINDS)
def test_batches_of_processes_are_those_of_one_larger_batch(cfg, small, balance):
    halves = [make_batches(resolve(replace(cfg, balance=balance)), small, processes=2, rank=rank) for rank in (0, 1)]
    whole = make_batches(resolve(replace(cfg, balance=balance, batch_size=8)), small)
    plain = make_batches(resolve(replace(cfg, batch_size=8)), small)
    for step in range(12):
        both = [half.read(step)[0][0].numpy() for half in halves]
        assert np.array_equal(np.concatenate(both), whole.read(step)[0][0].numpy())
    assert any(whole.indices(step).tolist() != plain.indices(step).tolist() for step in range(12))


def test_types_are_drawn_equally_often_by_the_batches(cfg, small):
    batches = make_batches(resolve(replace(cfg, balance="types")), small)
    drawn = np.concatenate([batches.indices(step) for step in range(600)])
    labels = image_labels(small, "types")
    counts = Counter(label for i in drawn for label in labels[i])
    shares = np.array(list(counts.values())) / len(drawn)
    assert np.allclose(shares, 1 / len(counts), atol=0.02)
    before = draws_table(labels, batches.shares).share_of_images
    assert before.max() > 2 * before.min()  # the phantoms were not balanced


@pytest.mark.soak
def test_interrupted_balanced_run_ends_with_the_same_bits(cfg):
    cfg = replace(cfg, balance="concepts", steps=5, checkpoint_every=8, log_every=1)
    whole = train(cfg)
    again = replace(cfg, name="again")
    with cut_off_before(3):
        train(again)
    resumed = train(again)
    assert largest_difference(final_weights(resumed), final_weights(whole)) == 0
    assert largest_difference(last_weights(resumed, "ema"), last_weights(whole, "ema")) == 0
    assert resumed.metrics().loss.tolist() == whole.metrics().loss.tolist()
    assert (
        largest_difference(final_weights(train(replace(cfg, name="plain", balance="none"))), final_weights(whole)) > 0
    )


def test_run_says_and_keeps_what_it_draws(cfg, small, capsys):
    run = train(replace(cfg, balance="types"))
    printed = capsys.readouterr().err
    table = pd.read_csv(run.dir / "balance.csv")
    assert table.images.sum() == len(small.rows("train"))
    assert table.share_of_draws.sum() == pytest.approx(1)
    for row in table.itertuples():
        assert f"{row.images} images" in printed
        assert row.label in printed
    assert (run.dir / "fig" / "balance.png").exists()
    assert json.loads((run.dir / "config.json").read_text())["balance"] == "types"
    card = (run.final() / "README.md").read_text(encoding="utf-8")
    assert "| balance | types |" in card
    with pytest.raises(ConfigError, match="other options .balance types instead of concepts"):
        train(replace(cfg, balance="concepts"))


def test_unbalanced_run_writes_no_table(two_steps):
    assert not (two_steps.dir / "balance.csv").exists()
    assert not (two_steps.dir / "fig" / "balance.png").exists()


def with_cuis(prepared, folder, change):
    "A copy of a prepared folder, its lists of concepts changed."
    shutil.copytree(prepared.dir, folder)
    table = pd.read_parquet(folder / "table.parquet")
    table["cuis"] = [change(list(cuis)) for cuis in table.cuis]
    table.to_parquet(folder / "table.parquet", index=False)
    return load_prepared(folder)


@pytest.mark.parametrize("balance", KINDS)
def test_data_without_concepts_are_refused_before_anything_is_written(cfg, small, tmp_path, balance):
    bare = with_cuis(small, tmp_path / "bare", lambda cuis: [])
    with pytest.raises(ConfigError, match=f"--balance {balance} .* have no concepts. Use --balance none"):
        train(replace(cfg, data_path=bare.dir, balance=balance))
    assert not (cfg.runs / cfg.name).exists()
    assert train(replace(cfg, data_path=bare.dir)).final().exists()


def test_data_without_image_types_are_refused_by_type_alone(cfg, small, tmp_path):
    untyped = with_cuis(small, tmp_path / "untyped", lambda cuis: ["C0817096"])
    with pytest.raises(ConfigError, match="have no image type among their concepts"):
        make_batches(resolve(replace(cfg, balance="types")), untyped)
    assert image_labels(untyped, "concepts")[0] == {"C0817096 Chest"}


def test_image_without_a_label_counts_as_one_of_its_own(small, tmp_path):
    mixed = with_cuis(small, tmp_path / "mixed", lambda cuis: [c for c in cuis if IMAGE_TYPES.get(c) != "X-ray"])
    for balance in KINDS:
        labels = image_labels(mixed, balance)
        table = draws_table(labels, draw_shares(labels)).set_index("label")
        assert table.images["none"] == sum(found == {"none"} for found in labels)
        assert all(labels)
    assert table.share_of_draws.index.str.startswith(("C", "none")).all()


def test_concepts_that_were_not_selected_do_not_count(small):
    counted = {label[:8] for found in image_labels(small, "concepts") for label in found}
    assert counted <= set(small.selected)


def test_text_and_figure_name_the_first_labels_and_count_the_rest():
    labels = [{f"L{i:02d}"} for i in range(30) for _ in range(31 - i)]
    shares = draw_shares(labels)
    table = draws_table(labels, shares)
    text = balance_text("concepts", table, shares)
    assert "L09" in text
    assert "L10" not in text
    assert "20 more in balance.csv" in text
    assert len(plot_draws(table).axes[0].get_yticklabels()) == 20
