"Folders without a table: text files beside images, and DICOM files whose headers become captions without a name."

import os

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from radgen.core.errors import DataError
from radgen.data.folders import group_in_path, header_caption, is_dicom_folder, read_dicom_folder, read_pairs
from radgen.data.source_options import SourceOptions
from radgen.data.sources import read_data


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(path)


def dicom(path, patient="p1", series=1, number=0, **tags):
    "Write a small DICOM file."
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{series}.{number}"
    ds.SeriesInstanceUID, ds.PatientID, ds.InstanceNumber = f"1.2.3.{series}", patient, number
    ds.Modality, ds.BodyPartExamined = "CT", "HEAD"
    ds.Rows = ds.Columns = 20
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = np.full((20, 20), 10 * number, np.uint8).tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def test_an_image_and_its_text_are_a_row_and_the_folder_is_the_split(tmp_path):
    film(tmp_path / "train/a.png")
    film(tmp_path / "val/b.v2.png")
    film(tmp_path / "test/alone.png")
    (tmp_path / "train/a.txt").write_text("\ufeffA film.\n", encoding="utf-8")
    (tmp_path / "val/b.v2.txt").write_text("Another film.")
    (tmp_path / "test/notes.txt").write_text("no image has this name")
    rows = read_pairs(tmp_path, SourceOptions(tmp_path)).set_index("split")
    assert rows.caption.to_dict() == {"train": "A film.", "val": "Another film.", "test": ""}
    assert rows.fault["test"] == "no caption: no text file of the same name"


def test_text_of_a_compressed_volume_has_its_name(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    (tmp_path / "scan.txt").write_text("CT")
    assert read_pairs(tmp_path, SourceOptions(tmp_path)).caption.tolist() == ["CT"]


def test_hidden_files_and_links_to_folders_are_left_out(tmp_path):
    film(tmp_path / "data/a.png")
    film(tmp_path / "data/.cache/b.png")
    film(tmp_path / "elsewhere/c.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data/link")
    assert len(read_pairs(tmp_path / "data", SourceOptions(tmp_path))) == 1


def test_a_series_gives_its_middle_slice_by_place_and_a_film_every_image(tmp_path):
    for number in range(5):
        place = [0, 0, 10.0 * ((number + 2) % 5)]
        dicom(
            tmp_path / f"ct/{number}",
            number=number,
            ImagePositionPatient=place,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        )
    for number in range(2):
        dicom(tmp_path / f"dx/{number}", series=2, number=number, Modality="DX", BodyPartExamined="CHEST")
    (tmp_path / "README").write_text("no DICOM")
    rows = read_dicom_folder(tmp_path)
    assert [os.path.relpath(p, tmp_path) for p in rows.image] == ["ct/0", "dx/0", "dx/1"]
    assert rows.caption.tolist() == ["CT of the head", "X-ray of the chest", "X-ray of the chest"]
    assert len(read_dicom_folder(tmp_path, "every:2")) == 4
    assert [os.path.basename(p) for p in read_dicom_folder(tmp_path, "0").image][0] == "3"


def test_groups_are_patients_and_hashes(tmp_path):
    for patient in range(12):
        for number in range(3):
            dicom(tmp_path / f"{patient}-{number}", f"id{patient}", patient, number, Modality="CR")
    rows = read_dicom_folder(tmp_path)
    assert rows.group.nunique() == 12
    assert (rows.groupby("group").split.nunique() == 1).all()
    assert not rows.group.str.contains("id").any()
    other = tmp_path / "other"
    for patient in (0, 1):
        dicom(other / f"{patient}", f"id{patient}", 98 + patient, 0, Modality="CR")
    assert read_dicom_folder(other).group.nunique() == 2
    assert not set(read_dicom_folder(other).group) & set(rows.group)  # the same patients, another salt


def test_slices_of_a_series_stay_in_one_split_where_nothing_else_is_known(tmp_path):
    for series in range(12):
        for number in range(4):
            dicom(tmp_path / f"{series}-{number}", "anonymous", series, number)
    rows = read_dicom_folder(tmp_path, "every:1")
    assert len(rows) == 48
    assert rows.group.nunique() == 12
    assert (rows.groupby("group").split.nunique() == 1).all()
    assert rows.split.nunique() > 1


PRIVATE = {
    "PatientName": "Doe^Jane^Mary",
    "PatientID": "HN-4711",
    "AccessionNumber": "ACC99812",
    "PatientBirthDate": "19500101",
    "InstitutionName": "General Hospital",
    "ReferringPhysicianName": "Smith^Adam",
    "OperatorsName": "Operator^One",
    "ImageComments": "call Mrs Doe",
    "PatientComments": "lives in Springfield",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_nothing_that_identifies_a_person_is_in_a_row(tmp_path, name):
    tags = {"StudyDescription": "Thorax JANE DOE HN-4711", "SeriesDescription": "ACC99812 pa SMITH", **PRIVATE}
    dicom(tmp_path / "a", **{**tags, "PatientID": PRIVATE["PatientID"]})
    text = " ".join(read_dicom_folder(tmp_path).drop(columns="image").iloc[0]).lower()
    for word in PRIVATE[name].lower().replace("^", " ").split():
        if word not in ("call", "mrs", "lives", "in", "one"):
            assert word not in text.split()
    assert "thorax" in text


def test_a_header_that_describes_nothing_is_rejected(tmp_path):
    dicom(tmp_path / "a", Modality="OT", BodyPartExamined="")
    assert read_dicom_folder(tmp_path).fault[0].startswith("no caption")
    assert header_caption(pydicom.Dataset()) == ""


def test_files_that_are_no_image_are_named(tmp_path, capsys):
    dicom(tmp_path / "a")
    (tmp_path / "notes.dcm").write_text("no image")
    assert len(read_dicom_folder(tmp_path)) == 1
    assert "hold no DICOM image: notes.dcm." in capsys.readouterr().err


def test_a_folder_without_dicom_images_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="no file in .* is a DICOM image"):
        read_dicom_folder(tmp_path)


WRITTEN = [
    "DOE",
    "(Doe)",
    "Doe.Jane",
    "pat:Doe",
    "Doe's",
    "JaneDoe",
    "Thorax-DOE",
    "döe",
    "Jane_Doe",
    "*19500101",
    "4711-HN",
]


@pytest.mark.parametrize("word", WRITTEN)
def test_a_name_goes_however_it_is_written(word):
    header = pydicom.Dataset()
    header.PatientName, header.PatientID, header.Modality = "Doe^Jane", "HN-4711", "CR"
    header.StudyDescription = f"Chest {word} upright"
    caption = header_caption(header).lower()
    assert "chest" in caption and "upright" in caption
    for private in "doe", "jane", "4711", "1950", "döe":
        assert private not in caption


def test_the_words_of_an_institution_leave_body_parts_alone():
    header = pydicom.Dataset()
    header.Modality, header.BodyPartExamined, header.InstitutionName = "CT", "CHEST", "Chest Clinic of Springfield"
    header.StudyDescription = "Chest CT Springfield"
    assert header_caption(header) == "CT of the chest, Chest CT"


def test_a_series_without_such_a_slice_is_rejected_with_the_reason(tmp_path):
    dicom(tmp_path / "a", series=1)
    dicom(tmp_path / "b", series=2, Modality="CR")
    rows = read_dicom_folder(tmp_path, "7")
    assert rows.fault.tolist() == ["no slice: the series has 1 slices, and none is number 7", ""]


def test_a_file_more_moves_no_image_to_another_split(tmp_path):
    for patient in range(20):
        dicom(tmp_path / f"{patient}", f"id{patient}", patient, 0, Modality="CR")
    before = read_dicom_folder(tmp_path).set_index("image").split
    dicom(tmp_path / "more", "id99", 99, 0, Modality="CR")
    after = read_dicom_folder(tmp_path).set_index("image").split
    assert (after[before.index] == before).all()


@pytest.mark.parametrize("name, value", [("ImagePositionPatient", [1]), ("ImageOrientationPatient", [1, 2])])
def test_a_damaged_place_stops_nothing(tmp_path, name, value):
    dicom(tmp_path / "a", **{name: value})
    os.symlink(tmp_path / "none", tmp_path / "dangling")
    assert is_dicom_folder(tmp_path)
    assert len(read_dicom_folder(tmp_path)) == 1


def test_links_lead_nowhere_else(tmp_path):
    film(tmp_path / "data/a.png")
    film(tmp_path / "private.png")
    (tmp_path / "secret.txt").write_text("SECRET")
    os.symlink(tmp_path / "secret.txt", tmp_path / "data/a.txt")
    os.symlink(tmp_path / "private.png", tmp_path / "data/b.png")
    rows = read_pairs(tmp_path / "data", SourceOptions(tmp_path))
    assert rows.name.tolist() == ["a.png"]
    assert rows.caption.tolist() == [""]


def test_images_in_folders_of_no_split_are_taken_for_training(tmp_path, capsys):
    for name in "test/a", "test/b", "more/c":
        film(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("A film.")
    rows = read_pairs(tmp_path, SourceOptions(tmp_path))
    assert rows.split.tolist() == ["train", "test", "test"]
    assert "1 rows do not name their split" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_notepad_is_read(tmp_path, encoding):
    film(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("Röntgenbild", encoding=encoding)
    assert read_pairs(tmp_path, SourceOptions(tmp_path)).caption.tolist() == ["Röntgenbild"]


def test_text_in_another_encoding_is_rejected(tmp_path):
    film(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("Röntgenbild", encoding="latin-1")
    assert read_pairs(tmp_path, SourceOptions(tmp_path)).fault.tolist() == [
        "no caption: the text file is not encoded in UTF-8"
    ]


def test_old_files_without_the_mark_of_dicom_are_read_by_their_ending(tmp_path):
    dicom(tmp_path / "a.dcm", Modality="CR")
    content = (tmp_path / "a.dcm").read_bytes()
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    del ds.file_meta
    ds.preamble = None
    pydicom.dcmwrite(tmp_path / "a.dcm", ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert content[128:132] == b"DICM" != (tmp_path / "a.dcm").read_bytes()[128:132]
    assert is_dicom_folder(tmp_path)
    assert len(read_dicom_folder(tmp_path)) == 1


def test_dicom_behind_many_other_files_is_found(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(300):
        (tmp_path / "a" / f"{number}.xml").write_text("<a/>")
    dicom(tmp_path / "z" / "image", Modality="CR")
    assert is_dicom_folder(tmp_path)


@pytest.mark.parametrize("beside", ["table", "text files"])
def test_dicom_files_with_a_text_stay_with_their_patient(tmp_path, beside):
    "The header says the patient where no column does; the table holds a hash and no number."
    names = [f"{i}.dcm" for i in range(60)]
    for number, name in enumerate(names):
        dicom(tmp_path / name, patient=f"MRN{number // 3:05d}", series=number)
    if beside == "table":
        pd.DataFrame({"file": names, "report": "A head."}).to_csv(tmp_path / "own.csv", index=False)
        table = read_data(SourceOptions(tmp_path / "own.csv")).table
    else:
        for name in names:
            (tmp_path / name).with_suffix(".txt").write_text("A head.")
        table = read_data(SourceOptions(tmp_path)).table
    assert len(table) == 60
    assert table.group.nunique() == 20
    assert (table.groupby("group").split.nunique() == 1).all()
    assert table.split.nunique() > 1
    assert not table.group.str.contains("MRN").any()


def test_anonymous_patients_are_told_apart_by_their_studies(tmp_path):
    "De-identified exports have one patient in all files."
    names = [f"{i}.dcm" for i in range(40)]
    for number, name in enumerate(names):
        dicom(tmp_path / name, patient="ANONYMOUS", series=number, StudyInstanceUID=f"1.2.{number // 2}")
    pd.DataFrame({"file": names, "report": "A head."}).to_csv(tmp_path / "own.csv", index=False)
    for rows in (read_data(SourceOptions(tmp_path / "own.csv")).table, read_dicom_folder(tmp_path, "0")):
        assert rows.group.nunique() == 20
        assert rows.split.nunique() > 1
        assert (rows.groupby("group").split.nunique() == 1).all()


@pytest.mark.parametrize(
    "image, group",
    [
        ("patient1/case2/a.png", "patient1"),
        ("CT/sub-01/a.png", "sub-01"),
        ("train/patient1/a.png", "train/patient1"),
        ("case 7/a.png", "case 7"),
        ("p10/p10000032/s5/a.png", "p10000032"),
        ("skull/a.png", ""),
    ],
)
def test_the_patient_in_a_path(image, group):
    assert group_in_path(image, "") == group
