"The rule from values to 8 bits: windows, percentiles, padding, and one range for a data set."

import numpy as np
import pytest

from radgen.core.errors import ConfigError
from radgen.data.config import WINDOWS, Frames, Grey, Slices, window_bounds
from radgen.core.options import options
from radgen.data.grey import SAMPLE, RangeMeter, _sample, by_level, grey_range, percentiles_of, stretch, to_grey, window

RNG = np.random.default_rng(0)
CT = np.concatenate([np.full(4000, -1000.0), RNG.normal(40, 20, 4000), np.full(400, 700.0)])


def test_window_agrees_with_a_worked_example():
    "Centre 100, width 101: black up to 49.5, white above 149.5, 2.55 per unit between."
    assert window(np.array([0, 49.5, 49.5 + 50, 149.5, 200.0]), 100, 101).tolist() == [0, 0, 127.5, 255, 255]
    assert window(np.array([50.0, 100, 150]), 100, 100, "LINEAR_EXACT").tolist() == [0, 127.5, 255]
    assert np.allclose(window(np.array([100.0, 125]), 100, 100, "SIGMOID"), [127.5, 255 / (1 + np.exp(-1))])


def test_a_window_of_width_one_is_a_threshold():
    assert window(np.array([99.0, 99.5, 99.6]), 100, 1).tolist() == [0, 0, 255]


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (-3, "LINEAR_EXACT")])
def test_widths_that_the_standard_forbids_are_errors(width, function):
    with pytest.raises(ValueError, match="window of width"):
        window(np.zeros(3), 0, width, function)


def test_percentiles_of_counts_are_those_of_numpy():
    values = RNG.integers(-300, 900, 5000)
    levels, counts = np.unique(values, return_counts=True)
    shuffled = RNG.permutation(len(levels))
    want = np.percentile(values, (0, 0.5, 37.2, 99.5, 100))
    assert np.allclose(percentiles_of(levels[shuffled], (0, 0.5, 37.2, 99.5, 100), counts[shuffled]), want)


@pytest.mark.parametrize("side", [10, 127, 128, 129, 181, 222, 256, 333, 512, 513, 1000, 1024, 2000, 2048])
def test_a_sample_has_enough_pixels_from_every_column(side):
    columns = np.tile(np.arange(side, dtype=np.int32), (side, 1))
    sample = _sample(columns)
    assert min(SAMPLE, side**2) <= sample.size <= 2 * SAMPLE + 1
    if side & (side - 1) == 0:
        assert len(np.unique(sample)) == side


def test_percentiles_of_a_large_image_come_from_a_sample():
    values = RNG.normal(0, 1, (600, 600))
    assert np.abs(percentiles_of(values, (0.5, 50, 99.5)) - np.percentile(values, (0.5, 50, 99.5))).max() < 0.1


def test_nearly_constant_values_have_their_whole_range():
    mask = np.zeros(10_000)
    mask[:20] = 1
    assert grey_range(mask) == (0, 1)
    assert stretch(mask).max() == 255


def test_stretch_of_nothing_is_black():
    assert stretch(np.full((4, 4), np.nan)).max() == 0
    assert stretch(np.full((4, 4), 7)).max() == 0
    assert to_grey(np.full((4, 4), 7)).max() == 0


def test_a_named_window_holds_for_hounsfield_units_alone():
    lung = Grey(window="lung")
    shown = to_grey(CT, grey=lung, hounsfield=True)
    np.testing.assert_array_equal(shown, np.rint(window(CT, *WINDOWS["lung"])))
    np.testing.assert_array_equal(to_grey(CT, grey=lung), to_grey(CT))


def test_centre_and_width_hold_for_more_than_eight_bits():
    own = Grey(window="40,80")
    np.testing.assert_array_equal(to_grey(CT, grey=own), np.rint(window(CT, 40, 80)))
    np.testing.assert_array_equal(to_grey(CT, grey=own, deep=False), to_grey(CT))
    narrow = to_grey(np.array([0.0, 0.1, 0.2]), grey=Grey(window="0.1,0.2"))
    assert narrow.tolist() == [0, 128, 255]


def test_an_option_takes_precedence_over_the_window_of_a_file():
    shows = [lambda x: window(x, 500, 1500)]
    np.testing.assert_array_equal(to_grey(CT, shows=shows, hounsfield=True), np.rint(window(CT, 500, 1500)))
    brain = to_grey(CT, shows=shows, hounsfield=True, grey=Grey(window="brain"))
    np.testing.assert_array_equal(brain, np.rint(window(CT, 40, 80)))


@pytest.mark.parametrize("inside", [0, 1, 3])
def test_a_window_that_shows_less_than_a_thousandth_is_ignored(inside):
    values = CT + 12_000.0
    values[:inside] = 40
    shows = [lambda x: window(x, 40, 400)]
    np.testing.assert_array_equal(to_grey(values, shows=shows), to_grey(values))


def test_a_window_on_a_mask_is_used():
    mask = np.array([0] * 90 + [1] * 10)
    assert to_grey(mask, shows=[lambda x: window(x, 0.5, 1, "LINEAR_EXACT")]).tolist() == [0] * 90 + [255] * 10


def test_padding_is_black_and_takes_no_part():
    values = np.concatenate([CT, np.full(3000, -2000.0)])
    padded = values == -2000
    for inverted in (False, True):
        got = to_grey(values, padded=padded, inverted=inverted)
        assert got[padded].max() == 0
        np.testing.assert_array_equal(got[~padded], to_grey(CT, inverted=inverted))
    np.testing.assert_array_equal(to_grey(values, hounsfield=True), to_grey(values, padded=padded, hounsfield=True))


def test_an_image_of_padding_alone_is_an_image():
    assert to_grey(np.arange(100.0), padded=np.ones(100, bool)).max() == 255


def test_metal_does_not_decide():
    values = CT.copy()
    values[:400] = 30_000  # five percent
    got = to_grey(values, hounsfield=True).astype(int)
    assert got[5000] - got[1000] > 60


def test_hounsfield_units_in_another_scale_are_not_clipped():
    assert np.ptp(to_grey(CT + 12_000, hounsfield=True)) == 255


def test_percentiles_are_an_option():
    values = np.arange(1000.0)
    values[-100:] = np.linspace(9e5, 1e6, 100)  # a marker of many values, a tenth of the image
    assert to_grey(values)[800] == 0
    assert to_grey(values, grey=Grey(percentiles=(1, 89)))[800] > 200


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "<i2", ">i2", "<i4", ">u4", "i8", "<f4", ">f8"])
def test_a_table_gives_what_the_pixels_give(dtype):
    stored = RNG.integers(0, 120, (40, 50)).astype(dtype)
    if "u" not in dtype:
        stored -= 60
    np.testing.assert_array_equal(by_level(stored, to_grey), to_grey(stored))
    assert by_level(stored[:, ::2], to_grey).shape == (40, 25)


def test_extreme_values_of_sixteen_and_thirty_two_bits():
    for low, high, dtype in ((-32768, 32767, np.int16), (0, 65535, np.uint16), (-(2**31), 2**31 - 1, np.int32)):
        stored = np.array([[low, high], [0, 5]], dtype)
        np.testing.assert_array_equal(by_level(stored, to_grey), to_grey(stored))


def test_one_range_for_a_data_set():
    a, b = CT.copy(), CT.copy()
    a[-400:], b[-400:] = 300, 2500
    meter = RangeMeter()
    for values in (a, b):
        meter(values)
    shared = Grey(window="dataset", range=meter.range())
    assert to_grey(a, grey=shared)[5000] == to_grey(b, grey=shared)[5000]
    assert to_grey(a)[5000] != to_grey(b)[5000]
    np.testing.assert_array_equal(to_grey(a, grey=Grey(window="dataset")), to_grey(a))


def test_images_with_a_usable_window_are_not_measured():
    meter = RangeMeter()
    meter(CT, shows=[lambda x: window(x, 40, 400)])
    assert meter.range() is None
    meter(CT, shows=[lambda x: window(x, 40_000, 400)])
    assert meter.range() == (-1000, 700)


def test_nan_is_black_and_infinity_is_white():
    values = np.linspace(0, 1, 1000)
    values[:2] = np.nan, np.inf
    assert to_grey(values)[:2].tolist() == [0, 255]
    assert to_grey(values, shows=[lambda x: window(x, 0.5, 1, "LINEAR_EXACT")])[:2].tolist() == [0, 255]


@pytest.mark.parametrize("bad", ["lungs", "40", "40,0", "40,-3", "nan,3", "1,2,3", ""])
def test_windows_that_are_none_are_rejected(bad):
    with pytest.raises(ConfigError, match="--window is .*: give auto, dataset, one of lung, .* or CENTRE,WIDTH"):
        Grey(window=bad)


def test_names_of_windows_may_have_spaces_and_capitals():
    assert Grey(window="Soft Tissue").window == Grey(window="soft_tissue").window == "soft-tissue"
    assert window_bounds("-600,1500") == WINDOWS["lung"]


@pytest.mark.parametrize("bad", [(5, 5), (99.5, 0.5), (-1, 50), (1, 101)])
def test_percentiles_must_increase(bad):
    with pytest.raises(ConfigError, match="give two percentages"):
        Grey(percentiles=bad)


@options
class Parts:
    frames: Frames = "middle"
    slices: Slices = "every:5"


@pytest.mark.parametrize("given", [dict(frames=-1), dict(frames="last"), dict(slices="every:0"), dict(slices="top")])
def test_parts_that_do_not_exist_are_rejected(given):
    with pytest.raises(ConfigError):
        Parts(**given)


def test_parts_of_a_file():
    assert (Parts(frames=3).frames, Parts(frames="all").frames) == (3, "all")
    assert (Parts(slices=80).slices, Parts(slices="middle").slices) == ("80", "middle")


GRADIENT = np.add.outer(np.arange(64), np.arange(64)) * 24 + 500


def with_lone(place, value):
    "The gradient with one value at a place."
    pixels = GRADIENT.copy()
    pixels[place] = value
    return pixels


LONE_VALUES = {
    "a hot row": with_lone(10, 65_535),
    "hot pixels side by side": with_lone((slice(10, 15), slice(10, 15)), 32_767),
    "dead columns": with_lone((slice(None), slice(3, 6)), -30_000),
    "padding without a tag": with_lone(slice(0, 8), -32_768),
    "no data in a map of floats": with_lone(slice(0, 8), -30_000) - 3.4e38 * (np.arange(64) < 8)[:, None],
}


@pytest.mark.parametrize("pixels", LONE_VALUES.values(), ids=list(LONE_VALUES))
def test_a_lone_value_does_not_rule_the_rest(pixels):
    measured = np.isin(pixels, GRADIENT)
    shown = to_grey(pixels)[measured].astype(int)
    assert np.abs(shown - to_grey(GRADIENT)[measured]).max() < 25


def test_a_lone_value_that_is_most_of_an_image_or_near_is_measured():
    for pixels in (with_lone(slice(0, 40), -30_000), with_lone(slice(0, 4), -5_000)):
        assert grey_range(pixels)[0] == pixels.min()
    assert grey_range(with_lone(10, 65_535), (0.5, 100))[1] == 65_535  # as the option demands


def test_a_window_that_leaves_no_contrast_is_ignored():
    def wide(values):
        return window(values, 32_767, 65_535)

    assert np.array_equal(to_grey(GRADIENT, shows=[wide]), to_grey(GRADIENT))
    assert np.ptp(to_grey(GRADIENT, shows=[wide], deep=False)) < 16  # 8 bits are shown as they are
