"Choosing and selecting concepts; the official ROCOv2 numbers. Counting is in test_explore.py."

import csv, time
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from conftest import OFFICIAL
from radgen.core.errors import ConfigError
from radgen.data.cuis import choose_cuis, kept_by_k, knee, modality_balance, plot_balance, plot_choice, select_rows
from radgen.data.rows import drop_rows, require_rows
from radgen.data.tables import read_rocov2
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
NAMES = {"C0000001": "CT", "C0000002": "Chest", "C0000003": "Cyst"}


def toy(*cuis, split="train"):
    return pd.DataFrame({"id": [str(i) for i in range(len(cuis))], "cuis": list(cuis), "split": split})


@pytest.fixture(scope="module")
def official(official_text):
    return read_rocov2(official_text, images=False, captions=False)


def test_official_numbers(official, capsys):
    start = time.perf_counter()
    counts = count_cuis(official.table, official.names)
    selected = choose_cuis(counts, 10)
    table = select_rows(official.table, selected, official.names)
    seconds = time.perf_counter() - start
    kept = table.groupby("split").keep.agg(["sum", "size"])
    with capsys.disabled():
        print(f"\nthe official release, counted and selected in {seconds:.2f} s:")
        for split in KEPT:
            print(
                f"  {split:5} {kept['sum'][split]:>6,} of {kept['size'][split]:>6,} rows kept by the paper's rule with k = 10"
            )
    assert selected == [c for c, _ in TOP_TEN]
    assert {s: (kept["sum"][s], kept["size"][s]) for s in KEPT} == KEPT
    assert kept_by_k(table[table.split == "train"], counts)[9] == KEPT["train"][0]


def test_official_numbers_by_the_csv_module_alone(official):
    "The same numbers without pandas and without radgen: how the literals above were derived."
    rows = {
        s: {
            r["ID"]: r["CUIs"].split(";")
            for r in csv.DictReader(open(OFFICIAL / f"{s}_concepts.csv", newline="", encoding="utf-8"))
        }
        for s in KEPT
    }
    named = {r["CUI"] for r in csv.DictReader(open(OFFICIAL / "cui_mapping.csv", newline="", encoding="utf-8"))}
    n = Counter(c for cuis in rows["train"].values() for c in set(cuis))
    assert n.most_common(10) == TOP_TEN
    top = {c for c, _ in TOP_TEN}
    for split, want in KEPT.items():
        left = [{c for c in cuis if c in named} for cuis in rows[split].values()]
        assert (sum(bool(s) and s <= top for s in left), len(left)) == want


def test_k_must_be_possible():
    counts = count_cuis(toy(["C0000001", "C0000009"], ["C0000002"]), NAMES)
    assert choose_cuis(counts, 2) == ["C0000001", "C0000002"]
    for k in (0, -1, 3, 10**9):
        with pytest.raises(
            ConfigError, match=f"k = {k} concepts cannot be chosen: the train split has 2 CUIs with a name"
        ):
            choose_cuis(counts, k)


def test_concepts_without_names():
    counts = count_cuis(toy(["C0000009"], ["C0000008"]), NAMES)
    with pytest.raises(
        ConfigError, match="none of the 2 CUIs of the train split has a name; give --names .* or --unnamed keep"
    ):
        choose_cuis(counts, 1)
    assert choose_cuis(counts, 2, unnamed="keep") == ["C0000008", "C0000009"]


def test_the_rule():
    table = toy(["C0000001"], ["C0000001", "C0000003"], ["C0000002", "C0000009"], ["C0000009"], [])
    out = select_rows(table, ["C0000001", "C0000002"], NAMES)
    assert out.keep.tolist() == [True, False, True, False, False]
    assert out.reason.tolist() == ["", "CUI not selected: C0000003 Cyst", "", "no named CUI", "no named CUI"]
    assert "keep" not in table  # the argument is left alone


def test_an_unknown_cui_is_refused():
    with pytest.raises(ConfigError, match="unknown CUI C7777777: choose"):
        select_rows(toy(["C0000001"]), ["C0000001", "C7777777"], NAMES)


def test_what_was_dropped_stays_dropped():
    table = toy(["C0000001"], ["C0000003"]).assign(keep=[False, True], reason=["leak", ""])
    out = select_rows(table, ["C0000001"], NAMES)
    assert out.keep.tolist() == [False, False] and out.reason.tolist() == ["leak", "CUI not selected: C0000003 Cyst"]
    assert drop_rows(out, pd.Series(["late", "late"])).reason.tolist() == out.reason.tolist()


def test_an_empty_selection_is_named():
    out = select_rows(toy(["C0000001"], ["C0000001", "C0000002"]), ["C0000003"], NAMES)
    with pytest.raises(
        ConfigError,
        match="no training image is left after the selection of concepts: 0 of 2; most were dropped for 'CUI not selected'; choose",
    ):
        require_rows(out)
    require_rows(select_rows(toy(["C0000001"]), ["C0000001"], NAMES))


def test_kept_by_k_agrees_with_the_rule():
    rng = np.random.default_rng(0)
    names = {f"C{i:07d}": f"n{i}" for i in range(12)}
    table = toy(*[[f"C{c:07d}" for c in rng.geometric(0.3, rng.integers(1, 4)) - 1] for _ in range(300)])
    counts = count_cuis(table, names)
    curve = kept_by_k(table, counts)
    for k in range(1, len(curve) + 1):
        assert curve[k - 1] == select_rows(table, choose_cuis(counts, k), names).keep.sum()
    fig = plot_choice(counts, choose_cuis(counts, 3), select_rows(table, choose_cuis(counts, 3), names), top=12)
    assert len(fig.axes) == 2 and len(fig.axes[0].patches) == 12


def test_rules_lists_and_unnamed():
    table = toy(["C0000001"], ["C0000001", "C0000003"], ["C0000002", "C0000009"], ["C0000009"], ["C0000003"])
    counts, two = count_cuis(table, NAMES), ["C0000001", "C0000002"]
    assert select_rows(table, two, NAMES, rule="any").keep.tolist() == [True, True, True, False, False]
    assert select_rows(table, two, NAMES, rule="any").reason.tolist()[3:] == ["no named CUI", "no CUI selected"]
    assert select_rows(table, two, NAMES, rule="any", exclude=("C0000003",)).keep.tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert select_rows(table, two, NAMES, unnamed="keep").reason.tolist() == [
        "",
        "CUI not selected: C0000003 Cyst",
        "CUI not selected: C0000009",
        "CUI not selected: C0000009",
        "CUI not selected: C0000003 Cyst",
    ]
    assert choose_cuis(counts, 1, include=("C0000002",)) == ["C0000001", "C0000002"]  # of equal counts the first CUI
    assert choose_cuis(counts, 2, exclude=("C0000001",)) == ["C0000003", "C0000002"]
    assert choose_cuis(counts, 0, include=("C0000002",)) == ["C0000002"]
    assert choose_cuis(counts, 3, unnamed="keep") == ["C0000001", "C0000003", "C0000009"]
    for kw, told in (
        (dict(include=("C1",)), "unknown CUI C1 in --include"),
        (dict(exclude=("C1",)), "unknown CUI C1 in --exclude"),
        (dict(include=("C0000009",)), "has no name"),
        (dict(include=("C0000001",), exclude=("C0000001",)), "choose one"),
        (dict(unnamed="ask"), "--unnamed is 'ask'"),
    ):
        with pytest.raises(ConfigError, match=told):
            choose_cuis(counts, 2, **kw)
    with pytest.raises(ConfigError, match="--rule is 'most'"):
        select_rows(table, two, NAMES, rule="most")


def test_knee_by_hand():
    "The chord of 100, 60, 20, 10, 0 lies 0, 0.15, 0.3, 0.15, 0 above the curve: the knee is the third."
    counts = lambda *n: pd.DataFrame({"cui": [f"C{i:07d}" for i in range(len(n))], "name": "x", "count": n})
    assert knee(counts(100, 60, 20, 10, 0)) == 3
    assert knee(counts(100, 60, 20, 10, 0), top=4) == 3 and knee(counts(100, 20, 19, 18, 0), top=4) == 2
    assert knee(counts(5, 5, 5)) == 3 and knee(counts(5)) == 1 and knee(counts()) == 1


def test_knee_of_the_official_release(official):
    "Beside the paper's ten by eye; the literals come from the chord written out in a loop over the csv module's counts."
    counts = count_cuis(official.table, official.names)

    def by_loop(top):
        named = {r["CUI"] for r in csv.DictReader(open(OFFICIAL / "cui_mapping.csv", newline="", encoding="utf-8"))}
        n = sorted(
            Counter(
                c
                for r in csv.DictReader(open(OFFICIAL / "train_concepts.csv", newline="", encoding="utf-8"))
                for c in set(r["CUIs"].split(";"))
                if c in named
            ).values(),
            reverse=True,
        )[:top]
        gaps = [(n[0] + (n[-1] - n[0]) * i / (len(n) - 1)) - v for i, v in enumerate(n)]
        return gaps.index(max(gaps)) + 1

    assert (
        [knee(counts, top) for top in (30, 50, 100, 1935)]
        == [by_loop(t) for t in (30, 50, 100, 1935)]
        == [7, 8, 14, 32]
    )


def test_rule_any_on_the_official_release(official):
    table = select_rows(official.table, [c for c, _ in TOP_TEN], official.names, rule="any")
    top, want = {c for c, _ in TOP_TEN}, {}
    for s in KEPT:
        want[s] = sum(
            bool(top & set(r["CUIs"].split(";")))
            for r in csv.DictReader(open(OFFICIAL / f"{s}_concepts.csv", newline="", encoding="utf-8"))
        )
    assert table.groupby("split").keep.sum().to_dict() == want
    assert want["train"] == 59180


def test_balance():
    table = toy(["C0040405", "C0817096"], ["C0040405", "C0040405"], ["C1306645", "C0040405"], ["C0817096"]).assign(
        keep=[True, False, True, False]
    )
    balance = modality_balance(table)
    assert balance[["before", "kept"]].T.to_dict("list") == {
        "Computed tomography": [3, 2],
        "X-ray": [1, 1],
        "none": [1, 0],
    }
    assert balance.share_before.tolist() == [0.75, 0.25, 0.25] and balance.share_after.tolist() == [1, 0.5, 0]
    assert len(plot_balance(balance).axes[0].containers) == 2
