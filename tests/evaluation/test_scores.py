"""From a run to its numbers: which samples are evaluated and which are refused."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_helpers import pixel_features, quick
from PIL import Image

from radgen.core.errors import ConfigError, DataError
from radgen.evaluation.report import evaluate, page_values
from radgen.evaluation.report_rows import report_page
from radgen.evaluation.material import run_reference
from radgen.evaluation.scores import find_samples, measure, read_samples
from radgen.core.files import read_json
from radgen.training.train import train
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample


def test_too_few_images_are_rejected(sampled):
    run, folder = sampled
    with pytest.raises(ConfigError, match="50 generated images are too few .*sample more"):
        evaluate(quick(run, min_images=51))
    many = np.zeros((9999, 16, 16), np.uint8)
    with pytest.raises(ConfigError, match="real test images are too few.*prepare more data"):
        measure(many, None, run_reference(run), None, quick(run, min_images=9999))


def test_samples_of_training_captions_or_own_prompts_are_rejected(sampled):
    run, folder = sampled
    seen = sample(SampleConfig(run.dir, split="train", n=2, steps=1, device="cpu"))  # the newest
    with pytest.raises(ConfigError, match="trained on"):
        find_samples(quick(run, samples=seen), run)
    own = sample(SampleConfig(run.dir, prompts=("a head",), n=2, steps=1, device="cpu"))
    with pytest.raises(ConfigError, match="no real counterpart"):
        find_samples(quick(run, samples=own), run)
    assert find_samples(quick(run), run) == folder


def test_samples_of_another_model_are_rejected(sampled):
    run, folder = sampled
    other = train(replace(run.config, runs=run.dir.parent, name="other", seed=1))
    with pytest.raises(ConfigError, match="another model"):
        find_samples(quick(other, samples=folder), other)
    with pytest.raises(DataError, match="radgen sample"):
        find_samples(quick(run, samples=run.dir / "nothing"), run)


def test_without_image_types_there_is_no_alignment(sampled):
    run, folder = sampled
    run.prepared.table["cuis"] = [["C0817096"]] * len(run.prepared.table)
    r = measure(*read_samples(folder), run_reference(run), pixel_features(), quick(run))
    assert r.types is r.types_real is r.types_chance is r.concepts is None
    text = report_page("report.md.j2", page_values(run, folder, read_json(folder / "sample.json"), r), run.dir)
    assert "| requested image type | unknown | unknown |" in text


def test_ids_stay_text(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "000000.png")
    (tmp_path / "samples.csv").write_text("index,id,prompt,seed\n0,000123,42,0\n")
    rows = read_samples(tmp_path)[1]
    assert (rows.id[0], rows.prompt[0]) == ("000123", "42")


def test_missing_and_damaged_samples_are_named(sampled):
    run, folder = sampled
    (folder / "000003.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read.*sample again"):
        evaluate(quick(run))
    (folder / "000003.png").unlink()
    with pytest.raises(DataError, match="000003.png is missing .1 of 50 images.: sample again"):
        evaluate(quick(run))
