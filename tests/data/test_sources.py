"Parquet, the hub and a CSV of one's own give the table that the ROCOv2 layout gives."

import io
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from radgen.core.errors import DataError
from radgen.data.images import load_grey
from radgen.data.kinds import NAMES as KNOWN
from radgen.data.sources import fetch_hub, read_csv, read_data, read_parquet
from radgen.data.tables import read_rocov2
from sample_folder import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "roco")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))


def pack(folder, out, **files):
    "A ROCOv2 folder as Parquet files in the layout of the hub."
    table = read_rocov2(folder).table
    for split, part in table.groupby("split", sort=False):
        t = pa.table(
            {
                "image": [{"bytes": Path(p).read_bytes(), "path": Path(p).name} for p in part.image],
                "image_id": part.id.tolist(),
                "caption": part.caption.tolist(),
                "cui": part.cuis.tolist(),
            }
        )
        out.mkdir(exist_ok=True, parents=True)
        pq.write_table(t, out / f"{files.get(split, split)}-00000-of-00001.parquet", row_group_size=2)
    return out


def same(a, b):
    pd.testing.assert_frame_equal(a.drop(columns="image"), b.drop(columns="image"))


def test_every_source_gives_the_same_table(folder, tmp_path):
    want = read_rocov2(folder)
    packed = pack(folder, tmp_path / "hub" / "data", valid="validation")
    shutil.copy(folder / "cui_mapping.csv", tmp_path / "hub")
    by_parquet = read_data(tmp_path / "hub")
    same(by_parquet.table, want.table)
    assert by_parquet.names == want.names
    assert by_parquet.table.image[4] == f"{packed / 'validation-00000-of-00001.parquet'}#1"
    for a, b in zip(by_parquet.table.image, want.table.image):
        assert (load_grey(a) == load_grey(b)).all()
    want.table.assign(
        cuis=want.table.cuis.str.join(";"), image=[os.path.relpath(p, folder) for p in want.table.image]
    ).to_csv(folder / "own.csv", index=False)
    by_csv = read_data(folder / "own.csv")
    pd.testing.assert_frame_equal(by_csv.table, want.table)
    for streaming in (False, True):
        by_hub = read_data(f"hf:{tmp_path / 'hub'}", streaming=streaming, limit=None if streaming else 2)
        first_two = want.table.groupby("split", sort=False).head(2).reset_index(drop=True)
        expected = want.table if streaming else first_two
        same(by_hub.table, expected)
        assert by_hub.names == KNOWN
        for p, q in zip(by_hub.table.image, expected.image):
            assert Path(p).read_bytes() == Path(q).read_bytes()


@pytest.mark.soak
def test_hub_is_fetched_once_and_a_missing_name_is_an_error(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    home = fetch_hub(str(pack(folder, tmp_path / "hub")))
    shutil.rmtree(tmp_path / "hub")
    assert fetch_hub(str(tmp_path / "hub")) == home
    with pytest.raises(
        DataError, match="hf:nobody/nothing cannot be fetched .*give --data-path a folder of its Parquet files"
    ):
        fetch_hub("nobody/nothing")
    assert [p.name for p in (tmp_path / "cache" / "hub").iterdir()] == [home.name]


def test_unusable_parquet_is_an_error_and_unusable_rows_are_rejected(folder, tmp_path):
    with pytest.raises(DataError, match="there is no Parquet file with rows"):
        read_parquet(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="train.parquet in .* is not a readable Parquet file"):
        read_parquet(tmp_path / "a")
    pq.write_table(pa.table({"image_id": ["a"], "caption": ["b"], "cui": [["C0040405"]]}), tmp_path / "a/train.parquet")
    with pytest.raises(DataError, match="no column image in train.parquet"):
        read_parquet(tmp_path / "a")
    pq.write_table(
        pa.table(
            {
                "image": [b"x", None, b"y", b"z"],
                "image_id": ["a", None, "../b", "c"],
                "caption": ["t", "t", "t", None],
                "cui": ["C0040405;C0817096", "C0040405", "C0040405", "C0040405"],
            }
        ),
        tmp_path / "a/test.parquet",
    )
    (tmp_path / "a/train.parquet").unlink()
    data = read_parquet(tmp_path / "a", folder / "cui_mapping.csv")
    assert data.table.cuis.tolist() == [["C0040405", "C0817096"]]
    assert data.table.split.tolist() == ["test"]
    assert data.rejects.reason.tolist() == ["illegal ID", "illegal ID", "empty caption"]


def test_own_csv_without_id_and_split_is_read(folder, tmp_path, capsys):
    (folder / "mine.csv").write_text(
        "Image,Caption,CUIs\n"
        "train_images/R_train_000.jpg,A chest CT,C0040405;C0817096\n"
        "test_images/R_test_001.jpg,Another,C0040405\n"
    )
    data = read_csv(folder / "mine.csv")
    assert data.table.id.tolist() == ["train_images_R_train_000.jpg", "test_images_R_test_001.jpg"]
    assert set(data.table.split) == {"train"}
    assert data.names["C0817096"] == "Chest"
    assert (
        "mine.csv has no column split: 2 rows go to train, 0 rows go to valid, 0 rows go to test"
        in capsys.readouterr().err
    )
    for sep in ";", "\t":
        text = (folder / "mine.csv").read_text().replace("C0040405;C0817096", "LIST")
        text = text.replace(",", sep).replace("LIST", '"C0040405;C0817096"')
        (folder / "excel.csv").write_text("\ufeff" + text, encoding="utf-8")
        pd.testing.assert_frame_equal(read_csv(folder / "excel.csv").table, data.table)
    (tmp_path / "away.csv").write_text((folder / "mine.csv").read_text())
    assert len(read_csv(tmp_path / "away.csv", folder / "cui_mapping.csv", folder).table) == 2
    assert read_csv(tmp_path / "away.csv").rejects.reason.tolist() == ["image missing"] * 2
    with pytest.raises(DataError, match="no column cuis in less.csv"):
        (tmp_path / "less.csv").write_text("image,caption\na,b\n")
        read_csv(tmp_path / "less.csv")
    with pytest.raises(DataError, match="no folder .*nowhere: --image-root"):
        read_csv(folder / "mine.csv", image_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="no file names.csv .*--names needs a CSV"):
        read_csv(folder / "mine.csv", tmp_path / "names.csv")


def test_hub_with_bad_ids_pairs_each_caption_with_its_image(tmp_path):
    "IDs that occur twice, are no text or are missing."

    def png(v):
        b = io.BytesIO()
        Image.new("L", (32, 32), v).save(b, "PNG")
        return {"bytes": b.getvalue(), "path": None}

    (tmp_path / "hub").mkdir()
    pq.write_table(
        pa.table(
            {
                "image": [png(10), png(200), png(50), png(70)],
                "image_id": [0, 0, 3, None],
                "caption": ["first", "second", "third", "fourth"],
                "cui": [["C0040405"]] * 4,
            }
        ),
        tmp_path / "hub/train-0.parquet",
    )
    for data in read_data(f"hf:{tmp_path / 'hub'}"), read_parquet(tmp_path / "hub"):
        assert data.table.id.tolist() == ["0", "3"]
        assert data.table.caption.tolist() == ["first", "third"]
        assert [int(load_grey(p)[0, 0]) for p in data.table.image] == [10, 50]
        assert data.rejects.reason.tolist() == ["duplicate ID", "illegal ID"]


def test_hub_names_that_look_alike_have_two_folders(folder, tmp_path):
    for name in "a/b", "a-b":
        pack(folder, tmp_path / name)
    assert fetch_hub(str(tmp_path / "a/b")) != fetch_hub(str(tmp_path / "a-b"))


def test_split_is_read_from_the_file_name(folder, tmp_path, capsys):
    pack(folder, tmp_path / "p")
    (tmp_path / "p/train-00000-of-00001.parquet").rename(tmp_path / "p/rocov2_training.parquet")
    (tmp_path / "p/test-00000-of-00001.parquet").rename(tmp_path / "p/figures.parquet")
    assert read_parquet(tmp_path / "p").table.split.value_counts().to_dict() == {"train": 6, "valid": 3}
    assert "figures.parquet does not say which split it is: its rows are taken for training." in capsys.readouterr().err


def test_file_names_that_give_one_id_get_different_ids(folder):
    for n in "胸", "頭":
        shutil.copy(folder / "train_images/R_train_000.jpg", folder / "train_images" / f"{n}.jpg")
    (folder / "own.csv").write_text(
        "image,caption,cuis\ntrain_images/胸.jpg,chest,C0040405\ntrain_images/頭.jpg,head,C0040405\n", encoding="utf-8"
    )
    data = read_csv(folder / "own.csv")
    assert data.table.id.is_unique
    assert data.table.caption.tolist() == ["chest", "head"]
    assert data.table.id.str.fullmatch(r"train_images_.jpg-[0-9a-f]{6}").all()


def test_column_twice_is_an_error(folder):
    (folder / "own.csv").write_text("image,Image,caption,cuis\na,b,c,C0040405\n")
    with pytest.raises(DataError, match="own.csv in .* has the column image twice"):
        read_csv(folder / "own.csv")
