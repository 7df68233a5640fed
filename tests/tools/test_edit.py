"""`radgen edit`: from the command line to the files, and mixtures of options that are refused."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from radgen.cli import main
from radgen.tools.edit_tab import known_formats_only


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A photograph in colour with a hostile name, and a mask of its size."
    folder, rng = tmp_path_factory.mktemp("edit"), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 50, 3)).astype(np.uint8)).save(folder / "$x_{1} <b>.png")
    mask = np.zeros((30, 50), np.uint8)
    mask[:, 25:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def command(run, files, *args):
    image = ["--image", files / "$x_{1} <b>.png", "--steps", 3, "--device", "cpu"]
    return main([*map(str, ["edit", run.dir, *image, *args]), "--json"])


def test_command_writes_results_figure_and_record(run, files, capsys, tmp_path, figures):
    texts = ["--from-prompt", "CT of the head, $normal", "--to-prompt", "CT of the head, left mass"]
    assert command(run, files, *texts, "--n", 2, "--out", tmp_path / "out") == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "out")}
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["before-after.png", "before.png", "edit.json", "edited-000.png", "edited-001.png"]
    record = json.loads((tmp_path / "out" / "edit.json").read_text())
    content = (files / "$x_{1} <b>.png").read_bytes()
    assert record["image_sha256"] == hashlib.sha256(content).hexdigest()
    assert (record["image"], record["way"], record["weights"]) == ("$x_{1} <b>.png", "edit", run.weights())
    assert record["used"]["strength"] == "0.8" and len(record["results"]) == 2
    result = Image.open(tmp_path / "out" / "edited-001.png")
    assert result.text["from_prompt"] == "CT of the head, $normal" and result.text["synthetic"] == "true"
    before = np.asarray(Image.open(tmp_path / "out" / "before.png")).astype(int)
    change = np.abs(np.asarray(result).astype(int) - before).mean()
    assert record["results"][1]["difference"] == pytest.approx(change)


def test_mask_keeps_the_rest(run, files, capsys):
    assert command(run, files, "--prompt", "CT of the head", "--mask", files / "mask.png") == 0
    folder = json.loads(capsys.readouterr().out)["folder"]
    with open(f"{folder}/edit.json") as f:
        record = json.load(f)
    assert record["results"][0]["difference_outside"] == 0 < record["results"][0]["difference_inside"]
    assert record["mask_sha256"] == hashlib.sha256((files / "mask.png").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "args, says",
    [
        (["--prompt", "a", "--from-prompt", "b", "--to-prompt", "c"], "--prompt and --from-prompt exclude each other"),
        (["--mask", "m.png", "--from-prompt", "b", "--to-prompt", "c"], "--mask and --from-prompt exclude"),
        (["--from-prompt", "b", "--to-prompt", "c", "--sampler", "ddpm"], "--sampler and --from-prompt exclude"),
        (["--from-prompt", "b"], "--to-prompt is missing"),
        ([], "no prompt is given"),
        (["--prompt", "a", "--resample", "2"], "resample has no effect without a mask"),
        (["--prompt", "a", "--strength", "2"], "--strength is 2"),
        (["--prompt", "a", "--mask", "none.png"], "none.png: image missing"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_sentence(run, files, capsys, args, says):
    assert command(run, files, *args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error


def test_the_page_opens_known_formats_only(tmp_path, monkeypatch):
    "Pillow would start Ghostscript for an uploaded PostScript file."
    eps = tmp_path / "a.eps"
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with Image.open(eps) as image:
        assert image.format == "EPS"
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    known_formats_only()
    with pytest.raises(UnidentifiedImageError):
        Image.open(eps)
    assert Image.open(tmp_path / "a.png").size == (4, 4)
