"""The report: its numbers are those of the file, and what comes from data stays text."""

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import pytest
from evaluation_helpers import quick

from radgen.core.files import read_json
from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.report import clip_warning, evaluate, page_values
from radgen.evaluation.report_rows import report_page
from radgen.evaluation.tstr import train_on_synthetic


class Page(HTMLParser):
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


@pytest.mark.soak
def test_report_and_json_agree_and_name_the_surrogates(small_run_copy, capsys, monkeypatch):
    "With VGG16, classifiers and curves."
    monkeypatch.setattr("radgen.evaluation.scores.train_on_synthetic", partial(train_on_synthetic, steps=10))
    monkeypatch.setattr("radgen.evaluation.curves.GUIDANCE", (1.0, 2.0))
    monkeypatch.setattr("radgen.evaluation.curves.STEPS", (1, 2))
    monkeypatch.setattr("radgen.evaluation.memorisation.SCALES", (1.0, 0.9))
    run, folder = small_run_copy
    r = evaluate(EvaluateConfig(run.dir, features="vgg16", curves=20, membership=40, device="cpu"))
    report, saved = (run.dir / "report.md").read_text(), json.loads((folder / "evaluation.json").read_text())
    assert saved["distance"] == r.distance
    assert saved["floor"] == list(r.floor)
    for text in (f"{r.distance:.1f}", f"{r.floor[0]:.1f}", "Privacy: ", "train on synthetic", "requested finding"):
        assert text in report, text
    for name in ("stand-in, not FID", "MiniLM (stand-in for RadBERT)", "no FID"):
        assert name in report, name
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(f"{run.dir}/report.md: FD-VGG16")
    page = Page((run.dir / "report.html").read_text())
    figures = sorted(p.stem for p in (run.dir / "fig").iterdir())
    assert figures == ["comparison", "curves", "distance", "failures", "loss", "neighbours"]
    assert len(page.links) == len(figures)
    assert all(link.startswith("data:image/png") for link in page.links)


def test_same_evaluation_is_not_computed_twice(sampled, monkeypatch, capsys):
    run, folder = sampled
    first = evaluate(quick(run))
    printed = capsys.readouterr().out
    report = run.dir / "report.md"
    stamp, text = report.stat().st_mtime_ns, report.read_text()
    with monkeypatch.context() as m:
        m.setattr("radgen.evaluation.report.measure", lambda *a: pytest.fail("measured again"))
        assert evaluate(quick(run)) == first
        assert capsys.readouterr().out == printed
        assert report.stat().st_mtime_ns == stamp
        report.unlink()  # a page that is lost is written from the numbers
        (run.dir / "report.html").unlink()
        evaluate(quick(run))
    assert report.read_text() == text
    assert (run.dir / "report.html").exists()
    other = evaluate(quick(run, seed=1))
    assert other.floor != first.floor
    assert report.read_text() != text


HOSTILE = (
    '<script>alert(1)</script><img src="/etc/hostname">[x](javascript:alert(1))',
    "![x](https://elsewhere/x.png)",
    "a | b ~c~ $d$ `x` *y* __z__",
    "# head",
)


def test_names_of_a_foreign_run_stay_text_on_the_page(sampled):
    "Everything that a run's files say reaches the page as text."
    run, folder = sampled
    scores, about = evaluate(quick(run)), read_json(folder / "sample.json")
    for text in HOSTILE:
        check_that_text_stays_text(run, folder, scores, about, text)


def check_that_text_stays_text(run, folder, scores, about, text):
    "The pages of a run whose names are all the same text."
    plain = Page((run.dir / "report.html").read_text())
    concepts = tuple(replace(c, concept=text) for c in scores.by_concept)
    groups = tuple(replace(g, name=text) for g in scores.groups)
    scores = replace(scores, features=text, source=text, by_concept=concepts, groups=groups)
    run = copy.copy(run)
    run.config = copy.copy(run.config)
    for k in ("name", "model", "size", "recipe", "encoder"):
        setattr(run.config, k, text)
    values = page_values(run, folder, about | dict(sampler=text), scores)
    page = Page(report_page("report.html.j2", values, run.dir))
    assert page.tags == plain.tags
    assert all(link.startswith("data:image/png") for link in page.links)
    assert page.text.count(text) == 7 + 2 + len(concepts) + len(groups)
    markdown = report_page("report.md.j2", values, run.dir)
    assert "<script" not in markdown
    assert "[x](" not in markdown
    assert markdown.count("|") - markdown.count("\\|") == (run.dir / "report.md").read_text().count("|")


def test_report_states_the_number_of_processes(sampled):
    run, folder = sampled
    evaluate(quick(run))
    assert "steps of 4 images in one process, in" in (run.dir / "report.md").read_text()
    config = run.dir / "config.json"
    config.write_text(json.dumps(read_json(config) | {"global_batch": 12}))  # as three processes write it
    for kind in ("md", "html"):
        (run.dir / f"report.{kind}").unlink()
    evaluate(quick(run))
    for kind in ("md", "html"):
        text = (run.dir / f"report.{kind}").read_text()
        assert "steps of 12 images in 3 processes, in" in text


def test_report_of_a_balanced_run_shows_its_draws(sampled):
    run, folder = sampled
    evaluate(quick(run))
    assert "draws balanced" not in (run.dir / "report.md").read_text()
    assert not (run.dir / "fig" / "balance.png").exists()
    config = run.dir / "config.json"
    config.write_text(json.dumps(read_json(config) | {"balance": "types"}))
    shutil.copy(run.dir / "fig" / "loss.png", run.dir / "fig" / "balance.png")  # which training draws
    (run.dir / "report.md").unlink()
    evaluate(quick(run))
    text = (run.dir / "report.md").read_text()
    assert "images, draws balanced by types.\nSampled by" in text
    assert "(fig/balance.png)\n\n## Nearest training images" in text
    assert len(Page((run.dir / "report.html").read_text()).links) == text.count("](fig/")


def test_clip_that_the_run_conditions_on_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for clip, encoder in (("clip", "clip"), ("clip", "openai/clip-vit-base-patch32"), ("mine", str(tmp_path / "mine"))):
        assert f"--clip {clip} is the text encoder that the run conditions on" in clip_warning(clip, encoder)
    for clip, encoder in (("clip", "radbert"), ("mine", "minilm")):
        assert clip_warning(clip, encoder) == ""
