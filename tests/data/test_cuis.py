"Choosing and selecting concepts; the official ROCOv2 numbers. Counting is in test_explore.py."

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from concept_tables import NAMES, lines, toy

from radgen.core.errors import ConfigError
from radgen.data.cuis import choose_cuis, kept_by_k, knee, modality_balance, plot_balance, plot_choice, select_rows
from radgen.data.explore import count_cuis

TOP_TEN = [
    ("C0040405", 20495),
    ("C1306645", 16604),
    ("C0024485", 9796),
    ("C0041618", 8306),
    ("C0817096", 7508),
    ("C1999039", 7111),
    ("C0002978", 3958),
    ("C1996865", 3393),
    ("C0037303", 3326),
    ("C0000726", 3176),
]
KEPT = {"train": (10280, 59962), "valid": (1627, 9904), "test": (1544, 9927)}


def test_official_numbers(concepts):
    counts = count_cuis(concepts.table, concepts.names)
    selected = choose_cuis(counts, 10)
    table = select_rows(concepts.table, selected, concepts.names)
    kept = table.groupby("split").keep.agg(["sum", "size"])
    assert selected == [c for c, _ in TOP_TEN]
    assert {s: (kept["sum"][s], kept["size"][s]) for s in KEPT} == KEPT
    assert kept_by_k(table[table.split == "train"], counts)[9] == KEPT["train"][0]


def test_official_numbers_by_the_csv_module_alone(concepts):
    "The same numbers without pandas and without radgen: how the literals above were derived."
    rows = {s: {r["ID"]: r["CUIs"].split(";") for r in lines(f"{s}_concepts.csv")} for s in KEPT}
    named = {r["CUI"] for r in lines("cui_mapping.csv")}
    n = Counter(c for cuis in rows["train"].values() for c in set(cuis))
    assert n.most_common(10) == TOP_TEN
    top = {c for c, _ in TOP_TEN}
    for split, want in KEPT.items():
        left = [{c for c in cuis if c in named} for cuis in rows[split].values()]
        assert (sum(bool(s) and s <= top for s in left), len(left)) == want


def test_k_must_be_possible():
    counts = count_cuis(toy(["C0000001", "C0000009"], ["C0000002"]), NAMES)
    assert choose_cuis(counts, 2) == ["C0000001", "C0000002"]
    for k in (0, -1):
        with pytest.raises(
            ConfigError, match=f"k = {k} concepts cannot be chosen: the train split has 2 CUIs with a name"
        ):
            choose_cuis(counts, k)


def test_fewer_concepts_than_k_are_all_taken(capsys):
    counts = count_cuis(toy(["C0000001", "C0000009"], ["C0000002"]), NAMES)
    for k in (3, 10**9):
        assert choose_cuis(counts, k) == ["C0000001", "C0000002"]
        assert f"have 2 concepts: all of them are chosen, not {k}." in capsys.readouterr().err


def test_concepts_without_names():
    counts = count_cuis(toy(["C0000009"], ["C0000008"]), NAMES)
    with pytest.raises(
        ConfigError, match="none of the 2 CUIs of the train split has a name; give --names .* or --unnamed keep"
    ):
        choose_cuis(counts, 1)
    assert choose_cuis(counts, 2, unnamed="keep") == ["C0000008", "C0000009"]


def test_rule_all_keeps_images_with_selected_concepts_only():
    table = toy(["C0000001"], ["C0000001", "C0000003"], ["C0000002", "C0000009"], ["C0000009"], [])
    out = select_rows(table, ["C0000001", "C0000002"], NAMES)
    assert out.keep.tolist() == [True, False, True, False, False]
    assert out.reason.tolist() == ["", "CUI not selected: C0000003 Cyst", "", "no named CUI", "no named CUI"]
    assert "keep" not in table  # the argument is left alone


def test_an_unknown_cui_is_refused():
    with pytest.raises(ConfigError, match="unknown CUI C7777777: choose"):
        select_rows(toy(["C0000001"]), ["C0000001", "C7777777"], NAMES)


def test_kept_by_k_agrees_with_the_rule():
    rng = np.random.default_rng(0)
    names = {f"C{i:07d}": f"n{i}" for i in range(12)}
    table = toy(*[[f"C{c:07d}" for c in rng.geometric(0.3, rng.integers(1, 4)) - 1] for _ in range(300)])
    counts = count_cuis(table, names)
    curve = kept_by_k(table, counts)
    for k in range(1, len(curve) + 1):
        assert curve[k - 1] == select_rows(table, choose_cuis(counts, k), names).keep.sum()
    fig = plot_choice(counts, choose_cuis(counts, 3), select_rows(table, choose_cuis(counts, 3), names), top=12)
    assert len(fig.axes) == 2
    assert len(fig.axes[0].patches) == 12


def rule_cases():
    return toy(["C0000001"], ["C0000001", "C0000003"], ["C0000002", "C0000009"], ["C0000009"], ["C0000003"])


TWO = ["C0000001", "C0000002"]


def test_rule_any_keeps_images_with_one_selected_concept():
    out = select_rows(rule_cases(), TWO, NAMES, rule="any")
    assert out.keep.tolist() == [True, True, True, False, False]
    assert out.reason.tolist()[3:] == ["no named CUI", "no CUI selected"]
    excluded = select_rows(rule_cases(), TWO, NAMES, rule="any", exclude=("C0000003",))
    assert excluded.keep.tolist() == [True, False, True, False, False]


def test_unnamed_concepts_count_where_they_are_kept():
    assert select_rows(rule_cases(), TWO, NAMES, unnamed="keep").reason.tolist() == [
        "",
        "CUI not selected: C0000003 Cyst",
        "CUI not selected: C0000009",
        "CUI not selected: C0000009",
        "CUI not selected: C0000003 Cyst",
    ]
    counts = count_cuis(rule_cases(), NAMES)
    assert choose_cuis(counts, 3, unnamed="keep") == ["C0000001", "C0000003", "C0000009"]


def test_included_and_excluded_concepts_change_the_choice():
    counts = count_cuis(rule_cases(), NAMES)
    assert choose_cuis(counts, 1, include=("C0000002",)) == ["C0000001", "C0000002"]  # of equal counts the first CUI
    assert choose_cuis(counts, 2, exclude=("C0000001",)) == ["C0000003", "C0000002"]
    assert choose_cuis(counts, 0, include=("C0000002",)) == ["C0000002"]


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"include": ("C1",)}, "unknown CUI C1 in --include"),
        ({"exclude": ("C1",)}, "unknown CUI C1 in --exclude"),
        ({"include": ("C0000009",)}, "has no name"),
        ({"include": ("C0000001",), "exclude": ("C0000001",)}, "choose one"),
    ],
)
def test_impossible_lists_are_errors(lists, message):
    with pytest.raises(ConfigError, match=message):
        choose_cuis(count_cuis(rule_cases(), NAMES), 2, **lists)


def counts_of(*n):
    return pd.DataFrame({"cui": [f"C{i:07d}" for i in range(len(n))], "name": "x", "count": n})


@pytest.mark.parametrize(
    "n, top, k",
    [
        ((100, 60, 20, 10, 0), 50, 3),  # the chord lies 0, 0.15, 0.3, 0.15, 0 above the curve
        ((100, 60, 20, 10, 0), 4, 3),
        ((100, 20, 19, 18, 0), 4, 2),
        ((5, 5, 5), 50, 3),
        ((5,), 50, 1),
        ((), 50, 1),
    ],
)
def test_knee_by_hand(n, top, k):
    assert knee(counts_of(*n), top) == k


def knee_by_loop(top):
    "The knee of the official train split, with the chord written out."
    named = {r["CUI"] for r in lines("cui_mapping.csv")}
    rows = [set(r["CUIs"].split(";")) for r in lines("train_concepts.csv")]
    counts = Counter(c for row in rows for c in row if c in named)
    n = sorted(counts.values(), reverse=True)[:top]
    gaps = [(n[0] + (n[-1] - n[0]) * i / (len(n) - 1)) - v for i, v in enumerate(n)]
    return gaps.index(max(gaps)) + 1


def test_knee_of_the_official_release(concepts):
    "Next to the paper's ten by eye."
    counts = count_cuis(concepts.table, concepts.names)
    tops = (30, 50, 100, 1935)
    assert [knee(counts, top) for top in tops] == [7, 8, 14, 32]
    assert [knee_by_loop(top) for top in tops] == [7, 8, 14, 32]


def test_rule_any_on_the_official_release(concepts):
    top = {c for c, _ in TOP_TEN}
    table = select_rows(concepts.table, top, concepts.names, rule="any")
    want = {s: sum(bool(top & set(r["CUIs"].split(";"))) for r in lines(f"{s}_concepts.csv")) for s in KEPT}
    assert table.groupby("split").keep.sum().to_dict() == want
    assert want["train"] == 59180


def test_balance():
    table = toy(["C0040405", "C0817096"], ["C0040405", "C0040405"], ["C1306645", "C0040405"], ["C0817096"])
    balance = modality_balance(table.assign(keep=[True, False, True, False]))
    assert balance.before.to_dict() == {"Computed tomography": 3, "X-ray": 1, "none": 1}
    assert balance.kept.to_dict() == {"Computed tomography": 2, "X-ray": 1, "none": 0}
    assert balance.share_before.tolist() == [0.75, 0.25, 0.25]
    assert balance.share_after.tolist() == [1, 0.5, 0]
    assert len(plot_balance(balance).axes[0].containers) == 2
