"Which columns of a Hugging Face data set are stored, as what, and in which files."

import datetime
import zipfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Features, List, Value
from hub_sets import png

from radgen.core.errors import DataError
from radgen.data import row_files
from radgen.data.row_files import (
    IMAGE_TYPE,
    RowConverter,
    SplitRecord,
    SplitWriter,
    check_columns,
    stored_type,
    stored_value,
)


@pytest.mark.parametrize(
    ("feature", "value", "kind", "stored"),
    [
        (Value("int64"), 3, pa.int64(), 3),
        (Value("float32"), 0.5, pa.float32(), 0.5),
        (Value("bool"), True, pa.bool_(), True),
        (Value("large_string"), "a", pa.large_string(), "a"),
        (Value("date32"), datetime.date(2020, 1, 2), pa.date32(), datetime.date(2020, 1, 2)),
        (ClassLabel(names=["CT", "MR"]), 1, pa.string(), "MR"),
        (ClassLabel(names=["CT", "MR"]), -1, pa.string(), None),
        (ClassLabel(names=["CT", "MR"]), None, pa.string(), None),
        (List(ClassLabel(names=["CT", "MR"])), [1, 0], pa.list_(pa.string()), ["MR", "CT"]),
        ([Value("string")], ["C1", "C2"], pa.list_(pa.string()), ["C1", "C2"]),
        (List(Value("string")), None, pa.list_(pa.string()), None),
        ({"age": Value("int8"), "sex": ClassLabel(names=["f", "m"])}, {"age": 4, "sex": 0}, None, None),
    ],
)
def test_values_keep_their_type_and_labels_are_names(feature, value, kind, stored):
    if isinstance(feature, dict):
        kind, stored = pa.struct({"age": pa.int8(), "sex": pa.string()}), {"age": 4, "sex": "f"}
    assert stored_type(feature) == kind
    assert stored_value(value, feature) == stored
    pa.array([stored], kind)


def test_images_are_records_and_what_a_table_cannot_hold_is_left_out(capsys):
    assert stored_type(datasets.Image()) == stored_type(Value("binary")) == IMAGE_TYPE
    assert stored_type({"bytes": Value("binary"), "path": Value("string")}) == IMAGE_TYPE  # without the hub's metadata
    assert stored_type({"bytes": Value("int64"), "path": Value("string")}) != IMAGE_TYPE
    odd = {"sound": datasets.Audio(), "array": Array2D((2, 2), "int8"), "series": List(datasets.Image())}
    for feature in odd.values():
        assert stored_type(feature) is None
    features = Features(film=Value("binary"), report=Value("string"), **odd)
    assert list(check_columns(features, "hf:x")) == ["film", "report"]
    assert "hf:x: the columns sound, array, series cannot be stored and are left out." in capsys.readouterr().err
    assert list(check_columns(features, "hf:x", ["report", "film"])) == ["report", "film"]
    assert capsys.readouterr().err == ""


def test_columns_without_images_or_text_are_an_error():
    links = Features(url=Value("string"), report=List(Value("string")), label=ClassLabel(names=["a"]), n=Value("int64"))
    listed = r"its columns are url \(text\), report \(list of text\), label \(class label\), n \(int64\)"
    with pytest.raises(DataError, match=f"no column of images in hf:x: {listed}; images that are links"):
        check_columns(links, "hf:x")
    with pytest.raises(DataError, match=r"no column of text in hf:x: its columns are image \(image\), n \(int64\)"):
        check_columns(Features(image=datasets.Image(), n=Value("int64")), "hf:x")
    with pytest.raises(DataError, match="no column age in hf:x: its columns are url"):
        check_columns(links, "hf:x", ["age"])
    with pytest.raises(DataError, match="the columns of hf:x are unknown before it is read: leave out --streaming"):
        check_columns(None, "hf:x")
    for text in links["report"], links["label"], Value("large_string"):
        check_columns(Features(image=datasets.Image(), text=text), "hf:x")


def converter(folder, repository=""):
    return RowConverter({"scan": datasets.Image()}, {"scan": IMAGE_TYPE}, [str(folder.resolve())], repository)


def test_files_are_read_inside_the_data_set_and_nowhere_else(tmp_path, monkeypatch):
    home = tmp_path / "set"
    (home / "deep").mkdir(parents=True)
    (home / "deep/a.png").write_bytes(b"inside")
    (tmp_path / "set-2").mkdir()
    (tmp_path / "set-2/b.png").write_bytes(b"next to it")
    (home / "link.png").symlink_to(tmp_path / "set-2/b.png")
    monkeypatch.chdir(tmp_path / "set-2")
    cells = converter(home)

    def read(path):
        return cells.stored({"scan": {"bytes": None, "path": path}})["scan"]

    for path in str(home / "deep/a.png"), "deep/a.png":
        assert read(path) == {"bytes": b"inside", "path": "a.png"}
    assert cells.empty == 0
    outside = [str(tmp_path / "set-2/b.png"), "../set-2/b.png", str(home / "link.png"), "b.png", "/etc/passwd"]
    for path in [*outside, "none.png", "a\0b.png", "x" * 5000, "zip://a.png::/etc/x.zip", "https://example.org/a.png"]:
        assert read(path)["bytes"] is None
    assert cells.empty == 10
    whole = cells.stored({"scan": {"bytes": b"x", "path": "/home/someone/a.png"}})["scan"]
    assert whole == {"bytes": b"x", "path": "a.png"}
    assert cells.stored({"scan": b"x"})["scan"] == {"bytes": b"x", "path": None}
    assert cells.stored({"scan": None})["scan"] is None


def test_all_parts_of_an_address_are_checked(tmp_path, monkeypatch):
    "The library opens the first part as a file where it is no address, whatever follows."
    home = tmp_path / "set"
    home.mkdir()
    (tmp_path / "secret.png").write_bytes(b"not ours")
    (home / "train.parquet").write_bytes(b"PAR1")
    with zipfile.ZipFile(home / "films.zip", "w") as films, zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        films.writestr("in/a.png", b"inside")
        other.writestr("a.png", b"not ours")
    (home / "link.zip").symlink_to(tmp_path / "other.zip")
    cells = converter(home)

    def read(path):
        return cells.stored({"scan": {"bytes": None, "path": path}})["scan"]["bytes"]

    monkeypatch.chdir(tmp_path)
    for archive in "films.zip", home / "films.zip":
        assert read(f"zip://in/a.png::{archive}") == b"inside"
    for first in (
        str(tmp_path / "secret.png"),
        f"file://{tmp_path / 'secret.png'}",
        f"local://{tmp_path / 'secret.png'}",
    ):
        for archive in home / "train.parquet", home / "films.zip":
            assert read(f"{first}::{archive}") is None
            assert read(f"zip://in/a.png::{first}::{archive}") is None
            assert read(f"{first}::zip://in/a.png::{archive}") is None
            assert read(f"simplecache::{first}::{archive}") is None
    for archive in "link.zip", tmp_path / "other.zip", home / "link.zip", home / "../other.zip":
        assert read(f"zip://a.png::{archive}") is None


def test_files_on_the_hub_are_read_by_the_library(tmp_path, monkeypatch):
    from datasets.features import image

    def opened(path, mode, download_config):
        if "none" in path:
            raise FileNotFoundError(path)
        assert path == "zip://in/a.png::hf://datasets/owner/films@main/films.zip"
        return (tmp_path / "a.png").open(mode)

    (tmp_path / "a.png").write_bytes(png(3))
    monkeypatch.setattr(image, "xopen", opened)
    cells = converter(tmp_path, "owner/films")
    path = "zip://in/a.png::hf://datasets/owner/films@main/films.zip"
    assert cells.stored({"scan": {"bytes": None, "path": path}})["scan"] == {"bytes": png(3), "path": "a.png"}
    assert (
        cells.stored({"scan": {"bytes": None, "path": "hf://datasets/owner/films/none.png"}})["scan"]["bytes"] is None
    )


def test_repositories_other_than_that_of_the_data_set_are_not_read(tmp_path, monkeypatch):
    "The library would read them with the token of the user."
    from datasets.features import image

    def opened(path, mode, download_config):
        requests.append(path)
        raise FileNotFoundError(path)

    requests = []
    monkeypatch.setattr(image, "xopen", opened)
    other = [
        "hf://datasets/owner/secret@main/a.png",
        "hf://datasets/owner/films-2@main/a.png",
        "hf://datasets/owner/films@main/../../secret/resolve/main/a.png",
        "hf://datasets/owner/films@..%2Fsecret/a.png",
        "hf://owner/films/a.png",
        "hf://buckets/owner/films/a.png",
        "https://huggingface.co/datasets/owner/films/resolve/main/a.png",
        "zip://a.png::hf://datasets/owner/secret@main/films.zip",
        "hf://datasets/owner/films@main/a.png::hf://datasets/owner/films@main/films.zip",
    ]
    for path in other:
        for repository in "owner/films", "":
            cells = converter(tmp_path, repository)
            assert cells.stored({"scan": {"bytes": None, "path": path}})["scan"]["bytes"] is None
    assert requests == []
    cells = converter(tmp_path, "owner/films")
    for path in "hf://datasets/owner/films@main/a.png", "hf://datasets/owner/films/a.png":
        cells.stored({"scan": {"bytes": None, "path": path}})
    assert len(requests) == 2


def write(folder, first, last, size=10):
    "Write rows as one call would; returns the record."
    record = SplitRecord(folder, "train")
    writer = SplitWriter(record, {"image": IMAGE_TYPE, "n": pa.int64()})
    for n in range(first, last):
        writer.add({"image": {"bytes": bytes(size), "path": None}, "n": n}, {"at": n})
    writer.close()
    return record


def test_groups_and_files_have_bounds(tmp_path, monkeypatch):
    write(tmp_path, 0, 150)
    metadata = pq.ParquetFile(tmp_path / "train-00000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 64, 22]
    monkeypatch.setattr(row_files, "GROUP_BYTES", 1000)
    monkeypatch.setattr(row_files, "FILE_BYTES", 3000)
    record = write(tmp_path, 150, 250, size=300)
    assert set(list(record.files.values())[1:-1]) == {12}  # three groups of four
    groups = pq.ParquetFile(tmp_path / "train-00001.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4, 4, 4]  # 1,200 bytes each
    rows = [n for f in sorted(tmp_path.glob("*.parquet")) for n in pq.read_table(f)["n"].to_pylist()]
    assert rows == list(range(250))


def test_what_a_killed_process_left_is_deleted_and_written_again(tmp_path):
    write(tmp_path, 0, 70)
    for left in "train-00001.parquet", "train-00001.parquet.tmp":  # without a record, and without its end
        (tmp_path / left).write_bytes(b"PAR1")
    (tmp_path / "train_b-00000.parquet").write_bytes(b"of another split")
    record = SplitRecord(tmp_path, "train")
    assert (record.rows, record.place) == (70, {"at": 69})
    write(tmp_path, 70, 90)
    assert sorted(p.name for p in tmp_path.glob("t*")) == [
        "train-00000.parquet",
        "train-00001.parquet",
        "train_b-00000.parquet",
    ]
    assert pq.read_table(tmp_path / "train-00001.parquet")["n"].to_pylist() == list(range(70, 90))
