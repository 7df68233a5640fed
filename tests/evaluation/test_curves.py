"""Curves over guidance and steps draw with the options of the samples."""

from evaluation_helpers import pixel_features

from radgen.core.files import read_json
from radgen.evaluation.curves import GUIDANCE, STEPS, curve_sides, distance_curves
from radgen.evaluation.report_rows import curve_note
from radgen.evaluation.results import Curves


def test_curves_keep_the_other_options_of_the_samples(sampled, monkeypatch):
    run, folder = sampled
    drawn = []

    def sample(cfg):
        drawn.append(cfg)
        return folder

    monkeypatch.setattr("radgen.evaluation.curves.sample", sample)
    other = dict(negative="noise", guidance_interval=[0.1, 0.9], guidance_rescale=0.7)
    r = distance_curves(run, pixel_features(), read_json(folder / "sample.json") | other, 50, "cpu")
    assert [g for g, _ in r.guidance] == [g for g in GUIDANCE if g >= 1]  # below, a negative prompt would be drawn
    assert [k for k, _ in r.steps] == list(STEPS)
    assert len(drawn) == len(GUIDANCE) - 1 + len(STEPS)
    assert {(c.negative, c.guidance_interval, c.guidance_rescale) for c in drawn} == {("noise", (0.1, 0.9), 0.7)}
    assert len({c.out for c in drawn}) == len(drawn)
    assert {c.split for c in drawn} == {"train"} and r.split == "train"  # too few validation images


def test_points_are_compared_with_validation_images_and_none_of_the_test_split(sampled, monkeypatch):
    run, _ = sampled
    f = pixel_features()
    valid, train = (f(run.prepared.images(split, 16)) for split in ("valid", "train"))
    split, held_out, baseline = curve_sides(run, f)
    assert split == "train" and len(held_out) + len(baseline) == len(train)
    assert (held_out == train[::2]).all() and (baseline == train[1::2]).all()
    monkeypatch.setattr("radgen.evaluation.curves.FEWEST_VALID", len(valid))
    split, held_out, baseline = curve_sides(run, f)
    assert split == "valid" and (held_out == valid).all() and (baseline == train).all()


def test_report_says_which_images_the_curves_compare():
    common = (20, (1.0, 0.1), ((1.0, 2.0),), ((5, 3.0),))
    assert "60 valid images and captions of that split" in curve_note(Curves(*common, "valid", 60))
    assert "the model has seen these" in curve_note(Curves(*common, "train", 60))
