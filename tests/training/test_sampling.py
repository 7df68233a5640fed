"""A folder of samples knows its model and its prompts."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from radgen.core.errors import DataError
from radgen.core.files import read_json
from radgen.training.config import SampleConfig
from radgen.training.run import Run
from radgen.training.sampling import default_folder, request_settings, sample, select_conditions
from radgen.training.train import train


@pytest.fixture
def request_of(two_steps):
    "A function that makes a request of one step."

    def make(**options):
        return SampleConfig(two_steps.dir, steps=1, device="cpu", **options)

    return make


def test_samples_of_another_model_are_replaced(cfg, two_steps, request_of, tmp_path):
    out = tmp_path / "samples"
    request = request_of(n=1, out=out)
    assert sample(request) == out
    before = (out / "000000.png").read_bytes()
    assert sample(request) == out
    assert (out / "000000.png").read_bytes() == before
    sample(replace(request, run=train(replace(cfg, seed=5)).dir))
    assert (out / "000000.png").read_bytes() != before


def test_samples_record_captions_and_settings(two_steps, request_of, tmp_path):
    out = sample(request_of(n=2, out=tmp_path / "samples"))
    table = pd.read_csv(out / "samples.csv")
    assert table.prompt.tolist() == two_steps.prepared.texts("test", 2)[:2]
    assert table.id.tolist() == two_steps.prepared.rows("test").id.tolist()[:2]
    record = read_json(out / "sample.json")
    assert record["weights"] == two_steps.weights()
    assert record["images"] == 2
    assert record["encoder"] == "minilm"


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_captions_are_those_of_the_mode_of_the_run(two_steps, request_of, mode):
    run = Run(two_steps.dir, replace(two_steps.config, caption_mode=mode), two_steps.prepared)
    conditions = select_conditions(request_of(n=2), run)
    assert conditions.texts == run.prepared.texts("test", mode)[:2]
    assert conditions.embedding is not None
    assert len(conditions.embedding.pooled) == 2


def test_captions_repeat_when_more_images_are_asked_for(two_steps, request_of):
    conditions = select_conditions(request_of(n=3, prompts=("a head", "a chest")), two_steps)
    assert conditions.texts == ["a head", "a chest", "a head"]
    assert conditions.ids == ["prompt-0", "prompt-1", "prompt-0"]


@pytest.mark.parametrize(
    "options",
    [
        dict(prompts=("a chest",)),
        dict(guidance=3.0),
        dict(seed=1),
        dict(sampler="ddim"),
        dict(negative="a chest"),
        dict(guidance_interval=(0.2, 0.8)),
    ],
    ids=str,
)
def test_each_request_has_a_folder_of_its_own(two_steps, request_of, options):
    one, other = request_of(), request_of(**options)
    assert default_folder(one, two_steps) != default_folder(other, two_steps)
    assert request_settings(one, two_steps)["fingerprint"] != request_settings(other, two_steps)["fingerprint"]


def test_split_without_images_is_reported(cfg, small, tmp_path):
    folder = shutil.copytree(small.dir, tmp_path / "train-only")
    table = pd.read_parquet(folder / "table.parquet")
    table[table.split == "train"].to_parquet(folder / "table.parquet")
    run = train(replace(cfg, data_path=folder))
    with pytest.raises(DataError, match="keeps no test image"):
        sample(SampleConfig(run.dir, device="cpu"))
    assert (sample(SampleConfig(run.dir, split="train", n=1, steps=1, device="cpu")) / "000000.png").exists()
