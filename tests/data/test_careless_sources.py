"What people's own folders get wrong: each is read, or named in one sentence, and nothing is left out in silence."

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from dicom_files import dataset
from PIL import Image

from radgen.core.errors import ConfigError, DataError
from radgen.data.files import ImageError
from radgen.data.images import frame_names, image_fault, load_grey
from radgen.data.source_options import SourceOptions
from radgen.data.sources import read_data, source_files


def read(path, **options):
    "The data of a source."
    return read_data(SourceOptions(path, **options))


def scan(path):
    "A small image; returns its path."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    "A folder of two images in a subfolder."
    for name in ("a.jpg", "b.PNG"):
        scan(tmp_path / "source" / "scans" / name)
    return tmp_path / "source"


def table(folder, images, texts=None, name="list.csv"):
    "Write a table of images and texts; returns its path."
    rows = {"image": images, "text": texts or [f"Chest X-ray {i}" for i in range(len(images))]}
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder / name


SPELLINGS = {
    "another case of the extension": ["scans/a.JPG", "scans/b.png"],
    "another case of the name": ["scans/A.jpg", "scans/B.png"],
    "no extension, and files of two kinds": ["scans/a", "scans/b"],
    "no folder, and another case": ["A.JPG", "B.PNG"],
    "neither folder nor extension": ["a", "b"],
    "paths of Windows": ["C:\\data\\scans\\a.jpg", "C:\\data\\scans\\b.PNG"],
    "paths of Windows in one row only": ["scans\\a.jpg", "scans/b.PNG"],
    "addresses of files": ["file:///home/x/scans/a.jpg", "file://localhost/home/x/scans/b.PNG"],
    "addresses of Windows": ["file:///C:/x/scans/a.jpg", "file:///C:/x/scans/%62.PNG"],
    "paths of another computer": ["/home/x/scans/a.jpg", "/home/x/scans/b.PNG"],
}


@pytest.mark.parametrize("images", SPELLINGS.values(), ids=list(SPELLINGS))
def test_files_are_found_in_other_spellings(folder, images, capsys):
    found = read(table(folder, images)).table
    assert [os.path.basename(image) for image in found.image] == ["a.jpg", "b.PNG"]
    assert "not there" not in capsys.readouterr().err


def test_a_spelling_that_fits_two_files_fits_none(folder):
    scan(folder / "scans" / "A.jpg")
    data = read(table(folder, ["scans/a.JPG", "scans/b.PNG"]))
    assert len(data.table) == 1 and data.rejects.reason.tolist() == ["image missing"]


def test_other_spellings_lead_out_of_no_folder(folder):
    scan(folder.parent / "secret.png")
    data = read(table(folder, ["../SECRET.png", "..\\secret", "/x/../../secret.png", "scans/a.jpg"]))
    assert len(data.table) == 1 and len(data.rejects) == 3


def test_paths_that_are_nowhere_get_advice_that_can_be_followed(folder, capsys):
    read(table(folder, ["C:\\data\\x.png", "C:\\data\\y.png"]))
    assert "are those of another computer" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "NULL", "n/a", "-", "1.0", " . "])
def test_words_for_no_text_are_no_caption(folder, text):
    data = read(table(folder, ["scans/a.jpg", "scans/b.PNG"], ["Chest X-ray", text]))
    assert len(data.table) == 1
    assert data.rejects.reason.tolist() == [f"no caption: the text is {text.strip()}"]


def test_words_for_no_text_are_no_section_of_a_report(folder):
    rows = {"image": ["scans/a.jpg"], "findings": ["nan"], "impression": ["No effusion."]}
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False)
    assert read(folder / "list.csv").table.caption.tolist() == ["IMPRESSION: No effusion."]


def test_captions_in_other_scripts_are_captions(folder):
    texts = ["胸部X線", "Рентген"]
    assert read(table(folder, ["scans/a.jpg", "scans/b.PNG"], texts)).table.caption.tolist() == texts


def test_a_row_without_an_image_is_named_by_its_number(folder):
    rejects = read(table(folder, ["scans/a.jpg", ""])).rejects
    assert rejects[["id", "reason"]].values.tolist() == [["row 2", "image missing"]]


def test_concepts_may_be_unknown(folder):
    rows = {"image": ["scans/a.jpg", "scans/b.PNG"], "text": ["x", "y"], "cuis": ["C0040405", "nan"]}
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False)
    data = read(folder / "list.csv")
    assert data.table.cuis.tolist() == [["C0040405"]] and data.rejects.reason.tolist() == ["no CUIs"]


HEADS = {
    "blank lines": "\n \n",
    "the separator for Excel": "sep=;\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))
def test_lines_before_the_header_are_skipped(folder, head):
    text = head + 'image;text\nscans/a.jpg;a "quoted\nscans/b.PNG;b\n'
    (folder / "list.csv").write_text(text)
    assert read(folder / "list.csv").table.caption.tolist() == ['a "quoted', "b"]
    (folder / "list.csv").write_text(head + "image;text\nscans/a.jpg;a\nscans/b.PNG;b\n")
    assert read(folder / "list.csv").table.caption.tolist() == ["a", "b"]


def test_commas_in_a_file_called_tsv(folder):
    shutil.move(table(folder, ["scans/a.jpg", "scans/b.PNG"]), folder / "list.tsv")
    assert len(read(folder / "list.tsv").table) == 2


def test_a_quotation_mark_that_closes_in_another_cell(folder):
    (folder / "list.csv").write_text('image,text\nscans/a.jpg,x\nscans/a.jpg,"open\nscans/b.PNG,"x, y"\n')
    message = "row 2 has 3 cells and the header 2.: quote cells that hold commas, and close each quotation mark"
    with pytest.raises(DataError, match=message):
        read(folder / "list.csv")


JSON = {
    "a column of cells by number": {"image": {"0": "scans/a.jpg", "1": "scans/b.PNG"}, "text": {"0": "x", "1": "y"}},
    "a list for each column": {"image": ["scans/a.jpg", "scans/b.PNG"], "text": ["x", "y"]},
    "a list for each split": {
        "train": [{"image": "scans/a.jpg", "text": "x"}],
        "val": [{"image": "scans/b.PNG", "text": "y"}],
        "test": [],
    },
    "images with annotations, as in COCO": {
        "images": [{"id": 1, "file_name": "scans/a.jpg"}, {"id": 2, "file_name": "scans/b.PNG"}],
        "annotations": [{"id": 8, "image_id": 1, "caption": "x"}, {"id": 9, "image_id": 2, "caption": "y"}],
    },
    "an object for each name": {
        "one": {"image": "scans/a.jpg", "text": "x"},
        "two": {"image": "scans/b.PNG", "text": "y"},
    },
}


@pytest.mark.parametrize("content", JSON.values(), ids=list(JSON))
def test_json_in_other_orders(folder, content):
    (folder / "list.json").write_text(json.dumps(content))
    assert read(folder / "list.json").table.caption.tolist() == ["x", "y"]


@pytest.mark.parametrize("name, text", [("list.json", '{"a":' * 100_000), ("list.jsonl", "[" * 100_000)])
def test_json_without_end_is_one_sentence(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(DataError, match="is no JSON .*: correct it."):
        read(folder / name)


def test_cells_that_hold_the_image_itself_are_no_names_of_files(folder):
    rows = pd.DataFrame({"image": ["/9j/4AAQSkZJRg" * 200] * 2, "text": ["x", "y"]})
    rows.to_parquet(folder / "list.parquet")
    with pytest.raises(DataError, match="the cells of image are not names of files.: name it by --image-column") as e:
        read(folder / "list.parquet")
    assert len(str(e.value)) < 300


def test_all_columns_that_are_lacking_are_named_at_once(folder):
    (folder / "list.csv").write_text("bild,befund\nscans/a.jpg,x\n")
    with pytest.raises(DataError, match="name them by --image-column and --caption-column; .* bild, befund."):
        read(folder / "list.csv")


def test_pipes_are_not_waited_for(folder):
    for name in ("list.tsv", "scans/a.txt", "scans/pipe.png", "scans/pipe.dcm"):
        os.mkfifo(folder / name)
    options = SourceOptions(table(folder, ["scans/pipe.png", "scans/pipe.dcm", "scans/b.PNG"]))
    assert read_data(options).rejects.reason.tolist() == ["image unreadable: not a file"] * 2
    assert folder / "scans/pipe.png" not in source_files(options)
    assert folder / "list.tsv" not in source_files(SourceOptions(folder))
    assert len(read(folder).table) == 1
    with pytest.raises(DataError, match="list.tsv is a pipe or a device: give --data-path"):
        read(folder / "list.tsv")


def test_tables_and_images_that_are_left_out_are_named(folder, capsys):
    scans = folder / "scans"
    table(scans, ["a.jpg"], name="metadata.csv")
    shutil.copy(scans / "metadata.csv", folder / "test.csv")
    (scans / "metadata.jsonl").write_text('{"image": "a.jpg", "text": "Chest X-ray"}\n')
    assert len(read(folder).table) == 1
    said = capsys.readouterr().err
    assert "test.csv is not read: metadata.csv is read instead." in said
    assert "scans/metadata.jsonl is not read: metadata.csv is read instead." in said
    assert "1 images are in no row of the tables, for example scans/b.PNG." in said


def test_texts_that_belong_to_no_image_are_named(folder, capsys):
    (folder / "scans" / "a.jpg.txt").write_text("Chest X-ray")
    (folder / "scans" / "c.txt").write_text("Chest CT")
    data = read(folder)
    assert data.table.caption.tolist() == ["Chest X-ray"]
    assert data.rejects.reason.tolist() == ["no caption: no text file of the same name"]
    assert "1 text files belong to no image: scans/c.txt." in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, message",
    [
        ("list.xlsx", "list.xlsx, which is not read; save the sheet as CSV"),
        ("list.csv.gz", "list.csv.gz, which is not read; unpack it"),
        ("texts/a.txt", "1 .txt files of other names or in other folders; put each text beside its image"),
    ],
)
def test_a_text_that_is_there_is_not_called_missing(folder, name, message):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=message):
        read(folder)


@pytest.mark.parametrize("name, message", [("a.nii.gz", "the folder that it belongs to"), ("a.txt", ".csv or .tsv")])
def test_a_single_file_gets_its_own_advice(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_an_image_root_without_a_table_is_an_error(folder, tmp_path):
    (folder / "scans" / "a.txt").write_text("Chest X-ray")
    with pytest.raises(ConfigError, match="--image-root names the images of a table, and this source is text files"):
        source_files(SourceOptions(folder, image_root=tmp_path))


def test_a_number_of_a_frame_is_for_files_with_several(tmp_path):
    frames = [Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (10, 90)]
    frames[0].save(tmp_path / "one.tif")
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    assert frame_names(tmp_path / "one.tif", 5) == [str(tmp_path / "one.tif")]
    assert image_fault(f"{tmp_path}/two.tif#5") == "image unreadable: there is no image 5, the file has 2"


def test_a_tiff_of_another_kind_says_how_to_save_it(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((32, 32)))
    assert "of a kind that is not read, save it with whole numbers of 8, 16 or 32 bits" in image_fault(
        tmp_path / "a.tif"
    )
    tifffile.imwrite(tmp_path / "b.tif", np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32))
    assert load_grey(tmp_path / "b.tif").std() > 50


def test_text_and_reports_called_dcm_have_their_own_reasons(tmp_path):
    (tmp_path / "text.dcm").write_text("hello, this is no DICOM file but text " * 10)
    assert image_fault(tmp_path / "text.dcm") == "image unreadable: not an image"
    report = dataset(np.zeros((32, 32), np.uint16))
    del report.PixelData
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match="a DICOM file without pixels"):
        load_grey(tmp_path / "report.dcm")


@pytest.mark.parametrize(
    "cell", [["scans/a.jpg", "scans/b.PNG"], "['scans/a.jpg' 'scans/b.PNG']", "scans/a.jpg; scans/b.PNG"]
)
def test_a_cell_with_several_images_gives_a_row_for_each(folder, cell, capsys):
    rows = [{"id": "one", "image": cell, "text": "Chest X-ray"}, {"id": "two", "image": "scans/a.jpg", "text": "Hand"}]
    (folder / "list.json").write_text(json.dumps(rows))
    table = read(folder / "list.json").table.sort_values("id")
    assert table.id.tolist() == ["one", "one-2", "two"] and table.caption.tolist() == ["Chest X-ray"] * 2 + ["Hand"]
    assert table.split.iloc[0] == table.split.iloc[1] and table.group.iloc[0] == table.group.iloc[1] != ""
    assert "1 rows of list.json list several images, each of which is read." in capsys.readouterr().err


def test_lists_of_stored_images_are_one_sentence(folder):
    content = (folder / "scans" / "a.jpg").read_bytes()
    pd.DataFrame({"images": [[{"bytes": content, "path": "a.jpg"}]], "text": ["x"]}).to_parquet(folder / "list.parquet")
    for options in ({}, {"image_column": "images"}):
        with pytest.raises(DataError, match="column images of list.parquet holds lists of images: write one image per"):
            read(folder / "list.parquet", **options)


def test_accents_are_found_however_they_are_stored(folder):
    scan(folder / "scans" / "e\u0301.png")
    assert len(read(table(folder, ["scans/\u00e9.png", "scans/a.jpg"])).table) == 2


def test_text_files_are_found_in_another_case(folder):
    (folder / "scans" / "A.TXT").write_text("Chest X-ray")
    assert read(folder).table.caption.tolist() == ["Chest X-ray"]


def test_a_column_of_words_for_unknown_concepts_is_empty(folder):
    rows = {"image": ["scans/a.jpg", "scans/b.PNG"], "text": ["x", "y"], "cuis": ["None", "nan"]}
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False)
    assert len(read(folder / "list.csv").table) == 2
