"""Curves over guidance and steps draw with the options of the samples."""

from evaluation_helpers import pixel_features

from radgen.core.files import read_json
from radgen.evaluation.curves import GUIDANCE, STEPS, distance_curves


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
