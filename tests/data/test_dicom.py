"DICOM as it is met: every compression, header and age, read or rejected with one true sentence."

import base64
import importlib.util
import io
import re
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)

from dicom_files import CT, STORED, ct, dataset, dicom
from radgen.data import dicom as dicom_module
from radgen.data.config import WINDOWS, Grey
from radgen.data.files import clause
from radgen.data.grey import stretch, window
from radgen.data.images import ImageError, frame_names, image_fault, load_grey
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare

needs_decoders = pytest.mark.skipif(
    not set(dicom_module.EXTRA) <= set(dicom_module.decoders()), reason="needs pip install -e '.[dicom]'"
)


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
    for centre in (500, 1000, 800):
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
    for i, centre in enumerate((500, 1000, 800)):
        np.testing.assert_array_equal(load_grey(f"{path}#{i}"), np.rint(window(frames[i] + 100.0, centre, 400)))
    np.testing.assert_array_equal(load_grey(path), load_grey(f"{path}#1"))  # the middle one
    for i in (3, 99):
        assert image_fault(f"{path}#{i}") == f"image unreadable: there is no frame {i}, the file has 3"


def test_colour_dicom_goes_to_luminance():
    path = get_testdata_file("examples_rgb_color.dcm")
    rgb = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(load_grey(path), np.asarray(Image.fromarray(rgb).convert("L")))


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


def test_a_linear_window_narrower_than_one_is_a_window(tmp_path):
    got = load_grey(
        dicom(tmp_path / "a.dcm", STORED, RescaleSlope=1e-4, RescaleIntercept=0, WindowCenter=0.2, WindowWidth=0.2)
    )
    want = ((STORED * 1e-4 - 0.2) / 0.2 + 0.5).clip(0, 1) * 255
    np.testing.assert_array_equal(got, np.rint(want))


def test_of_several_frames_the_middle_one_is_taken(tmp_path):
    frames = np.zeros((5, 32, 32), np.uint16)
    frames[2] = STORED
    np.testing.assert_array_equal(load_grey(dicom(tmp_path / "a.dcm", frames)), stretch(STORED))
    assert load_grey(f"{tmp_path / 'a.dcm'}#0").max() == 0


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


@pytest.mark.parametrize(
    "tags",
    [
        dict(WindowCenter=100, WindowWidth=0),
        dict(WindowCenter=100, WindowWidth=-50, VOILUTFunction="LINEAR_EXACT"),
        dict(WindowCenter=100, WindowWidth=0, VOILUTFunction="SIGMOID"),
        dict(WindowCenter="", WindowWidth=""),
        dict(WindowCenter=100),
        dict(WindowCenter=-9000, WindowWidth=400),  # all white
        dict(WindowCenter=90000, WindowWidth=400),  # all black
    ],
)
def test_windows_that_cannot_be_meant_are_ignored(tags, tmp_path):
    np.testing.assert_array_equal(load_grey(dicom(tmp_path / "a.dcm", STORED, **tags)), stretch(STORED))


@pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm", "MR_truncated.dcm", "badVR.dcm"])
def test_dicom_without_an_image_is_refused(name):
    with pytest.raises(ImageError) as e:
        load_grey(get_testdata_file(name))
    assert e.value.why.startswith("image ")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_metal_does_not_rule(photometric, tmp_path):
    hu = np.full((32, 32), -1000, np.int16)
    hu[8:24, 8:24] = 40
    hu[:3, :3] = -3024  # no scanner measures this
    hu[12, 12] = 30000
    path = dicom(tmp_path / "a.dcm", hu, Modality="CT", RescaleIntercept=0, PhotometricInterpretation=photometric)
    got = load_grey(path).astype(int)
    assert got[:3, :3].max() == 0
    assert abs(got[20, 20] - got[28, 28]) > 200


# every pixel-bearing file of pydicom -----------------------------------------------------------------------------


def pixel_files():
    "The files of pydicom, and of the package pydicom-data where it is installed, that hold pixels."
    folders = [Path(pydicom.data.__file__).parent / "test_files"]
    more = importlib.util.find_spec("data_store")
    if more:
        folders.append(Path(more.origin).parent / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
            try:
                ds = pydicom.dcmread(path, force=True, stop_before_pixels=False)
            except Exception:
                continue
            if any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
                yield path


FILES = list(pixel_files())
BETTER = {"OT-PAL-8-face.dcm": (480, 640)}  # without a transfer syntax, which pydicom's parser recognises all the same
NO_PIXELS = {"meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"}  # two bytes of pixels, and no size


def by_pydicom(path):
    "The shape of a frame and '', or None and the reason."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path, force=True)
            ds.pixel_array  # noqa: B018
    except Exception as e:
        return None, str(e)
    return (ds.Rows, ds.Columns), ""


@needs_decoders
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_every_file_of_pydicom_is_read_or_rejected_for_its_reason(path):
    shape, reason = by_pydicom(path)
    try:
        got = load_grey(path)
    except ImageError as e:
        why = e.why
    else:
        assert got.shape == (shape or BETTER[path.name])
        assert got.dtype == np.uint8
        assert image_fault(path) == ""
        return
    if "too small" in why:
        ds = pydicom.dcmread(path, force=True)
        assert min(ds.Rows, ds.Columns) < 16
    elif path.name in NO_PIXELS:
        assert why == "image unreadable: a DICOM file without pixels"
    elif path.name == "JPEG2000-embedded-sequence-delimiter.dcm":  # a delimiter within the size of the stream
        assert shape is None
        assert why == "image unreadable: its compressed image is 3722445056x1024 and its header says 256x1024"
    else:
        assert shape is None, why
        if "less than expected" in reason:
            assert why == "image unreadable: its pixel data are truncated"
            return
        said = re.split(r" - |, ", why.removeprefix("image unreadable: ").partition("decoded: ")[2] or why)[0]
        assert said.removeprefix("image unreadable: ") in " ".join(reason.split())


@needs_decoders
@pytest.mark.filterwarnings("ignore")
def test_the_counts_of_pydicoms_files():
    counts = Counter()
    for path in FILES:
        why = image_fault(path) or next(iter([""]))
        counts["small" if "too small" in why else "header" if why else "usable"] += 1
    assert counts["header"] == len(NO_PIXELS & {p.name for p in FILES})
    assert counts["usable"] >= 80


# compressions ----------------------------------------------------------------------------------------------------

y, x = np.mgrid[0:24, 0:24]
SLOPE = (x * 170 + y * 5).astype(np.uint16)  # 12 bits
JPEG_12 = """
eNr7f+P/AwYBLzdPNwZGRgYGRiBk+H+bwZmBiREEQCQTCLAwg0hWFhZmFjZWNjYwZufkAGJ2NjYObg5OLhAAsni4uXhAnP8HGbh5GCQYJBgZBRn+
H2EQBZuPDHj5gMLSAgwM7KgS7DwqFo6hxf9vMXCAtNgzqLnKa3qKRz2+brCKyS5okt7W4+sSQ1hqlqrEZvfHHNnwC0Ps0AqOn14eu67L7exM/IIh
1hog+GnKxNJ1tsXy/28CACfaPUU="""  # libjpeg-turbo at quality 95, deflated
HTJ2K = """
eNr77/8/kEHTgQEIJKAYBlD5jPyMjP8DGDgYmIAcrv9BDDxAFiMDKwuLA+P/GAZhhY4JSKCjo+N/CoM4A6N/QWqeV4CHQlhqkYKBnpGZnrHe/wkM
XGAjFzEw/p98gEFt5RdW9hKGAwzCDgxCDYe+MbeXMKxihIswHDzIyF3C8JbLGCggGsDA6sFXduFgU/+j7jIGndP/DjAw/tsGkrnAwBrx58fHx8f7
79/hqipiKmeY0tHx7wvP95NvtgPldTMYWBcFIYHPv6qAoLCpCugnBoYH/5NY5v2dVP3N880ehv83AQp5WUs="""  # OpenJPH, deflated


def compressed(path, stream, syntax, stored=SLOPE, **tags):
    "A file of one compressed frame."
    ds = dataset(stored, BitsStored=12, HighBit=11, **tags)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


@needs_decoders
@pytest.mark.parametrize(("stream", "syntax", "most"), [(JPEG_12, JPEGExtended12Bit, 1), (HTJ2K, HTJ2KLossless, 0)])
def test_streams_that_pydicoms_own_files_lack(stream, syntax, most, tmp_path):
    path = compressed(tmp_path / "a.dcm", zlib.decompress(base64.b64decode(stream)), syntax)
    got, want = load_grey(path).astype(int), stretch(SLOPE)
    assert np.abs(got - want).max() <= most


@pytest.mark.parametrize("missing", [True, False])
def test_the_extra_is_named_only_where_it_is_missing(missing, monkeypatch, tmp_path):
    path = compressed(tmp_path / "a.dcm", b"\xff\xd8\xff\xe0 no image", JPEGExtended12Bit)
    monkeypatch.setattr(dicom_module, "decoders", lambda: [] if missing else list(dicom_module.EXTRA))
    with pytest.raises(ImageError) as e:
        load_grey(path)
    assert e.value.why.startswith("image unreadable: its JPEG Extended (Process 2 and 4) data cannot be decoded: ")
    assert ("pip install" in e.value.why) == missing


def test_a_missing_decoder_is_named(monkeypatch):
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm")
    unavailable = type("Decoder", (), {"is_available": False})
    monkeypatch.setattr(dicom_module, "get_decoder", lambda uid: unavailable)
    monkeypatch.setattr(dicom_module, "decoders", lambda: [])
    dicom_module.decoder_fault.cache_clear()
    why = "image unreadable: no decoder for JPEG Lossless is installed, pip install -e '.[dicom]'"
    assert image_fault(path) == why
    with pytest.raises(ImageError, match="no decoder for JPEG Lossless is installed"):
        load_grey(path)
    dicom_module.decoder_fault.cache_clear()


def test_video_is_named_as_video(tmp_path):
    path = compressed(tmp_path / "a.dcm", b"\0\0\1\xb3", MPEG2MPML)
    assert image_fault(path) == "image unreadable: there is no decoder for video MPEG2 Main Profile / Main Level"


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    path = compressed(tmp_path / "a.dcm", b"\0\0", "1.2.3.4")
    assert image_fault(path) == "image unreadable: there is no decoder for 1.2.3.4"


# deflated, implicit, big-endian, without a transfer syntax -------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_encoding_of_the_header_does_not_matter(syntax, tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED, syntax=syntax)
    np.testing.assert_array_equal(load_grey(path), stretch(STORED))
    np.testing.assert_array_equal(load_grey(f"{path}#0"), stretch(STORED))


def test_a_deflated_file_is_not_unpacked_beyond_the_bound(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a.dcm", np.zeros((400, 400), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(dicom_module, "MAX_BYTES", 100_000)
    with pytest.raises(ImageError, match="too large: more than 0 MB unpacked"):
        load_grey(path)


def test_a_truncated_deflated_file_is_rejected(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)
    path = dicom(tmp_path / "a.dcm", stored, syntax=DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError) as e:
        load_grey(path)
    assert e.value.why == "image unreadable: its deflated data are truncated"


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_a_transfer_syntax_is_read(implicit, tmp_path):
    ds = dataset(STORED)
    del ds.file_meta.TransferSyntaxUID
    ds.save_as(tmp_path / "a.dcm", implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(load_grey(tmp_path / "a.dcm"), stretch(STORED))
    np.testing.assert_array_equal(load_grey(f"{tmp_path / 'a.dcm'}#0"), stretch(STORED))


@pytest.mark.parametrize("name", ["OBXXXX1A{}.dcm", "OBXXXX1A{}_2frame.dcm", "gdcm-US-ALOKA-16{}.dcm"])
def test_a_big_endian_palette_of_sixteen_bits(name):
    "pydicom reads the entries as little-endian."
    big = "_big" if "ALOKA" in name else "_expb"
    files = [get_testdata_file(name.format(end), download=False) for end in ("", big)]
    if None in files:
        pytest.skip("needs the package pydicom-data")
    np.testing.assert_array_equal(*map(load_grey, files))


# values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32, np.uint8])
def test_every_type_of_integer(dtype, tmp_path):
    stored = (STORED // (16 if dtype == np.uint8 else 1)).astype(dtype)
    got = load_grey(dicom(tmp_path / "a.dcm", stored)).astype(int)
    want = stored if dtype == np.uint8 else stretch(stored)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_pixels_may_be_floats(name, dtype, tmp_path):
    values = STORED / 4096
    values[0, 0] = np.nan
    ds = dataset(STORED)
    del ds.PixelData, ds.PixelRepresentation, ds.BitsStored, ds.HighBit
    ds.BitsAllocated = 8 * np.dtype(dtype).itemsize
    setattr(ds, name, values.astype(dtype).tobytes())
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    got = load_grey(tmp_path / "a.dcm")
    assert np.abs(got[1:].astype(int) - stretch(STORED)[1:]).max() <= 1
    assert got[0, 0] == 0


def test_bits_that_are_not_stored_are_ignored(tmp_path):
    signed = STORED.astype(np.int16) // 2 - 1000
    garbage = ((signed & 0x0FFF) | 0x5000).astype(np.uint16)
    path = dicom(tmp_path / "a.dcm", garbage, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(load_grey(path), stretch(signed))


def test_eight_bits_without_a_window_are_shown_as_they_are(tmp_path):
    faint = (60 + STORED // 100).astype(np.uint8)
    np.testing.assert_array_equal(load_grey(dicom(tmp_path / "a.dcm", faint)), faint)
    np.testing.assert_array_equal(load_grey(dicom(tmp_path / "a.dcm", faint), Grey(window="70,20")), faint)
    inverse = dicom(tmp_path / "a.dcm", faint, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(load_grey(inverse), 255 - faint)


def test_one_bit_in_frames_that_begin_within_a_byte(tmp_path):
    frames = np.random.default_rng(0).integers(0, 2, (3, 17, 19)).astype(np.uint8)
    ds = dataset(frames, BitsAllocated=1, BitsStored=1, HighBit=0)
    bits = np.packbits(frames.ravel(), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    for i in range(3):
        np.testing.assert_array_equal(load_grey(f"{tmp_path / 'a.dcm'}#{i}"), frames[i] * 255)


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_by_pixel_and_by_plane(planar, tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    laid = rgb.transpose(2, 0, 1) if planar else rgb
    tags = dict(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar, Rows=32, Columns=32)
    ds = dataset(rgb[..., 0], **tags)
    ds.PixelData = np.ascontiguousarray(laid).tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(load_grey(tmp_path / "a.dcm"), np.asarray(Image.fromarray(rgb).convert("L")))


# headers that break the standard ---------------------------------------------------------------------------------

AS_WITHOUT = {
    "no number": dict(WindowCenter="NaN", WindowWidth="400"),
    "negative width": dict(WindowCenter=40, WindowWidth=-400),
    "several useless windows": dict(WindowCenter=[0, 12_000], WindowWidth=[0, 400]),
    "width of one": dict(WindowCenter=300, WindowWidth=1),
    "width without centre": dict(WindowWidth=400),
    "empty tables": dict(VOILUTSequence=Sequence(), ModalityLUTSequence=Sequence()),
    "a table without data": dict(VOILUTSequence=Sequence([Dataset()]), ModalityLUTSequence=Sequence([Dataset()])),
    "no slope": dict(RescaleSlope=None),
    "slope of zero": dict(RescaleSlope=0),
    "no intercept": dict(RescaleIntercept=None),
    "padding that does not occur": dict(PixelPaddingValue=-5000),
    "useless number of frames": dict(NumberOfFrames="1"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tags", AS_WITHOUT.values(), ids=AS_WITHOUT)
def test_what_cannot_be_meant_changes_nothing(tags, tmp_path):
    values = CT + np.random.default_rng(0).integers(-9, 9, CT.shape).astype(np.int16)
    want = load_grey(ct(tmp_path / "plain.dcm", values))
    np.testing.assert_array_equal(load_grey(ct(tmp_path / "a.dcm", values, **tags)), want)
    assert int(want[40, 40]) - int(want[5, 5]) > 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", [b"abc ", b"1\\2 ", b"    ", b"nan "])
def test_text_in_place_of_a_number_is_none(text, tmp_path):
    path = ct(tmp_path / "a.dcm", WindowCenter=1234, WindowWidth=1234)
    path.write_bytes(path.read_bytes().replace(b"1234", text))
    np.testing.assert_array_equal(load_grey(path), load_grey(ct(tmp_path / "plain.dcm")))


def test_the_first_usable_window_is_taken(tmp_path):
    path = ct(tmp_path / "a.dcm", WindowCenter=[0, 40], WindowWidth=[0, 400])
    np.testing.assert_array_equal(load_grey(path), np.rint(window(CT, 40, 400)))


def test_a_window_that_shows_one_pixel_is_ignored(tmp_path):
    values = (CT + 12_000).astype(np.int16)
    values[0, 0] = 40
    path = ct(tmp_path / "a.dcm", values, WindowCenter=40, WindowWidth=400)
    assert int(load_grey(path)[40, 40]) - int(load_grey(path)[5, 5]) > 60


def test_a_damaged_look_up_table_is_ignored(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [900, 0, 16]  # the data have 4 entries
    item.add_new("LUTData", "OW", b"\1\0\2\0\3\0\4\0")
    path = dicom(tmp_path / "a.dcm", STORED, VOILUTSequence=Sequence([item]))
    assert load_grey(path).std() > 30


def test_a_table_of_eight_bits_in_a_field_of_sixteen(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.add_new("LUTData", "US", (np.arange(4096) // 16).tolist())
    got = load_grey(dicom(tmp_path / "a.dcm", STORED, VOILUTSequence=Sequence([item])))
    np.testing.assert_array_equal(got, STORED // 16)


def test_metal_of_a_prosthesis_does_not_decide(tmp_path):
    metal = CT.copy()
    metal[30:40, 30:38] = 30_000  # 2 percent
    got = load_grey(ct(tmp_path / "a.dcm", metal)).astype(int)
    assert got[44, 44] - got[5, 5] > 60


@pytest.mark.parametrize("value", [-2000, 63536])  # the second is the first, written as if it had no sign
def test_declared_padding_is_black_and_takes_no_part(value, tmp_path):
    values = CT.copy()
    values[:8] = -2000
    ds = dataset(values, PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    got = load_grey(tmp_path / "a.dcm")
    assert got[:8].max() == 0
    np.testing.assert_array_equal(got[8:], 255 - stretch(values[8:]))


@pytest.mark.parametrize("lossy", [dict(LossyImageCompression="01"), dict()])
def test_padding_that_compression_moved(lossy, tmp_path):
    rng = np.random.default_rng(0)
    anatomy = np.tile(rng.normal([24, 1064, 1800, 1100], 20, (16, 4)), (4, 16)).astype(np.int16)
    values = anatomy.copy()
    values[:20] = rng.normal(-2000, 120, (20, 64))
    got = load_grey(dicom(tmp_path / "a.dcm", values, PixelPaddingValue=-2000, **lossy)).astype(int)
    shift = np.abs(got[20:] - stretch(anatomy[20:])).max()
    assert shift <= 3 if lossy else shift > 60
    if lossy:
        assert got[:20].max() == 0


def test_lossy_files_without_padding_lose_nothing(tmp_path):
    values = np.random.default_rng(0).integers(0, 3000, (64, 64)).astype(np.int16)
    path = dicom(tmp_path / "a.dcm", values, PixelPaddingValue=-2000, LossyImageCompression="01")
    np.testing.assert_array_equal(load_grey(path), stretch(values))


def test_padding_alone_is_an_image(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.full((32, 32), -2000, np.int16), PixelPaddingValue=-2000)
    assert load_grey(path).max() == 0


# windows by name -------------------------------------------------------------------------------------------------


def test_named_windows_hold_for_ct_alone(tmp_path):
    lung = Grey(window="lung")
    want = np.rint(window(CT, *WINDOWS["lung"]))
    np.testing.assert_array_equal(load_grey(ct(tmp_path / "a.dcm", WindowCenter=40, WindowWidth=80), lung), want)
    for tags in (
        dict(Modality="MR"),
        dict(RescaleType="BQML"),
        dict(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        dict(RescaleIntercept=20_000),
    ):
        path = ct(tmp_path / "a.dcm", **tags)
        np.testing.assert_array_equal(load_grey(path, lung), load_grey(path), str(tags))
    path = dicom(tmp_path / "a.dcm", CT, Modality="CT")  # without a rescale
    np.testing.assert_array_equal(load_grey(path, lung), load_grey(path))


def test_a_named_window_of_an_enhanced_ct(tmp_path):
    rescale, shared = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PixelValueTransformationSequence = Sequence([rescale])
    frames = np.stack([CT, CT, CT + 100]) + 1024
    path = dicom(tmp_path / "a.dcm", frames, Modality="CT", SharedFunctionalGroupsSequence=Sequence([shared]))
    got = load_grey(f"{path}#2", Grey(window="abdomen"))
    np.testing.assert_array_equal(got, np.rint(window(CT + 100, *WINDOWS["abdomen"])))


# frames ----------------------------------------------------------------------------------------------------------


def test_names_of_frames(tmp_path):
    path = dicom(tmp_path / "cine.dcm", np.stack([STORED] * 4))
    assert frame_names(path) == [f"{path}#2"]
    assert frame_names(path, "first") == [f"{path}#0"]
    assert frame_names(path, "all") == [f"{path}#{i}" for i in range(4)]
    assert frame_names(path, 3) == [f"{path}#3"]
    assert image_fault(frame_names(path, 4)[0]) == "image unreadable: there is no frame 4, the file has 4"
    assert frame_names(f"{path}#1", "all") == [f"{path}#1"]
    single = dicom(tmp_path / "one.dcm", STORED)
    assert frame_names(single, "all") == frame_names(single) == [str(single)]


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_frames_of_a_large_file_are_read_alone(syntax, tmp_path, monkeypatch):
    monkeypatch.setattr("radgen.data.images.IN_MEMORY", 1000)
    frames = np.stack([STORED, STORED[::-1], STORED[:, ::-1]])
    ds = dataset(frames)
    if syntax:
        ds.compress(syntax)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(load_grey(tmp_path / "a.dcm"), stretch(frames[1]))
    np.testing.assert_array_equal(load_grey(f"{tmp_path / 'a.dcm'}#2"), stretch(frames[2]))


def test_a_replaced_file_has_its_own_header(tmp_path):
    for count in (2, 3):
        path = dicom(tmp_path / "a.dcm", np.stack([STORED // count] * count))
        assert frame_names(path, "all")[-1] == f"{path}#{count - 1}"
        assert load_grey(f"{path}#1").max() == 255


def test_more_frames_than_a_data_set_can_use_are_not_listed(tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED[:16, :16], NumberOfFrames=3_000_000)
    with pytest.raises(ImageError, match="image too large: 3,000,000 frames"):
        frame_names(path, "all")
    assert frame_names(path, "first") == [f"{path}#0"]
    path = dicom(tmp_path / "b.dcm", STORED[:16, :16], NumberOfFrames=10_000)
    assert len(frame_names(path, "all")) == 10_000


def resized(path, syntax, rows, columns, frames=1):
    "A file of 64x64 pixels whose header says another size."
    stored = np.tile(STORED, (2, 2)) // 16
    ds = dataset(np.stack([stored] * frames) if frames > 1 else stored, BitsStored=12, HighBit=11)
    ds.compress(syntax)
    ds.Rows, ds.Columns = rows, columns
    ds.save_as(path, enforce_file_format=True)
    return path


@needs_decoders
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("in_memory", [1, 64_000_000])
def test_a_compressed_frame_of_another_size_is_not_decoded(syntax, in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr("radgen.data.images.IN_MEMORY", in_memory)
    for frames, part in (1, ""), (3, "#2"):
        path = resized(tmp_path / "a.dcm", syntax, 64, 64, frames)
        assert load_grey(f"{path}{part}").shape == (64, 64)
        decoded = []
        with monkeypatch.context() as m:
            m.setattr(dicom_module, "pixel_array", lambda *given, **options: decoded.append(given))
            for rows, columns in (32, 64), (64, 32), (128, 128):
                path = resized(tmp_path / "a.dcm", syntax, rows, columns, frames)
                with pytest.raises(ImageError) as e:
                    load_grey(f"{path}{part}")
                stated = f"its compressed image is 64x64 and its header says {columns}x{rows}"
                assert e.value.why == f"image unreadable: {stated}"
        assert decoded == []


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit])
def test_a_jpeg_frame_of_another_size_is_not_decoded(syntax, tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(STORED.astype(np.uint8)).resize((600, 500)).save(file, "JPEG")
    stream = file.getvalue()
    if syntax == JPEGExtended12Bit:  # Pillow reads no header of 12 bits
        stream = stream.replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")
    monkeypatch.setattr(dicom_module, "pixel_array", None)
    ds = dataset(STORED.astype(np.uint8), syntax)
    ds.PixelData = encapsulate([stream])
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match="its compressed image is 600x500 and its header says 32x32"):
        load_grey(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "stream", [b"\xff", b"\xff\xd8", b"\xff\xd8" + b"\xff\xe0\0\0" * 9, b"\xff\x4f\xff\x51", b"no image"]
)
def test_damaged_streams_have_no_size(stream, tmp_path):
    ds = dataset(STORED, JPEGExtended12Bit)
    ds.PixelData = encapsulate([stream])
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match="unreadable") as e:
        load_grey(tmp_path / "a.dcm")
    assert "header says" not in e.value.why


def test_a_file_that_has_to_be_read_whole_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_module, "MAX_BYTES", 2000)
    monkeypatch.setattr("radgen.data.images.IN_MEMORY", 100)
    bits = dataset(np.zeros((200, 200), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    bits.PixelData = bytes(5000)
    bits.save_as(tmp_path / "bits.dcm", enforce_file_format=True)
    old = dataset(STORED)
    del old.file_meta.TransferSyntaxUID
    old.save_as(tmp_path / "old.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)
    for name in "bits.dcm", "old.dcm":
        with pytest.raises(ImageError, match="image too large: 0 MB"):
            load_grey(tmp_path / name)
    monkeypatch.setattr(dicom_module, "MAX_BYTES", 20_000)
    assert load_grey(tmp_path / "bits.dcm").shape == (200, 200)
    assert load_grey(tmp_path / "old.dcm").shape == (32, 32)


@pytest.mark.parametrize("frames", ["1A", "0", "-3", ""])
@pytest.mark.filterwarnings("ignore")
def test_a_useless_number_of_frames_is_one(frames, tmp_path):
    path = dicom(tmp_path / "a.dcm", STORED)
    content = bytearray(dicom(tmp_path / "a.dcm", STORED, NumberOfFrames=1).read_bytes())
    at = content.index(b"\x28\0\x08\0IS") + 8
    content[at : at + 2] = frames.ljust(2).encode()
    path.write_bytes(content)
    assert image_fault(path) == ""


# messages --------------------------------------------------------------------------------------------------------


def test_reasons_are_whole_sentences():
    long = (
        "The number of bytes of pixel data is less than expected (8130 vs 8192 bytes) - the dataset may be corrupted, "
    )
    long += "have an invalid group 0028 element value, or the transfer syntax may be incorrect"
    assert clause(long).startswith("The number of bytes of pixel data is less than expected (8130 vs 8192 bytes)")
    assert clause(long).endswith(("corrupted", "bytes)", "value"))
    assert clause("cannot open '/data/roe jane/a.png'") == "cannot open 'the file jane/a.png'"
    assert clause("x " * 200) == ""


def test_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(Path(get_testdata_file("MR_small.dcm")).read_bytes()[:-3000])
    for name in (path, f"{path}#0"):
        with pytest.raises(ImageError) as e:
            load_grey(name)
        assert "truncated" in e.value.why


def test_a_palette_of_small_entries_is_not_black(tmp_path):
    "Some files say 16 bits and use 8 of them."
    stored = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = np.arange(256, dtype="<u2").tobytes()
    assert np.array_equal(load_grey(dicom(tmp_path / "a.dcm", stored, **tags)), stored)
