"""Several evaluations side by side: which of them compare, and which differences exceed the noise."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import HOSTILE, Page

from radgen import cli
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.config import LeaderboardConfig
from radgen.evaluation.distance import draws_interval, frechet_distance, half_sample_draws, statistics
from radgen.evaluation.leaderboard import (
    REAL,
    Entry,
    check_comparable,
    compare_entries,
    evaluation_file,
    holm,
    leaderboard,
    leaderboard_table,
    page_values,
    read_entries,
    statement,
)
from radgen.evaluation.measures import MEASURES, difference_p, score_at, share_p
from radgen.evaluation.report_rows import score_rows, templates
from radgen.evaluation.results import CLIP, CONCEPTS, TYPES, ConceptScore, read_scores

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
    tested = compare_entries(entries, [DISTANCE])
    assert all(c.paired for c in tested)
    assert all(c.value_a < c.value_b for c in tested)
    said = statement(DISTANCE, tested)
    assert said.startswith("distance (lower is better, paired by prompt): 3 of 3 differences exceed the noise: ")
    other = replace(entries[1].scores.against, requests="others")
    apart = [entries[0], replace(entries[1], scores=replace(entries[1].scores, against=other)), entries[2]]
    said = statement(DISTANCE, compare_entries(apart, [DISTANCE]))
    assert said.startswith("distance (lower is better, by interval): 2 of 3 differences exceed the noise: ")
    assert "near" in said
    copies = next(m for m in MEASURES if m.hits == "copies")
    assert "none of 3 differences exceeds the noise" in statement(copies, compare_entries(entries, [copies]))
    infinite = statement(MEASURES[1], compare_entries(entries, [MEASURES[1]]))
    assert infinite == "FD-infinity: no interval, so differences cannot be distinguished from noise."


def named(name):
    "A score by its name."
    return next(m for m in MEASURES if m.name == name)


def changed(entries, i, **fields):
    "The same evaluations, one of them with other scores; fields of `against` are among them."
    s, against = entries[i].scores, {k: fields.pop(k) for k in list(fields) if hasattr(entries[i].scores.against, k)}
    s = replace(s, against=replace(s.against, **against), **fields)
    return [replace(e, scores=s) if j == i else e for j, e in enumerate(entries)]


def said(entries, name):
    "What the page says of a score."
    return statement(named(name), compare_entries(entries, [named(name)]))


def test_what_was_not_measured_is_said_and_not_compared(three):
    entries = changed(read_entries(three), 0, types=None, types_interval=None, hits={})
    found = compare_entries(entries, [named(TYPES)])
    assert [c.p is None for c in found] == [True, True, False]
    assert "near and farther not compared: not measured." in statement(named(TYPES), found)
    assert leaderboard_table(entries).loc["near", TYPES] == "not measured"
    one = changed(entries, 1, types=None)
    assert said(one, TYPES) == f"{TYPES}: measured in fewer than two evaluations, so nothing is compared."


def test_scores_on_different_material_are_shown_and_not_compared(three):
    entries = [replace(e, scores=replace(e.scores, clip={"recall_5": 0.4})) for e in read_entries(three)]
    assert said(entries, CLIP).endswith("no interval, so differences cannot be distinguished from noise.")
    other = changed(entries, 0, prompted=39)
    assert "near and far not compared: numbers of prompts differ (39 and 40)." in said(other, CLIP)
    assert "farther and far not" not in said(other, CLIP)
    against = replace(entries[1].scores.against, clip="another")
    clips = [replace(e, scores=replace(e.scores, against=against)) if i == 1 else e for i, e in enumerate(entries)]
    assert "near and farther not compared: CLIPs differ (None and another)." in said(clips, CLIP)
    fewer = changed(entries, 2, paired=12)
    for name in (TYPES, CONCEPTS):
        assert "near and far not compared: numbers of prompts of real images differ (40 and 12)." in said(fewer, name)
    rarer = changed(entries, 2, by_concept=(ConceptScore("CT", 3, 0.9, 0.8),))
    assert "near and far not compared: concepts differ." in said(rarer, CONCEPTS)
    assert "not compared" not in said(rarer, TYPES)


def test_distance_is_tested_for_equal_numbers_of_images_alone(three):
    entries = changed(read_entries(three), 1, generated=39)
    check_comparable(entries)
    assert "near and farther not tested: numbers of images differ (40 and 39)." in said(entries, "distance")
    assert "1 of 1 differences exceed the noise: near" in said(entries, "distance")


def test_numbers_of_images_are_compared_for_all_pairs(three):
    "Each differs from the first by a twentieth, and the two from each other by twice as much."
    entries = changed(changed(changed(read_entries(three), 0, generated=100), 1, generated=96), 2, generated=105)
    with pytest.raises(ConfigError, match="farther and far do not compare .generated images 96 and 105"):
        check_comparable(entries)


def test_probe_that_does_not_beat_chance_on_real_images_cannot_be_read(three):
    entries = changed(read_entries(three), 0, concepts_real_interval=(0.45, 0.8))
    s = entries[0].scores
    assert score_at(s, named(CONCEPTS).value) is None
    assert leaderboard_table(entries).loc["near", CONCEPTS] == "cannot be read"
    assert "near and far not compared: cannot be read." in said(entries, CONCEPTS)
    entries = changed(entries, 0, types_real_interval=(s.types_chance - 0.01, 1.0))
    assert leaderboard_table(entries).loc["near", TYPES] == "cannot be read"
    rows = {row.measure: row.generated for row in score_rows(entries[0].scores)}
    assert rows[CONCEPTS] == rows[TYPES] == "cannot be read"


def test_extrapolation_from_few_images_is_called_reduced(three):
    entries = read_entries(three)
    assert leaderboard_table(changed(entries, 0, dimensions=14)).loc["near", "FD-infinity"].endswith(", reduced")
    assert "reduced" not in leaderboard_table(changed(entries, 0, dimensions=3)).loc["near", "FD-infinity"]


def test_p_values_are_corrected_for_the_whole_page(three):
    "Three comparisons of the distance and three of the memorised images: the smallest p-value counts six times."
    entries, copies = read_entries(three), named("memorised training images")
    alone = [difference_p(a.scores, b.scores, DISTANCE)[0] for a, b in itertools.combinations(entries, 2)]
    alone += [difference_p(a.scores, b.scores, copies)[0] for a, b in itertools.combinations(entries, 2)]
    found = compare_entries(entries, [DISTANCE, copies])
    assert [c.p for c in found] == pytest.approx(holm(alone).tolist())


def test_shares_have_exact_tests():
    none, some = np.zeros(40, bool), np.arange(40) < 6
    assert share_p(none, some, paired=True) == 2 * 0.5**6
    assert share_p(none, some, paired=False) == pytest.approx(stats.fisher_exact([[0, 40], [6, 34]]).pvalue)
    assert share_p(none, none, paired=True) == share_p(none, none[:30], paired=False) == 1
    rng = np.random.default_rng(0)
    drawn = rng.random((300, 2, 50)) < 0.02
    for paired in (True, False):
        assert np.mean([share_p(a, b, paired) < 0.05 for a, b in drawn]) < 0.05


def test_seeds_that_differ_are_not_paired_for_draws(three):
    entries = changed(read_entries(three), 1, seed=7)
    paired = {(c.a, c.b): c.paired for c in compare_entries(entries, [DISTANCE])}
    assert paired == {("near", "farther"): False, ("near", "far"): True, ("farther", "far"): False}


def test_baseline_is_that_of_the_first_evaluation_that_knows_it(three):
    entries = changed(read_entries(three), 0, types=None, types_real=None)
    types = named(TYPES)
    assert leaderboard_table(entries).loc[REAL, TYPES] == f"{entries[1].scores.types_real:.{types.digits}f}"


def test_relative_paths_and_the_folder_of_the_images_are_found(three, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(three[0] / "samples" / "test")
    assert [e.name for e in read_entries([Path("."), three[1]])] == ["near", "farther"]
    assert evaluation_file(drawn) == drawn.with_name("drawn-evaluation") / "evaluation.json"
    monkeypatch.chdir(drawn)
    assert [e.name for e in read_entries([Path("."), three[1]])] == ["drawn", "farther"]


def test_table_does_not_replace_an_evaluation(three, tmp_path):
    out = three[0].parent
    (out / "leaderboard.json").write_text("{}")
    with pytest.raises(ConfigError, match="--out .* would replace .*, which lies in it: choose another folder"):
        leaderboard(LeaderboardConfig(three, out=out))
    assert evaluation_file(three[0]).exists()


def gaussian_scores(scores, f, real):
    "The evaluation of features."
    draws = tuple(half_sample_draws(f, real).tolist())
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
        statements = [statement(DISTANCE, compare_entries(several, [DISTANCE]))]
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
