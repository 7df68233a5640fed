"Images inside Parquet and tar files: what is found, and what is rejected."

import io
import json
import os
import tarfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radgen.core.errors import DataError
from radgen.data import archives
from radgen.data.archives import column_fault, image_columns, is_archive, is_tar, image_bytes, read_webdataset
from radgen.data.files import ImageError

CONTENTS = [f"image {i}".encode() for i in range(10)]


def write_tar(path, members, mode="w", kind=tarfile.GNU_FORMAT):
    "A tar file of (name, content) pairs; a content may also be a function that changes the header."
    with tarfile.open(path, mode, format=kind) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if callable(content):
                content(member)
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def assert_rejected(path, column, number, reason):
    with pytest.raises(ImageError) as e:
        image_bytes(path, column, number)
    assert reason in e.value.why
    assert str(path.parent) not in e.value.why


def test_is_archive_goes_by_name_or_by_the_first_bytes(tmp_path):
    assert is_archive("a.parquet")
    assert is_archive("a.TAR")
    assert is_archive("a.tar.gz")
    assert is_archive("a.bin", b"PAR1\x15\x04")
    assert not is_archive("a.dcm", b"\0" * 132)
    assert not is_archive("a.tar.png")
    assert is_tar("a.tgz")
    assert not is_tar("a.parquet")


# Parquet.


@pytest.mark.parametrize(
    "cells",
    [
        CONTENTS,
        pa.array(CONTENTS, pa.large_binary()),
        pa.array([c.ljust(9) for c in CONTENTS], pa.binary(9)),
        [{"bytes": c, "path": None} for c in CONTENTS],
        [{"path": "a.png", "bytes": c} for c in CONTENTS],
    ],
    ids=["binary", "large", "fixed", "struct", "with a path"],
)
@pytest.mark.parametrize("group", [1, 4, 100])
def test_parquet_gives_the_bytes_of_each_row(cells, group, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": cells, "second": cells}), path, row_group_size=group)
    for column in "", "image", "second":
        assert [image_bytes(path, column, i).strip() for i in range(10)] == CONTENTS
    assert image_columns(path) == ["image", "second"]
    assert_rejected(path, "", 10, "missing: a.parquet has 10 rows")


def test_parquet_group_is_read_once_for_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": CONTENTS}), path, row_group_size=5)
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **k: reads.append(group) or read(self, group, **k)
    )
    for i in range(10):
        image_bytes(path, "image", i)
    assert reads == [0, 1]


def test_threads_read_a_parquet_group_once(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": CONTENTS}), path, row_group_size=5)
    reads = []
    read = pq.ParquetFile.read_row_group

    def slow(self, group, **options):
        reads.append(group)
        time.sleep(0.05)
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", slow)
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda i: image_bytes(path, "image", i % 5), range(12)))[7] == b"image 2"
    assert reads == [0]


@pytest.mark.parametrize("nested", [True, False])
def test_a_row_group_that_unpacks_beyond_the_bound_is_rejected(nested, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000_000)
    path = tmp_path / "a.parquet"
    cells = [bytes([i]) * 100_000 for i in range(30)]
    table = pa.table({"image": [{"bytes": cell, "path": None} for cell in cells] if nested else cells})
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 20_000
    assert_rejected(path, "", 0, "too large: a row group of 3 MB, write it with row_group_size=64")
    pq.write_table(table, path, row_group_size=15, compression="zstd")
    assert image_bytes(path, "", 29) == cells[29]


def test_rows_without_images_and_values_of_one_length_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 500_000)
    path = tmp_path / "a.parquet"
    for column in pa.nulls(100_000, pa.binary()), pa.array([bytes(50_000)] * 60, pa.binary(50_000)):
        pq.write_table(pa.table({"image": column}), path)
        assert_rejected(path, "", 0, "too large: a row group of")


@pytest.mark.parametrize("nested", [True, False])
def test_a_value_of_many_rows_is_in_memory_once(nested, tmp_path):
    path = tmp_path / "a.parquet"
    value = bytes(200_000)
    cells = [{"bytes": value, "path": None} if nested else value] * 1000
    pq.write_table(pa.table({"image": cells}), path)
    before = pa.total_allocated_bytes()
    assert image_bytes(path, "", 999) == value
    assert pa.total_allocated_bytes() - before < 5_000_000


def test_parquet_that_took_the_place_of_another_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": CONTENTS}), path)
    assert image_bytes(path, "", 0) == b"image 0"
    pq.write_table(pa.table({"image": CONTENTS[::-1]}), path)
    os.utime(path, ns=(1, 1))
    assert image_bytes(path, "", 0) == b"image 9"


def test_columns_without_bytes_are_rejected_by_the_schema(tmp_path):
    path = tmp_path / "a.parquet"
    cells = {
        "text": ["a.png"],
        "named": [{"path": "a.png"}],
        "pixels": [[0, 1]],
        "nested": [{"bytes": "text", "path": "a.png"}],
    }
    pq.write_table(pa.table(cells), path)
    assert image_columns(path) == []
    for column in cells:
        assert f"column {column} of a.parquet has no bytes of images" in column_fault(path, column)
        assert_rejected(path, column, 0, "export it with the images embedded")
    assert_rejected(path, "png", 0, "the columns of a.parquet are text, named, pixels, nested, and none is png")


def test_empty_cells_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    cells = pa.array([{"bytes": None, "path": "a.png"}, None, {"bytes": b"x", "path": None}])
    pq.write_table(pa.table({"image": cells, "plain": pa.array([None, b"", b"x"])}), path)
    assert_rejected(path, "image", 0, "missing: the row names a file and has no bytes of it")
    assert_rejected(path, "image", 1, "missing")
    assert_rejected(path, "plain", 0, "missing")
    assert image_bytes(path, "plain", 1) == b""  # which is no image, as a file of 0 bytes is none
    assert image_bytes(path, "image", 2) == b"x"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"<html>"])
def test_damaged_parquet_is_one_sentence(content, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert_rejected(path, "image", 0, "unreadable")
    with pytest.raises(DataError, match=r"a.parquet in .* is not a readable Parquet file"):
        image_columns(path)


# Tar.


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_counts_images_in_the_order_of_the_file(kind, tmp_path):
    folder = "a/" * 30 + "ü/"
    members = [(f"{folder}{i:04}{e}", c) for i, c in enumerate(CONTENTS) for e, c in ((".txt", b"text"), (".PNG", c))]
    path = write_tar(tmp_path / "a.tar", members, kind=kind)
    assert [image_bytes(path, "", i) for i in range(10)] == CONTENTS
    assert_rejected(path, "", 10, "missing: a.tar has 10 images")
    assert_rejected(path, "png", 0, "a tar file has no column png")


def link(kind):
    "A function that makes a header of a link to a file elsewhere."

    def change(member):
        member.type, member.linkname = kind, "/etc/passwd"

    return change


def test_links_folders_and_names_that_lead_elsewhere(tmp_path, monkeypatch):
    members = [
        ("0.png", link(tarfile.SYMTYPE)),
        ("1.png", link(tarfile.LNKTYPE)),
        ("2.png", link(tarfile.FIFOTYPE)),
        ("._3.png", b"of a Mac"),
        ("../../4.png", b"four"),
        ("/etc/5.png", b"five"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    monkeypatch.chdir(tmp_path)
    assert [image_bytes(path, "", i) for i in range(2)] == [b"four", b"five"]
    assert_rejected(path, "", 2, "a.tar has 2 images")
    assert list(read_webdataset([path]).key) == ["../../4", "/etc/5"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_compressed_tar_is_rejected_with_advice(mode, name, tmp_path):
    path = write_tar(tmp_path / name, [("0.png", b"x")], mode)
    assert_rejected(path, "", 0, "compressed tar file")
    with pytest.raises(DataError, match="decompress it to a .tar file, with gunzip for .gz"):
        read_webdataset([path])


def test_truncated_and_damaged_tar(tmp_path):
    members = [(f"{i}.png", os.urandom(2000)) for i in range(4)]
    path = write_tar(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    for damaged in (b"", b"<html>", whole[:300], whole[:5000], whole[:2560] + b"?" * 512 + whole[3072:]):
        path.write_bytes(damaged)
        assert_rejected(path, "", 0, "unreadable")
        with pytest.raises(DataError, match=r"a.tar is (not a readable|a damaged) tar file .*: fetch it again"):
            read_webdataset([path])
    path.write_bytes(whole[: 4 * 2560])  # all members and no end, as a stream leaves it
    assert image_bytes(path, "", 3) == members[3][1]


def test_a_size_that_leads_back_ends_the_walk(tmp_path):
    "A negative size sends the standard library back to where it came from, for ever."
    path = write_tar(tmp_path / "a.tar", [("0.png", b"x" * 1000)])
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    assert_rejected(path, "", 0, "damaged tar file")


def test_missing_archives(tmp_path):
    for name in "a.tar", "a.parquet":
        assert_rejected(tmp_path / name, "", 0, "missing")
    with pytest.raises(DataError, match=r"a.tar is not a readable tar file \(No such file"):
        read_webdataset([tmp_path / "a.tar"])


# WebDataset.


def test_webdataset_has_a_row_for_each_sample(tmp_path):
    fields = {
        "age": 40,
        "right": True,
        "none": None,
        "labels": ["a", "b", 3],
        "deep": {"a": 1},
        "lists": [[1]],
        "size": 1.5,
    }
    first = write_tar(
        tmp_path / "train-000.tar",
        [
            ("d/0.jpg", b"zero"),
            ("d/0.txt", "\ufeffÖdem \n".encode()),
            ("d/0.json", json.dumps(fields | {"image": "x", "key": "y"}).encode()),
            ("d/0.npy", b"skipped"),
            ("d/1.png", b"one"),
            ("d/1.cls", b"7"),
            ("d/1.findings.txt", b"clear"),
        ],
    )
    second = write_tar(tmp_path / "train-001.tar", [("2.jpg", b"two"), ("2.caption", b"a CT")])
    table = read_webdataset([first, second])
    assert list(table.key) == ["d/0", "d/1", "2"]
    assert list(table.image) == [f"{first}#0", f"{first}#1", f"{second}#0"]
    assert list(table.text) == ["Ödem", "", ""]
    cells = {"age": "40", "right": "True", "none": "", "labels": "a;b;3", "a": "1", "lists": "1", "size": "1.5"}
    assert table.loc[0, list(cells)].to_dict() == cells
    assert list(table.columns) == ["key", "image", "text", *cells, "cls", "findings", "caption"]
    assert list(table.cls) == ["", "7", ""]
    assert list(table.findings) == ["", "clear", ""]
    assert list(table.caption) == ["", "", "a CT"]
    assert table.map(type).eq(str).all().all()
    path, _, number = table.image[1].rpartition("#")
    assert image_bytes(path, "", int(number)) == b"one"


def test_image_of_a_sample_is_the_one_with_the_plain_name(tmp_path):
    members = [("0.mask.png", b"mask"), ("0.png", b"image"), ("1.left.png", b"left"), ("1.right.png", b"right")]
    path = write_tar(tmp_path / "a.tar", members)
    assert list(read_webdataset([path]).image) == [f"{path}#1", f"{path}#2"]


def test_incomplete_samples_and_keys_that_come_again(tmp_path):
    members = [
        ("0.png", b"x"),
        ("1.txt", b"no image"),
        ("2.png", b""),
        ("2.json", b"{damaged"),
        ("3.png", b"a"),
        ("3.txt", b"first"),
        ("3.png", b"b"),
        ("3.txt", b"again"),
        ("0.png", b"y"),
        ("4.png", b"c"),
        ("4.json", b"[1, 2]"),
        ("5.png", b"d"),
        ("5.json", b"[" * 100_000),
        ("6.txt", b"\xff\xfe text"),
        ("7.json", b'{"text": "half \\ud800", "\\udfff": "1"}'),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    table = read_webdataset([path])
    assert list(table.key) == ["0", "1", "2", "3", "3", "0", "4", "5", "6", "7"]
    numbers = [image.rpartition("#")[2] for image in table.image]
    assert numbers == ["0", "", "1", "2", "3", "4", "5", "6", "", ""]
    assert list(table.text) == ["", "no image", "", "first", "again", "", "", "", "\ufffd\ufffd text", "half ?"]


def test_text_beats_the_field_of_the_same_name(tmp_path):
    for names in ("0.txt", "0.json"), ("0.json", "0.txt"):
        content = {"0.txt": b"of the text", "0.json": b'{"text": "of the field"}'}
        path = write_tar(tmp_path / f"{names[0]}.tar", [(n, content[n]) for n in names])
        assert read_webdataset([path]).text[0] == "of the text"


def test_a_text_and_a_field_of_one_key_are_one_column(tmp_path):
    for spelling in "Caption", "caption ", "CAPTION":
        fields = json.dumps({spelling: "of the field", "Patient Age": 40, "": "x"}).encode()
        path = write_tar(tmp_path / "a.tar", [("0.caption", b"of the text"), ("0.json", fields)])
        table = read_webdataset([path])
        assert list(table.columns) == ["key", "image", "caption", "patient_age"]
        assert table.caption[0] == "of the text"


def test_no_field_takes_the_place_of_the_image_or_the_key(tmp_path):
    fields = json.dumps({"Image": "/etc/passwd", "KEY": "x", "text": "a CT"}).encode()
    path = write_tar(
        tmp_path / "a.tar", [("0.png", b"x"), ("0.json", fields), ("1.json", fields), ("1.image.txt", b"y")]
    )
    table = read_webdataset([path])
    assert list(table.columns) == ["key", "image", "text"]
    assert list(table.image) == [f"{path}#0", ""]
    assert list(table.key) == ["0", "1"]


def test_json_of_many_lists_is_damaged_or_text(tmp_path):
    for depth in range(50, 1200, 50):
        fields = b'{"a": ' + b"[" * depth + b"]" * depth + b', "text": "b"}'
        path = write_tar(tmp_path / f"{depth}.tar", [("0.json", fields)])
        assert set(read_webdataset([path]).iloc[0]) <= {"0", "", "b"}


def test_fields_without_end_are_rejected(tmp_path):
    fields = json.dumps({f"f{i}": i for i in range(1000)}).encode()
    path = write_tar(tmp_path / "a.tar", [("0.json", fields)])
    with pytest.raises(DataError, match="more than 200 fields in its JSON"):
        read_webdataset([path])


def test_empty_webdataset_has_its_columns(tmp_path):
    assert list(read_webdataset([write_tar(tmp_path / "a.tar", [])]).columns) == ["key", "image"]
    assert list(read_webdataset([]).columns) == ["key", "image"]


def test_webdataset_needs_memory_for_its_text_alone(tmp_path):
    noise = np.random.default_rng(0).bytes(200_000)
    members = [(f"{i}{e}", c) for i in range(200) for e, c in ((".png", noise), (".txt", b"text"))]
    path = write_tar(tmp_path / "a.tar", members)
    tracemalloc.start()
    table = read_webdataset([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 200
    assert peak < 4_000_000 < path.stat().st_size / 10


def test_first_look_at_a_webdataset_reads_its_beginning_alone(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", c) for i, c in enumerate(CONTENTS)])
    path.write_bytes(path.read_bytes()[:5000])  # truncated behind the fourth
    assert list(read_webdataset([path], most=3).key) == ["0", "1", "2"]


def test_index_of_a_tar_file_is_built_once(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [(f"{i}.png", c) for i, c in enumerate(CONTENTS)])
    opened = []
    open_tar = archives._open_tar
    monkeypatch.setattr(archives, "_open_tar", lambda path: opened.append(path) or open_tar(path))
    for i in range(10):
        image_bytes(path, "", i)
    assert len(opened) == 1
