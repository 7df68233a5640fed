"Tables of rewritten captions: layouts, foreign wordings, and files that are refused."

import pandas as pd
import pytest
from audit_cases import CELLS, CT, NAMES, table, write_csv

from radgen.captions.audit import audit
from radgen.captions.audit_files import read_captions, read_rewriting
from radgen.captions.facts import type_of
from radgen.core.errors import ConfigError, DataError


def write_prepared(folder):
    "A prepared folder with a row that was dropped."
    folder.mkdir()
    rows = table().assign(keep=True)
    dropped = rows[:1].assign(id="dropped", transformed="", keep=False)
    pd.concat([rows, dropped]).to_parquet(folder / "table.parquet")
    pd.Series(NAMES).to_json(folder / "names.json")
    return folder


def test_read_captions_reads_every_layout_alike(tmp_path):
    expected = audit(table(), NAMES).rows.kinds.tolist()
    short = [cells[:4] for cells in CELLS]
    verdicts = {
        write_csv(tmp_path / "ours.csv"): {"ok"},
        write_csv(tmp_path / "llama.csv", short, ("ID", "Caption", "CUIs", "Keywords")): {""},
        write_csv(tmp_path / "lower.csv", short, ("id", "caption", "cuis", "transformed")): {""},
        write_prepared(tmp_path / "prepared"): {"ok", "rules"},
    }
    for path, expected_verdicts in verdicts.items():
        file = read_captions(path)
        assert file.label == path.stem
        assert file.names == NAMES, path
        assert list(file.table) == ["id", "caption", "cuis", "transformed", "verdict"], path
        assert audit(file.table, file.names).rows.kinds.tolist() == expected, path
        assert set(file.table.verdict) == expected_verdicts, path


def test_read_captions_takes_names_from_another_file(tmp_path):
    path = write_csv(tmp_path / "ours.csv")
    (tmp_path / "cui_mapping.csv").rename(tmp_path / "other.csv")
    with pytest.raises(ConfigError, match="no cui_mapping.csv lies beside .*give --names"):
        read_captions(path)
    assert read_captions(path, tmp_path / "other.csv").names == NAMES


HEAD = "ID,Caption,CUIs,Transformed\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "x.csv in .* is empty: it needs the header ID,Caption,CUIs"),
        (HEAD.encode(), "has a header and no rows"),
        (b"ID,Caption,Transformed\n1,a,b\n", "no column CUIs in x.csv"),
        (b"ID,Caption,CUIs\n1,a,C0040405\n", "no column Transformed or Keywords in x.csv.*radgen captions rewrite"),
        ((HEAD + "1,é,C0040405,x\n").encode("latin-1"), "is not a readable CSV.*save it as UTF-8"),
        (
            (HEAD + "1,a,C0040405,\n2,b,C0040405,x\n").encode(),
            "1 of 2 rows have no rewritten caption in .*the first is 1.*write 'invalid'",
        ),
        ((HEAD + "1,,C0040405,x\n2, ,C0040405,x\n").encode(), "no row has a source caption"),
        ((HEAD + "1,a,chest,x\n").encode(), "'chest' of 1 in .* is no CUI"),
        ((HEAD + "1,a,C0040405,x,y\n").encode(), "more cells in a row than in its header"),
        (b"ID,Caption,caption,CUIs,Transformed\n1,a,a,C0040405,x\n", "has the column caption twice"),
    ],
)
def test_read_captions_refuses_a_csv(tmp_path, content, message):
    path = write_csv(tmp_path / "x.csv")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(path)


def test_read_captions_refuses_what_is_no_prepared_folder(tmp_path):
    with pytest.raises(DataError, match="there is no folder or file"):
        read_captions(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="is not a prepared folder"):
        read_captions(tmp_path)
    file = tmp_path / "table.parquet"
    file.write_text("no")
    with pytest.raises(DataError, match="is not a readable Parquet file.*run radgen prepare again"):
        read_captions(tmp_path)
    rows = table()
    for content, message in (
        (rows.drop(columns="transformed"), "no column transformed in"),
        (rows.assign(transformed=[None, *rows.transformed[1:]]), f"1 of {len(rows)} rows have no rewritten caption"),
        (rows.assign(keep=False), "holds no rows that are kept"),
    ):
        content.to_parquet(file)
        with pytest.raises(DataError, match=message):
            read_captions(tmp_path)


def test_read_captions_keeps_a_row_with_an_empty_source_caption(tmp_path):
    text = "Computed tomography, Unspecified region, Unspecified view, Normal"
    file = read_captions(write_csv(tmp_path / "x.csv", [("1", "", CT, text, "", ""), CELLS[0]]))
    a = audit(file.table, file.names)
    assert a.rows.kinds.tolist() == [[], []]
    assert a.totals.coverage == 1


@pytest.mark.parametrize(
    "text, record, in_template",
    [
        (
            "Image: Angiogram\nBody Part: Heart\nView of Image: Left ventricle\nPatient's Condition: Hypokinesis",
            ("Angiogram", "Heart", "Left ventricle", "Hypokinesis"),
            False,
        ),
        (
            "X-ray, Chest, Front View of Patient with Goiter",
            ("X-ray", "Chest", "Front View of Patient with Goiter", "Front View of Patient with Goiter"),
            False,
        ),
        ("X-ray, Chest, PA, Normal.", ("X-ray", "Chest", "PA", "Normal"), True),
    ],
)
def test_read_rewriting_understands_a_foreign_line(text, record, in_template):
    assert read_rewriting(text) == (record, in_template)


@pytest.mark.parametrize("text", ["", ",", "\n", "{", "{}", "[]", "a" * 5000, "|||,,,", "🩻"])
def test_read_rewriting_takes_any_text(text):
    record, _ = read_rewriting(text)
    assert len(record) == 4


def test_type_of_knows_the_words_of_other_authors():
    for kind, words in {
        "Ultrasonography": ("Echocardiogram", "Sonogram", "Ultrasound image", "Doppler ultrasound"),
        "Computed tomography": ("CT", "CT scan", "Computed Tomography image"),
        "X-ray": ("X-Ray", "Plain X-ray", "Panoramic X-ray"),
    }.items():
        assert {type_of(word) for word in words} == {kind}
