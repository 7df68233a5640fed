"Which changes of the input are noticed, Parquet files among prepared folders, and folders that are none."

import os
import shutil
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_options import options

from radgen.core.errors import DataError
from radgen.data.source_options import SourceOptions
from radgen.data.tables import SPLITS
from radgen.prepared.folder import input_fingerprint, load_prepared
from radgen.prepared.prepare import prepare


@pytest.mark.parametrize("change", ["image", "caption", "names"])
def test_fingerprint_changes_with_the_input(raw, change):
    before = input_fingerprint(SourceOptions(raw))
    if change == "image":
        os.utime(next((raw / "train_images").iterdir()))
    if change == "caption":
        with open(raw / "train_captions.csv", "a") as f:
            f.write("\n")
    if change == "names":
        names = raw / "cui_mapping.csv"
        names.write_text(names.read_text().replace("Chest", "Thorax"))
    assert input_fingerprint(SourceOptions(raw)) != before


@pytest.mark.parametrize("where", ["given", "beside", "above"])
def test_fingerprint_and_result_change_with_the_file_of_names(raw, where):
    above = raw.parent / "cui_mapping.csv"
    shutil.copy(raw / "cui_mapping.csv", above)
    rows = pd.read_csv(raw / "train_captions.csv").merge(pd.read_csv(raw / "train_concepts.csv"))
    rows.columns = ["image", "caption", "cuis"]
    rows["image"] = "train_images/" + rows.image + ".jpg"
    rows.to_csv(raw / "own.csv", index=False)
    names = {"given": above, "beside": raw / "cui_mapping.csv", "above": above}[where]
    if where == "above":
        (raw / "cui_mapping.csv").unlink()
    cfg = options(raw / "own.csv", names=above if where == "given" else None)
    assert "Chest" in prepare(cfg).names.values()
    names.write_text(names.read_text().replace("Chest", "Thorax"))
    assert "Thorax" in prepare(cfg).names.values()


def test_parquet_links_around_a_prepared_folder(raw):
    "Files as the hub's cache has them, links to blobs without a suffix; and a prepared folder among them."
    hub, blobs = raw.parent / "hub", raw.parent / "blobs"
    hub.mkdir()
    blobs.mkdir()
    for split in SPLITS:
        captions = pd.read_csv(raw / f"{split}_captions.csv", dtype=str)
        rows = captions.merge(pd.read_csv(raw / f"{split}_concepts.csv", dtype=str))
        columns = {
            "image": [{"bytes": (raw / f"{split}_images" / f"{i}.jpg").read_bytes(), "path": i} for i in rows.ID],
            "image_id": rows.ID.tolist(),
            "caption": rows.Caption.tolist(),
            "cui": rows.CUIs.str.split(";").tolist(),
        }
        pq.write_table(pa.table(columns), blobs / split)
        (hub / f"{split}-00000-of-00001.parquet").symlink_to(blobs / split)
    names = raw / "cui_mapping.csv"
    cfg = replace(options(hub, names=names), out=hub / "prepared")
    first, folder = prepare(cfg), prepare(options(raw))
    assert prepare(cfg).manifest == first.manifest
    same = ["id", "caption", "cuis", "split", "keep", "reason", "entropy", "phash", "keeper", "transformed"]
    pd.testing.assert_frame_equal(first.table[same], folder.table[same])
    assert (first.images("train", 32) == folder.images("train", 32)).all()
    one = prepare(replace(cfg, data_path=hub / "train-00000-of-00001.parquet", out=raw.parent / "one"))
    assert sum(one.manifest["rows"].values()) == one.table.keep.sum()  # a file alone: its splits are dealt
    assert set(one.table.id) == set(folder.table.id[folder.table.split == "train"])


def test_foreign_folder(tmp_path):
    for name in ("manifest.json", "table.parquet"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match="prepared by another version of radgen"):
        load_prepared(tmp_path)
