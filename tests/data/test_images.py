"One image as grey bytes: figures, members of archives, slices of volumes; and what is rejected."

import io
import os
import pickle
import struct
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from dicom_files import CT, STORED, dicom
from PIL import Image
from pydicom.data import get_testdata_file

from radgen.core.errors import DataError
from radgen.data.config import Grey
from radgen.data.grey import stretch
from radgen.data.images import ImageError, frame_names, image_fault, load_grey, measure_range, square

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
        Image.fromarray(np.dstack([COLOUR, np.full_like(RAMP, 255)])),
        Image.fromarray(RAMP).convert("P"),
    ],
    ids=["grey", "colour", "alpha", "palette"],
)
def test_load_grey_gives_a_ramp_back_from_every_kind_of_png(image, tmp_path):
    image.save(tmp_path / "a.png")
    got = load_grey(tmp_path / "a.png")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, RAMP)


def test_sixteen_bits_are_stretched_without_the_outermost_half_percent(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 16 + 7).save(tmp_path / "a.png")
    assert difference(load_grey(tmp_path / "a.png"), RAMP) <= 2
    detector = np.random.default_rng(0).integers(500, 3500, (64, 64)).astype(np.uint16)
    clean = load_grey_of(detector, tmp_path)
    detector[0, 0], detector[0, 1] = 65535, 0
    assert difference(load_grey_of(detector, tmp_path)[1:], clean[1:]) <= 1


def load_grey_of(values, folder):
    "The grey of 16-bit values in a PNG."
    Image.fromarray(values).save(folder / "values.png")
    return load_grey(folder / "values.png")


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_black(mode, tmp_path):
    hidden = np.full((32, 32, 4), 255, np.uint8)
    hidden[8:24, 8:24] = (90, 90, 90, 255)
    hidden[:8, :, 3] = 0
    hidden[8:16, :4, 3] = 128
    image = Image.fromarray(hidden).convert("LA" if mode == "LA" else "RGBA")
    (image.quantize(16) if mode == "P" else image).save(tmp_path / "a.png")
    got = load_grey(tmp_path / "a.png")
    assert got[:8].max() == 0
    assert abs(int(got[16, 16]) - 90) <= 2
    assert got[30, 30] >= 250
    if mode != "P":
        assert 120 <= got[12, 1] <= 135


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
    assert difference(load_grey(path), np.full((20, 30), 90)) < 3  # the middle one
    assert difference(load_grey(f"{path}#0"), np.full((20, 30), 10)) < 3
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


# 16 bits and more ------------------------------------------------------------------------------------------------

DETECTOR = np.random.default_rng(3).integers(500, 3500, (64, 64)).astype(np.uint16)


def tiff(path, values, photometric=1):
    "A TIFF of one channel, uncompressed, with the photometric interpretation given: 0 white is zero, 1 black is zero."
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: values.shape[1], 257: values.shape[0], 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 8}
    tags |= {277: 1, 278: values.shape[0], 279: values.nbytes, 339: kind}
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    return path


def png(path, channels):
    "A 16-bit PNG with 1 to 4 channels, (H, W, C)."
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels.shape[2]]
    rows = channels.astype(">u2").tobytes()
    step = 2 * channels.shape[1] * channels.shape[2]
    lines = b"".join(b"\0" + rows[i : i + step] for i in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", channels.shape[1], channels.shape[0], 16, kind, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(lines), b"IEND"]
    body = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_twelve_bits_give_the_same_grey_in_png_tiff_and_dicom(tmp_path):
    twelve = (STORED + 100).astype(np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    got = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(got, load_grey(dicom(tmp_path / "a.dcm", twelve)))
    np.testing.assert_array_equal(got, load_grey(tiff(tmp_path / "a.tif", twelve)))
    assert (got.min(), got.max()) == (0, 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_with_colours_or_transparency_keep_their_lower_bits(channels, tmp_path):
    "Pillow would keep the upper 8 bits, of which a 12-bit detector uses 4."
    layers = [DETECTOR] * (1 if channels < 3 else 3)
    if channels in (2, 4):
        layers.append(np.full_like(DETECTOR, 65535))
    got = load_grey(png(tmp_path / "a.png", np.stack(layers, -1)))
    assert difference(got, stretch(DETECTOR)) <= 1


def test_hidden_pixels_of_sixteen_bits_are_padding(tmp_path):
    values, alpha = DETECTOR.copy(), np.full_like(DETECTOR, 65535)
    values[:20], alpha[:20] = 65535, 0
    got = load_grey(png(tmp_path / "a.png", np.stack([values, alpha], -1)))
    assert got[:20].max() == 0
    assert difference(got[20:], stretch(DETECTOR[20:])) <= 1


def test_a_transparent_value_of_sixteen_bits_is_padding(tmp_path):
    values = DETECTOR.copy()
    values[:20] = 9
    Image.fromarray(values).save(tmp_path / "a.png", transparency=9)
    got = load_grey(tmp_path / "a.png")
    assert got[:20].max() == 0
    np.testing.assert_array_equal(got[20:], stretch(DETECTOR[20:]))


def test_a_tiff_of_sixteen_bits_and_three_channels(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.stack([DETECTOR] * 3, -1), photometric="rgb")
    assert difference(load_grey(tmp_path / "a.tif"), stretch(DETECTOR)) <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_may_say_that_small_values_are_white(dtype, tmp_path):
    values = (DETECTOR // 16).astype(np.uint8) if dtype == np.uint8 else DETECTOR
    want = values if dtype == np.uint8 else stretch(values)
    np.testing.assert_array_equal(load_grey(tiff(tmp_path / "a.tif", values, photometric=0)), 255 - want)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.uint16])
@pytest.mark.parametrize("outlier", [0, 30_000])
def test_one_outlier_does_not_decide_in_any_tiff(dtype, outlier, tmp_path):
    values = DETECTOR.astype(dtype)
    values[0, 0] = outlier
    got = load_grey(tiff(tmp_path / "a.tif", values))
    assert difference(got[1:], stretch(DETECTOR)[1:]) <= 1


def test_nan_is_black_and_infinity_is_white(tmp_path):
    a = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    a[0, 0], a[0, 1] = np.nan, np.inf
    Image.fromarray(a).save(tmp_path / "a.tif")
    got = load_grey(tmp_path / "a.tif")
    assert got[0, 0] == 0
    assert got[0, 1] == 255
    assert 100 < got.mean() < 150


@pytest.mark.parametrize(("name", "mode"), [("a.gif", "P"), ("a.webp", "RGBA"), ("a.png", "1"), ("a.tif", "RGBA")])
def test_other_transparent_and_bilevel_files(name, mode, tmp_path):
    layers = np.full((32, 32, 4), 255, np.uint8)
    layers[8:24, 8:24] = (120, 120, 120, 255)
    layers[:8, :, 3] = 0
    image = Image.fromarray(layers)
    options = {}
    if mode == "1":
        image = Image.fromarray(layers[..., 0] > 200)
    elif mode == "RGBA":
        options = {"lossless": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, **options)
    got = load_grey(tmp_path / name)
    assert got[2, 2] == (255 if mode == "1" else 0)
    assert abs(int(got[16, 16]) - (0 if mode == "1" else 120)) <= 2
    assert got[30, 30] == 255


def test_the_lightness_of_lab_colours(tmp_path):
    Image.merge("LAB", [Image.fromarray(RAMP)] * 3).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_grey(tmp_path / "a.tif"), RAMP)


# options and data sets -------------------------------------------------------------------------------------------


def test_options_change_deep_values_alone(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    Image.fromarray(DETECTOR).save(tmp_path / "deep.png")
    own = Grey(window="1000,500")
    np.testing.assert_array_equal(load_grey(tmp_path / "a.png", own), RAMP)
    deep = DETECTOR.astype(float)
    np.testing.assert_array_equal(
        load_grey(tmp_path / "deep.png", own), np.rint(((deep - 999.5) / 499 + 0.5).clip(0, 1) * 255)
    )
    np.testing.assert_array_equal(load_grey(tmp_path / "deep.png", Grey(window="lung")), stretch(DETECTOR))
    assert load_grey(tmp_path / "deep.png", Grey(percentiles=(25, 75))).std() > stretch(DETECTOR).std()


def test_one_range_for_a_data_set(tmp_path):
    paths = []
    for bone in (1000, 3000):
        hu = CT.astype(np.int32) + 32768
        hu[20:24, 20:44] = 32768 + bone
        paths.append(tmp_path / f"{bone}.png")
        Image.fromarray(hu.astype(np.uint16)).save(paths[-1])
    Image.fromarray(RAMP).save(tmp_path / "eight.png")
    found = measure_range([*paths, tmp_path / "eight.png", tmp_path / "missing.png"])
    assert found == (32768 - 1000, 32768 + 3000)
    shared = Grey(window="dataset", range=found)
    assert len({int(load_grey(path, shared)[40, 40]) for path in paths}) == 1
    assert len({int(load_grey(path)[40, 40]) for path in paths}) == 2
    assert measure_range([tmp_path / "eight.png"]) is None
    assert measure_range([]) is None


def test_at_most_so_many_images_are_measured(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("radgen.data.images._load", lambda image, rule, colour: read.append(image))
    measure_range([str(i) for i in range(1000)], most=5)
    assert read == ["0", "249", "499", "749", "999"]


# members ---------------------------------------------------------------------------------------------------------


def test_an_archive_without_a_number_says_how_to_name_an_image(tmp_path):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    for name in (load_grey, image_fault):
        try:
            why = name(tmp_path / "a.parquet")
        except ImageError as e:
            why = e.why
        assert why == "image unreadable: it holds several images, name one of them as a.parquet#0"


def test_an_archive_within_an_archive_says_what_to_do(tmp_path):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [(tmp_path / "a.parquet").read_bytes()]}), tmp_path / "b.parquet")
    with pytest.raises(ImageError, match="image unreadable: an archive within an archive, unpack it"):
        load_grey(f"{tmp_path / 'b.parquet'}#0")


@pytest.mark.parametrize("kind", ["png", "dicom", "deep"])
def test_members_are_read_as_files_are(kind, tmp_path):
    if kind == "dicom":
        path = dicom(tmp_path / "a.dcm", np.stack([STORED, STORED[::-1], STORED.T]))
    else:
        path = tmp_path / "a.png"
        Image.fromarray(RAMP if kind == "png" else DETECTOR).save(path)
    content = path.read_bytes()
    pq.write_table(pa.table({"png": [b"", content]}), tmp_path / "a.parquet")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "0001" + path.suffix)
    want = load_grey(path)
    np.testing.assert_array_equal(load_grey(f"{tmp_path / 'a.parquet'}#png:1"), want)
    np.testing.assert_array_equal(load_grey(f"{tmp_path / 'a.tar'}#0"), want)
    assert image_fault(f"{tmp_path / 'a.tar'}#0") == ""


def test_frame_names_of_figures(tmp_path):
    frames = [Image.fromarray(np.full((20, 30), v, np.uint8)) for v in (10, 90, 200)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(RAMP).save(tmp_path / "a.jpg")
    assert frame_names(tmp_path / "a.tif", "all") == [f"{tmp_path / 'a.tif'}#{i}" for i in range(3)]
    assert frame_names(tmp_path / "a.tif") == [f"{tmp_path / 'a.tif'}#1"]
    for frames in ("middle", "first", "all", 0):
        assert frame_names(tmp_path / "a.jpg", frames) == [str(tmp_path / "a.jpg")]
        assert frame_names(tmp_path / "none.jpg", frames) == [str(tmp_path / "none.jpg")]
    for name in ("a.nii.gz", "a.tar", "a.parquet", "a.tif#1"):
        assert frame_names(name, "all") == [name]


def test_a_folder_is_no_image(tmp_path):
    (tmp_path / "a.png").mkdir()
    assert image_fault(tmp_path / "a.png") == "image unreadable: not a file"
    with pytest.raises(ImageError, match="unreadable: is a directory"):
        load_grey(tmp_path / "a.png")


def test_square_is_white_where_nothing_can_be_read(tmp_path):
    assert square(tmp_path / "none.png", 32).min() == 255
    Image.fromarray(DETECTOR).save(tmp_path / "a.png")
    assert square(tmp_path / "a.png", 32).shape == (32, 32)


DEEP = (np.add.outer(np.arange(40), np.arange(64)) * 30).astype(np.uint16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colours_are_turned_as_their_header_says(orientation, tmp_path):
    tag = [(274, "H", 1, orientation, True)]
    for name, channels, planar in (("a.tif", (-1,), "contig"), ("b.tif", (0,), "separate")):
        stored = np.stack([DEEP] * 3, axis=channels[0])
        tifffile.imwrite(tmp_path / name, stored, photometric="rgb", planarconfig=planar, extratags=tag)
    tifffile.imwrite(tmp_path / "grey.tif", DEEP, extratags=tag)
    want = load_grey(tmp_path / "grey.tif")
    assert want.shape == ((64, 40) if orientation > 4 else (40, 64))
    for name in ("a.tif", "b.tif"):
        assert difference(load_grey(tmp_path / name), want) <= 1


def test_the_empty_first_page_is_not_the_image(tmp_path):
    blank = np.zeros_like(DEEP)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([blank, blank, DEEP, blank, blank]), photometric="minisblack")
    assert load_grey(tmp_path / "a.tif").max() == 255
    assert frame_names(tmp_path / "a.tif") == [f"{tmp_path}/a.tif#2"]


def test_a_reduced_copy_in_a_tiff_is_not_an_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as f:
        f.write(DEEP, photometric="minisblack")
        f.write(DEEP[::2, ::2], photometric="minisblack", subfiletype=1)
    assert frame_names(tmp_path / "a.tif") == [f"{tmp_path}/a.tif"]
    assert load_grey(tmp_path / "a.tif").shape == DEEP.shape


@pytest.mark.parametrize(
    "content, why",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, fetch the file"),
        (b"%PDF-1.7\n", "a PDF file, export its images"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF, HEIC or a video, save it as PNG"),
        (b"PK\3\4", "a zip file, unpack it"),
        (b"\x1f\x8b\x08", "a compressed file, unpack it"),
    ],
)
def test_files_of_other_kinds_are_named(content, why, tmp_path):
    (tmp_path / "a.png").write_bytes(content.ljust(400, b"\0"))
    assert image_fault(tmp_path / "a.png").startswith(f"image unreadable: {why}")


def test_a_jpeg_2000_file_called_dcm_is_an_image(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.dcm", "JPEG2000")
    assert difference(load_grey(tmp_path / "a.dcm"), RAMP) < 3
