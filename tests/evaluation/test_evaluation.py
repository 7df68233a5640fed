"""From a run to its report: what is judged and what is refused, and a page that says what its numbers are."""

import json
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import radgen.evaluation as E
import radgen.memorisation as M
import radgen.report as R
from radgen.core.errors import ConfigError, DataError
from radgen.evaluation.features import Features
from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.scores import measure, read_samples
from radgen.diffusion.card import inline_markdown
from radgen.evaluation.figures import spread_over
from radgen.evaluation.report import as_page, evaluate, report_text
from radgen.training.config import TrainConfig
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample
from radgen.training.train import train


def test_spread_over_takes_every_type():
    types = ["x"] * 50 + ["y"] * 2 + ["z"]
    assert [types[i] for i in spread_over(types, 6)].count("x") == 3 and {types[i] for i in spread_over(types, 6)} == {
        "x",
        "y",
        "z",
    }


def test_report_and_json_agree_and_name_the_stand_ins(few, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(E, "usefulness", partial(E.usefulness, steps=20))
    run = train(
        TrainConfig(
            few.dir,
            image_size=16,
            batch_size=4,
            size="tiny",
            encoder="minilm",
            steps=2,
            runs=tmp_path,
            name="r",
            device="cpu",
            preview_every=0,
        )
    )
    folder = sample(SampleConfig(run.dir, n=55, steps=2, device="cpu"))
    r = evaluate(EvaluateConfig(run.dir, features="vgg16", curves=20, device="cpu"))
    report, saved = (run.dir / "report.md").read_text(), json.loads((folder / "evaluation.json").read_text())
    assert (
        saved == r and f"{r['distance']:.1f}" in report and f"{r['floor'][0]:.1f}" in report and "Privacy: " in report
    )
    for name in ("stand-in, not FID", "MiniLM (stand-in for RadBERT)", "no FID"):
        assert name in report
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(f"{run.dir}/report.md: FD-VGG16")
    own = sample(SampleConfig(run.dir, prompts=("a head",), n=60, steps=1, device="cpu"))
    with pytest.raises(ConfigError, match="no real counterpart"):
        evaluate(quick(run, samples=own))


def quick(run, **options):
    return EvaluateConfig(run.dir, **{"curves": 0, "classifiers": False, "device": "cpu", **options})


@pytest.fixture
def judged(few, tmp_path, monkeypatch):
    "A run with samples, judged on features that cost nothing."
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())

    class Bytes(torch.nn.Module):
        def forward(self, u):
            return net(u.float())

    monkeypatch.setattr(E, "read_truth", lambda *a: None)
    monkeypatch.setattr(M, "SCALES", (1.0, 0.9))
    monkeypatch.setattr(R, "make_features", lambda name, device: Features("FD-pixels", "pixels", Bytes()))
    run = train(
        TrainConfig(
            few.dir,
            image_size=16,
            batch_size=4,
            size="tiny",
            encoder="minilm",
            steps=2,
            runs=tmp_path,
            name="r",
            device="cpu",
            preview_every=0,
        )
    )
    return run, sample(SampleConfig(run.dir, n=50, steps=1, device="cpu"))


def test_same_question_is_not_measured_twice(judged, monkeypatch, capsys):
    run, folder = judged
    first = evaluate(quick(run))
    told = capsys.readouterr().out
    stamp = (run.dir / "report.md").stat().st_mtime_ns
    with monkeypatch.context() as m:
        m.setattr(R, "measure", lambda *a: pytest.fail("measured again"))
        assert evaluate(quick(run)) == first and capsys.readouterr().out == told
        assert (run.dir / "report.md").stat().st_mtime_ns == stamp
        text = (run.dir / "report.md").read_text()
        (run.dir / "report.md").unlink()  # a page that is lost is written from the numbers
        evaluate(quick(run))
    assert (run.dir / "report.md").read_text() == text
    other = evaluate(quick(run, seed=1))  # another question
    assert other["floor"] != first["floor"] and (run.dir / "report.md").read_text() != text
    with pytest.raises(ConfigError, match="sample more"):
        evaluate(quick(run, min_images=51))
    with pytest.raises(ConfigError, match="real test images are too few.*prepare more data"):
        measure(np.zeros((9999, 16, 16), np.uint8), None, run, "test", None, quick(run, min_images=9999))


def test_only_held_out_samples_of_the_same_model_are_judged(judged):
    run, folder = judged
    seen = sample(SampleConfig(run.dir, split="train", n=50, steps=1, device="cpu"))  # the newest
    with pytest.raises(ConfigError, match="trained on"):
        evaluate(quick(run, samples=seen))
    assert evaluate(quick(run))["real"] == len(run.prepared.rows("test"))
    other = train(replace(run.config, name="other", seed=1))
    with pytest.raises(ConfigError, match="another model"):
        evaluate(quick(other, samples=folder))
    with pytest.raises(DataError, match="radgen sample"):
        evaluate(quick(run, samples=run.dir / "nothing"))


def test_without_image_types_there_is_no_alignment(judged):
    run, folder = judged
    run.prepared.table["cuis"] = [["C0817096"]] * len(run.prepared.table)
    r = measure(*read_samples(folder), run, "test", R.make_features("", "cpu"), quick(run))
    assert r["types"] is r["types_real"] is r["types_deaf"] is r["concepts"] is None
    assert "| image type as asked | unknown | unknown |" in report_text(
        run, folder, json.loads((folder / "sample.json").read_text()), r | {"curves": None, "asked": "nothing"}
    )


def test_ids_stay_text(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "000000.png")
    (tmp_path / "samples.csv").write_text("index,id,prompt,seed\n0,000123,42,0\n")
    rows = read_samples(tmp_path)[1]
    assert (rows.id[0], rows.prompt[0]) == ("000123", "42")


def test_missing_and_damaged_samples_are_named(judged):
    run, folder = judged
    (folder / "000003.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read.*sample anew"):
        evaluate(quick(run))
    (folder / "000003.png").unlink()
    with pytest.raises(DataError, match="000003.png is missing .1 of 50 images.: sample anew"):
        evaluate(quick(run))


class Reader(HTMLParser):
    "What of a page is markup."

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[go](javascript:alert(1))",
        "![x](https://elsewhere/x.png)",
        "a | b ~c~ $d$",
        "`x` *y* __z__",
        "two\nlines",
        "# head",
        r"back\\[slash](x)",
        'src="/etc/hostname"',
        'src="nothing"',
    ],
)
def test_names_stay_text_on_the_page(text, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    page = Reader(
        as_page(
            f"# T {inline_markdown(text)}\n\n![x](a.png)\n\n| a | b |\n|---|---|\n| {inline_markdown(text)} | c |\n",
            tmp_path,
            text,
        )
    )
    assert (
        page.tags.count("img") == page.tags.count("table") == 1
        and page.tags.count("td") == 2
        and not {"script", "a", "b", "code", "em", "strong"} & set(page.tags)
    )
    assert (
        page.links[0].startswith("data:image/png;base64,")
        and len(page.links) == 1
        and " ".join(page.text.split()).count(" ".join(text.split())) == 3
    )


def test_the_report_holds_all_its_figures(judged):
    run, folder = judged
    evaluate(quick(run, curves=20))
    page = Reader((run.dir / "report.html").read_text())
    figures = sorted(p.name for p in (run.dir / "fig").iterdir())
    assert (
        figures == sorted(f"{k}.png" for k in ("comparison", "curves", "distance", "failures", "loss", "neighbours"))
        and len(page.links) == len(figures)
        and all(l.startswith("data:image/png") for l in page.links)
    )


def test_a_foreign_run_cannot_put_markup_on_the_page(judged):
    "Everything that a run's files say reaches the page as text."
    run, folder = judged
    evaluate(quick(run))
    r, s = json.loads((folder / "evaluation.json").read_text()), json.loads((folder / "sample.json").read_text())
    bad = '<script>alert(1)</script><img src="/etc/hostname">[x](javascript:alert(1))'
    r.update(features=bad, source=bad, by_concept=[dict(c, concept=bad) for c in r["by_concept"]])
    for k in ("name", "model", "size", "recipe", "encoder"):
        setattr(run.config, k, bad)
    page = Reader(as_page(report_text(run, folder, dict(s, sampler=bad), r), run.dir, bad))
    assert (
        not {"script", "a"} & set(page.tags)
        and all(l.startswith("data:image/png") for l in page.links)
        and page.tags.count("img") == 5
        and page.text.count("<script>") >= 8
    )


def test_curves_ask_for_what_the_samples_asked_for(judged, monkeypatch):
    run, folder = judged
    asked = []
    monkeypatch.setattr(R, "sample", lambda cfg: asked.append(cfg) or folder)
    s = dict(
        json.loads((folder / "sample.json").read_text()),
        negative="noise",
        guidance_interval=[0.1, 0.9],
        guidance_rescale=0.7,
    )
    r = R.curves(run, R.make_features("", "cpu"), s, 50, "cpu")
    assert len(asked) == len(r["guidance"]) + len(r["steps"]) and {
        (c.negative, c.guidance_interval, c.guidance_rescale) for c in asked
    } == {("noise", (0.1, 0.9), 0.7)}


def test_a_lost_page_is_written_again(judged):
    run, folder = judged
    evaluate(quick(run))
    (run.dir / "report.html").unlink()
    evaluate(quick(run))
    assert (run.dir / "report.html").exists()
