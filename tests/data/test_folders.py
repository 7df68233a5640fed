"Folders without a table: text files beside images, and DICOM files whose headers become captions without a name."

import os

import numpy as np
import pydicom
import pytest
from PIL import Image

from radgen.core.errors import DataError
from radgen.data.folders import header_caption, read_dicom_folder, read_pairs


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
    rows = read_pairs(tmp_path).set_index("split")
    assert rows.caption.to_dict() == {"train": "A film.", "val": "Another film.", "test": ""}
    assert rows.fault["test"] == "no caption: no text file of the same name"


def test_text_of_a_compressed_volume_has_its_name(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    (tmp_path / "scan.txt").write_text("CT")
    assert read_pairs(tmp_path).caption.tolist() == ["CT"]


def test_hidden_files_and_links_to_folders_are_left_out(tmp_path):
    film(tmp_path / "data/a.png")
    film(tmp_path / "data/.cache/b.png")
    film(tmp_path / "elsewhere/c.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data/link")
    assert len(read_pairs(tmp_path / "data")) == 1


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
    assert len(read_dicom_folder(tmp_path, "every:2")) == 5
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
    dicom(other / "0", "id0", 99, 0, Modality="CR")
    assert read_dicom_folder(other).group[0] not in set(rows.group)


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


def test_a_folder_without_dicom_images_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="no file in .* is a DICOM image"):
        read_dicom_folder(tmp_path)
