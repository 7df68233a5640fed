"""Requests of the page: what may be asked for, the text that the model reads, and what is shown next to an image."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from radgen.core.errors import ConfigError
from radgen.core.files import read_json, write_json
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.diffusion.process import make_schedule
from radgen.networks.unet import SIZES, UNet
from radgen.text.embedding import TextEmbedding
from radgen.tools.config import AppConfig
from radgen.tools.requests import (
    EXAMPLES,
    References,
    concept_names,
    data_of,
    examples,
    generate,
    names_of,
    training_text,
)
from radgen.training.run import load_run


def test_default_address_is_loopback():
    assert AppConfig("run").host == "127.0.0.1"


@pytest.mark.parametrize("port", [0, 65536, "80"])
def test_port_out_of_bounds_is_rejected(port):
    with pytest.raises(ConfigError, match="--port"):
        AppConfig("run", port=port)


class ConstantEncoder:
    "An encoder that gives every text the same vectors."

    max_length = 64

    def __call__(self, texts):
        n = len(texts)
        return TextEmbedding(torch.ones(n, 3, 24), torch.ones(n, 3).bool(), torch.ones(n, 24))

    def lengths(self, texts):
        return [3] * len(texts)


@pytest.fixture(scope="module")
def pipe():
    network = UNet(sample_size=16, text_dim=24, block="paper", **SIZES["tiny"]).eval()
    pipe = RadGenPipeline(network, make_schedule())
    pipe.set_progress_bar_config(disable=True)
    pipe._encoder = ConstantEncoder()
    return pipe


def test_images_carry_the_request(pipe):
    images = generate(pipe, " head,\n CT ", n=2, guidance=0.0, steps=2, seed=5)
    for i, image in enumerate(images):
        assert image.size == (16, 16)
        assert (image.info["prompt"], image.info["seed"], image.info["index"]) == ("head, CT", "5", str(i))


OUT_OF_BOUNDS = (
    (dict(n=0), "num_images_per_prompt is 0"),
    (dict(n=17), "between 1 and 16"),
    (dict(n="4"), "num_images_per_prompt"),
    (dict(guidance=10.5), "between 0 and 10"),
    (dict(guidance=-1), "guidance"),
    (dict(guidance=float("nan")), "guidance"),
    (dict(steps=201), "between 1 and 200"),
    (dict(steps=0), "steps"),
    (dict(seed=None), "seed"),
    (dict(sampler="../etc"), "choose one of"),
    (dict(prompt=""), "empty"),
    (dict(prompt="x" * 10_001), "at most 10,000"),
    (dict(prompt=["head"] * 1000), "text"),
)


@pytest.mark.parametrize("wrong, says", OUT_OF_BOUNDS, ids=lambda x: str(x)[:30])
def test_request_out_of_bounds_is_rejected(pipe, wrong, says):
    with pytest.raises(ConfigError, match=says):
        generate(pipe, **{"prompt": "head", **wrong})


def test_captions_are_read_as_in_training(run):
    prepared, test = run.prepared, run.prepared.rows("test")
    read = []
    for row in test[:40].itertuples():
        names = [prepared.names[c] for c in row.cuis if c in prepared.names]
        read.append(training_text(row.caption, names, run))
    assert read == prepared.texts("test", 2)[:40]  # prepared by rules, as the page does it


def test_concepts_alone_are_enough(run):
    name = run.prepared.names[run.prepared.rows("test").cuis[0][0]]
    assert training_text("", [name], run)
    assert training_text("CT of the head", ["no such concept"], run).startswith("Computed tomography, Head")


@pytest.mark.parametrize("caption, says", [(" \n", "empty"), ("x" * 10_001, "at most 10,000")], ids=["empty", "long"])
def test_caption_that_cannot_be_read_is_rejected(run, caption, says):
    with pytest.raises(ConfigError, match=says):
        training_text(caption, [], run)


def test_examples_are_of_the_test_split(run):
    shown, prepared = examples(run), run.prepared
    assert len(shown) == 5
    assert {caption for caption, _ in shown} <= set(prepared.rows("test").caption)
    offered = concept_names(run)
    assert len(set(offered)) == len(offered)
    for _, names in shown:
        assert names
        assert set(names) <= set(offered)  # else the page would reject what it shows


@pytest.mark.soak
def test_training_image_is_found_and_noise_is_far_from_all(run):
    references, real = References(run), run.prepared.images("train", 16)[7]
    noise = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    near, seen = references([Image.fromarray(x) for x in (real, noise)])
    assert np.array_equal(near[0][0], real)
    assert near[0][1] == f"0%: {run.prepared.rows('train').id[7]}"
    assert int(near[1][1].split("%")[0]) > 90
    assert seen.seen.between(0, 1).all()
    assert seen.seen.is_monotonic_decreasing
    assert seen.auroc.median() > 0.9
    alone = references([Image.fromarray(real)])[1]
    assert alone.concept[0] in {run.prepared.names.get(c) for c in run.prepared.rows("train").cuis[7]}


def test_finished_model_without_its_data_reads_captions_alike(run, tmp_path):
    alone = load_run(shutil.copytree(run.final(), tmp_path / "model"))
    assert data_of(alone) is None
    assert data_of(run) is run.prepared
    selected = {cui: run.prepared.names[cui] for cui in run.prepared.manifest["selected"]}
    assert names_of(alone) == selected
    assert set(concept_names(alone)) == set(selected.values())
    assert examples(alone, 2) == [[caption, []] for caption in EXAMPLES[:2]]
    for row in run.prepared.rows("test")[:10].itertuples():
        names = [selected[cui] for cui in row.cuis if cui in selected]
        assert training_text(row.caption, names, alone) == training_text(row.caption, names, run)
    for caption, _ in examples(alone):
        assert training_text(caption, [], alone)


def test_data_that_were_prepared_anew_are_not_used(run, tmp_path):
    folder = shutil.copytree(run.dir, tmp_path / "r")
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "data": "another content"})
    assert data_of(load_run(folder)) is None
