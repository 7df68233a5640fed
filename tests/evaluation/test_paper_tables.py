"""A ranking that names no winner by chance."""

import numpy as np
import pandas as pd
import pytest

from radgen.evaluation.tables import anova_p, summary, table_text


def made_up(rng, cells=8, seeds=3, best=0.0):
    "A table in which all cells are alike but the third, which is better by `best`."
    rows = []
    for c in range(cells):
        for s in range(seeds):
            distance = rng.normal(40 - best * (c == 2), 1)
            rows.append(dict(model="UNet", encoder="minilm", pixels=32, caption_mode=c, seed=s, distance=distance))
    about = dict(features="FD-X", generated=9, real=9, floor=1.0, floor_std=0.1, floor_images=9)
    return pd.DataFrame(rows).assign(**about)


def test_chance_has_no_winner_and_a_winner_is_found():
    rng = np.random.default_rng(0)
    assert np.mean([anova_p(made_up(rng)) < 0.05 for _ in range(100)]) < 0.12
    s = summary(made_up(rng, best=6))
    assert s.caption_mode[0] == 2
    assert s["rank"].tolist() == list(range(1, 9))
    assert s.tied.tolist() == [True] + [False] * 7


def test_interval_of_a_worked_example():
    cell = dict(model="UNet", encoder="minilm", pixels=32, caption_mode=0)
    s = summary(pd.DataFrame(cell | dict(seed=[0, 1, 2], distance=[1.0, 2.0, 3.0])))
    assert s["mean"][0] == 2
    assert s["std"][0] == 1
    assert s.upper[0] - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t of two degrees of freedom at 97.5%


def test_one_training_a_cell_is_called_chance():
    t = made_up(np.random.default_rng(0), cells=4, seeds=1)
    assert anova_p(t) is None
    assert "no difference can be distinguished from chance" in table_text(t)
    assert "*" not in table_text(t)


@pytest.mark.parametrize("best, says, bold", [(0, "No: their order is chance", 0), (6, "Yes; a star", 2)])
def test_only_what_differs_is_marked(best, says, bold):
    text = table_text(made_up(np.random.default_rng(2), cells=4, best=best))
    assert says in text
    assert text.count("**") == bold


def test_sizes_are_not_ranked_against_each_other():
    "256 pixels have other real images and another real-real baseline than 64: a table for each."
    rng = np.random.default_rng(0)
    small, large = made_up(rng, cells=4).assign(pixels=64), made_up(rng, cells=4).assign(pixels=256, floor=7.0)
    text = table_text(pd.concat([small, large.assign(distance=large.distance + 30)]))
    assert text.count("# FD-X") == 2
    assert "Real-real baseline 1.0" in text
    assert "Real-real baseline 7.0" in text
    assert text.count("No: their order is chance") == 2
