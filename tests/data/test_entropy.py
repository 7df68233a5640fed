"Entropy, brightness, contrast, border and hash of images, against other libraries."

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.measure import shannon_entropy

from radgen.data.entropy import (
    border_share,
    grey_histogram,
    histogram_brightness,
    histogram_contrast,
    histogram_saturation,
    image_entropy,
    measure_images,
    perceptual_hash,
    small_version,
)
from radgen.data.images import load_grey


rng = np.random.default_rng(0)


def test_by_hand():
    assert image_entropy(np.full((7, 5), 9, np.uint8)) == 0
    assert image_entropy(np.array([[0, 255]], np.uint8)) == 1
    assert image_entropy(np.arange(256, dtype=np.uint8).reshape(16, 16)) == 8
    assert math.isclose(image_entropy(np.array([[3, 3, 3, 7]], np.uint8)), 2 - 0.75 * math.log2(3), abs_tol=1e-12)
    assert histogram_brightness(grey_histogram(np.array([[3, 3, 3, 7]], np.uint8))) == 4
    assert histogram_saturation(grey_histogram(np.array([[3, 249, 250, 255]], np.uint8))) == 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 999), (37, 41), (256, 256)])
@pytest.mark.parametrize("high", [2, 17, 256])
def test_agrees_with_scikit_image(shape, high):
    a = rng.integers(0, high, shape, dtype=np.uint8)
    assert abs(image_entropy(a) - shannon_entropy(a)) < 1e-9
    assert abs(image_entropy(a[::-1, ::-1]) - shannon_entropy(a)) < 1e-9  # views that are not contiguous


@pytest.mark.parametrize("shape", [(1, 1), (1, 999), (37, 41)])
@pytest.mark.parametrize("low, high", [(0, 2), (30, 34), (0, 256)])
def test_contrast_agrees_with_numpy(shape, low, high):
    a = rng.integers(low, high, shape, dtype=np.uint8)
    assert histogram_contrast(grey_histogram(a)) == np.ptp(np.percentile(a, [0.5, 99.5], method="inverted_cdf"))


@pytest.mark.parametrize(
    "box, share", [((0, 0, 128, 128), 0), ((32, 32, 96, 96), 0.75), ((0, 64, 128, 128), 0.5), ((64, 0, 128, 128), 0.5)]
)
def test_border(box, share):
    x0, y0, x1, y1 = box
    a = np.full((128, 128), 255, np.uint8)
    a[y0:y1, x0:x1] = rng.integers(0, 200, (y1 - y0, x1 - x0))
    assert abs(border_share(small_version(a)) - share) < 0.08
    assert border_share(small_version(np.full((50, 70), 9, np.uint8))) == 1


def hash_bits(im):
    return np.unpackbits(perceptual_hash(small_version(np.asarray(im))[None])[0]).astype(int)


def brighter(grey):
    return min(grey + 20, 255)


def darker(grey):
    return grey // 2


def test_hash_depends_on_the_image_and_not_on_its_file(phantoms):
    im = Image.open(sorted((phantoms / "test_images").iterdir())[7])
    small = im.resize((128, 128), Image.Resampling.LANCZOS)
    for other in small, im.resize((300, 200)), im.point(brighter), im.point(darker):
        assert abs(hash_bits(im) - hash_bits(other)).sum() <= 20
    for other in im.transpose(Image.Transpose.FLIP_LEFT_RIGHT), im.rotate(90):
        assert abs(hash_bits(im) - hash_bits(other)).sum() > 40


@pytest.fixture
def files(tmp_path):
    "A good, a truncated and a missing image, with an index out of order."
    good = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    Image.fromarray(good).save(tmp_path / "good.png")
    Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:9000])
    names = ["good", "cut", "missing"]
    columns = {"id": names, "image": [str(tmp_path / f"{n}.png") for n in names], "split": "train"}
    return pd.DataFrame(columns, index=[5, 9, 2])


def test_images_that_cannot_be_decoded_are_dropped_with_the_reason(files):
    table = measure_images(files, workers=1, progress=False)
    assert table.index.tolist() == files.index.tolist()
    assert table.id.tolist() == files.id.tolist()
    assert table.reason.tolist() == ["", "image unreadable: truncated", "image missing"]
    image = load_grey(files.image[5])
    assert abs(table.entropy[5] - shannon_entropy(image)) < 1e-9
    assert abs(table.brightness[5] - image.mean()) < 1e-9


def test_two_processes_measure_what_one_measures(files):
    many = pd.concat([files] * 50, ignore_index=True)
    one = measure_images(many, workers=1, progress=False)
    two = measure_images(many, workers=2, progress=False)
    pd.testing.assert_frame_equal(one, two)


def test_dropped_rows_are_not_decoded(files):
    out = measure_images(files.assign(keep=[False, True, True], reason=["no named CUI", "", ""]), progress=False)
    assert np.isnan(out.entropy[5])
    assert not out.keep[5]
    assert out.reason[5] == "no named CUI"
