"One image as grey bytes: figures, DICOM, rows of Parquet; and what is refused."

import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from radgen.core.errors import DataError
from radgen.data.images import ImageError, image_fault, load_grey, stretch, window
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare

RAMP = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
COLOUR = np.stack([RAMP] * 3, -1)


def difference(a, b):
    "Largest difference of two grey images."
    return np.abs(a.astype(int) - b.astype(int)).max()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP),
        Image.fromarray(COLOUR),
        Image.fromarray(np.stack([RAMP] * 4, -1)),
        Image.fromarray(RAMP).convert("P"),
        Image.fromarray(RAMP.astype(np.uint16) * 16 + 7),
    ],
    ids=["grey", "colour", "alpha", "palette", "sixteen bits"],
)
def test_load_grey_gives_a_ramp_back_from_every_kind_of_png(image, tmp_path):
    image.save(tmp_path / "a.png")
    got = load_grey(tmp_path / "a.png")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, RAMP)


def test_load_grey_gives_black_for_one_constant_value_of_sixteen_bits(tmp_path):
    Image.fromarray(np.full((40, 40), 900, np.uint16)).save(tmp_path / "flat.png")
    assert load_grey(tmp_path / "flat.png").max() == 0


def test_load_grey_reads_a_jpeg_of_four_colours(tmp_path):
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    assert difference(load_grey(tmp_path / "print.jpg"), RAMP) < 8


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(2, RAMP[:, ::-1]), (3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP))],
)
def test_load_grey_applies_the_rotation_in_exif(name, orientation, expected, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RAMP).save(tmp_path / name, exif=exif, quality=97)
    assert difference(load_grey(tmp_path / name), expected) <= 3


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "text.jpg", "zero.png", "none.jpg"])
def test_load_grey_refuses_damage_in_one_sentence_without_the_path(tmp_path, name):
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    if name.startswith("cut"):
        im.save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1500])
    if name == "text.jpg":
        (tmp_path / name).write_text("not an image")
    if name == "zero.png":
        (tmp_path / name).touch()
    with pytest.raises(
        DataError,
        match=f"{name}: image (missing|unreadable: .+|unreadable: 0 bytes); replace the file or remove its row",
    ) as e:
        load_grey(tmp_path / name)
    assert str(tmp_path) not in str(e.value)


def write_png_header(path, width, height):
    "The beginning of a PNG: its header says the size, and the pixels are missing."
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"\0" * 100)]
    content = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((10000, 10000), "image too large: 10000x10000 pixels"),
        ((20000, 20000), "image too large: 400,000,000 pixels"),
        ((1, 1), "image too small: 1x1 pixels"),
        ((500, 15), "image too small: 500x15 pixels"),
    ],
)
def test_sizes_are_bounded_before_decoding(size, reason, tmp_path):
    write_png_header(tmp_path / "a.png", *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest puts Pillow's warning back
        assert image_fault(tmp_path / "a.png") == reason
        with pytest.raises(ImageError) as e:
            load_grey(tmp_path / "a.png")
    assert e.value.why == reason


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tif"])
def test_a_number_takes_one_image_of_an_animation(name, tmp_path):
    frames = [Image.fromarray(np.full((20, 30), v, np.uint8)) for v in (10, 90, 200)]
    path = tmp_path / name
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert difference(load_grey(path), np.full((20, 30), 10)) < 3
    assert difference(load_grey(f"{path}#2"), np.full((20, 30), 200)) < 3
    with pytest.raises(ImageError):
        load_grey(f"{path}#3")
    assert image_fault(f"{path}#3").startswith("image unreadable")


def test_a_number_in_a_file_name_is_part_of_the_name(tmp_path):
    Image.fromarray(np.full((20, 30), 10, np.uint8)).save(tmp_path / "a#7.png")
    assert load_grey(tmp_path / "a#7.png")[0, 0] == 10


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_every_cut_of_a_file_is_refused_or_whole(name, tmp_path):
    "However a JPEG or PNG is cut, nothing comes back that is not the image."
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)).save(path)
    whole = load_grey(path)
    content = path.read_bytes()
    for n in range(1, len(content), 37):
        path.write_bytes(content[:n])
        try:
            got = load_grey(path)
        except ImageError as e:
            assert e.why.startswith("image unreadable"), n
        else:
            np.testing.assert_array_equal(got, whole)


HEADS = {
    "nothing": b"",
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "tiff": b"II*\0",
    "dicom": b"\0" * 128 + b"DICM",
    "dicom file": Path(get_testdata_file("CT_small.dcm")).read_bytes()[:2000],
}


@pytest.mark.parametrize("extension", ["jpg", "dcm", "png"])
@pytest.mark.parametrize("head", HEADS)
def test_random_bytes_never_escape_as_another_error(head, extension, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / f"x.{extension}"
    for _ in range(4):
        path.write_bytes(HEADS[head] + rng.bytes(600))
        try:
            got = load_grey(path)
        except ImageError as e:
            assert e.why.startswith("image ")
            assert str(tmp_path) not in str(e)
        else:
            assert (got.dtype, got.ndim) == (np.uint8, 2)
        assert image_fault(path) == "" or image_fault(path).startswith("image ")


def dicom(path, stored, **tags):
    "A DICOM file of the stored values with a patient in its header."
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "ROE^JANE", "MRN7788", "19510203"
    ds.InstitutionName, ds.AccessionNumber = "St Elsewhere", "ACC991"
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = stored.shape[-2:]
    bits = stored.dtype.itemsize * 8
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, int(stored.dtype.kind == "i")
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    for k, v in tags.items():
        setattr(ds, k, v)
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


STORED = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)


def test_window_agrees_with_a_worked_example():
    "Centre 100, width 101: black up to 49.5, white above 149.5, 2.55 a unit between."
    assert window(np.array([0, 49.5, 49.5 + 50, 149.5, 200.0]), 100, 101).tolist() == [0, 0, 127.5, 255, 255]
    assert window(np.array([50.0, 100, 150]), 100, 100, "LINEAR_EXACT").tolist() == [0, 127.5, 255]
    assert np.allclose(window(np.array([100.0, 125]), 100, 100, "SIGMOID"), [127.5, 255 / (1 + np.exp(-1))])


def test_dicom_is_rescaled_and_windowed(tmp_path):
    tags = dict(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[500, 40], WindowWidth=[1000, 80])
    got = load_grey(dicom(tmp_path / "a.dcm", STORED, **tags))
    hu = STORED.astype(float) * 2 - 1000
    np.testing.assert_array_equal(got, np.rint(((hu - 499.5) / 999 + 0.5).clip(0, 1) * 255))


def test_dicom_without_a_window_goes_from_the_smallest_to_the_largest_value(tmp_path):
    got = load_grey(dicom(tmp_path / "b.dcm", STORED, RescaleSlope=2, RescaleIntercept=-1000))
    np.testing.assert_array_equal(got, stretch(STORED))


def test_monochrome1_is_inverted(tmp_path):
    got = load_grey(dicom(tmp_path / "c.dcm", STORED, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(got, 255 - stretch(STORED))


def test_padding_takes_no_part_in_the_range(tmp_path):
    a = (STORED % 1000).astype(np.int16)
    a[0] = -2000
    got = load_grey(dicom(tmp_path / "a.dcm", a, PixelPaddingValue=-2000))
    assert got[0].max() == 0
    np.testing.assert_array_equal(got[1:], stretch(a[1:]))


def test_dicom_look_up_table_is_applied(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4, 10, 8]
    item.add_new("LUTData", "US", [0, 50, 100, 255])
    stored = np.tile(np.arange(6, 22, dtype=np.uint16), (16, 1))
    got = load_grey(dicom(tmp_path / "a.dcm", stored, VOILUTSequence=Sequence([item])))
    assert got[0].tolist() == [0] * 5 + [50, 100] + [255] * 9


def test_every_frame_has_its_own_window(tmp_path):
    frames = np.stack([STORED, STORED // 2, STORED // 4])
    groups = []
    for centre in (500, 1000, 2000):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 400
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    rescale, shared = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, 100, "US"
    shared.PixelValueTransformationSequence = Sequence([rescale])
    path = dicom(
        tmp_path / "a.dcm",
        frames,
        PerFrameFunctionalGroupsSequence=Sequence(groups),
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )
    for i, centre in enumerate((500, 1000, 2000)):
        np.testing.assert_array_equal(load_grey(f"{path}#{i}"), np.rint(window(frames[i] + 100.0, centre, 400)))
    np.testing.assert_array_equal(load_grey(path), load_grey(f"{path}#0"))
    for i in (3, 99):
        assert image_fault(f"{path}#{i}") == f"image unreadable: there is no frame {i}, the file has 3"


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
)
def test_compressed_and_foreign_syntaxes_give_the_same_image(name):
    np.testing.assert_array_equal(load_grey(get_testdata_file(name)), load_grey(get_testdata_file("MR_small.dcm")))


@pytest.mark.parametrize(
    "name", ["examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_palette.dcm", "SC_rgb_rle_16bit.dcm"]
)
def test_colour_dicom_is_read_as_grey(name):
    a = load_grey(get_testdata_file(name))
    assert (a.ndim, a.dtype) == (2, np.uint8)
    assert a.max() > 150
    assert a.std() > 10


def test_colour_dicom_goes_to_luminance():
    path = get_testdata_file("examples_rgb_color.dcm")
    rgb = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(load_grey(path), np.asarray(Image.fromarray(rgb).convert("L")))


def test_a_missing_decoder_is_named(monkeypatch):
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm")
    monkeypatch.setattr("radgen.data.images.get_decoder", lambda uid: type("None here", (), {"is_available": False}))
    assert image_fault(path) == "image unreadable: no decoder for JPEG Lossless, pip install -e '.[dicom]'"
    with pytest.raises(ImageError, match="no decoder for JPEG Lossless"):
        load_grey(path)


@pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm", "MR_truncated.dcm", "badVR.dcm"])
def test_dicom_without_an_image_is_refused(name):
    with pytest.raises(ImageError) as e:
        load_grey(get_testdata_file(name))
    assert e.value.why.startswith("image ")


def test_twelve_bits_give_the_same_grey_in_png_and_dicom(tmp_path):
    twelve = (STORED + 100).astype(np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    got = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(got, load_grey(dicom(tmp_path / "a.dcm", twelve)))
    assert (got.min(), got.max()) == (0, 255)


def test_nothing_of_a_patient_reaches_the_prepared_folder(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["image,caption,cuis,split"]
    for i in range(6):
        dicom(tmp_path / f"s{i}.dcm", rng.integers(0, 900, (48, 48)).astype(np.uint16))
        lines.append(f"s{i}.dcm,Axial CT of the chest,C0040405;C0817096,{'test' if i > 3 else 'train'}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    prepared = prepare(PrepareConfig(tmp_path / "own.csv", tmp_path / "out", k=2, llm="rules", max_entropy=8))
    assert len(prepared.rows("train")) == 4
    assert prepared.images("train", 32).shape == (4, 32, 32)
    for path in prepared.dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (b"ROE", b"JANE", b"MRN7788", b"19510203", b"Elsewhere", b"ACC991"):
                assert secret not in content, path.name


def test_a_window_of_width_one_is_a_threshold():
    assert window(np.array([99.0, 99.5, 99.6]), 100, 1).tolist() == [0, 0, 255]


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (-50, "LINEAR_EXACT"), (0, "SIGMOID")])
def test_windows_that_the_standard_forbids_are_refused(width, function, tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, WindowCenter=100, WindowWidth=width, VOILUTFunction=function)
    with pytest.raises(ImageError) as e:
        load_grey(path)
    assert e.value.why == f"image unreadable: window of width {width}"


def test_the_window_agrees_with_pydicom():
    ds = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    a = pydicom.pixels.apply_modality_lut(ds.pixel_array, ds)
    low, high = -(2**15), 2**15 - 1  # of signed 16 bits
    theirs = (pydicom.pixels.apply_windowing(a, ds) - low) / (high - low) * 255
    assert np.abs(load_grey(get_testdata_file("MR_small.dcm")) - theirs).max() <= 0.51


def test_a_range_of_padding_takes_no_part_in_the_range(tmp_path):
    a = (STORED % 1000).astype(np.int16)
    a[0], a[1] = -2000, -1600
    got = load_grey(dicom(tmp_path / "a.dcm", a, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500))
    assert got[:2].max() == 0
    np.testing.assert_array_equal(got[2:], stretch(a[2:]))


def test_nan_is_black_and_infinity_is_white(tmp_path):
    a = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    a[0, 0], a[0, 1] = np.nan, np.inf
    Image.fromarray(a).save(tmp_path / "a.tif")
    got = load_grey(tmp_path / "a.tif")
    assert got[0, 0] == 0
    assert got[0, 1] == 255
    assert 100 < got.mean() < 150
    assert stretch(np.full((4, 4), np.nan)).max() == 0


@pytest.mark.parametrize(("extension", "kind"), [("dcm", "PNG"), ("dcm", "JPEG"), ("png", "JPEG")])
def test_bytes_decide_and_not_the_name(extension, kind, tmp_path):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(RAMP).save(path, kind, quality=97)
    assert image_fault(path) == ""
    assert difference(load_grey(path), RAMP) <= 3


def test_a_dicom_file_with_another_name_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(Path(get_testdata_file("MR_small.dcm")).read_bytes())
    assert image_fault(tmp_path / "a.jpg") == ""
    assert load_grey(tmp_path / "a.jpg").shape == (64, 64)


def test_postscript_is_no_image(tmp_path):
    "Pillow would run Ghostscript."
    (tmp_path / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EOF\n")
    assert image_fault(tmp_path / "b.jpg") == "image unreadable: not an image"


def test_deflated_dicom_is_not_unpacked():
    assert image_fault(get_testdata_file("image_dfl.dcm")).startswith("image unreadable: deflated DICOM")


def test_exif_behind_other_segments_is_found(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(path, exif=exif)
    content = path.read_bytes()
    segment = b"\xff\xed" + (9002).to_bytes(2, "big") + b"x" * 9000
    path.write_bytes(content[:2] + segment + content[2:])
    assert load_grey(path).shape == (64, 32)


def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path):
    for value in (30, 200):
        buffer = io.BytesIO()
        Image.new("L", (32, 32), value).save(buffer, "PNG")
        table = pa.table({"image": [{"bytes": buffer.getvalue(), "path": "a"}]})
        pq.write_table(table, tmp_path / "new.parquet")
        os.replace(tmp_path / "new.parquet", tmp_path / "a.pq")
        assert set(load_grey(f"{tmp_path / 'a.pq'}#0").ravel()) == {value}
    with pytest.raises(ImageError) as e:
        load_grey(f"{tmp_path / 'a.pq'}#1")
    assert e.value.why == "image missing: a.pq has 1 rows"


def test_an_image_error_comes_whole_from_another_process():
    e = pickle.loads(pickle.dumps(ImageError("folder/a.png", "too small: 1x1 pixels")))
    assert e.why == "image too small: 1x1 pixels"
    assert str(e) == "a.png: image too small: 1x1 pixels; replace the file or remove its row."
