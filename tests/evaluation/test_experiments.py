"""The trainings of a table: what they are, what they cost, and that a table that was stopped goes on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from evaluation_helpers import pixel_features

from autoencoders import make_vae

from radgen.core.errors import ConfigError
from radgen.core.files import write_json
from radgen.evaluation.config import BUDGETS, Table3, Table4, Table5
from radgen.evaluation.experiments import cells, plan, run_cell, run_cells
from radgen.evaluation.tables import experiment
from radgen.training.train import train

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
    "The smallest budget without what takes long: no network for features, memory, facts of phantoms; few crops."
    monkeypatch.setitem(BUDGETS, "cpu", TINY)
    name = "FD-VGG16 (stand-in, not FID)"
    monkeypatch.setattr("radgen.evaluation.report.make_features", lambda *args: replace(pixel_features(), name=name))
    monkeypatch.setattr("radgen.evaluation.experiments.peak_memory", lambda *args: {"all": 1.0})
    monkeypatch.setattr("radgen.evaluation.scores.grid_features", lambda device: None)
    monkeypatch.setattr("radgen.evaluation.scores.truth_alignment", lambda *args: None)
    monkeypatch.setattr("radgen.evaluation.memorisation.SCALES", (1.0, 0.9))


def table3(data, runs, **options):
    common = dict(budget="cpu", runs=runs, seeds=(0,), models=("UNet",), sampler_steps=2, features="vgg16")
    return Table3(data.dir, **common | options)


def test_tables_have_the_cells_of_the_paper():
    eight = cells(Table3("d", seeds=(0,)))
    assert len({(c.model, c.caption_mode) for c in eight}) == 8
    options = {(c.epochs, c.batch_size, c.image_size, c.encoder, c.size) for c in eight}
    assert options == {(100, 12, 64, "radbert", "paper")}
    assert {c.encoder for c in cells(Table4("d"))} == {"radbert", "clip"}
    assert {c.image_size for c in cells(Table5("d"))} == {64, 128, 256}
    names = [c.name for c in cells(Table4("d", seeds=(0, 1)))]
    assert len(set(names)) == len(names) == 32
    assert all(n.endswith("-0") for n in names[:16])


def test_cell_that_an_older_version_began_keeps_its_network(tmp_path):
    cfg = Table3("d", runs=tmp_path, seeds=(0,), recipe="radgen")
    first = cells(cfg)[0]
    assert first.patch == 2
    write_json(first.runs / first.name / "config.json", {"data_path": "d"})
    assert [c.patch for c in cells(cfg)[:2]] == [1, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(seeds=(0, 0)), "is there 2 times"),
        (dict(encoders=("a/bert", "b/bert")), "folders of encoders names of their own"),
        (dict(n=30), "--n is 30"),
    ],
)
def test_options_that_contradict_each_other_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        cells(Table3("d", **options))


def test_plan_has_a_row_per_kind_of_cell(few, budget, tmp_path):
    p = plan(table3(few, tmp_path, models=("UNet", "VGG16UNet")))
    assert p.columns.tolist() == ["model", "encoder", "pixels", "cells", "steps", "batch", "pflop", "gib"]
    rows = p.iloc[:, :6].to_numpy().tolist()
    assert rows == [[m, "minilm", 16, 4, 2, 4] for m in ("UNet", "VGG16UNet")]
    assert (p[["pflop", "gib"]] > 0).all(axis=None)
    assert not list(tmp_path.iterdir())


def test_a_table_of_latents_costs_less_than_one_of_pixels(few, budget, tmp_path):
    vae = str(make_vae(tmp_path / "vae"))
    options = dict(budget="cpu", seeds=(0,), scales=(2,), models=("UNet",), runs=tmp_path)
    pixels, latents = (plan(Table5(few.dir, latents=name, **options)) for name in (None, vae))
    assert latents.pixels.tolist() == pixels.pixels.tolist() == [32]
    assert latents.pflop[0] < 0.5 * pixels.pflop[0]


def test_plan_of_data_that_are_not_prepared(tmp_path, budget):
    "A folder of phantoms has a manifest of its own, and is no prepared one."
    from radgen.data.phantoms import make_phantoms

    raw = make_phantoms(tmp_path / "raw", 4, 1, 1)
    assert plan(Table3(raw, budget="cpu", seeds=(0,), models=("UNet",))).steps.tolist() == [2]


@pytest.mark.soak
def test_table_that_is_stopped_goes_on(few, budget, tmp_path, monkeypatch):
    "Ctrl-C in the training of the second cell, then the rest: as if it had never been stopped, and nothing twice."
    cfg, trained = table3(few, tmp_path / "a", caption_modes=(0, 1)), []

    def stopped(tr):
        trained.append(tr.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(tr)

    monkeypatch.setattr("radgen.evaluation.experiments.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        experiment(cfg)
    home = tmp_path / "a" / "table3"
    assert len(pd.read_csv(home / "results.csv")) == 1
    assert len(list((home / "cells").glob("*.json"))) == 1
    before = {p: p.stat().st_mtime_ns for p in (home / trained[0]).rglob("*") if p.is_file()}
    t = experiment(cfg)
    assert trained[2:] == [cells(cfg)[1].name]
    assert before == {p: p.stat().st_mtime_ns for p in before}
    again = experiment(cfg)  # now there is nothing to do
    assert len(trained) == 3
    assert again.equals(t)
    saved = pd.read_csv(home / "results.csv")
    assert saved.distance.tolist() == pytest.approx(t.distance.tolist())
    assert (home / "results.png").exists()
    text = (home / "results.md").read_text()
    for part in (
        "FD-VGG16 (stand-in, not FID)",
        "no difference can be distinguished from chance",
        "MiniLM (stand-in for",
    ):
        assert part in text, part
    assert text.count("\n| ") == 3
    whole = run_cell(cells(replace(cfg, runs=tmp_path / "b"))[1], cfg)  # the cell that was interrupted
    assert whole.distance == pytest.approx(t.distance[1], rel=1e-9)


def test_cell_with_other_options_is_computed_again(few, budget, tmp_path, monkeypatch):
    drawn = []

    def sample(cfg):
        drawn.append(cfg.guidance)
        return tmp_path

    def evaluate(cfg):
        return SimpleNamespace(
            **dict(features="FD-X", distance=10.0 * len(drawn), concepts=None, types=None, generated=9, real=9),
            **dict(interval=(1.0, 2.0), floor=(1.0, 0.1), floor_images=9),
            neighbourhoods=SimpleNamespace(recall=0.5),
            copies=SimpleNamespace(share=0.0),
        )

    trained = SimpleNamespace(metrics=lambda: pd.DataFrame({"seconds": [1.0]}))
    monkeypatch.setattr("radgen.evaluation.experiments.train", lambda tr: trained)
    monkeypatch.setattr("radgen.evaluation.experiments.sample", sample)
    monkeypatch.setattr("radgen.evaluation.experiments.evaluate", evaluate)
    cfg = table3(few, tmp_path, caption_modes=(0,))
    first, same, other = experiment(cfg), experiment(cfg), experiment(replace(cfg, guidance=1.0))
    assert first.equals(same)
    assert drawn == [2.0, 1.0]
    assert [*first.distance, *other.distance] == [10, 20]
    monkeypatch.setitem(few.manifest, "content", "other images")
    monkeypatch.setattr("radgen.evaluation.experiments.load_prepared", lambda path: few)
    assert experiment(replace(cfg, guidance=1.0)).distance[0] == 30  # the same options, but another data set


@pytest.mark.soak
def test_two_devices_fill_the_same_table(few, tmp_path):
    "Two processes of one thread; the budget is given by options, as a spawned process does not see the test's."
    cfg = table3(few, tmp_path, caption_modes=(0, 1), steps=2, n=50, devices=("cpu", "cpu"))
    t = experiment(cfg)
    alone = experiment(replace(cfg, devices=("cpu",), caption_modes=(1,), runs=tmp_path / "alone"))
    assert alone.distance[0] == pytest.approx(t.distance[1], rel=1e-4)  # another number of threads rounds otherwise
    assert t.caption_mode.tolist() == [0, 1]
    saved = json.loads((tmp_path / "table3" / "cells" / "UNet-1-minilm-32-0.json").read_text())
    assert saved["distance"] == t.distance[1]


@pytest.mark.soak
def test_error_in_one_process_stops_the_table(few, tmp_path):
    "Nothing new begins, and the message comes through."
    cfg = table3(few, tmp_path, steps=2, n=50, devices=("cpu", "cpu"))
    first, second, *rest = cells(cfg)
    (tmp_path / "table3").mkdir()
    for c in (first, second):
        (tmp_path / "table3" / c.name).write_text("a file where the folder of the run should be")
    with pytest.raises(Exception, match=f"{first.name}|{second.name}"):
        experiment(cfg)
    assert not any((tmp_path / "table3" / c.name).exists() for c in rest)


def test_processes_take_the_next_cell_and_stop_at_an_error(monkeypatch):
    "The same without processes: threads in their place."
    from concurrent.futures import ThreadPoolExecutor

    begun = []

    def cell(tr, cfg):
        begun.append((tr.name, tr.device))
        if tr.caption_mode == 2:
            raise ConfigError("no training")
        return tr.name

    monkeypatch.setattr("radgen.evaluation.experiments.run_cell", cell)
    monkeypatch.setattr("radgen.evaluation.experiments.ProcessPoolExecutor", lambda n, *rest: ThreadPoolExecutor(n))
    cfg = Table3("d", seeds=(0,), models=("UNet",), devices=("cuda:0", "cuda:1"))
    todo = cells(cfg)
    assert sorted(run_cells(todo[:2], cfg)) == sorted(c.name for c in todo[:2])
    assert {device for _, device in begun} == {"cuda:0", "cuda:1"}
    with pytest.raises(ConfigError, match="no training"):
        list(run_cells([todo[2], todo[2], *todo], cfg))
    assert len(begun) == 4
