"One image as grey bytes: figures, DICOM, rows of Parquet; and what is refused."

import pickle, warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from radgen.core.errors import DataError
from radgen.data.images import ImageError, image_fault, load_grey, stretch, window


def test_load_grey(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    save = lambda im, name, **kw: (im.save(tmp_path / name, **kw), tmp_path / name)[1]
    assert (load_grey(save(Image.fromarray(ramp), "l.png")) == ramp).all()
    assert (load_grey(save(Image.fromarray(np.stack([ramp] * 3, -1)), "rgb.png")) == ramp).all()
    assert (load_grey(save(Image.fromarray(np.stack([ramp] * 4, -1)), "rgba.png")) == ramp).all()
    assert (load_grey(save(Image.fromarray(ramp).convert("P"), "p.png")) == ramp).all()
    assert (load_grey(save(Image.fromarray(ramp.astype(np.uint16) * 16 + 7), "16.png")) == ramp).all()
    assert (load_grey(save(Image.fromarray(np.full((40, 40), 900, np.uint16)), "flat16.png")) == 0).all()
    assert (
        np.abs(
            load_grey(save(Image.fromarray(np.stack([ramp] * 3, -1)).convert("CMYK"), "cmyk.jpg", quality=98)).astype(
                int
            )
            - ramp
        ).max()
        < 8
    )
    exif = Image.Exif()
    exif[274] = 6
    ramp = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
    for turn, back in (
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ):
        exif[274] = turn
        for name in "turned.jpg", "turned.png":
            assert (
                np.abs(
                    load_grey(save(Image.fromarray(ramp), name, exif=exif, quality=97)).astype(int) - back(ramp)
                ).max()
                <= 3
            )
    for a in (load_grey(tmp_path / "l.png"), load_grey(tmp_path / "16.png")):
        assert a.dtype == np.uint8 and a.ndim == 2


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "text.jpg", "zero.png", "none.jpg"])
def test_load_grey_refuses_damage(tmp_path, name):
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


def test_sizes_are_bounded_before_decoding(tmp_path):
    for size, reason in (
        ((10000, 10000), "image too large: 10000x10000 pixels"),
        ((20000, 20000), "image too large: 400,000,000 pixels"),
        ((1, 1), "image too small: 1x1 pixels"),
        ((500, 15), "image too small: 500x15 pixels"),
    ):
        Image.new("1", size).save(tmp_path / "a.png")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pytest puts Pillow's warning back
            assert image_fault(tmp_path / "a.png") == reason
            with pytest.raises(ImageError) as e:
                load_grey(tmp_path / "a.png")
        assert e.value.why == reason


def test_animations_and_numbers(tmp_path):
    frames = [Image.fromarray(np.full((20, 30), v, np.uint8)) for v in (10, 90, 200)]
    for name in "a.gif", "a.png", "a.tif":
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert (
            np.abs(load_grey(tmp_path / name).astype(int) - 10).max() < 3
            and np.abs(load_grey(f"{tmp_path / name}#2").astype(int) - 200).max() < 3
        )
        with pytest.raises(ImageError):
            load_grey(f"{tmp_path / name}#3")
        assert image_fault(f"{tmp_path / name}#3").startswith("image unreadable")
    frames[0].save(tmp_path / "a#7.png")  # a name, not a number
    assert load_grey(tmp_path / "a#7.png")[0, 0] == 10


def test_every_cut_of_a_file_is_refused_or_whole(tmp_path):
    "However a JPEG or PNG is cut, nothing comes back that is not the picture."
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8))
    for name in "a.jpg", "a.png":
        im.save(tmp_path / name)
        whole, b = load_grey(tmp_path / name), (tmp_path / name).read_bytes()
        for n in range(1, len(b), 37):
            (tmp_path / name).write_bytes(b[:n])
            try:
                assert (load_grey(tmp_path / name) == whole).all()
            except ImageError as e:
                assert e.why.startswith("image unreadable")


def test_noise_for_bytes_never_escapes_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / "good.jpg")
    for head in (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"II*\0",
        b"\0" * 128 + b"DICM",
        (tmp_path / "good.jpg").read_bytes()[:400],
        Path(get_testdata_file("CT_small.dcm")).read_bytes()[:2000],
    ):
        for ext in "jpg", "dcm", "png":
            for _ in range(4):
                (tmp_path / f"x.{ext}").write_bytes(head + rng.bytes(600))
                try:
                    a = load_grey(tmp_path / f"x.{ext}")
                    assert a.dtype == np.uint8 and a.ndim == 2
                except ImageError as e:
                    assert e.why.startswith("image ") and str(tmp_path) not in str(e)
                assert (
                    image_fault(tmp_path / f"x.{ext}").startswith("image") or image_fault(tmp_path / f"x.{ext}") == ""
                )


def dicom(path, stored, **tags):
    "A DICOM file of the stored values with a patient in its header."
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ExplicitVRLittleEndian,
        CTImageStorage,
        generate_uid(),
    )
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.InstitutionName, ds.AccessionNumber = (
        "ROE^JANE",
        "MRN7788",
        "19510203",
        "St Elsewhere",
        "ACC991",
    )
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = stored.shape[-2:]
    bits = stored.dtype.itemsize * 8
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = (
        1,
        bits,
        bits,
        bits - 1,
        int(stored.dtype.kind == "i"),
    )
    ds.PhotometricInterpretation = "MONOCHROME2"
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    for k, v in tags.items():
        setattr(ds, k, v)
    ds.PixelData = stored.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


STORED = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)


def test_the_window_by_hand():
    "Centre 100, width 101: black up to 49.5, white above 149.5, 2.55 a unit between."
    assert window(np.array([0, 49.5, 49.5 + 50, 149.5, 200.0]), 100, 101).tolist() == [0, 0, 127.5, 255, 255]
    assert window(np.array([50.0, 100, 150]), 100, 100, "LINEAR_EXACT").tolist() == [0, 127.5, 255]
    assert np.allclose(window(np.array([100.0, 125]), 100, 100, "SIGMOID"), [127.5, 255 / (1 + np.exp(-1))])


def test_rescale_and_window(tmp_path):
    got = load_grey(
        dicom(
            tmp_path / "a.dcm",
            STORED,
            RescaleSlope=2,
            RescaleIntercept=-1000,
            WindowCenter=[500, 40],
            WindowWidth=[1000, 80],
        )
    )
    hu = STORED.astype(float) * 2 - 1000
    assert (got == np.rint(((hu - 499.5) / 999 + 0.5).clip(0, 1) * 255)).all()
    assert (
        load_grey(dicom(tmp_path / "b.dcm", STORED, RescaleSlope=2, RescaleIntercept=-1000)) == stretch(STORED)
    ).all()  # no window: smallest to largest
    assert (
        load_grey(dicom(tmp_path / "c.dcm", STORED, PhotometricInterpretation="MONOCHROME1")) == 255 - stretch(STORED)
    ).all()


def test_padding_does_not_stretch(tmp_path):
    a = (STORED % 1000).astype(np.int16)
    a[0] = -2000
    got = load_grey(dicom(tmp_path / "a.dcm", a, PixelPaddingValue=-2000))
    assert (got[0] == 0).all() and (got[1:] == stretch(a[1:])).all()


def test_look_up_table(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4, 10, 8]
    item.add_new("LUTData", "US", [0, 50, 100, 255])
    got = load_grey(
        dicom(tmp_path / "a.dcm", np.tile(np.arange(6, 22, dtype=np.uint16), (16, 1)), VOILUTSequence=Sequence([item]))
    )
    assert got[0].tolist() == [0] * 5 + [50, 100] + [255] * 9


def test_frames_and_their_own_windows(tmp_path):
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
        assert (load_grey(f"{path}#{i}") == np.rint(window(frames[i] + 100.0, centre, 400))).all()
    assert (load_grey(path) == load_grey(f"{path}#0")).all()
    for i in (3, 99):
        assert image_fault(f"{path}#{i}") == f"image unreadable: there is no frame {i}, the file has 3"


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
)
def test_compressed_and_foreign_syntaxes_give_the_same_picture(name):
    assert (load_grey(get_testdata_file(name)) == load_grey(get_testdata_file("MR_small.dcm"))).all()


def test_colour_dicom_goes_to_luminance():
    for name in "examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_palette.dcm", "SC_rgb_rle_16bit.dcm":
        a = load_grey(get_testdata_file(name))
        assert a.ndim == 2 and a.dtype == np.uint8 and a.max() > 150 and a.std() > 10
    rgb = pydicom.dcmread(get_testdata_file("examples_rgb_color.dcm")).pixel_array
    assert (
        load_grey(get_testdata_file("examples_rgb_color.dcm")) == np.asarray(Image.fromarray(rgb).convert("L"))
    ).all()


def test_a_missing_decoder_is_named(monkeypatch):
    path = get_testdata_file("SC_rgb_jpeg_gdcm.dcm")
    monkeypatch.setattr("radgen.images.get_decoder", lambda uid: type("None here", (), {"is_available": False}))
    assert image_fault(path) == "image unreadable: no decoder for JPEG Lossless, pip install -e '.[dicom]'"
    with pytest.raises(ImageError, match="no decoder for JPEG Lossless"):
        load_grey(path)


@pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm", "MR_truncated.dcm", "badVR.dcm"])
def test_dicom_without_a_picture(name):
    with pytest.raises(ImageError) as e:
        load_grey(get_testdata_file(name))
    assert e.value.why.startswith("image ")


def test_sixteen_bits_and_twelve(tmp_path):
    "A 12-bit range in 16-bit PNG and DICOM gives the same grey."
    twelve = (STORED + 100).astype(np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    assert (load_grey(tmp_path / "a.png") == load_grey(dicom(tmp_path / "a.dcm", twelve))).all()
    assert load_grey(tmp_path / "a.png").min() == 0 and load_grey(tmp_path / "a.png").max() == 255


def test_nothing_of_a_patient_reaches_the_prepared_folder(tmp_path):
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    rng = np.random.default_rng(0)
    for i in range(6):
        dicom(tmp_path / f"s{i}.dcm", rng.integers(0, 900, (48, 48)).astype(np.uint16))
    (tmp_path / "own.csv").write_text(
        "image,caption,cuis,split\n"
        + "".join(
            f"s{i}.dcm,Axial CT of the chest,C0040405;C0817096,{'test' if i > 3 else 'train'}\n" for i in range(6)
        )
    )
    prepared = prepare(PrepareConfig(tmp_path / "own.csv", tmp_path / "out", k=2, llm="rules", max_entropy=8))
    assert len(prepared.rows("train")) == 4 and prepared.images("train", 32).shape == (4, 32, 32)
    for path in prepared.dir.rglob("*"):
        if path.is_file():
            b = path.read_bytes()
            for secret in (b"ROE", b"JANE", b"MRN7788", b"19510203", b"Elsewhere", b"ACC991"):
                assert secret not in b, path.name


def test_windows_that_the_standard_forbids(tmp_path):
    assert window(np.array([99.0, 99.5, 99.6]), 100, 1).tolist() == [0, 0, 255]  # width 1 is a threshold
    for width, function in ((0, "LINEAR"), (-50, "LINEAR_EXACT"), (0, "SIGMOID")):
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


def test_a_range_of_padding(tmp_path):
    a = (STORED % 1000).astype(np.int16)
    a[0], a[1] = -2000, -1600
    got = load_grey(dicom(tmp_path / "a.dcm", a, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500))
    assert (got[:2] == 0).all() and (got[2:] == stretch(a[2:])).all()


def test_numbers_that_are_none(tmp_path):
    a = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    a[0, 0], a[0, 1] = np.nan, np.inf
    Image.fromarray(a).save(tmp_path / "a.tif")
    got = load_grey(tmp_path / "a.tif")
    assert got[0, 0] == 0 and got[0, 1] == got.max() == 255 and 100 < got.mean() < 150
    assert (stretch(np.full((4, 4), np.nan)) == 0).all()


def test_bytes_decide_and_not_the_name(tmp_path):
    for ext, fmt in (("dcm", "PNG"), ("dcm", "JPEG"), ("png", "JPEG")):
        Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (32, 1))).save(tmp_path / f"a.{ext}", fmt, quality=97)
        assert (
            image_fault(tmp_path / f"a.{ext}") == ""
            and np.abs(load_grey(tmp_path / f"a.{ext}")[5].astype(int) - np.arange(256)).max() <= 3
        )
    (tmp_path / "a.jpg").write_bytes(Path(get_testdata_file("MR_small.dcm")).read_bytes())
    assert image_fault(tmp_path / "a.jpg") == "" and load_grey(tmp_path / "a.jpg").shape == (64, 64)
    (tmp_path / "b.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EOF\n"
    )  # would run Ghostscript
    assert image_fault(tmp_path / "b.jpg") == "image unreadable: not an image"


def test_deflated_dicom_is_not_unpacked():
    assert image_fault(get_testdata_file("image_dfl.dcm")).startswith("image unreadable: deflated DICOM")


def test_exif_behind_other_segments(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    b = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(b[:2] + b"\xff\xed" + (9002).to_bytes(2, "big") + b"x" * 9000 + b[2:])
    assert load_grey(tmp_path / "a.jpg").shape == (64, 32)


def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path):
    import io, os
    import pyarrow as pa, pyarrow.parquet as pq

    for v in (30, 200):
        Image.new("L", (32, 32), v).save(b := io.BytesIO(), "PNG")
        pq.write_table(pa.table({"image": [{"bytes": b.getvalue(), "path": "a"}]}), tmp_path / "new.parquet")
        os.replace(tmp_path / "new.parquet", tmp_path / "a.pq")
        assert (load_grey(f"{tmp_path / 'a.pq'}#0") == v).all()
    with pytest.raises(ImageError) as e:
        load_grey(f"{tmp_path / 'a.pq'}#1")
    assert e.value.why == "image missing: a.pq has 1 rows"


def test_an_error_comes_whole_from_another_process():
    e = pickle.loads(pickle.dumps(ImageError("folder/a.png", "too small: 1x1 pixels")))
    assert (e.why, str(e)) == (
        "image too small: 1x1 pixels",
        "a.png: image too small: 1x1 pixels; replace the file or remove its row.",
    )
