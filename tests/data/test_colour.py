"""Images with their colours: every kind of file, deep colours, DICOM, and the luminance that curation sees."""

import numpy as np
import pytest
import tifffile
from dicom_files import dicom
from PIL import Image
from pydicom.data import get_testdata_file

from radgen.core.errors import ConfigError
from radgen.data.config import Grey
from radgen.data.doppler import draw_doppler, make_doppler
from radgen.data.entropy import measure_batch
from radgen.data.grey import grey_version, luminance
from radgen.data.images import ImageError, image_pixels, load_colour, load_grey, load_image, measure_range, square

RAMP = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], -1)


def difference(a, b):
    "Largest difference of two images."
    return np.abs(a.astype(int) - b.astype(int)).max()


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.bmp", {}), ("a.tif", {}), ("a.webp", dict(lossless=True)), ("a.jp2", {}), ("a.ppm", {})],
)
def test_lossless_files_give_their_colours_back(name, options, tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / name, **options)
    np.testing.assert_array_equal(load_colour(tmp_path / name), COLOURS)
    assert difference(load_grey(tmp_path / name), luminance(COLOURS)) == 0


@pytest.mark.parametrize("mode, most", [("RGB", 6), ("YCbCr", 6), ("CMYK", 8)])
def test_jpeg_keeps_its_colours(mode, most, tmp_path):
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert difference(load_colour(tmp_path / "a.jpg"), COLOURS) <= most


@pytest.mark.parametrize("mode", ["L", "1", "P", "I;16", "LA"])
def test_a_grey_file_has_three_equal_channels(mode, tmp_path):
    image = Image.fromarray(RAMP.astype(np.uint16) * 16) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    image.save(tmp_path / "a.png")
    grey = load_grey(tmp_path / "a.png")
    np.testing.assert_array_equal(load_colour(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=-1))


def test_transparent_pixels_are_black_and_lab_becomes_rgb(tmp_path):
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:16] = 0
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "a.png")
    found = load_colour(tmp_path / "a.png")
    assert not found[:16].any()
    np.testing.assert_array_equal(found[16:], COLOURS[16:])
    Image.new("LAB", (40, 40), (136, 208, 195)).save(tmp_path / "lab.tif")  # sRGB red
    assert difference(load_colour(tmp_path / "lab.tif")[0, 0], np.array([255, 0, 0])) < 16


@pytest.mark.parametrize("alpha", [False, True])
def test_deep_colours_have_one_range(alpha, tmp_path):
    deep = COLOURS.astype(np.uint16) * 16 + 5
    if alpha:
        hidden = np.full(RAMP.shape, 65535, np.uint16)
        hidden[:8] = 0
        deep = np.dstack([deep, hidden])
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", extrasamples=["unassalpha"] if alpha else [])
    found = load_colour(tmp_path / "a.tif")
    assert found.shape == COLOURS.shape
    assert difference(found[8:], COLOURS[8:]) <= 3
    assert bool(found[:8].any()) != alpha


def test_one_range_for_a_data_set_is_measured_on_all_channels(tmp_path):
    deep = np.zeros((40, 40, 3), np.uint16)
    deep[..., 0] = np.linspace(0, 4000, 40)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    grey, colour = (measure_range([tmp_path / "a.tif"], Grey(window="dataset", channels=n)) for n in (1, 3))
    assert grey[1] < 1300 < 3800 < colour[1]


def test_dicom_keeps_its_colours(tmp_path):
    rgb = dict(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, NumberOfFrames=1)
    path = dicom(tmp_path / "a.dcm", COLOURS, **rgb, Rows=32, Columns=256)
    np.testing.assert_array_equal(load_colour(path), COLOURS)
    np.testing.assert_array_equal(load_grey(path), luminance(COLOURS))
    stored = np.arange(0, 4096, 4, dtype=np.uint16).reshape(32, 32)
    grey = dicom(tmp_path / "grey.dcm", stored)
    np.testing.assert_array_equal(load_colour(grey), np.repeat(load_grey(grey)[..., None], 3, axis=-1))


@pytest.mark.parametrize("name", ["SC_rgb.dcm", "SC_ybr_full_uncompressed.dcm", "examples_palette.dcm"])
def test_colours_of_pydicoms_files(name):
    path = get_testdata_file(name)
    found = load_colour(path)
    assert found.ndim == 3 and (found.max(-1) > found.min(-1)).any()
    assert difference(luminance(found), load_grey(path)) <= 1


def test_what_cannot_be_read_is_rejected_with_the_same_words(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    for name in ("cut.jpg", "none.png"):
        reasons = set()
        for load in (load_grey, load_colour):
            with pytest.raises(ImageError) as e:
                load(tmp_path / name)
            reasons.add(e.value.why)
        assert len(reasons) == 1
    with pytest.raises(ConfigError, match="--channels is 2"):
        Grey(channels=2)


def test_options_decide_and_curation_is_the_same(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    path, colour = str(tmp_path / "a.png"), Grey(channels=3)
    assert load_image(path).ndim == 2 and load_image(path, colour).shape == COLOURS.shape
    assert square(path, 32, colour).shape == (32, 32, 3) and square(path, 32).shape == (32, 32)
    assert square(tmp_path / "none.png", 32, colour).shape == (32, 32, 3)
    np.testing.assert_array_equal(image_pixels(Image.open(path), colour), COLOURS)
    grey, in_colour = measure_batch([path]), measure_batch([path], colour)
    assert all(np.array_equal(grey[name], in_colour[name]) for name in grey)


def test_luminance_is_pillows():
    colours = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    for image, grey in zip(colours, grey_version(colours)):
        np.testing.assert_array_equal(np.array(Image.fromarray(image).convert("L")), grey)


def test_doppler_phantoms_depend_on_seed_and_index_alone(tmp_path):
    assert np.array_equal(draw_doppler(0, 3).image, draw_doppler(0, 3).image)
    assert not np.array_equal(draw_doppler(0, 3).image, draw_doppler(1, 3).image)
    assert not np.array_equal(draw_doppler(0, 3).image, draw_doppler(0, 5).image)
    folder = make_doppler(tmp_path / "set", 2, 1, 1)
    written = [np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))]
    assert all(np.array_equal(image, draw_doppler(0, i).image) for i, image in enumerate(written))
    stamp = (folder / "metadata.csv").stat().st_mtime_ns
    assert (make_doppler(folder, 2, 1, 1) / "metadata.csv").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file.txt").touch()
        make_doppler(tmp_path / "other")
