"Every layout of a data set gives the table that the ROCOv2 layout gives; what fits none is an error with advice."

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sample_folder import make_folder

from radgen.core.errors import ConfigError, DataError
from radgen.data.images import load_grey
from radgen.data.rocov2 import read_rocov2
from radgen.data.source_options import SourceOptions
from radgen.data.sources import layout_of, read_data, source_files

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "roco")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))


def read(path, **options):
    "The data of a source."
    return read_data(SourceOptions(Path(path), **options))


def table_of(folder):
    return read_rocov2(folder).table


def png(value):
    "The bytes of a small image."
    content = io.BytesIO()
    Image.new("L", (32, 32), value).save(content, "PNG")
    return content.getvalue()


def as_parquet(folder, out, column="image", struct=True):
    "Parquet files as the hub has them."
    out.mkdir()
    shutil.copy(folder / "cui_mapping.csv", out)
    for split, part in table_of(folder).groupby("split", sort=False):
        content = [Path(p).read_bytes() for p in part.image]
        cells = {
            column: [{"bytes": b, "path": None} for b in content] if struct else content,
            "image_id": part.id.tolist(),
            "caption": part.caption.tolist(),
            "cui": part.cuis.tolist(),
        }
        name = split.replace("valid", "validation")
        pq.write_table(pa.table(cells), out / f"{name}-00000-of-00001.parquet", row_group_size=2)
    return out


def as_saved(folder, out):
    "What `save_to_disk` writes."
    datasets = pytest.importorskip("datasets")
    splits = {}
    for split, part in table_of(folder).groupby("split", sort=False):
        cells = {"image": part.image.tolist(), "text": part.caption.tolist()}
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        splits[split] = datasets.Dataset.from_dict(cells, features=features)
    datasets.DatasetDict(splits).save_to_disk(out)
    return out


def as_image_folder(folder, out, name="metadata.csv"):
    "An ImageFolder with one table per split."
    for split, part in table_of(folder).groupby("split", sort=False):
        (out / split).mkdir(parents=True)
        for path in part.image:
            shutil.copy(path, out / split)
        cells = pd.DataFrame({"file_name": part.image.map(os.path.basename), "text": part.caption})
        if name.endswith("csv"):
            cells.to_csv(out / split / name, index=False)
        else:
            cells.to_json(out / split / name, orient="records", lines=True)
    return out


def as_image_folder_of_lines(folder, out):
    return as_image_folder(folder, out, "metadata.jsonl")


def as_one_metadata_file(folder, out):
    "An ImageFolder with one table above the folders of the splits."
    as_image_folder(folder, out)
    tables = sorted(out.glob("*/metadata.csv"))
    cells = pd.concat(pd.read_csv(p).assign(split=p.parent.name) for p in tables)
    cells["file_name"] = cells.split + "/" + cells.file_name
    cells[["file_name", "text"]].to_csv(out / "metadata.csv", index=False)
    for path in tables:
        path.unlink()
    return out


def as_text_files(folder, out):
    for row in table_of(folder).itertuples():
        (out / row.split).mkdir(parents=True, exist_ok=True)
        shutil.copy(row.image, out / row.split)
        (out / row.split / Path(row.image).with_suffix(".txt").name).write_text(row.caption)
    return out


def as_webdataset(folder, out):
    out.mkdir()
    for split, part in table_of(folder).groupby("split", sort=False):
        with tarfile.open(out / f"{split}-000.tar", "w") as tar:
            for row in part.itertuples():
                tar.add(row.image, f"{row.id}{Path(row.image).suffix}")
                text = row.caption.encode()
                entry = tarfile.TarInfo(f"{row.id}.txt")
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
    return out


def as_tsv(folder, out):
    out.mkdir()
    table = table_of(folder)
    cells = {"Image Path": table.image.map(lambda p: os.path.relpath(p, folder)), "Report": table.caption}
    pd.DataFrame({**cells, "Split": table.split}).to_csv(out / "own.tsv", sep="\t", index=False)
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.csv"))
    return out / "own.tsv"


def as_json_lines(folder, out):
    path = as_tsv(folder, out)
    cells = pd.read_csv(path, sep="\t")
    cells.to_json(out / "own.jsonl", orient="records", lines=True)
    path.unlink()
    return out / "own.jsonl"


LAYOUTS = [
    as_parquet,
    as_saved,
    as_image_folder,
    as_image_folder_of_lines,
    as_one_metadata_file,
    as_text_files,
    as_webdataset,
    as_tsv,
    as_json_lines,
]


@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_every_layout_gives_the_images_captions_and_splits(write, folder, tmp_path):
    want = table_of(folder)
    found = read(write(folder, tmp_path / "other"))
    assert found.rejects.empty
    assert sorted(zip(found.table.split, found.table.caption)) == sorted(zip(want.split, want.caption))
    by_caption = dict(zip(want.caption, want.image))
    for caption, image in zip(found.table.caption, found.table.image):
        np.testing.assert_array_equal(load_grey(image), load_grey(by_caption[caption]))
    assert found.table.id.is_unique


def test_parquet_and_csv_with_concepts_give_the_same_table(folder, tmp_path):
    want = read_rocov2(folder)
    packed = read(as_parquet(folder, tmp_path / "hub"))
    pd.testing.assert_frame_equal(packed.table.drop(columns="image"), want.table.drop(columns="image"))
    assert packed.names == want.names
    assert packed.table.image[4].endswith("validation-00000-of-00001.parquet#1")
    own = want.table.assign(cuis=want.table.cuis.str.join(";"))
    own["image"] = [os.path.relpath(p, folder) for p in own.image]
    own.to_csv(folder / "own.csv", index=False)
    pd.testing.assert_frame_equal(read(folder / "own.csv").table, want.table)


def test_hub_gives_the_same_table(folder, tmp_path):
    pytest.importorskip("datasets")
    want = table_of(folder)
    as_parquet(folder, tmp_path / "hub")
    found = read(f"hf:{tmp_path / 'hub'}")
    pd.testing.assert_frame_equal(found.table.drop(columns="image"), want.drop(columns="image"))
    few = read(f"hf:{tmp_path / 'hub'}", limit=2)
    assert few.table.split.value_counts().to_dict() == {"train": 2, "valid": 2, "test": 2}


@pytest.mark.parametrize("struct", [True, False])
def test_pictures_may_be_in_any_column(folder, tmp_path, struct):
    found = read(as_parquet(folder, tmp_path / "hub", "picture", struct))
    assert found.table.image.str.contains("#picture:").all()
    assert load_grey(found.table.image[0]).shape == (16, 20)


def test_unusable_parquet_is_an_error_and_unusable_rows_are_rejected(folder, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="train.parquet in .* is not a readable Parquet file"):
        read(tmp_path / "a")
    pq.write_table(pa.table({"image_id": ["a"], "cui": [["C0040405"]]}), tmp_path / "a/train.parquet")
    with pytest.raises(DataError, match="no column of train.parquet is known to hold the text of an image"):
        read(tmp_path / "a")
    cells = {
        "image": [png(90), None, png(90), png(90)],
        "image_id": ["a", None, "../b", "c"],
        "caption": ["t", "t", "t", None],
        "cui": ["C0040405;C0817096", "C0040405", "C0040405", "C0040405"],
    }
    pq.write_table(pa.table(cells), tmp_path / "a/test.parquet")
    (tmp_path / "a/train.parquet").unlink()
    data = read(tmp_path / "a", names=folder / "cui_mapping.csv")
    assert data.table.cuis.tolist() == [["C0040405", "C0817096"], ["C0040405"], ["C0040405"]]
    assert set(data.table.split) == {"test"}
    assert data.rejects.reason.tolist() == ["empty caption"]


def test_parquet_with_paths_only_reads_the_files(folder):
    "I6: a column of paths is a column of files, also in the struct of the hub."
    table = table_of(folder)
    paths = [os.path.relpath(p, folder) for p in table.image]
    cells = {"image": [{"bytes": None, "path": p} for p in paths], "caption": table.caption.tolist()}
    pq.write_table(pa.table(cells), folder / "own.parquet")
    assert len(read(folder / "own.parquet").table) == len(table)
    pq.write_table(pa.table({"image": paths, "caption": table.caption.tolist()}), folder / "own.parquet")
    assert len(read(folder / "own.parquet").table) == len(table)


def test_own_csv_without_id_and_split_is_read(folder, tmp_path, capsys):
    (folder / "mine.csv").write_text(
        "Image,Caption,CUIs\n"
        "train_images/R_train_000.jpg,A chest CT,C0040405;C0817096\n"
        "test_images/R_test_001.jpg,Another,C0040405\n"
    )
    data = read(folder / "mine.csv", split_column="hash")
    assert data.table.id.tolist() == ["train_images_R_train_000.jpg", "test_images_R_test_001.jpg"]
    assert data.names["C0817096"] == "Chest"
    err = capsys.readouterr().err
    assert "mine.csv: image from image, caption from caption, cuis from cuis; no column of split, group." in err
    assert "The splits of mine.csv are dealt: 2 rows go to train, 0 rows go to valid, 0 rows go to test" in err
    for sep in ";", "\t":
        text = (folder / "mine.csv").read_text().replace("C0040405;C0817096", "LIST")
        text = text.replace(",", sep).replace("LIST", '"C0040405;C0817096"')
        (folder / "excel.csv").write_text("\ufeff" + text, encoding="utf-8")
        pd.testing.assert_frame_equal(read(folder / "excel.csv", split_column="hash").table, data.table)
    (tmp_path / "away.csv").write_text((folder / "mine.csv").read_text())
    assert len(read(tmp_path / "away.csv", image_root=folder).table) == 2
    assert read(tmp_path / "away.csv").rejects.reason.tolist() == ["image missing"] * 2
    assert "give --image-root" in capsys.readouterr().err
    with pytest.raises(DataError, match="no folder .*nowhere: --image-root"):
        read(folder / "mine.csv", image_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match="no file names.csv .*--names needs a CSV"):
        read(folder / "mine.csv", names=tmp_path / "names.csv")
    with pytest.raises(DataError, match="has no column of UMLS concepts: name it by --cuis-column"):
        (folder / "less.csv").write_text("image,caption\na.png,b\n")
        read(folder / "less.csv", concepts="data")


def test_splits_are_dealt_by_patient(folder):
    lines = [f"train_images/R_train_00{i % 2}.jpg,text {i},p{i // 6}\n" for i in range(120)]
    (folder / "own.csv").write_text("image,text,Patient ID\n" + "".join(lines))
    table = read(folder / "own.csv", split_column="hash").table
    assert (table.groupby("group").split.nunique() == 1).all()
    assert table.split.nunique() > 1


def test_group_column_may_be_named(folder):
    (folder / "own.csv").write_text("image,text,Aufnahme von\ntrain_images/R_train_000.jpg,t,p1\n")
    assert read(folder / "own.csv", group_column="aufnahme von").table.group.tolist() == ["p1"]


def test_bad_ids_pair_each_caption_with_its_image(tmp_path):
    "IDs that occur twice, are no text or are missing."
    (tmp_path / "hub").mkdir()
    cells = {
        "image": [{"bytes": png(v), "path": None} for v in (10, 200, 50, 70)],
        "image_id": [0, 0, 3, None],
        "caption": ["first", "second", "third", "fourth"],
        "cui": [["C0040405"]] * 4,
    }
    pq.write_table(pa.table(cells), tmp_path / "hub/train-0.parquet")
    data = read(tmp_path / "hub")
    assert data.table.id.tolist() == ["train-0-0", "train-0-1", "3", "train-0-3"]
    assert data.table.caption.tolist() == ["first", "second", "third", "fourth"]
    assert [int(load_grey(p)[0, 0]) for p in data.table.image] == [10, 200, 50, 70]
    data = read(tmp_path / "hub", id_column="image_id")
    assert data.table.id.tolist() == ["0", "3"]
    assert data.table.caption.tolist() == ["first", "third"]
    assert data.rejects.reason.tolist() == ["duplicate ID", "no ID"]


def test_split_is_read_from_the_file_name(folder, tmp_path, capsys):
    as_parquet(folder, tmp_path / "p")
    (tmp_path / "p/train-00000-of-00001.parquet").rename(tmp_path / "p/rocov2_training.parquet")
    (tmp_path / "p/test-00000-of-00001.parquet").rename(tmp_path / "p/figures.parquet")
    assert read(tmp_path / "p").table.split.value_counts().to_dict() == {"train": 6, "valid": 3}
    assert "3 rows do not name their split: they are assigned to training." in capsys.readouterr().err


def test_file_names_that_give_one_id_get_different_ids(folder):
    for n in "胸", "頭":
        shutil.copy(folder / "train_images/R_train_000.jpg", folder / "train_images" / f"{n}.jpg")
    (folder / "own.csv").write_text(
        "image,caption,cuis\ntrain_images/胸.jpg,chest,C0040405\ntrain_images/頭.jpg,head,C0040405\n", encoding="utf-8"
    )
    data = read(folder / "own.csv")
    assert data.table.id.is_unique
    assert sorted(data.table.caption) == ["chest", "head"]
    assert data.table.id.str.fullmatch(r"train_images_.jpg-[0-9a-f]{6}").all()


def test_column_twice_is_an_error(folder):
    (folder / "own.csv").write_text("image,Image,caption,cuis\na.png,b.png,c,C0040405\n")
    with pytest.raises(DataError, match="own.csv in .* has the column image twice"):
        read(folder / "own.csv")


WRITTEN_CUIS = [
    "['C0040405' 'C0817096']",
    '["C0040405", "C0817096"]',
    "C0040405,C0817096",
    "C0040405|C0817096",
    "C0040405 C0817096",
    "{C0040405; C0817096}",
    "('C0040405', 'C0817096')",
    "C0040405/C0817096",
    "C0040405 & C0817096",
    "C0040405、C0817096",
    "UMLS:C0040405;UMLS:C0817096",
    "C0040405 (Computed tomography); C0817096 (Chest)",
    "array(['C0040405', 'C0817096'], dtype=object)",
    "\u200bC0040405;C0817096.",
    "C0040405;C0040405;C0817096",
]


@pytest.mark.parametrize("cell", WRITTEN_CUIS)
def test_lists_of_concepts_are_read_however_they_are_written(folder, cell):
    row = pd.DataFrame({"image": ["train_images/R_train_000.jpg"], "caption": ["t"], "cuis": [cell]})
    row.to_csv(folder / "own.csv", index=False)
    assert read(folder / "own.csv").table.cuis.tolist() == [["C0040405", "C0817096"]]


@pytest.mark.parametrize("mark", ["\ufeff", "\u200b", "\u2060", "\u00a0"])
def test_invisible_characters_in_a_header_do_no_harm(folder, mark):
    text = f"{mark}image{mark},{mark}text\ntrain_images/R_train_000.jpg,t\n"
    (folder / "own.csv").write_text(text, encoding="utf-8")
    assert len(read(folder / "own.csv").table) == 1


@pytest.mark.parametrize("name", ["50% dose", "a/b", "../../x", "é", "a..b", "x" * 300])
def test_any_id_becomes_a_safe_name_and_keeps_its_row(folder, name):
    row = pd.DataFrame({"image": ["train_images/R_train_000.jpg"], "caption": ["t"], "id": [name]})
    row.to_csv(folder / "own.csv", index=False)
    found = read(folder / "own.csv").table.id
    assert len(found) == 1
    assert found.str.fullmatch(r"[A-Za-z0-9._-]{1,100}").all() and ".." not in found[0]


def test_absolute_paths_get_a_hint(folder, capsys):
    archive = folder.parent / "archive"
    for name in ("x", "y"):
        (archive / name).mkdir(parents=True)
    (folder / "own.csv").write_text(f"image,text\n{archive}/x/1.png,a\n{archive}/y/2.png,b\n")
    assert read(folder / "own.csv").rejects.reason.tolist() == ["image outside the folder"] * 2
    assert f"give --image-root {archive}." in capsys.readouterr().err
    image = folder / "train_images/R_train_000.jpg"
    (folder / "own.csv").write_text(f"image,text\n{image},a\n")
    assert len(read(folder / "own.csv", image_root=folder).table) == 1


def test_frames_and_slices_become_rows(folder):
    frames = [Image.fromarray(np.full((20, 20), v, np.uint8)) for v in (10, 60, 200)]
    frames[0].save(folder / "cine.tif", save_all=True, append_images=frames[1:])
    (folder / "own.csv").write_text("id,image,text,split\ncine,cine.tif,A film,train\n")
    assert read(folder / "own.csv").table.id.tolist() == ["cine"]
    every = read(folder / "own.csv", frames="all").table
    assert every.id.tolist() == ["cine-0", "cine-1", "cine-2"]
    assert [int(load_grey(image)[0, 0]) for image in every.image] == [10, 60, 200]


def empty(path):
    path.mkdir()


def images_only(path):
    path.mkdir()
    (path / "a.png").write_bytes(png(90))


def other_columns(path):
    path.mkdir()
    (path / "list.csv").write_text("bild,befund\na.png,text\n")


def archive(path):
    path.with_suffix(".zip").write_bytes(b"PK")


def sheet(path):
    path.with_suffix(".xlsx").write_bytes(b"PK")


def prepared(path):
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    pq.write_table(pa.table({"id": ["a"]}), path / "table.parquet")


UNKNOWN = [
    (empty, "It is empty"),
    (images_only, "ImageFolder: it holds 1 images and no text"),
    (other_columns, "name them by --image-column and --caption-column; its columns are bild, befund"),
    (archive, "unpack it"),
    (sheet, "save the sheet as CSV"),
    (prepared, "It is a prepared folder: give it to radgen train"),
]


@pytest.mark.parametrize("write, message", UNKNOWN, ids=lambda value: getattr(value, "__name__", ""))
def test_what_fits_no_layout_is_an_error_with_advice(tmp_path, write, message):
    write(tmp_path / "source")
    path = next(tmp_path.glob("source*"))
    with pytest.raises(DataError, match=message) as error:
        read(path)
    for name in "ROCOv2", "WebDataset", "text files", "DICOM":
        assert name in str(error.value)


def test_the_files_of_a_source_are_those_that_its_table_depends_on(folder, tmp_path):
    files = {p.name for p in source_files(SourceOptions(folder))}
    assert {"train_captions.csv", "R_train_000.jpg", "cui_mapping.csv"} <= files
    (folder / "own.csv").write_text("image,text\ntrain_images/R_train_000.jpg,t\n")
    assert [p.name for p in source_files(SourceOptions(folder / "own.csv"))] == ["own.csv", "R_train_000.jpg"]
    assert layout_of(folder, SourceOptions(folder)).name == "ROCOv2"


def write_films(folder, names):
    "Images whose grey value is their number, and their names."
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png((10 * number + 20) % 256))


def pairs_of(data):
    "Caption and grey value of each row."
    return sorted(
        (caption, int(load_grey(image)[0, 0])) for caption, image in zip(data.table.caption, data.table.image)
    )


def test_equal_file_names_in_several_folders_are_several_images(tmp_path):
    for number, split in enumerate(("train", "test")):
        write_films(tmp_path / "data" / split, [f"{i}.png" for i in range(3)])
        rows = "".join(f"{i}.png,{split} {i}\n" for i in range(3))
        (tmp_path / "data" / split / "metadata.csv").write_text("file_name,text\n" + rows)
    data = read(tmp_path / "data")
    assert data.rejects.empty
    assert data.table.id.is_unique
    assert data.table.split.value_counts().to_dict() == {"train": 3, "test": 3}


def test_equal_shards_in_several_folders_are_several_images(tmp_path):
    for split in "train", "test":
        (tmp_path / "data" / split).mkdir(parents=True)
        cells = {"image": [png(20), png(30)], "text": [f"{split} 0", f"{split} 1"]}
        pq.write_table(pa.table(cells), tmp_path / "data" / split / "0000.parquet")
    data = read(tmp_path / "data")
    assert data.rejects.empty
    assert data.table.split.value_counts().to_dict() == {"train": 2, "test": 2}


def test_keys_that_begin_anew_in_each_shard_are_several_samples(tmp_path):
    (tmp_path / "data set").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "data set" / f"part-{shard}.tar", "w") as tar:
            for key in range(2):
                for name, content in (
                    (f"{key:06}.png", png(20 * shard + 10 * key + 20)),
                    (f"{key:06}.txt", b"text %d %d" % (shard, key)),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    data = read(tmp_path / "data set")
    assert data.rejects.empty
    assert pairs_of(data) == [("text 0 0", 20), ("text 0 1", 30), ("text 1 0", 40), ("text 1 1", 50)]


def test_an_id_of_a_study_with_two_images_loses_none(tmp_path):
    write_films(tmp_path, [f"{i}.png" for i in range(4)])
    rows = "".join(f"study{i // 2},{i}.png,text {i}\n" for i in range(4))
    (tmp_path / "own.csv").write_text("uid,filename,text\n" + rows)
    data = read(tmp_path / "own.csv")
    assert data.rejects.empty
    assert pairs_of(data) == [(f"text {i}", 10 * i + 20) for i in range(4)]


@pytest.mark.parametrize("column, cells", [("fold", "0123"), ("dataset", ["NIH"] * 4), ("set", ["A"] * 4)])
def test_columns_that_only_sound_like_splits_are_none(tmp_path, column, cells):
    write_films(tmp_path, [f"{i}.png" for i in range(4)])
    rows = "".join(f"{i}.png,text {i},{cells[i]}\n" for i in range(4))
    (tmp_path / "own.csv").write_text(f"image,text,{column}\n" + rows)
    assert len(read(tmp_path / "own.csv").table) == 4


def test_the_name_of_the_folder_of_the_data_says_no_split(tmp_path):
    write_films(tmp_path / "test", [f"{i}.png" for i in range(40)])
    rows = "".join(f"{i}.png,text {i}\n" for i in range(40))
    (tmp_path / "test" / "metadata.csv").write_text("file_name,text\n" + rows)
    assert "train" in set(read(tmp_path / "test").table.split)


def test_a_table_beside_archives_is_the_table(tmp_path):
    write_films(tmp_path, ["images/1.png"])
    (tmp_path / "images_01.tar.gz").write_bytes(b"")
    (tmp_path / "Data_Entry.csv").write_text("Image Index,Report\nimages/1.png,text\n")
    assert len(read(tmp_path).table) == 1


def test_concepts_of_one_split_are_not_lost_by_another(tmp_path):
    write_films(tmp_path, ["0.png", "1.png"])
    (tmp_path / "test.csv").write_text("image,text\n0.png,test\n")
    (tmp_path / "train.csv").write_text("image,text,cuis\n1.png,train,C0040405\n")
    data = read(tmp_path)
    assert data.table.cuis.tolist() == [["C0040405"]]
    assert data.rejects.reason.tolist() == ["no CUIs"]


def test_an_option_that_a_layout_cannot_follow_is_an_error(folder):
    with pytest.raises(ConfigError, match="--image-column names a column of a table, and this source is ROCOv2"):
        read(folder, image_column="image")


def test_the_middle_page_is_read(folder):
    frames = [Image.fromarray(np.full((20, 20), v, np.uint8)) for v in (10, 60, 200)]
    frames[0].save(folder / "cine.tif", save_all=True, append_images=frames[1:])
    (folder / "own.csv").write_text("id,image,text\ncine,cine.tif,A film\n")
    table = read(folder / "own.csv").table
    assert int(load_grey(table.image[0])[0, 0]) == 60


@pytest.mark.parametrize(
    "cell, split",
    [("Train set", "train"), ("TEST SET", "test"), ("eval", "valid"), ("Validation", "valid"), ("train_2017", "train")],
)
def test_splits_are_read_however_they_are_written(tmp_path, cell, split):
    write_films(tmp_path, ["0.png"])
    (tmp_path / "own.csv").write_text(f"image,text,split\n0.png,text,{cell}\n")
    assert read(tmp_path / "own.csv").table.split.tolist() == [split]


@pytest.mark.parametrize("cell", ["holdout", "dev-test", "0"])
def test_a_column_called_split_is_one_and_its_unknown_values_are_rejected(tmp_path, cell):
    write_films(tmp_path, ["0.png"])
    (tmp_path / "own.csv").write_text(f"image,text,split\n0.png,text,{cell}\n")
    assert read(tmp_path / "own.csv").rejects.reason.tolist() == [f"unknown split: {cell}"]


def test_no_number_is_no_text_and_no_patient(tmp_path):
    write_films(tmp_path, [f"{i}.png" for i in range(3)])
    cells = {"image": ["0.png", "1.png", "2.png"], "text": ["a", "b", "c"], "patient_id": [1.0, float("nan"), 2.0]}
    pd.DataFrame(cells).to_parquet(tmp_path / "own.parquet")
    assert read(tmp_path / "own.parquet").table.group.tolist() == ["1", "", "2"]
    (tmp_path / "own.jsonl").write_text('{"image": "0.png", "text": NaN}\n{"image": "1.png", "text": "b"}\n')
    assert read(tmp_path / "own.jsonl").rejects.reason.tolist() == ["empty caption"]
    (tmp_path / "own.csv").write_text("image,text,patient\n0.png,a,nan\n1.png,b,NULL\n2.png,c,7\n")
    assert read(tmp_path / "own.csv").table.group.tolist() == ["", "", "7"]


def test_columns_of_a_folder_may_be_named(tmp_path):
    write_films(tmp_path, ["0.png"])
    (tmp_path / "befunde.csv").write_text("Bild,Befund\n0.png,Text\n")
    assert len(read(tmp_path, image_column="Bild", caption_column="Befund").table) == 1


def test_unrelated_tables_do_not_decide(tmp_path):
    write_films(tmp_path, ["images/0.png"])
    (tmp_path / "reports.csv").write_text("image,text\nimages/0.png,text\n")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "features.parquet")
    (tmp_path / "images/metadata.csv").write_text("image,age\n0.png,50\n")
    assert read(tmp_path).table.caption.tolist() == ["text"]


def test_an_empty_or_damaged_column_of_concepts_is_seen(tmp_path):
    write_films(tmp_path, [f"{i}.png" for i in range(3)])
    (tmp_path / "own.csv").write_text("image,text,cuis\n0.png,a,\n1.png,b,\n2.png,c,\n")
    assert not read(tmp_path / "own.csv").has_concepts
    (tmp_path / "own.csv").write_text("image,text,cuis\n0.png,a,c1306645\n1.png,b,C1306645\n2.png,c,c0\n")
    assert read(tmp_path / "own.csv").rejects.reason.tolist() == ["malformed CUI: c1306645", "malformed CUI: c0"]


def test_what_radgen_wrote_into_the_folder_is_no_data(tmp_path):
    write_films(tmp_path, ["0.png", "out/fig/kept.png"])
    (tmp_path / "0.txt").write_text("A film.")
    prepared(tmp_path / "out" / "x")
    for name in "manifest.json", "table.parquet":
        (tmp_path / "out" / "x" / name).rename(tmp_path / "out" / name)
    assert len(read(tmp_path).table) + len(read(tmp_path).rejects) == 1


@pytest.mark.parametrize("options, why", [({"slices": "99"}, "99"), ({"slices": "every:2"}, "")])
def test_a_slice_that_a_volume_lacks_is_rejected_with_the_reason(tmp_path, options, why):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 10), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.txt").write_text("CT")
    data = read(tmp_path, **options)
    assert len(data.table) == (0 if why else 5)
    assert all(reason.startswith("image") and why in reason for reason in data.rejects.reason)
    assert len(data.rejects) == (1 if why else 0)


def test_more_frames_than_can_be_meant_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("radgen.data.images.MAX_FRAMES", 2)
    frames = [Image.fromarray(np.full((20, 20), v, np.uint8)) for v in (10, 60, 200)]
    frames[0].save(tmp_path / "cine.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "own.csv").write_text("image,text\ncine.tif,A film\n")
    assert read(tmp_path / "own.csv", frames="all").rejects.reason.str.contains("too large: 3 frames").all()


def test_a_table_that_is_not_read_is_named_once_with_the_reason(tmp_path, capsys):
    write_films(tmp_path, ["0.png", "1.png"])
    (tmp_path / "train.csv").write_text("image,text\n0.png,a\n")
    (tmp_path / "valid.csv").write_text("image,text\n1.png,b\n")
    (tmp_path / "test.csv").write_text("image\n1.png\n")
    (tmp_path / "extra.csv").write_text("image,text\n1.png,c\n")
    assert len(read(tmp_path).table) == 2
    err = capsys.readouterr().err
    assert err.count("test.csv is not read: no column of test.csv is known to hold the text") == 1
    assert err.count("extra.csv is not read: its name does not contain a split.") == 1


def test_films_and_reports_in_two_tables_are_joined(tmp_path, capsys):
    "As in OpenI: the number of an examination says which report a film has, and keeps its films in one split."
    films = pd.DataFrame(
        [(i, f"{i}_IM-{view}.dcm.png") for i in range(30) for view in (1, 2)], columns=["uid", "filename"]
    )
    write_films(tmp_path / "images" / "images_normalized", films.filename)
    films.to_csv(tmp_path / "indiana_projections.csv", index=False)
    findings = [f"Nodule of {i} mm." for i in range(30)]
    reports = pd.DataFrame({"uid": range(30), "image": "Xray Chest PA and Lateral", "findings": findings})
    reports.assign(impression="").to_csv(tmp_path / "indiana_reports.csv", index=False)
    table = read(tmp_path).table
    assert len(table) == 60
    for row in table.itertuples():
        number = Path(row.image).name.split("_")[0]
        assert f"Nodule of {number} mm." in row.caption
    assert (table.groupby("group").split.nunique() == 1).all()
    assert table.group.nunique() == 30
    said = capsys.readouterr().err
    assert "indiana_projections.csv has the images, and indiana_reports.csv their texts, joined by uid." in said


def write_pair(folder, images, texts):
    "A table of images and one of texts."
    pd.DataFrame(images).to_csv(folder / "images.csv", index=False)
    pd.DataFrame(texts).to_csv(folder / "captions.csv", index=False)


def test_what_two_tables_do_not_share_is_counted(tmp_path, capsys):
    write_films(tmp_path, ["a.png", "b.png", "c.png"])
    images = {"study": list("123"), "filename": ["a.png", "b.png", "c.png"]}
    write_pair(tmp_path, images, {"study": list("219"), "report": ["Mass.", "Normal.", "Alone."]})
    data = read(tmp_path)
    assert sorted(pairs_of(data)) == [("Mass.", 30), ("Normal.", 20)]
    assert len(data.rejects) == 1
    assert "1 texts of captions.csv have no image" in capsys.readouterr().err


def test_running_numbers_of_two_tables_join_nothing(tmp_path):
    "The numbers of rows agree, and the accession says which report belongs to which film."
    write_films(tmp_path, ["a.png", "b.png", "c.png"])
    images = {
        "Unnamed: 0": [0, 1, 2],
        "index": [0, 1, 2],
        "accession": ["x", "y", "z"],
        "file": ["a.png", "b.png", "c.png"],
    }
    texts = {"Unnamed: 0": [0, 1, 2], "index": [0, 1, 2], "accession": ["z", "y", "x"], "report": ["Z.", "Y.", "X."]}
    write_pair(tmp_path, images, texts)
    assert pairs_of(read(tmp_path)) == [("X.", 20), ("Y.", 30), ("Z.", 40)]


def test_empty_keys_of_two_tables_join_nothing(tmp_path):
    write_films(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    images = {"exam": ["1.0", "2.0", "3.0", ""], "file": ["a.png", "b.png", "c.png", "d.png"]}
    write_pair(tmp_path, images, {"exam": ["1", "2", "3", "", ""], "report": ["A.", "B.", "C.", "none", "of them"]})
    data = read(tmp_path)
    assert pairs_of(data) == [("A.", 20), ("B.", 30), ("C.", 40)]
    assert len(data.rejects) == 1


def test_films_of_one_report_stay_in_one_split_whatever_the_key_is_called(tmp_path):
    names = [f"{i}.png" for i in range(60)]
    write_films(tmp_path, names)
    images = {"order": [i // 2 for i in range(60)], "file": names}
    write_pair(tmp_path, images, {"order": range(30), "report": [f"Report {i}." for i in range(30)]})
    table = read(tmp_path).table
    assert (table.groupby("caption").split.nunique() == 1).all()
    assert table.split.nunique() > 1


def test_tables_that_nobody_can_read_leave_other_layouts_alone(tmp_path):
    write_films(tmp_path, ["a.png"])
    (tmp_path / "a.txt").write_text("A film.")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "numbers.json").write_text("[1, 2]")
    (tmp_path / "other.csv").write_bytes("x,y\n1,2\n".encode("utf-16"))
    assert read(tmp_path).table.caption.tolist() == ["A film."]


@pytest.mark.parametrize("name", ["train.txt", "a/list.txt"])
def test_lists_of_files_are_no_captions(tmp_path, name):
    write_films(tmp_path, ["train/a.png", "valid/b.png", "test/c.png"])
    for image in ("train/a", "valid/b", "test/c"):
        (tmp_path / f"{image}.txt").write_text("A film.")
    write_films(tmp_path, ["train/d.png"])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a.png\nd.png\n")
    data = read(tmp_path)
    assert set(data.table.caption) == {"A film."}
    assert len(data.rejects) == 1


def test_images_of_a_list_without_folders_are_found_by_name(tmp_path):
    "As in ChestX-ray14; a name that two folders have says nothing."
    names = [f"{i:08d}_000.png" for i in range(6)]
    write_films(tmp_path, [f"images_{1 + i % 2:03d}/images/{name}" for i, name in enumerate(names)])
    write_films(tmp_path, [f"images_003/images/{names[5]}"])
    cells = pd.DataFrame(
        {"Image Index": names, "Finding Labels": "Effusion", "Patient ID": range(6), "report": "Effusion."}
    )
    cells.to_csv(tmp_path / "Data_Entry_2017.csv", index=False)
    data = read(tmp_path / "Data_Entry_2017.csv")
    assert sorted(Path(image).name for image in data.table.image) == names[:5]
    assert len(data.rejects) == 1


def test_reports_beside_the_folders_of_their_studies(tmp_path):
    "As in MIMIC-CXR: a text file is called like the folder of its films, and a patient's folder stays in one split."
    for patient in range(20):
        studies = tmp_path / "files" / "p10" / f"p100000{patient:02d}"
        for study in (1, 2):
            write_films(studies, [f"s{patient}{study}/a.png", f"s{patient}{study}/b.png"])
            (studies / f"s{patient}{study}.txt").write_text(f"Study {study} of {patient}.")
    table = read(tmp_path).table
    assert len(table) == 80
    for row in table.itertuples():
        folder = Path(row.image).parent
        assert row.caption == f"Study {folder.name[-1]} of {int(folder.parent.name[-2:])}."
    assert table.group.nunique() == 20
    assert (table.groupby("group").split.nunique() == 1).all()


def test_json_with_its_rows_under_a_name(tmp_path):
    write_films(tmp_path, ["a.png", "b.png"])
    rows = '{"version": 1, "data": [{"image": "a.png", "text": "A."}, {"image": "b.png", "text": "B."}]}'
    (tmp_path / "all.json").write_text(rows)
    assert read(tmp_path / "all.json").table.caption.tolist() == ["A.", "B."]
