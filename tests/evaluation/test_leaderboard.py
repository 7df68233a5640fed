"""Several evaluations side by side: which of them compare, and which differences exceed the noise."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import HOSTILE, Page

from radgen import cli
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.config import LeaderboardConfig
from radgen.evaluation.distance import bootstrap_draws, draws_interval, frechet_distance, statistics
from radgen.evaluation.leaderboard import (
    REAL,
    Entry,
    compare_entries,
    difference_p,
    evaluation_file,
    holm,
    leaderboard,
    leaderboard_table,
    page_values,
    read_entries,
    statement,
)
from radgen.evaluation.measures import MEASURES
from radgen.evaluation.report_rows import templates
from radgen.evaluation.results import read_scores

DISTANCE = MEASURES[0]


@pytest.fixture
def evaluated(drawn):
    "The scores of forty images for captions of the test split, as if a run had drawn them."
    scores = read_scores(read_json(drawn.with_name("drawn-evaluation") / "evaluation.json"))
    return replace(scores, images=None)


def write_run(folder, scores, label="test"):
    "A run of which only the evaluation is there."
    write_json(folder / "samples" / label / "evaluation.json", scores)
    return folder


def moved(scores, by):
    "The same evaluation with another distance, its draws moved alike."
    draws = tuple(d + by for d in scores.draws["distance"])
    interval = draws_interval(np.array(draws))
    found = {**scores.draws, "distance": draws}
    return replace(scores, distance=scores.distance + by, draws=found, interval=interval)


@pytest.fixture
def three(evaluated, tmp_path):
    "Runs at the same distance, a little farther and much farther."
    scores, (low, high) = evaluated, evaluated.interval
    width = high - low
    noise = np.random.default_rng(0).normal(0, width / 100, 100)
    farther = moved(scores, width / 10)
    draws = {**farther.draws, "distance": tuple(np.array(farther.draws["distance"]) + noise)}
    runs = {"near": scores, "farther": replace(farther, draws=draws), "far": moved(scores, 10 * width)}
    return tuple(write_run(tmp_path / name, s) for name, s in runs.items())


def test_three_evaluations_are_one_table_and_one_page(three, tmp_path, capsys):
    out = tmp_path / "board"
    assert cli.main(["leaderboard", *map(str, three), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["evaluation"] for row in result["rows"]] == ["near", "farther", "far"]
    assert {path.suffix for path in out.iterdir()} == {".csv", ".html", ".json", ".md", ".png"}
    saved = read_json(out / "leaderboard.json")
    assert saved["comparisons"] == result["comparisons"]
    table = pd.read_csv(out / "leaderboard.csv").set_index("evaluation")
    near = read_scores(read_json(evaluation_file(three[0])))
    assert table.loc["near", "distance"] == pytest.approx(near.distance)
    assert table.loc["near", ["distance, lower", "distance, upper"]].tolist() == pytest.approx(near.interval)
    text = (out / "leaderboard.md").read_text()
    low, high = near.interval
    assert f"| near | {near.distance:.1f} ({low:.1f} to {high:.1f}) |" in text
    assert f"| {REAL} | {near.floor[0]:.1f} |" in text
    page = Page((out / "leaderboard.html").read_text())
    assert page.links[0].startswith("data:image/png")
    assert all(line in page.text for line in result["statements"])
    assert cli.main(["leaderboard", *map(str, three), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == text.strip()


def test_statement_says_which_differences_exceed_the_noise(three):
    entries = read_entries(three)
    tested = compare_entries(entries, DISTANCE)
    assert all(c.paired for c in tested)
    assert all(c.value_a < c.value_b for c in tested)
    said = statement(DISTANCE, tested)
    assert said.startswith("distance (lower is better, paired by prompt): 3 of 3 differences exceed the noise: ")
    other = replace(entries[1].scores.against, requests="others")
    apart = [entries[0], replace(entries[1], scores=replace(entries[1].scores, against=other)), entries[2]]
    said = statement(DISTANCE, compare_entries(apart, DISTANCE))
    assert said.startswith("distance (lower is better, by interval): 2 of 3 differences exceed the noise: ")
    assert "near" in said
    copies = next(m for m in MEASURES if m.draws == "copies")
    assert "none of 3 differences exceeds the noise" in statement(copies, compare_entries(entries, copies))
    assert statement(MEASURES[1], []).endswith("no interval, so differences cannot be told from noise.")


def test_what_was_not_measured_is_said_and_not_compared(three):
    entries = read_entries(three)
    types = next(m for m in MEASURES if m.draws == "types")
    without = replace(entries[0].scores, types=None, types_interval=None, draws={})
    entries[0] = replace(entries[0], scores=without)
    assert len(compare_entries(entries, types)) == 1
    assert leaderboard_table(entries).loc["near", types.name] == "not measured"


def gaussian_scores(scores, f, real):
    "The evaluation of features."
    draws = tuple(bootstrap_draws(f, real).tolist())
    distance = frechet_distance(statistics(f), real)
    return replace(scores, distance=distance, draws={"distance": draws})


def test_two_sets_of_one_distribution_rarely_differ_and_two_of_different_ones_do(evaluated):
    "At 5%, of 40 comparisons without a difference 2 are expected, and 8 or more have a probability of 0.1%."
    rng, scores = np.random.default_rng(0), evaluated
    real = statistics(rng.normal(size=(400, 3)))
    found = []
    for shift in [0.0] * 40 + [1.0] * 3:
        a, b = rng.normal(0.5, 1, (80, 3)), rng.normal(0.5 + shift, 1, (80, 3))
        pair = [gaussian_scores(scores, f, real) for f in (a, b)]
        pair[1] = replace(pair[1], against=replace(scores.against, requests="others"))
        found.append(difference_p(*pair, DISTANCE)[0])
    assert sum(p < 0.05 for p in found[:40]) < 8
    assert np.median(found[:40]) > 0.2
    assert max(found[40:]) < 0.001


def test_holm_agrees_with_its_definition():
    "Each p times the number of those that are not smaller, never less than that of a smaller one, at most 1."
    assert holm([0.01, 0.02, 0.5]) == pytest.approx([0.03, 0.04, 0.5])
    assert holm([0.04, 0.011, 0.9, 0.02]) == pytest.approx([0.08, 0.044, 0.9, 0.06])
    assert holm([0.6, 0.6]) == pytest.approx([1, 1])


DIFFERENT = {
    "data": dict(data="another"),
    "pixels": dict(pixels=64),
    "split": dict(split="valid"),
    "equalised": dict(equalize=True),
}


@pytest.mark.parametrize("what", [*DIFFERENT, "features", "generated images", "held-out images"])
def test_evaluations_that_do_not_compare_are_refused_with_the_difference(what, three, tmp_path):
    scores = read_scores(read_json(evaluation_file(three[1])))
    if what in DIFFERENT:
        other = replace(scores, against=replace(scores.against, **DIFFERENT[what]))
    elif what == "features":
        other = replace(scores, source="other weights")
    else:
        field = "generated" if what == "generated images" else "real"
        other = replace(scores, **{field: 30})
    write_run(three[1], other)
    with pytest.raises(ConfigError, match=f"near and farther do not compare \\({what} .*evaluate both in the same way"):
        leaderboard(LeaderboardConfig(three, out=tmp_path / "board"))
    assert not (tmp_path / "board").exists()


def test_evaluations_are_found_by_run_samples_or_report_and_named_apart(three, tmp_path):
    run = three[0]
    scores = read_scores(read_json(evaluation_file(run)))
    newer = write_run(run, scores, "guidance-3") / "samples" / "guidance-3" / "evaluation.json"
    os.utime(run / "samples" / "test" / "evaluation.json", (1, 1))
    (run / "report.md").write_text("# near")
    for path in (run, run / "report.md", newer, newer.parent):
        assert evaluation_file(path) == newer
    older = run / "samples" / "test"
    assert [e.name for e in read_entries([older, newer])] == ["near/test", "near/guidance-3"]
    with pytest.raises(ConfigError, match="each of them once"):
        read_entries([run, newer])
    for missing in (tmp_path / "nothing", run / "missing.html"):
        with pytest.raises(DataError, match="there is no evaluation at .*radgen evaluate"):
            evaluation_file(missing)


def test_older_numbers_and_other_files_are_refused(three, tmp_path):
    path = evaluation_file(three[0])
    write_json(path, {k: v for k, v in read_json(path).items() if k != "against"})
    with pytest.raises(DataError, match="earlier version of radgen: run radgen evaluate again"):
        read_entries(three)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files: choose another --out"):
        leaderboard(LeaderboardConfig(three, out=tmp_path / "mine"))
    assert cli.main(["leaderboard", str(three[0])]) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_names_stay_text_on_the_page(three, text):
    entries = read_entries(three)
    named = [Entry(f"{text} {i}", e.file, replace(e.scores, report=text)) for i, e in enumerate(entries)]
    pages = []
    for several in (entries, named):
        statements = [statement(DISTANCE, compare_entries(several, DISTANCE))]
        values = page_values(several, statements)
        render = [templates().get_template(f"leaderboard.{kind}.j2") for kind in ("html", "md")]
        pages.append([template.render(**values, image="data:image/png;base64,") for template in render])
    plain, hostile = Page(pages[0][0]), Page(pages[1][0])
    assert hostile.tags == plain.tags
    assert hostile.links == ["data:image/png;base64,"]
    assert "<script" not in pages[1][1]
    assert "[x](" not in pages[1][1]
    rows = [page.count("|") - page.count("\\|") for _, page in pages]
    assert rows[0] == rows[1]
