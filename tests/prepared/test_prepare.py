"The funnel adds up, a kill leaves the old folder or the new one, and what changes the result is done again."

import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest

from prepare_options import options
from radgen.core.files import read_json
from radgen.data.cuis import plot_choice
from radgen.data.tables import SPLITS
from radgen.prepared.folder import load_prepared
from radgen.prepared.prepare import funnel, plot_funnel, prepare

FUNNEL = ["given", "read", "concepts", "image quality", "copies"]


def read_csv(path):
    return pd.read_csv(path, keep_default_na=False)


def test_prepared_folder_adds_up(raw, figures):
    prepared = prepare(options(raw))
    rows, rejects = read_csv(prepared.dir / "funnel.csv"), read_csv(prepared.dir / "rejects.csv")
    assert rows.columns.tolist() == ["stage", "reason", *SPLITS, "all"]
    assert rows.stage.drop_duplicates().tolist() == FUNNEL
    left = rows[rows.reason == ""].set_index("stage")
    gone = rows[rows.reason != ""].groupby("stage")[[*SPLITS, "all"]].sum().reindex(FUNNEL, fill_value=0)
    for before, stage in zip(FUNNEL, FUNNEL[1:]):
        for column in (*SPLITS, "all"):
            assert left[column][stage] == left[column][before] - gone[column][stage]
        for split in SPLITS:
            assert gone[split][stage] == ((rejects.stage == stage) & (rejects.split == split)).sum()
    assert left.loc["copies", list(SPLITS)].to_dict() == prepared.manifest["rows"]
    assert prepared.manifest["rows"] == {split: len(prepared.rows(split)) for split in SPLITS}
    given = pd.concat(read_csv(raw / f"{split}_captions.csv") for split in SPLITS)
    assert len(rejects) + prepared.table.keep.sum() == len(given)
    assert set(rejects.id) | set(prepared.table.id[prepared.table.keep]) == set(given.ID)
    assert rejects.id.is_unique
    assert rejects.reason.str.len().gt(3).all()
    assert "other" not in set(rejects.stage)
    assert gone["all"]["copies"] > 0
    for name in ("funnel", "cuis", "modalities", "entropy", "kept", "copies"):
        assert (prepared.dir / "fig" / f"{name}.png").stat().st_size > 5000
    assert len(plot_funnel(rows).axes) == 1


def test_prepared_tables_of_copies_and_modalities(raw):
    prepared = prepare(options(raw))
    copies, rejects = read_csv(prepared.dir / "copies.csv"), read_csv(prepared.dir / "rejects.csv")
    assert (copies.groupby("keeper").size() > 1).all()
    assert set(copies.keeper) <= set(copies.id)
    assert set(rejects.id[rejects.stage == "copies"]) <= set(copies.id)
    balance = read_csv(prepared.dir / "modalities.csv")
    assert balance.kept.sum() >= prepared.manifest["rows"]["train"]
    assert (balance.kept <= balance.before).all()


def test_funnel_worked_example():
    reasons = [
        "",
        "CUI not selected: C1 x",
        "entropy below 1.5: 1.2",
        "copy of a test image: f",
        "no named CUI",
        "",
    ]
    splits = ["train"] * 4 + ["valid", "test"]
    table = pd.DataFrame({"id": list("abcdef"), "split": splits, "keep": [not r for r in reasons], "reason": reasons})
    rejects = pd.DataFrame({"id": ["g", "h"], "split": ["train", "test"]})
    rejects["reason"] = ["image missing", "malformed CUI: c1"]
    assert funnel(table, rejects).values.tolist() == [
        ["given", "", 5, 1, 2, 8],
        ["read", "image missing", 1, 0, 0, 1],
        ["read", "malformed CUI", 0, 0, 1, 1],
        ["read", "", 4, 1, 1, 6],
        ["concepts", "CUI not selected", 1, 0, 0, 1],
        ["concepts", "no named CUI", 0, 1, 0, 1],
        ["concepts", "", 3, 0, 1, 4],
        ["image quality", "entropy below 1.5", 1, 0, 0, 1],
        ["image quality", "", 2, 0, 1, 3],
        ["copies", "copy of a test image", 1, 0, 0, 1],
        ["copies", "", 1, 0, 1, 2],
    ]


def test_rows_of_an_unknown_split_are_in_the_funnel(raw):
    parts = []
    for split in SPLITS:
        rows = pd.read_csv(raw / f"{split}_captions.csv").merge(pd.read_csv(raw / f"{split}_concepts.csv"))
        rows.columns = ["id", "caption", "cuis"]
        parts.append(rows.assign(split=split, image=f"{split}_images/" + rows.id + ".jpg"))
    rows = pd.concat(parts, ignore_index=True)
    rows.loc[[1, 3, 5], "split"] = "holdout"
    rows.to_csv(raw / "own.csv", index=False)
    prepared = prepare(options(raw / "own.csv", names=raw / "cui_mapping.csv"))
    counts, rejects = read_csv(prepared.dir / "funnel.csv"), read_csv(prepared.dir / "rejects.csv")
    assert counts["all"].iloc[0] == len(rows)
    assert counts[counts.reason != ""]["all"].sum() == len(rejects)
    assert (rejects.split == "holdout").sum() == 3
    assert counts.set_index("reason")["all"]["unknown split"] == 3


def test_up_to_date_folder_is_opened(raw, decoded):
    first = prepare(options(raw))
    decoded.clear()
    assert prepare(options(raw, workers=2)).manifest == first.manifest
    assert not decoded


def test_whole_numbers_and_floats_are_one_option(raw):
    first = prepare(options(raw))
    again = prepare(replace(options(raw), min_brightness=4.0))
    assert again.manifest == first.manifest
    assert first.manifest["config"]["min_brightness"] == 4


def test_another_option_prepares_again(raw):
    first = prepare(options(raw))
    second = prepare(options(raw, copies="all"))
    assert second.manifest["fingerprint"] != first.manifest["fingerprint"]


def test_another_decoder_prepares_again(raw, monkeypatch):
    first = prepare(options(raw))
    monkeypatch.setattr("radgen.prepared.prepare.decoders", lambda: ["another"])
    assert prepare(options(raw)).manifest["fingerprint"] != first.manifest["fingerprint"]


def test_moved_data_are_found_and_have_the_same_content(raw):
    first = prepare(options(raw))
    raw.rename(raw.parent / "moved")
    moved = prepare(replace(options(raw), data_path=raw.parent / "moved"))
    assert moved.rows("train").image.str.contains("moved").all()
    assert moved.manifest["content"] == first.manifest["content"]


def test_interrupted_writing_leaves_the_old_folder(raw, monkeypatch):
    first = prepare(options(raw, k=3))

    def interrupted(*a):
        raise KeyboardInterrupt

    monkeypatch.setattr("radgen.prepared.prepare.write_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(options(raw, k=4))
    assert load_prepared(raw.parent / "out").manifest == first.manifest
    assert not [p for p in raw.parent.iterdir() if p.name.startswith(".tmp-")]


KILLED = """
import sys
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare

prepare(PrepareConfig(sys.argv[1], sys.argv[2], llm="rules", workers=1, k=int(sys.argv[3])))
"""


@pytest.mark.soak
def test_killed_run_leaves_the_old_folder_or_the_new(raw):
    out = raw.parent / "out"
    prepare(options(raw, k=3))
    command = [sys.executable, "-c", KILLED, str(raw), str(out)]
    began = time.perf_counter()
    subprocess.run([*command, "4"], check=True, capture_output=True)
    whole = time.perf_counter() - began
    given = sum(len(read_csv(raw / f"{split}_captions.csv")) for split in SPLITS)
    for n, k in enumerate((5, 6, 7, 8)):
        process = subprocess.Popen([*command, str(k)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.72 + 0.09 * n))  # mostly while it writes
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = load_prepared(out)
        assert 3 <= now.manifest["config"]["k"] <= k
        assert now.manifest["rows"] == {split: len(now.rows(split)) for split in SPLITS}
        assert len(read_csv(out / "rejects.csv")) + now.table.keep.sum() == given
        assert (out / "fig" / "funnel.png").exists()
    assert prepare(options(raw, k=8)).manifest["config"]["k"] == 8
    assert read_json(out / "manifest.json")["config"]["k"] == 8
    assert not [p for p in raw.parent.iterdir() if p.name.startswith(".tmp-out")]


def test_figure_of_concepts_counts_kept_rows(raw):
    prepared = prepare(options(raw, rule="any", k=1))
    train = prepared.table[prepared.table.split == "train"]
    fig = plot_choice(read_csv(prepared.dir / "cuis.csv"), prepared.selected, train)
    labels = [text.get_text() for text in fig.axes[1].get_legend().get_texts()]
    assert f"chosen: {train.keep.sum():,} of {len(train):,}" in labels
