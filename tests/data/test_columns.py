"The columns of real data sets are found by their names, an option overrules a name, and cells decide where names lie."

from pathlib import Path

import pandas as pd
import pytest

from radgen.core.errors import DataError
from radgen.data.columns import guess_columns
from radgen.data.source_options import SourceOptions

HEADERS = {  # data set: header, first row -> image, caption, id, group
    "NIH": (
        ["image_index", "finding_labels", "follow_up_#", "patient_id", "report"],
        ["1.png", "Mass", "0", "1", "t"],
        ("image_index", ("report",), "", "patient_id"),
    ),
    "PadChest": (
        ["imageid", "studyid", "patientid", "report", "labels"],
        ["1.png", "s", "p", "t", "['normal']"],
        ("imageid", ("report",), "", "patientid"),
    ),
    "ImageFolder": (["file_name", "text"], ["a.png", "t"], ("file_name", ("text",), "", "")),
    "ROCO on the hub": (
        ["image", "image_id", "caption", "cui"],
        ["a.png", "x", "t", "C0040405"],
        ("image", ("caption",), "image_id", ""),
    ),
    "sections": (
        ["path", "findings", "impression", "study_id"],
        ["a/b.jpg", "f", "i", "s1"],
        ("path", ("findings", "impression"), "", "study_id"),
    ),
    "a description called image": (
        ["uid", "image", "filename", "impression"],
        ["1", "Xray Chest PA and Lateral", "1_IM-0001.dcm.png", "i"],
        ("filename", ("impression",), "uid", "uid"),
    ),
    "patient before study": (
        ["img_path", "report", "study_id", "subject_id"],
        ["a.jpg", "t", "s", "p"],
        ("img_path", ("report",), "", "subject_id"),
    ),
}


def guess(header, row, **options):
    return guess_columns(header, pd.DataFrame([row], columns=header), SourceOptions(Path("t.csv"), **options), "t.csv")


@pytest.mark.parametrize("header, row, want", HEADERS.values(), ids=list(HEADERS))
def test_columns_of_known_data_sets_are_found(header, row, want):
    found = guess(header, row)
    assert (found.image, found.caption, found.id, found.group) == want


def test_a_column_of_words_is_not_one_of_cuis():
    assert guess(["image", "text", "concepts"], ["a.png", "t", "chest; effusion"]).cuis == ""
    assert guess(["image", "text", "concepts"], ["a.png", "t", "['C0040405' 'C0817096']"]).cuis == "concepts"
    assert guess(["image", "text", "concepts"], ["a.png", "t", "chest"], concepts="data").cuis == "concepts"


def test_an_option_names_any_column():
    found = guess(["a_b", "c", "d"], ["1", "2", "3"], image_column="A B", caption_column="c", group_column="d")
    assert (found.image, found.caption, found.group) == ("a_b", ("c",), "d")
    with pytest.raises(DataError, match="no column e in t.csv, which --caption-column names: its columns are a, b."):
        guess(["a", "b"], ["1", "2"], caption_column="e")


def test_what_is_lacking_is_said_with_the_columns_that_are_there():
    with pytest.raises(DataError, match="hold the text of an image: name it by --caption-column; .* image, befund."):
        guess(["image", "befund"], ["a.png", "t"])


def test_hash_ignores_the_column_of_splits():
    assert guess(["image", "text", "split"], ["a.png", "t", "train"], split_column="hash").split == ""
    assert guess(["image", "text", "split"], ["a.png", "t", "train"]).split == "split"


def test_labels_are_columns_that_the_option_names():
    found = guess(["path", "text", "edema", "no_finding"], ["a.png", "t", "1", ""], concepts="labels:Edema,No Finding")
    assert found.labels == ("edema", "no_finding")
    assert set(found.wanted()) >= {"edema", "no_finding"}
