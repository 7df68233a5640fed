"""The paper's tables as one command: cells that are stopped go on, and a ranking that does not crown chance."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import radgen.experiments as X
from radgen.cli import main
from radgen.core.errors import ConfigError
from radgen.evaluation.config import Table3, Table4, Table5
from radgen.evaluation.experiments import cells
from radgen.evaluation.tables import differ, experiment, summary, table_text

TINY = dict(
    size="tiny",
    image_size=16,
    batch_size=4,
    steps=2,
    n=50,
    device="cpu",
    encoders={"radbert": "minilm", "clip": "mpnet"},
)


@pytest.fixture
def budget(monkeypatch):
    monkeypatch.setitem(X.BUDGETS, "cpu", TINY)


def table3(data, runs, **options):
    return Table3(
        data.dir, **{"budget": "cpu", "runs": runs, "seeds": (0,), "sampler_steps": 2, "features": "vgg16", **options}
    )


def test_the_tables_have_the_cells_that_the_paper_names():
    eight = cells(Table3("d", seeds=(0,)))
    assert len({(c.model, c.caption_mode) for c in eight}) == 8 and {
        (c.epochs, c.batch_size, c.image_size, c.encoder, c.size) for c in eight
    } == {(100, 12, 64, "radbert", "paper")}
    assert {c.encoder for c in cells(Table4("d"))} == {"radbert", "clip"} and {
        c.image_size for c in cells(Table5("d"))
    } == {64, 128, 256}
    names = [c.name for c in cells(Table4("d", seeds=(0, 1)))]
    assert len(set(names)) == len(names) == 32 and all(n.endswith("-0") for n in names[:16])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(models=("GAN",)), "no model is called GAN"),
        (dict(caption_modes=(7,)), "no caption mode 7"),
        (dict(seeds=()), "--seeds is empty"),
        (dict(scales=(0,)), "--scales has 0"),
        (dict(seeds=(0, 0)), "is there 2 times"),
        (dict(encoders=("a/bert", "b/bert")), "folders of encoders names of their own"),
        (dict(n=30), "--n is 30"),
        (dict(steps=0), "--steps is 0"),
        (dict(sampler_steps=0), "number of steps is 0"),
        (dict(guidance=-1.0), "guidance scale is -1"),
        (dict(budget="much"), "no budget is called 'much'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        cells(Table3("d", **options))


def test_dry_run_prints_cells_cost_and_memory(few, budget, capsys, tmp_path):
    assert (
        main(
            [
                "experiment",
                "table3",
                "--data-path",
                str(few.dir),
                "--budget",
                "cpu",
                "--runs",
                str(tmp_path),
                "--seeds",
                "0",
                "--dry-run",
            ]
        )
        == 0
    )
    table = [l.split() for l in capsys.readouterr().out.split("\n\n")[1].splitlines()]
    assert table[0] == ["model", "encoder", "pixels", "cells", "steps", "batch", "pflop", "gib"] and [
        r[:6] for r in table[1:]
    ] == [[m, "minilm", "16", "4", "2", "4"] for m in ("UNet", "VGG16UNet")]
    assert all(float(x) > 0 for r in table[1:] for x in r[6:]) and not list(tmp_path.iterdir())


def test_dry_run_on_data_that_are_not_prepared(tmp_path, budget):
    "A folder of phantoms has a manifest of its own, and is no prepared one."
    from radgen.data.phantoms import make_phantoms

    raw = make_phantoms(tmp_path / "raw", 4, 1, 1)
    assert (
        main(
            [
                "experiment",
                "table3",
                "--data-path",
                str(raw),
                "--budget",
                "cpu",
                "--seeds",
                "0",
                "--models",
                "UNet",
                "--dry-run",
            ]
        )
        == 0
    )


def test_a_table_that_is_stopped_goes_on(few, budget, tmp_path, monkeypatch):
    "One of two cells, Ctrl-C in the training of the second, then the rest: as if it had never been stopped, and nothing twice."
    cfg, real, trained = table3(few, tmp_path / "a", models=("UNet",), caption_modes=(0, 1)), X.train, []

    def train(tr):
        trained.append(tr.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(tr)

    monkeypatch.setattr(X, "train", train)
    with pytest.raises(KeyboardInterrupt):
        experiment(cfg)
    home = tmp_path / "a" / "table3"
    assert len(pd.read_csv(home / "results.csv")) == len(list((home / "cells").glob("*.json"))) == 1
    before = {p: p.stat().st_mtime_ns for name in trained[:1] for p in (home / name).rglob("*") if p.is_file()}
    t = experiment(cfg)
    assert trained[2:] == [c.name for c in cells(cfg)[1:]] and before == {p: p.stat().st_mtime_ns for p in before}
    again = experiment(cfg)  # now there is nothing to do
    assert len(trained) == 3 and again.equals(t)
    saved = pd.read_csv(home / "results.csv")
    assert len(saved) == 2 and np.allclose(saved.distance, t.distance) and (home / "results.png").stat().st_size > 5000
    text = (home / "results.md").read_text()
    assert (
        "FD-VGG16 (stand-in, not FID)" in text
        and "nothing here tells a difference from chance" in text
        and text.count("\n| ") == 3
        and "MiniLM (stand-in for RadBERT)" in text
    )
    monkeypatch.setattr(X, "train", real)
    whole = experiment(replace(cfg, runs=tmp_path / "b", caption_modes=(1,)))
    assert np.allclose(whole.distance, t[t.caption_mode == 1].distance, rtol=1e-9)  # the cell that was interrupted


def test_another_question_is_asked_again(few, budget, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        X, "train", lambda tr: type("Run", (), {"metrics": lambda self: pd.DataFrame({"seconds": [1.0]})})()
    )
    monkeypatch.setattr(X, "sample", lambda cfg: asked.append(cfg.guidance) or tmp_path)
    monkeypatch.setattr(
        X,
        "evaluate",
        lambda cfg: dict(
            features="FD-X",
            distance=10.0 * len(asked),
            concepts=None,
            types=None,
            generated=9,
            real=9,
            interval=(1.0, 2.0),
            floor=(1.0, 0.1),
            floor_images=9,
            neighbourhoods=dict(recall=0.5),
            copies=dict(share=0.0),
        ),
    )
    cfg = table3(few, tmp_path, models=("UNet",), caption_modes=(0,))
    first, same, other = experiment(cfg), experiment(cfg), experiment(replace(cfg, guidance=1.0))
    assert first.equals(same) and asked == [2.0, 1.0] and [*first.distance, *other.distance] == [10, 20]
    monkeypatch.setitem(few.manifest, "content", "other images")
    monkeypatch.setattr(X, "load_prepared", lambda path: few)
    assert experiment(replace(cfg, guidance=1.0)).distance[0] == 30  # the same options, but another data set


def test_two_devices_fill_the_same_table(few, budget, tmp_path, monkeypatch):
    "Two processes of one thread; the budget is given by options, as a spawned process does not see the test's."
    cfg = Table3(
        few.dir,
        budget="cpu",
        runs=tmp_path,
        seeds=(0,),
        models=("UNet",),
        caption_modes=(0, 1),
        sampler_steps=2,
        features="vgg16",
        steps=2,
        n=50,
        devices=("cpu", "cpu"),
    )
    t = experiment(cfg)
    alone = experiment(replace(cfg, devices=("cpu",), caption_modes=(1,), runs=tmp_path / "alone"))
    assert np.allclose(alone.distance[0], t.distance[1], rtol=1e-4)  # another number of threads rounds otherwise
    assert (
        list(t.caption_mode) == [0, 1]
        and json.loads((tmp_path / "table3" / "cells" / "UNet-1-minilm-16-0.json").read_text())["distance"]
        == t.distance[1]
    )


def made_up(rng, cells=8, seeds=3, best=0.0):
    return pd.DataFrame(
        [
            dict(
                model="UNet",
                encoder="minilm",
                pixels=32,
                caption_mode=c,
                seed=s,
                distance=rng.normal(40 - best * (c == 2), 1),
            )
            for c in range(cells)
            for s in range(seeds)
        ]
    )


def test_chance_has_no_winner_and_a_winner_is_found():
    rng = np.random.default_rng(0)
    assert 0.01 < np.mean([differ(made_up(rng)) < 0.05 for _ in range(300)]) < 0.1
    s = summary(made_up(rng, best=6))
    assert (
        s.caption_mode[0] == 2 and s["rank"].tolist() == list(range(1, 9)) and s.tied.tolist() == [True] + [False] * 7
    )


def test_intervals_by_hand():
    s = summary(
        pd.DataFrame(
            dict(model="UNet", encoder="minilm", pixels=32, caption_mode=0, seed=[0, 1, 2], distance=[1.0, 2.0, 3.0])
        )
    )
    assert (
        s["mean"][0] == 2 and s["std"][0] == 1 and s.upper[0] - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    )  # t of two degrees of freedom at 97.5%


def test_one_training_a_cell_is_called_chance():
    t = made_up(np.random.default_rng(0), cells=4, seeds=1).assign(
        features="FD-X", generated=9, real=9, floor=1.0, floor_std=0.1, floor_images=9
    )
    assert (
        differ(t) is None
        and "nothing here tells a difference from chance" in table_text(t)
        and "*" not in table_text(t)
    )


def test_only_what_differs_is_marked():
    told = lambda best: table_text(
        made_up(np.random.default_rng(2), cells=4, best=best).assign(
            features="FD-X", generated=9, real=9, floor=1.0, floor_std=0.1, floor_images=9
        )
    )
    assert "No: their order is chance" in told(0) and "**" not in told(0)
    assert "Yes; a star" in told(6) and told(6).count("**") == 2


def test_sizes_are_not_ranked_against_each_other():
    "256 pixels have other real images and another floor than 64: a table for each."
    rng = np.random.default_rng(0)
    t = pd.concat(
        [
            made_up(rng, cells=4).assign(
                pixels=p, floor=f, features="FD-X", generated=9, real=9, floor_std=0.1, floor_images=9
            )
            for p, f in ((64, 1.0), (256, 7.0))
        ]
    ).assign(distance=lambda t: t.distance + 30 * (t.pixels == 256))
    text = table_text(t)
    assert (
        text.count("# FD-X") == 2
        and "Floor 1.0" in text
        and "Floor 7.0" in text
        and text.count("No: their order is chance") == 2
    )


def test_an_error_stops_the_table(few, budget, tmp_path):
    "Nothing new begins, and the message comes through."
    cfg = Table3(
        few.dir,
        budget="cpu",
        runs=tmp_path,
        seeds=(0,),
        models=("UNet",),
        features="vgg16",
        steps=2,
        n=50,
        devices=("cpu", "cpu"),
    )
    first, second, *rest = cells(cfg)
    (tmp_path / "table3").mkdir()
    for c in (first, second):
        (tmp_path / "table3" / c.name).write_text("a file where the folder of the run should be")
    with pytest.raises(Exception, match=f"{first.name}|{second.name}"):
        experiment(cfg)
    assert not any((tmp_path / "table3" / c.name).exists() for c in rest)
