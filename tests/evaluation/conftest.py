"""Shared by the tests of evaluation: one small run with samples."""

import shutil
from pathlib import Path

import pytest
from evaluation_helpers import cheaply, draw_images, of_images
from PIL import Image

from radgen.evaluation.any_images import evaluate_images
from radgen.training.train import train
from radgen.training.config import SampleConfig, TrainConfig
from radgen.training.run import load_run
from radgen.training.sampling import sample


@pytest.fixture(scope="session")
def small_run(few, tmp_path_factory):
    "The folder of a run of two steps at 16 pixels, with 50 samples."
    options = dict(size="tiny", encoder="minilm", steps=2, name="r", device="cpu", preview_every=0)
    run = train(TrainConfig(few.dir, image_size=16, batch_size=4, runs=tmp_path_factory.mktemp("runs"), **options))
    sample(SampleConfig(run.dir, n=50, steps=1, device="cpu"))
    return run.dir


@pytest.fixture
def cheap(monkeypatch):
    "An evaluation with the shortcuts of `cheaply`."
    cheaply(monkeypatch)


@pytest.fixture
def sampled(small_run, tmp_path, cheap):
    "A copy of the run, and the folder of its samples."
    run = load_run(Path(shutil.copytree(small_run, tmp_path / "r")))
    return run, next(run.dir.glob("samples/*/sample.json")).parent


@pytest.fixture
def small_run_copy(small_run, tmp_path):
    "The same without the shortcuts."
    run = load_run(Path(shutil.copytree(small_run, tmp_path / "r")))
    return run, next(run.dir.glob("samples/*/sample.json")).parent


@pytest.fixture(scope="session")
def drawn(few, tmp_path_factory):
    "A folder of images with a table of prompts, a broken file and a file that the table does not name, evaluated."
    folder = draw_images(tmp_path_factory.mktemp("any") / "drawn", few.rows("test").head(40))
    (folder / "part-0" / "broken.png").write_bytes(b"nothing")
    with (folder / "metadata.jsonl").open("a") as f:
        f.write('\n{"file_name": "part-0/broken.png", "text": "CT", "id": "PHANTOM_test_000001"}')
    Image.new("L", (32, 32)).save(folder / "preview.png")
    with pytest.MonkeyPatch.context() as patch:
        cheaply(patch)
        evaluate_images(of_images(few, folder))
    return folder
