"""From a prepared folder in colour to images, scores, edits and data sets, none of which turns grey on the way."""

import numpy as np
import pandas as pd
import pytest
from evaluation_helpers import cheaply, of_images, pixel_features
from PIL import Image

import radgen.evaluation.synthesis as synthesis
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json
from radgen.data.grey import luminance
from radgen.diffusion.pipeline import RadGenPipeline
from radgen.evaluation.any_images import evaluate_images
from radgen.evaluation.compare import compare
from radgen.evaluation.config import CompareConfig, EvaluateConfig, StudyConfig, SynthesiseConfig
from radgen.evaluation.features import Features
from radgen.evaluation.memorisation import shrink
from radgen.evaluation.reader_study import build_study
from radgen.evaluation.reconstruction import similarity
from radgen.evaluation.report import evaluate
from radgen.evaluation.scores import read_samples
from radgen.evaluation.tstr import train_and_score
from radgen.evaluation.utility import Cell, Mixture, train_cell
from radgen.evaluation.utility_labels import UtilityImages
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.tools.config import EditConfig
from radgen.tools.edit import edit
from radgen.tools.requests import References
from radgen.training.config import SampleConfig, TrainConfig
from radgen.training.run import load_run
from radgen.training.sampling import sample
from radgen.training.train import train


@pytest.fixture(scope="module")
def trained(colour, tmp_path_factory):
    "A run of four steps in colour with a preview, and the folder of its samples."
    runs = tmp_path_factory.mktemp("runs")
    options = dict(size="tiny", encoder="minilm", steps=4, name="r", device="cpu", preview_every=16)
    run = train(TrainConfig(colour.dir, image_size=16, batch_size=4, runs=runs, **options))
    return run, sample(SampleConfig(run.dir, steps=2, device="cpu"))


def has_colours(image):
    "Whether the channels of an image differ."
    pixels = np.asarray(image)
    return pixels.ndim == 3 and pixels.shape[-1] == 3 and bool((pixels.max(-1) > pixels.min(-1)).any())


def test_prepare_train_sample_evaluate(trained, colour, monkeypatch, capsys):
    run, folder = trained
    recorded = [run.config.channels, read_json(run.dir / "config.json")["channels"], load_run(run.dir).config.channels]
    assert recorded == [3, 3, 3]
    assert run.pipeline().denoiser.config.in_channels == 3
    assert has_colours(Image.open(next(run.dir.glob("samples/step-*.png"))))
    assert has_colours(Image.open(folder / "000000.png"))
    images, rows = read_samples(folder, run.config.channels)
    assert images.shape == (len(rows), 16, 16, 3)
    cheaply(monkeypatch)
    options = dict(curves=0, membership=8, classifiers=False, min_images=20, device="cpu")
    scores = evaluate(EvaluateConfig(run.dir, **options))
    assert np.isfinite([scores.distance, scores.membership.auroc]).all()
    assert scores.real == len(colour.rows("test")) and scores.likeness is not None
    assert "One colour image of one size" in (run.final() / "README.md").read_text()
    assert "FD-pixels" in capsys.readouterr().out


@pytest.fixture
def in_grey(colour, tmp_path, monkeypatch):
    "The same phantoms, prepared in grey."
    monkeypatch.setattr("radgen.prepared.prepare.write_figures", lambda *a: None)
    source = colour.manifest["config"]["data_path"]
    return prepare(PrepareConfig(source, tmp_path / "in-grey", llm="rules", rule="any"))


def test_a_model_by_itself_is_in_colour_and_a_grey_one_starts_it(trained, colour, in_grey, tmp_path, capsys):
    run, _ = trained
    alone = load_run(run.final())
    assert (alone.config.channels, alone.config.map_shape) == (3, (3, 16))
    assert has_colours(RadGenPipeline.from_pretrained(run.final())("flow", num_inference_steps=1).images[0])
    common = dict(image_size=16, size="tiny", encoder="minilm", device="cpu", steps=0, runs=tmp_path)
    grey = train(TrainConfig(in_grey.dir, name="grey", **common))
    capsys.readouterr()
    started = train(TrainConfig(colour.dir, name="colour", init=grey.dir, **common))
    said = capsys.readouterr().err
    assert "tensors fit" in said and "new: stem" in said and started.pipeline().channels == 3
    with pytest.raises(ConfigError, match="was started with other options"):
        train(TrainConfig(in_grey.dir, name="colour", init=grey.dir, **common))


@pytest.mark.soak
def test_images_from_elsewhere_are_compared_in_colour(colour, tmp_path, monkeypatch):
    rows, drawn = colour.rows("test"), tmp_path / "drawn"
    drawn.mkdir()
    for i, row in enumerate(rows.itertuples()):
        Image.open(row.image).resize((40, 40)).transpose(0).save(drawn / f"{i:03d}.png")
    pd.DataFrame({"file_name": sorted(p.name for p in drawn.iterdir()), "text": rows.caption, "id": rows.id}).to_csv(
        drawn / "metadata.csv", index=False
    )
    cheaply(monkeypatch)
    seen = []
    original = Features.__call__
    monkeypatch.setattr(
        Features, "__call__", lambda self, x, *a, **k: seen.append(x.shape) or original(self, x, *a, **k)
    )
    scores = evaluate_images(of_images(colour, drawn, out=tmp_path / "report"))
    assert scores.generated == len(rows) and all(shape[1:] == (16, 16, 3) for shape in seen)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "colours of 8 bits" in page and "8-bit grey" not in page


def test_compare_in_colour_sees_what_grey_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr("radgen.evaluation.compare.make_features", pixel_features)
    rng = np.random.default_rng(0)
    for name, order in (("real", [0, 1, 2]), ("fake", [2, 1, 0])):
        (tmp_path / name).mkdir()
        for i in range(60):
            level = rng.integers(0, 90, (16, 16))
            colours = np.stack([level + 100, level, level], -1)[..., order].astype(np.uint8)
            Image.fromarray(colours).save(tmp_path / name / f"{i:03d}.png")
    common = dict(repeats=5, device="cpu")
    saved = tmp_path / "s.safetensors"
    grey, found = (
        compare(CompareConfig(tmp_path / "real", tmp_path / "fake", channels=n, save=saved, **common)) for n in (1, 3)
    )
    assert found["FD-pixels"] > 0 and grey["pixels per side"] == found["pixels per side"] == 16
    again = compare(CompareConfig(saved, tmp_path / "fake", channels=3, **common))
    assert again["FD-pixels"] == pytest.approx(found["FD-pixels"])
    with pytest.raises(
        DataError, match="are of images in colour, 16 pixels: compute them again .* change --channels 1"
    ):
        compare(CompareConfig(saved, tmp_path / "fake", **common))


def test_pixels_are_measured_in_colour_and_replicas_on_the_luminance():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    assert similarity(images, images)[1] == pytest.approx(1)
    psnr, ssim = similarity(images, images[..., ::-1].copy())
    assert psnr < 20 and ssim < 0.9
    assert np.array_equal(shrink(images, "cpu").numpy(), shrink(luminance(images), "cpu").numpy())
    labels = np.arange(6)[:, None] % 2 == 0
    assert train_and_score(images, labels, images[:4], seed=0, steps=2).shape == (4, 1)


@pytest.mark.soak
def test_edits_keep_colours_and_a_mask_keeps_the_rest(trained, colour, tmp_path):
    run, _ = trained
    file = colour.rows("test").image[0]
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 128:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = edit(EditConfig(run.dir, file, prompt="flow", mask=tmp_path / "mask.png", steps=2, device="cpu"))
    before, after = (np.asarray(Image.open(out / name)) for name in ("before.png", "edited-000.png"))
    assert np.array_equal(before, colour.images("test", 16)[0])
    assert np.array_equal(before[:, :8], after[:, :8]) and not np.array_equal(before[:, 8:], after[:, 8:])
    options = dict(from_prompt="flow towards", to_prompt="flow away", steps=2, device="cpu")
    assert has_colours(Image.open(edit(EditConfig(run.dir, file, **options)) / "edited-000.png"))
    grey = Image.open(file).convert("L")
    drawn = run.pipeline()("flow", image=grey, strength=0.5, num_inference_steps=2).images[0]
    assert drawn.mode == "RGB"


@pytest.mark.soak
def test_a_synthetic_data_set_is_in_colour(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "make_features", pixel_features)
    monkeypatch.setattr("radgen.evaluation.memorisation.SCALES", (1.0,))
    out = tmp_path / "set"
    synthesis.synthesise(
        SynthesiseConfig(trained[0].dir, n=3, steps=1, batch_size=4, device="cpu", out=out, attempts=1)
    )
    files = [path for path in out.rglob("*.png") if path.parent != out]
    assert files and all(has_colours(Image.open(path)) for path in files)


def test_the_page_compares_colours_with_colours(trained, monkeypatch):
    run, folder = trained
    monkeypatch.setattr("radgen.tools.requests.make_features", pixel_features)
    near, seen = References(run)([Image.open(folder / f"{i:06d}.png") for i in range(2)])
    assert all(has_colours(image) for image, _ in near) and len(seen)


def test_utility_trains_classifiers_on_colours(colour):
    columns = pd.MultiIndex.from_tuples([("flow", "towards")])
    parts = []
    for split in ("train", "train", "test"):
        towards = colour.rows(split).caption.str.contains("towards").to_frame()
        parts += [colour.images(split, 16), towards.set_axis(columns, axis=1)]
    area = train_cell(Cell(20, Mixture("real + synthetic", True, 1), 0), UtilityImages(*parts), steps=30)
    assert area["flow"] > 0.9  # which the colour shows


def test_a_reader_study_shows_colours(trained, colour, tmp_path):
    run, folder = trained
    for fake, n in ((folder, None), (run.dir, 1)):
        out = tmp_path / f"study-{n}"
        build_study(StudyConfig(colour.dir, fake, n=20, size=16, out=out, channels=n))
        modes = {Image.open(path).mode for path in (out / "images").glob("*.png")}
        assert modes == {"RGB" if n is None else "L"}
