"Counting, choosing and selecting concepts; the official ROCOv2 numbers."
import csv, time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from radgen.core import ConfigError
from radgen.cuis import choose_top, count_cuis, cui_report, drop_rows, kept_by_k, percentiles, require_rows, select_rows
from radgen.data import read_rocov2

REAL = Path(__file__).parent.parent/"../shared/data/rocov2_text"
TOP_TEN = [("C0040405", 20495), ("C1306645", 16604), ("C0024485", 9796), ("C0041618", 8306), ("C0817096", 7508),
           ("C1999039", 7111), ("C0002978", 3958), ("C1996865", 3393), ("C0037303", 3326), ("C0000726", 3176)]
KEPT = {"train": (10280, 59962), "valid": (1627, 9904), "test": (1544, 9927)}
NAMES = {"C0000001": "CT", "C0000002": "Chest", "C0000003": "Cyst"}

def toy(*cuis, split="train"): return pd.DataFrame({"id": [str(i) for i in range(len(cuis))], "cuis": list(cuis), "split": split})

@pytest.fixture(scope="module")
def official():
    if not REAL.is_dir(): pytest.skip("../shared/data/rocov2_text is not here")
    return read_rocov2(REAL, images=False, captions=False)

def test_official_numbers(official, capsys):
    start = time.perf_counter()
    counts = count_cuis(official.table, official.names)
    selected = choose_top(counts, 10)
    table = select_rows(official.table, selected, official.names)
    seconds = time.perf_counter() - start
    kept = table.groupby("split").keep.agg(["sum", "size"])
    with capsys.disabled():
        print(f"\nthe ten most frequent concepts of the official train split (counted and selected in {seconds:.2f} s):")
        for r in counts.head(10).itertuples(): print(f"  {r.cui} {r.count:>6,} {r.name}")
        for split in KEPT: print(f"  {split:5} {kept['sum'][split]:>6,} of {kept['size'][split]:>6,} rows kept by the paper's rule with k = 10")
    assert list(zip(counts.cui, counts["count"]))[:10] == TOP_TEN
    assert selected == [c for c, _ in TOP_TEN]
    assert {s: (kept["sum"][s], kept["size"][s]) for s in KEPT} == KEPT
    assert percentiles(counts).round(2).tolist() == [10.0, 19.0, 44.0, 871.66] # the paper prints 11, 19, 44, 874
    assert kept_by_k(table[table.split == "train"], counts)[9] == KEPT["train"][0]

def test_official_numbers_by_the_csv_module_alone(official):
    "The same numbers without pandas and without radgen: how the literals above were derived."
    rows = {s: {r["ID"]: r["CUIs"].split(";") for r in csv.DictReader(open(REAL/f"{s}_concepts.csv", newline="", encoding="utf-8"))} for s in KEPT}
    named = {r["CUI"] for r in csv.DictReader(open(REAL/"cui_mapping.csv", newline="", encoding="utf-8"))}
    n = Counter(c for cuis in rows["train"].values() for c in set(cuis))
    assert n.most_common(10) == TOP_TEN
    top = {c for c, _ in TOP_TEN}
    for split, want in KEPT.items():
        left = [{c for c in cuis if c in named} for cuis in rows[split].values()]
        assert (sum(bool(s) and s <= top for s in left), len(left)) == want

def test_counts_are_images_and_ties_go_by_cui():
    counts = count_cuis(toy(["C0000003", "C0000003"], ["C0000001"], ["C0000002", "C0000009"], ["C0000002"], []), NAMES)
    assert counts.values.tolist() == [["C0000002", "Chest", 2], ["C0000001", "CT", 1], ["C0000003", "Cyst", 1], ["C0000009", "", 1]]
    assert count_cuis(toy(["C0000001"], split="test"), NAMES).empty

def test_k_must_be_possible():
    counts = count_cuis(toy(["C0000001", "C0000009"], ["C0000002"]), NAMES)
    assert choose_top(counts, 2) == ["C0000001", "C0000002"]
    for k in (0, -1, 3, 10**9):
        with pytest.raises(ConfigError, match=f"k = {k} concepts cannot be chosen: the train split has 2 CUIs with a name"): choose_top(counts, k)

def test_the_rule():
    table = toy(["C0000001"], ["C0000001", "C0000003"], ["C0000002", "C0000009"], ["C0000009"], [])
    out = select_rows(table, ["C0000001", "C0000002"], NAMES)
    assert out.keep.tolist() == [True, False, True, False, False]
    assert out.reason.tolist() == ["", "CUI not selected: C0000003 Cyst", "", "no named CUI", "no named CUI"]
    assert "keep" not in table # the argument is left alone

def test_an_unknown_cui_is_refused():
    with pytest.raises(ConfigError, match="unknown CUI C7777777: choose"): select_rows(toy(["C0000001"]), ["C0000001", "C7777777"], NAMES)

def test_what_was_dropped_stays_dropped():
    table = toy(["C0000001"], ["C0000003"]).assign(keep=[False, True], reason=["leak", ""])
    out = select_rows(table, ["C0000001"], NAMES)
    assert out.keep.tolist() == [False, False] and out.reason.tolist() == ["leak", "CUI not selected: C0000003 Cyst"]
    assert drop_rows(out, pd.Series(["late", "late"])).reason.tolist() == out.reason.tolist()

def test_an_empty_selection_is_named():
    out = select_rows(toy(["C0000001"], ["C0000001", "C0000002"]), ["C0000003"], NAMES)
    with pytest.raises(ConfigError, match="no training image is left after the selection of concepts: 0 of 2; most were dropped for 'CUI not selected'; choose"): require_rows(out)
    require_rows(select_rows(toy(["C0000001"]), ["C0000001"], NAMES))

def test_kept_by_k_agrees_with_the_rule():
    rng = np.random.default_rng(0)
    names = {f"C{i:07d}": f"n{i}" for i in range(12)}
    table = toy(*[[f"C{c:07d}" for c in rng.geometric(0.3, rng.integers(1, 4)) - 1] for _ in range(300)])
    counts = count_cuis(table, names)
    curve = kept_by_k(table, counts)
    for k in range(1, len(curve) + 1): assert curve[k-1] == select_rows(table, choose_top(counts, k), names).keep.sum()
    assert len(cui_report(counts, 3).axes) == 1 and len(cui_report(counts, 3, table).axes) == 2
