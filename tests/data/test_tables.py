"Reading a folder in ROCOv2 layout: each kind of bad input gives its sentence, or its line in the rejects."

import os, shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from radgen.core.errors import DataError
from radgen.data.sources import fetch_hub, read_csv, read_data, read_parquet
from radgen.data.tables import read_rocov2
from radgen.data.kinds import NAMES as KNOWN

NAMES = "CUI,Canonical name\nC0040405,X-Ray Computed Tomography\nC1306645,Plain x-ray\nC0817096,Chest\n"


@pytest.fixture
def folder(tmp_path):
    "Three splits of three good rows each."
    root = tmp_path / "roco"
    root.mkdir()
    (root / "cui_mapping.csv").write_text(NAMES)
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        (root / f"{split}_images").mkdir()
        ids = [f"R_{split}_{i:03d}" for i in range(3)]
        (root / f"{split}_captions.csv").write_text("ID,Caption\n" + "".join(f"{i},Chest CT of {i}\n" for i in ids))
        (root / f"{split}_concepts.csv").write_text("ID,CUIs\n" + "".join(f"{i},C0040405;C0817096\n" for i in ids))
        for n, i in enumerate(ids):
            Image.fromarray(rng.integers(0, 255, (16, 20), dtype=np.uint8)).save(
                root / f"{split}_images/{i}.{'png' if n == 2 else 'jpg'}"
            )
    return root


def add(path, text):
    with open(path, "a", newline="") as f:
        f.write(text)


def test_good_folder(folder):
    data = read_rocov2(folder)
    assert list(data.table.columns) == ["id", "caption", "cuis", "image", "split"]
    assert len(data.table) == 9 and data.rejects.empty and list(data.rejects.columns) == ["id", "split", "reason"]
    assert data.table.split.tolist() == ["train"] * 3 + ["valid"] * 3 + ["test"] * 3
    assert data.table.cuis[0] == ["C0040405", "C0817096"]
    assert data.table.image[2].endswith("R_train_002.png")
    assert data.names["C0817096"] == "Chest"


def test_train_alone_is_enough(folder):
    for split in ("valid", "test"):
        shutil.rmtree(folder / f"{split}_images")
        for f in folder.glob(f"{split}_*.csv"):
            f.unlink()
    assert set(read_rocov2(folder).table.split) == {"train"}


def test_text_without_images(folder):
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / f"{split}_images")
    assert (read_rocov2(folder, images=False).table.image == "").all()
    (folder / "train_captions.csv").unlink()
    assert len(read_rocov2(folder, images=False, captions=False).table) == 9


def test_bom_header_spelling_quotes_and_line_breaks(folder):
    (folder / "train_captions.csv").write_bytes(
        '\ufeffid,CAPTION\r\nR_train_000,"None, ""quoted""\nin two lines"\r\nR_train_001,NA\r\nR_train_002,Röntgen 胸部\r\n'.encode()
    )
    (folder / "cui_mapping.csv").write_text(NAMES.replace("Canonical name", "Canonical_Name"))
    table = read_rocov2(folder).table
    assert table.caption[:3].tolist() == ['None, "quoted"\nin two lines', "NA", "Röntgen 胸部"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(
        DataError, match=r"no folder .*nowhere: expected the ROCOv2 layout: cui_mapping.csv.*train_images/\.$"
    ):
        read_rocov2(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["cui_mapping.csv", "train_captions.csv", "train_concepts.csv", "test_captions.csv", "valid_concepts.csv"]
)
def test_a_missing_csv(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"no file {name} in .*roco: expected the ROCOv2 layout"):
        read_rocov2(folder)


def test_a_missing_image_folder(folder):
    shutil.rmtree(folder / "train_images")
    with pytest.raises(DataError, match="no folder train_images in .*roco: expected"):
        read_rocov2(folder)


@pytest.mark.parametrize(
    "name,text,message",
    [
        (
            "train_captions.csv",
            "ID,Text\na,b\n",
            "no column Caption in train_captions.csv in .*roco: its header must be ID,Caption",
        ),
        ("train_concepts.csv", "name,CUIs\na,b\n", "no column ID in train_concepts.csv"),
        ("cui_mapping.csv", "CUI,Label\nC0040405,CT\n", "no column Canonical name in cui_mapping.csv"),
        ("train_captions.csv", "", "train_captions.csv in .*roco is empty: it needs the header ID,Caption"),
        ("train_concepts.csv", "ID,CUIs\n", "train_concepts.csv in .*roco has a header and no rows"),
        ("cui_mapping.csv", "CUI,Canonical name\n", "cui_mapping.csv in .*roco has a header and no rows"),
        ("train_captions.csv", "ID,Caption\na,b\nc,d,e\n", "train_captions.csv in .*roco is not a readable CSV"),
        (
            "train_captions.csv",
            "ID,Caption\na,b,c\nd,e,f\n",
            "train_captions.csv in .*roco has more cells in a row than in its header",
        ),
        (
            "train_captions.csv",
            b"ID,Caption\na,R\xf6ntgen\n",
            "train_captions.csv in .*roco is not a readable CSV.*UTF-8",
        ),
        ("train_captions.csv", 'ID,Caption\na,"never closed\n', "train_captions.csv in .*roco is not a readable CSV"),
    ],
)
def test_an_unusable_csv(folder, name, text, message):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as e:
        read_rocov2(folder)
    assert "\n" not in str(e.value)


def test_bad_rows_are_rejected_and_the_good_ones_survive(folder):
    img, cap, con = folder / "train_images", folder / "train_captions.csv", folder / "train_concepts.csv"
    cases = {  # id: caption, cuis (None: no line), image bytes (None: a good one; '': no file), reason
        "new_image": ("text", "C0040405", "", "image missing"),
        "zero": ("text", "C0040405", b"", "image unreadable: 0 bytes"),
        "html": ("text", "C0040405", b"<html>404</html>", "image unreadable: not an image"),
        "blank": ("  ", "C0040405", None, "empty caption"),
        "nocon": ("text", None, None, "no concepts row"),
        "nocui": ("text", ";; ;", None, "no CUIs"),
        "lower": ("text", "c0040405", None, "malformed CUI: c0040405"),
        "short": ("text", "C0040405;C12", None, "malformed CUI: C12"),
        "nocap": (None, "C0040405", None, "no caption"),
        "../escape": ("text", "C0040405", "", "illegal ID"),
        "/etc/passwd": ("text", "C0040405", "", "illegal ID"),
        "a b": ("text", "C0040405", "", "illegal ID"),
        "a..b": ("text", "C0040405", None, "illegal ID"),
        "": ("text", "C0040405", "", "illegal ID"),
    }
    for i, (caption, cuis, image, _) in cases.items():
        if caption is not None:
            add(cap, f"{i},{caption}\n")
        if cuis is not None:
            add(con, f"{i},{cuis}\n")
        if image is None:
            shutil.copy(img / "R_train_000.jpg", img / f"{i}.jpg")
        elif image != "":
            (img / f"{i}.jpg").write_bytes(image)
    add(cap, "R_train_001,another caption\ndoubled,one\ndoubled,two\ndoubled,three\n")
    add(con, "doubled,C0040405\ndoubled,C0817096\n")
    add(con, "unnamed,C9999999; C0040405;\n")
    add(cap, "unnamed,legal\n")
    for i in "doubled", "unnamed":
        shutil.copy(img / "R_train_000.jpg", img / f"{i}.jpg")
    data = read_rocov2(folder)
    train = data.table[data.table.split == "train"].set_index("id")
    assert list(train.index) == ["R_train_000", "R_train_001", "R_train_002", "doubled", "unnamed"]
    assert train.caption["R_train_001"] == "Chest CT of R_train_001" and train.caption["doubled"] == "one"
    assert train.cuis["doubled"] == ["C0040405"] and train.cuis["unnamed"] == ["C9999999", "C0040405"]
    rejects = data.rejects
    assert dict(zip(rejects.id, rejects.reason)) == {i: c[3] for i, c in cases.items()} | {
        "R_train_001": "duplicate ID",
        "doubled": "duplicate ID",
    }
    assert len(rejects) == len(cases) + 3
    assert (
        len(data.table) + len(rejects) == 9 + len(cases) + 4 + 1
    )  # input rows: good, cases, R_train_001 again and three of doubled, unnamed


def test_everything_rejected_is_still_a_table(folder):
    for f in (folder / "train_images").iterdir():
        f.unlink()
    data = read_rocov2(folder)
    assert (data.table.split != "train").all() and data.rejects.reason.tolist() == ["image missing"] * 3


def test_the_real_sample(real):
    data = read_rocov2(real)
    assert data.table.split.value_counts().to_dict() == {"train": 1777, "valid": 207, "test": 231}
    assert data.rejects.empty


def test_the_official_text_is_accounted_for(official_text):
    data = read_rocov2(official_text, images=False)
    assert data.table.split.value_counts().to_dict() == {"train": 13476, "valid": 9903, "test": 9927}
    assert data.rejects.groupby(["split", "reason"]).size().to_dict() == {
        ("train", "no caption"): 46486,
        ("valid", "empty caption"): 1,
    }
    assert len(data.table) + len(data.rejects) == 59962 + 9904 + 9927


def test_id_in_two_splits_stays_in_the_later_one(folder):
    for split in ("train", "valid"):
        add(folder / f"{split}_captions.csv", "R_test_001,Chest CT\n")
        add(folder / f"{split}_concepts.csv", "R_test_001,C0040405\n")
        shutil.copy(folder / "test_images/R_test_001.jpg", folder / f"{split}_images")
    data = read_rocov2(folder)
    assert data.table.id.is_unique and data.table.set_index("id").split["R_test_001"] == "test"
    assert data.rejects.values.tolist() == [
        ["R_test_001", s, "duplicate ID: in a later split, too"] for s in ("train", "valid")
    ]


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


def test_every_source_gives_the_same_table(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    want = read_rocov2(folder)
    packed = pack(folder, tmp_path / "hub" / "data", valid="validation")
    shutil.copy(folder / "cui_mapping.csv", tmp_path / "hub")
    by_parquet = read_data(tmp_path / "hub")
    same(by_parquet.table, want.table)
    assert (
        by_parquet.names == want.names
        and by_parquet.table.image[4] == f"{packed / 'validation-00000-of-00001.parquet'}#1"
    )
    from radgen.data.images import load_grey

    for a, b in zip(by_parquet.table.image, want.table.image):
        assert (load_grey(a) == load_grey(b)).all()
    want.table.assign(
        cuis=want.table.cuis.str.join(";"), image=[os.path.relpath(p, folder) for p in want.table.image]
    ).to_csv(folder / "own.csv", index=False)
    by_csv = read_data(folder / "own.csv")
    pd.testing.assert_frame_equal(by_csv.table, want.table)
    for streaming in (False, True):
        by_hub = read_data(f"hf:{tmp_path / 'hub'}", streaming=streaming, limit=None if streaming else 2)
        same(
            by_hub.table,
            want.table if streaming else want.table.groupby("split", sort=False).head(2).reset_index(drop=True),
        )
        assert by_hub.names == KNOWN and all(
            Path(p).read_bytes() == Path(q).read_bytes()
            for p, q in zip(by_hub.table.image, want.table.image)
            if streaming
        )


def test_the_hub_is_asked_once_and_a_missing_name_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    home = fetch_hub(str(pack(folder, tmp_path / "hub")))
    shutil.rmtree(tmp_path / "hub")
    assert fetch_hub(str(tmp_path / "hub")) == home
    with pytest.raises(
        DataError, match="hf:nobody/nothing cannot be fetched .*give --data-path a folder of its Parquet files"
    ):
        fetch_hub("nobody/nothing")
    assert [p.name for p in (tmp_path / "cache" / "hub").iterdir()] == [home.name]


def test_parquet_that_cannot_be_used(folder, tmp_path):
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
    assert data.table.cuis.tolist() == [["C0040405", "C0817096"]] and data.table.split.tolist() == ["test"]
    assert data.rejects.reason.tolist() == ["illegal ID", "illegal ID", "empty caption"]


def test_own_csv_needs_little(folder, tmp_path, capsys):
    (folder / "mine.csv").write_text(
        "Image,Caption,CUIs\ntrain_images/R_train_000.jpg,A chest CT,C0040405;C0817096\ntest_images/R_test_001.jpg,Another,C0040405\n"
    )
    data = read_csv(folder / "mine.csv")
    assert (
        data.table.id.tolist() == ["train_images_R_train_000.jpg", "test_images_R_test_001.jpg"]
        and set(data.table.split) == {"train"}
        and data.names["C0817096"] == "Chest"
    )
    assert (
        "mine.csv has no column split: 2 rows go to train, 0 rows go to valid, 0 rows go to test"
        in capsys.readouterr().err
    )
    for sep in ";", "\t":
        (folder / "excel.csv").write_text(
            "\ufeff"
            + (folder / "mine.csv")
            .read_text()
            .replace(";", "|")
            .replace(",", sep)
            .replace("C0040405|C0817096", '"C0040405;C0817096"'),
            encoding="utf-8",
        )
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


def test_the_hub_pairs_each_caption_with_its_picture(tmp_path, monkeypatch):
    "IDs that occur twice, are no text or are missing."
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    import io

    def png(v):
        Image.new("L", (32, 32), v).save(b := io.BytesIO(), "PNG")
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
    from radgen.data.images import load_grey

    for data in read_data(f"hf:{tmp_path / 'hub'}"), read_parquet(tmp_path / "hub"):
        assert [
            (i, c, int(load_grey(p)[0, 0])) for i, c, p in zip(data.table.id, data.table.caption, data.table.image)
        ] == [("0", "first", 10), ("3", "third", 50)]
        assert data.rejects.reason.tolist() == ["duplicate ID", "illegal ID"]


def test_two_hub_names_have_two_places(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    for name in "a/b", "a-b":
        pack(folder, tmp_path / name)
    assert fetch_hub(str(tmp_path / "a/b")) != fetch_hub(str(tmp_path / "a-b"))


def test_the_split_in_a_file_name(folder, tmp_path, capsys):
    pack(folder, tmp_path / "p")
    (tmp_path / "p/train-00000-of-00001.parquet").rename(tmp_path / "p/rocov2_training.parquet")
    (tmp_path / "p/test-00000-of-00001.parquet").rename(tmp_path / "p/figures.parquet")
    assert read_parquet(tmp_path / "p").table.split.value_counts().to_dict() == {"train": 6, "valid": 3}
    assert "figures.parquet does not say which split it is: its rows are taken for training." in capsys.readouterr().err


def test_a_good_row_survives_its_bad_twin(folder):
    add(folder / "train_captions.csv", "x,  \nx,good\ny,one\ny,two\n")
    add(folder / "train_concepts.csv", "x,C0040405\nx,C0040405\ny,C1\ny,C2\n")
    shutil.copy(folder / "train_images/R_train_000.jpg", folder / "train_images/x.jpg")
    data = read_rocov2(folder)
    assert data.table.set_index("id").caption["x"] == "good"
    assert data.rejects.values.tolist() == [
        ["x", "train", "duplicate ID"],
        ["y", "train", "malformed CUI: C1"],
        ["y", "train", "malformed CUI: C2"],
    ]


def test_names_of_files_that_become_alike(folder):
    for n in "胸", "頭":
        shutil.copy(folder / "train_images/R_train_000.jpg", folder / "train_images" / f"{n}.jpg")
    (folder / "own.csv").write_text(
        "image,caption,cuis\ntrain_images/胸.jpg,chest,C0040405\ntrain_images/頭.jpg,head,C0040405\n", encoding="utf-8"
    )
    data = read_csv(folder / "own.csv")
    assert (
        data.table.id.is_unique
        and data.table.caption.tolist() == ["chest", "head"]
        and data.table.id.str.fullmatch(r"train_images_.jpg-[0-9a-f]{6}").all()
    )


def test_a_column_twice_is_refused(folder):
    (folder / "own.csv").write_text("image,Image,caption,cuis\na,b,c,C0040405\n")
    with pytest.raises(DataError, match="own.csv in .* has the column image twice"):
        read_csv(folder / "own.csv")
