"Columns of text tables: every cell as text, whatever the file, and one sentence for what is damaged."

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radgen.core.errors import DataError
from radgen.data.cells import column_key, first_rows, read_cells, read_columns, table_header

ROWS = [["007", "None"], ["008", 'NA, K and "Cl"\nin line two'], ["", "=1+1"], ["1e5", " blank "]]


WRITTEN = {  # kind of file -> its name, the method of a data frame, and its options
    "commas": ("t.csv", "to_csv", {"index": False}),
    "semicolons": ("t.csv", "to_csv", {"index": False, "sep": ";"}),
    "Windows": ("t.csv", "to_csv", {"index": False, "encoding": "utf-8-sig", "lineterminator": "\r\n"}),
    "tabs": ("t.tsv", "to_csv", {"index": False, "sep": "\t"}),
    "JSON Lines": ("t.jsonl", "to_json", {"orient": "records", "lines": True}),
    "JSON": ("t.json", "to_json", {"orient": "records"}),
    "Parquet": ("t.parquet", "to_parquet", {}),
}


@pytest.mark.parametrize("name, method, options", WRITTEN.values(), ids=list(WRITTEN))
def test_every_cell_is_the_text_that_was_written(name, method, options, tmp_path):
    path = tmp_path / name
    getattr(pd.DataFrame(ROWS, columns=["ID", "The Text"]), method)(path, **options)
    assert table_header(path) == ["id", "the_text"]
    assert read_columns(path, ["id", "the_text"]).values.tolist() == ROWS
    assert read_columns(path, ["the_text"]).values.tolist() == [[row[1]] for row in ROWS]
    assert first_rows(path, 2).values.tolist() == ROWS[:2]


def test_rows_with_fewer_cells_are_filled(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2\n3,4,5\n")
    assert read_columns(tmp_path / "t.csv", ["a", "c"]).values.tolist() == [["1", ""], ["3", "5"]]


def test_a_quotation_mark_inside_a_cell_is_a_character(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n5" tube,x\n7,y\n')
    assert read_columns(tmp_path / "t.csv", ["a", "b"]).values.tolist() == [['5" tube', "x"], ["7", "y"]]


DAMAGED = {
    "open quote in the first row": ('a,b\n1,"x\n2,y\n', "a quotation mark opens in row 1 and never closes"),
    "open quote in a later row": ('a,b\n1,x\n2,"y\n', "a quotation mark opens in row 2 and never closes"),
    "too many cells": ("a,b\n1,x\n2,y,z\n", "quote cells that hold commas"),
    "more cells in every row": ("a,b\n1,x,z\n2,y,z\n", "quote cells that hold commas"),
    "nothing": ("", "is empty: it needs a header"),
    "empty header": (",,\n1,2,3\n", "is empty: it needs a header"),
    "other column": ("a,c\n1,2\n", "no column b in t.csv in .*: its columns are a, c."),
    "twice": ("a,b,B\n1,2,3\n", "has the column b twice: rename one of them"),
}


@pytest.mark.parametrize("text, message", DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_csv_is_one_sentence(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_columns(tmp_path / "t.csv", ["a", "b"])


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no UTF-8: save it as UTF-8"):
        read_columns(tmp_path / "t.csv", ["a", "b"])
    (tmp_path / "t.csv").write_bytes("a,b\n1,é\n".encode("utf-16"))
    with pytest.raises(DataError, match="is encoded in UTF-16: save it as UTF-8"):
        table_header(tmp_path / "t.csv")


@pytest.mark.parametrize("text, message", [('{"a": 1}\n{"a":', "line 2 .* is no JSON"), ("[1]\n", "is no object")])
def test_damaged_json_is_one_sentence(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_columns(tmp_path / "t.jsonl", ["a"])


def test_lists_and_numbers_become_text(tmp_path):
    cells = {"cui": [["C1", "C2"], [], None], "n": pa.array([1, None, 3]), "x": [0.5, 2.0, None]}
    pq.write_table(pa.table(cells), tmp_path / "t.parquet")
    want = [["C1;C2", "1", "0.5"], ["", "", "2"], ["", "3", ""]]
    assert read_columns(tmp_path / "t.parquet", ["cui", "n", "x"]).values.tolist() == want


@pytest.mark.parametrize("name", ["Image Path", "image_path", "IMAGE-PATH", "\ufeff image\u200b path ", '"Image Path"'])
def test_names_of_columns_are_compared_without_their_spelling(name):
    assert column_key(name) == "image_path"


def test_a_fixed_header_is_required(tmp_path):
    (tmp_path / "t.csv").write_text("cui,Canonical Name\n")
    with pytest.raises(DataError, match="has a header and no rows"):
        read_cells(tmp_path / "t.csv", ("CUI", "Canonical name"))
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(DataError, match="it needs the header CUI,Canonical name"):
        read_cells(tmp_path / "t.csv", ("CUI", "Canonical name"))
    with pytest.raises(DataError, match="no file none.csv in .*: give it"):
        read_cells(tmp_path / "none.csv", ("CUI",), missing="give it")


def test_a_long_table_is_read_in_blocks(tmp_path, monkeypatch):
    "Rows that lie across two blocks, with line breaks in cells."
    monkeypatch.setattr("radgen.data.cells.BLOCK", 1000)
    rows = [[str(i), f"text {i},\nline two" * (i % 5)] for i in range(500)]
    pd.DataFrame(rows, columns=["a", "b"]).to_csv(tmp_path / "t.csv", index=False)
    assert read_columns(tmp_path / "t.csv", ["a", "b"]).values.tolist() == rows


def test_of_two_columns_with_one_name_the_first_is_looked_at(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,A\n1,2,3\n4\n")
    first = first_rows(tmp_path / "t.csv")
    assert first.a.tolist() == ["1", "4"]
    assert first.b.tolist() == ["2", ""]


def test_the_beginning_of_a_very_wide_table_is_read_at_once(tmp_path):
    header = ",".join(f"c{i}" for i in range(20_000))
    (tmp_path / "t.csv").write_text(header + "\n" + ",".join(["x"] * 20_000) + "\n")
    assert first_rows(tmp_path / "t.csv").shape == (1, 20_000)


OPEN_QUOTES = {
    "in two rows": 'a,b\n1,"x\n2,"y\n3,z\n',
    "in two rows of the last column": 'a,b\n1,x\n2,"y\n3,z\n4,say "w"\n5,"v\n',
}


@pytest.mark.parametrize("text", OPEN_QUOTES.values(), ids=list(OPEN_QUOTES))
def test_two_open_quotation_marks_swallow_no_row(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=r"opens in row \d and closes in the middle of a later line\): close it, or"):
        read_columns(tmp_path / "t.csv", ["a", "b"])


def test_marks_inside_cells_and_cells_of_several_lines_are_read(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n1,5" tube\n2,"x\ny, ""z"""\n3,3" mass\n')
    assert read_columns(tmp_path / "t.csv", ["b"]).b.tolist() == ['5" tube', 'x\ny, "z"', '3" mass']


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named_also_without_a_mark(encoding, tmp_path):
    (tmp_path / "t.csv").write_bytes("image,text\na.png,x\n".encode(encoding))
    with pytest.raises(DataError, match="UTF-(16|32).*: save it as UTF-8"):
        table_header(tmp_path / "t.csv")


def test_invisible_characters_at_the_ends_of_cells_are_none(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n\u200bx.png,\ufefftrain\ny.png\u200b,test\u2060\n", encoding="utf-8")
    want = [["x.png", "train"], ["y.png", "test"]]
    assert read_columns(tmp_path / "t.csv", ["a", "b"]).values.tolist() == want
    assert first_rows(tmp_path / "t.csv").values.tolist() == want


RECORD = {"image": "a.png", "report": {"findings": "Clear.", "id": 7}, "concepts": [{"cui": "C1"}, {"cui": "C2"}]}


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet"])
def test_records_within_a_row_are_columns(name, tmp_path):
    path = tmp_path / name
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist([RECORD, RECORD | {"report": None}]), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in (RECORD, RECORD | {"report": None})))
    assert set(table_header(path)) - {"report"} == {"image", "findings", "report_id", "cui"}
    want = [["a.png", "Clear.", "7", "C1;C2"], ["a.png", "", "", "C1;C2"]]
    assert read_columns(path, ["image", "findings", "report_id", "cui"]).values.tolist() == want
    assert first_rows(path).findings.tolist() == ["Clear.", ""]


def test_json_in_the_lines_or_the_list_of_the_other_kind(tmp_path):
    rows = [{"a": "1"}, {"a": "2"}]
    (tmp_path / "t.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.jsonl").write_text(json.dumps(rows, indent=1))
    for name in ("t.json", "t.jsonl"):
        assert read_columns(tmp_path / name, ["a"]).a.tolist() == ["1", "2"]
