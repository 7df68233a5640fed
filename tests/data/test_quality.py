"Bounds on both sides, and what is never dropped."

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.data.config import Bounds
from radgen.data.entropy import measure_images
from radgen.data.quality import bound_values, filter_images, plot_borderline, plot_quality
from radgen.data.rocov2 import read_rocov2


rng = np.random.default_rng(0)


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
    out = filter_images(measure_images(files, workers=1, progress=False))
    assert out.keep.tolist() == [True, False, False, False, False, False]
    reason = dict(zip(out.id, out.reason))
    assert reason["good"] == ""
    assert reason["cut"] == "image unreadable: truncated"
    assert reason["missing"] == "image missing"
    assert reason["blank"] == "entropy below 1.5: 0"
    assert reason["noise"].startswith("entropy above 7.9: 7.99")
    assert reason["white"].startswith("brightness above 230: 24")
    assert len(plot_quality(out).axes) == 4
    assert len(plot_borderline(out, n=2).axes[0].images) == 2 * 9
    plt.close("all")


def test_wider_bounds_bring_no_row_back(files):
    table = files.assign(keep=[False] + [True] * 5, reason=["no named CUI"] + [""] * 5)
    out = filter_images(measure_images(table, progress=False))
    assert np.isnan(out.entropy[5])
    assert not out.keep[5]
    assert out.reason[5] == "no named CUI"
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
    assert not filter_images(table, Bounds(min_brightness=101)).keep.any()
    assert not filter_images(table, Bounds(max_brightness=99)).keep.any()
    assert filter_images(table, Bounds(min_contrast=201)).reason.tolist() == [
        "entropy below 1.5: 1",
        *["contrast below 201: 200"] * 3,
    ]
    assert filter_images(measured(saturation=[0.2, 0.7], border=[0.97, 0.2])).reason.tolist() == [
        "border above 0.95: 0.97",
        "saturation above 0.6: 0.7",
    ]
    assert "keep" not in table


def test_bound_can_be_a_share_of_the_training_images():
    table = measured(entropy=[2.0, 3.0, 4.0, 5.0, 6.0, 1.6]).assign(split=["train"] * 5 + ["test"])
    assert bound_values(Bounds(min_entropy="25%"), table)["min_entropy"] == 3  # the test image does not count
    reason = filter_images(table, Bounds(min_entropy="25%")).reason.tolist()
    assert reason == ["entropy below 3 (25%): 2", "", "", "", "", "entropy below 3 (25%): 1.6"]
    every = filter_images(table, Bounds(min_entropy="0%", max_entropy="100%"))
    assert every.keep.tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("bad", ["low", "101%", "-1%", "%", "nan", "inf"])
def test_bound_that_is_no_number_is_an_error(bad):
    with pytest.raises(ConfigError, match=f"--max-border is '{bad}': give a number, or a share"):
        Bounds(max_border=bad)


def test_too_faint_to_be_seen_is_dropped_whatever_its_bits(tmp_path):
    for name, a in {"faint": rng.integers(60, 75, (64, 64)), "seen": rng.integers(60, 75, (64, 64)) * 3}.items():
        Image.fromarray(a.astype(np.uint8)).save(tmp_path / f"{name}.png")
    out = filter_images(
        measure_images(
            pd.DataFrame({"image": [str(tmp_path / "faint.png"), str(tmp_path / "seen.png")], "split": "train"}),
            progress=False,
        )
    )
    assert (out.entropy > 3.8).all()
    assert out.keep.tolist() == [False, True]
    assert out.reason[0] == "contrast below 20: 14"


def test_an_empty_table_stays_one(files):
    assert filter_images(measure_images(files[:0], progress=False)).keep.tolist() == []


def test_no_good_real_image_is_dropped_by_the_defaults(real):
    table = filter_images(measure_images(read_rocov2(real).table, progress=False))
    dropped = table[~table.keep]
    assert dropped.reason.tolist() == []  # all of the sample was looked at: none is blank, burnt out or noise
