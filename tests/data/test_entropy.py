"Entropy and brightness, their bounds on both sides, and what is never thrown away."

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.measure import shannon_entropy

from radgen.core.errors import ConfigError
from radgen.data.tables import read_rocov2
from radgen.data.entropy import border_share, grey_histogram, histogram_brightness, histogram_contrast, histogram_saturation, image_entropy, measure_images, small_version
from radgen.data.config import Bounds
from radgen.data.quality import filter_images
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


@pytest.fixture
def files(tmp_path):
    "A good, a blank, a noisy, a white, a truncated and a missing image."
    yy, xx = np.mgrid[-1:1:96j, -1:1:96j]
    good = (np.clip(1.2 - np.hypot(xx, yy), 0, 1) * 200).astype(np.uint8)
    for name, a in {
        "good": good,
        "blank": np.full_like(good, 30),
        "noise": rng.integers(0, 256, (256, 256), dtype=np.uint8),
        "white": 255 - good // 10,
    }.items():
        Image.fromarray(a).save(tmp_path / f"{name}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:9000])
    names = ["good", "blank", "noise", "white", "cut", "missing"]
    return pd.DataFrame(
        {"id": names, "image": [str(tmp_path / f"{n}.png") for n in names], "split": "train"}, index=[5, 3, 9, 1, 2, 7]
    )


def test_each_bad_image_is_dropped_for_its_reason(files):
    table = measure_images(files, workers=2, progress=False)
    assert table.index.tolist() == files.index.tolist() and table.id.tolist() == files.id.tolist()
    a = load_grey(files.image[5])
    assert abs(table.entropy[5] - shannon_entropy(a)) < 1e-9 and abs(table.brightness[5] - a.mean()) < 1e-9
    out = filter_images(table)
    assert out.keep.tolist() == [True, False, False, False, False, False]
    reason = dict(zip(out.id, out.reason))
    assert (
        reason["good"] == "" and reason["cut"] == "image unreadable: truncated" and reason["missing"] == "image missing"
    )
    assert (
        reason["blank"] == "entropy below 1.5: 0"
        and reason["noise"].startswith("entropy above 7.9: 7.99")
        and reason["white"].startswith("brightness above 230: 24")
    )


def test_workers_do_not_matter(files):
    pd.testing.assert_frame_equal(
        measure_images(files, workers=1, progress=False), measure_images(files, workers=4, progress=False)
    )


def test_dropped_rows_are_neither_decoded_nor_brought_back(files):
    table = files.assign(keep=[False] + [True] * 5, reason=["no named CUI"] + [""] * 5)
    out = filter_images(measure_images(table, progress=False))
    assert np.isnan(out.entropy[5]) and not out.keep[5] and out.reason[5] == "no named CUI"
    assert (
        filter_images(out, Bounds(0, 8, 0, 255, 0, 1, 1)).reason.tolist() == out.reason.tolist()
    )  # wider bounds later bring nothing back


def measured(**columns):
    "A measured table of which only some numbers matter."
    n = len(next(iter(columns.values())))
    return pd.DataFrame(
        {
            "id": list("abcdefgh")[:n],
            "split": "train",
            **{
                m: [v] * n
                for m, v in dict(entropy=5.0, brightness=100.0, contrast=200.0, saturation=0.0, border=0.0).items()
            },
            **columns,
        }
    )


def test_the_bounds_work_in_both_directions():
    table = measured(entropy=[1.0, 3.0, 5.0, 7.0])
    assert filter_images(table, Bounds(min_entropy=3.0)).keep.tolist() == [
        False,
        True,
        True,
        True,
    ]  # the bound itself is inside
    assert filter_images(table, Bounds(max_entropy=5.0)).reason[3] == "entropy above 5: 7"
    assert (
        not filter_images(table, Bounds(min_brightness=101)).keep.any()
        and not filter_images(table, Bounds(max_brightness=99)).keep.any()
    )
    assert filter_images(table, Bounds(min_contrast=201)).reason.tolist() == [
        "entropy below 1.5: 1",
        *["contrast below 201: 200"] * 3,
    ]
    assert filter_images(measured(saturation=[0.2, 0.7], border=[0.97, 0.2])).reason.tolist() == [
        "border above 0.95: 0.97",
        "saturation above 0.6: 0.7",
    ]
    assert "keep" not in table


def test_a_bound_can_be_a_share_of_the_training_images():
    table = measured(entropy=[2.0, 3.0, 4.0, 5.0, 6.0, 1.6]).assign(split=["train"] * 5 + ["test"])
    assert Bounds(min_entropy="25%").numbers(table)["min_entropy"] == 3  # 1.6 is not asked
    assert filter_images(table, Bounds(min_entropy="25%")).reason.tolist() == [
        "entropy below 3 (25%): 2",
        "",
        "",
        "",
        "",
        "entropy below 3 (25%): 1.6",
    ]
    assert filter_images(table, Bounds(min_entropy="0%", max_entropy="100%")).keep.tolist() == [True] * 5 + [False]
    for bad in ("low", "101%", "-1%", "%", "nan", "inf"):
        with pytest.raises(ConfigError, match=f"--max-border is {bad}: give a number, or a share"):
            filter_images(table, Bounds(max_border=bad))


@pytest.mark.parametrize(
    "box, share", [((0, 0, 128, 128), 0), ((32, 32, 96, 96), 0.75), ((0, 64, 128, 128), 0.5), ((64, 0, 128, 128), 0.5)]
)
def test_border(box, share):
    x0, y0, x1, y1 = box
    a = np.full((128, 128), 255, np.uint8)
    a[y0:y1, x0:x1] = rng.integers(0, 200, (y1 - y0, x1 - x0))
    assert abs(border_share(small_version(a)) - share) < 0.08
    assert border_share(small_version(np.full((50, 70), 9, np.uint8))) == 1


def test_too_faint_to_be_seen_is_dropped_whatever_its_bits(tmp_path):
    for name, a in {"faint": rng.integers(60, 75, (64, 64)), "seen": rng.integers(60, 75, (64, 64)) * 3}.items():
        Image.fromarray(a.astype(np.uint8)).save(tmp_path / f"{name}.png")
    out = filter_images(
        measure_images(
            pd.DataFrame({"image": [str(tmp_path / "faint.png"), str(tmp_path / "seen.png")], "split": "train"}),
            progress=False,
        )
    )
    assert (out.entropy > 3.8).all() and out.keep.tolist() == [False, True] and out.reason[0] == "contrast below 20: 14"


def test_an_empty_table_stays_one(files):
    assert filter_images(measure_images(files[:0], progress=False)).keep.tolist() == []


def test_no_good_real_image_is_dropped_by_the_defaults(real):
    table = filter_images(measure_images(read_rocov2(real).table, progress=False))
    dropped = table[~table.keep]
    print(f"{len(dropped)} of {len(table)} dropped:", dropped.reason.tolist())
    assert len(dropped) == 0  # all of the sample was looked at: none is blank, burnt out or noise
