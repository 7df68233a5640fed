"""Trackers: the choice, an id that lasts as long as the run, and what a missing or broken tracker says."""

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

from radgen.core.errors import ConfigError, RadgenError
from radgen.training.train import train
from radgen.training.trackers import choose_tracker
from training_tools import cut_off_before


@pytest.fixture
def installed(monkeypatch):
    "A function that makes a stub of a package importable, and accelerate believe that it is installed."

    def install(name, **functions):
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType(name)])
        return module

    return install


class Wandb:
    "A stub of Weights & Biases that remembers its calls."

    def __init__(self):
        self.began, self.rows, self.finished = [], [], 0
        self.config = SimpleNamespace(update=self.configure)
        self.options = []

    def configure(self, values, allow_val_change):
        self.options.append(values)

    def init(self, project, **options):
        self.began.append({"project": project, **options})
        return SimpleNamespace(id=options["id"], log=self.log, finish=self.finish)

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(installed):
    stub = Wandb()
    installed("wandb", init=stub.init, config=stub.config, Image=lambda image: image.shape)
    return stub


def test_package_that_is_not_installed_is_named(cfg, monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(ConfigError, match=f"--log-with {name} needs the package {name}.*pip install {name}"):
            train(replace(cfg, log_with=name))
    assert choose_tracker(None) is None
    assert not (cfg.runs / "r").exists()


def test_no_tracker_leaves_the_table_only(cfg, two_steps):
    run = train(replace(cfg, log_with="none"))
    assert run.weights() == two_steps.weights()
    assert len(run.metrics()) == 1
    assert not list(run.dir.rglob("events*"))
    assert list(two_steps.dir.rglob("events*"))


def test_wandb_gets_every_row_options_and_previews_and_goes_on(cfg, wandb):
    cfg = replace(cfg, log_with="wandb", steps=4, log_every=1, checkpoint_every=8, preview_every=16)
    with cut_off_before(3):
        train(cfg)
    run = train(cfg)
    first, second = wandb.began
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("radgen", "r", "allow")
    assert first["id"] == json.loads((run.dir / "tracker.json").read_text())["wandb"]
    assert [step for step, values in wandb.rows if "loss" in values] == [1, 2, 3, 3, 4]
    assert [(step, values["samples"][0]) for step, values in wandb.rows if "samples" in values] == [(4, (16, 16))]
    [options] = wandb.options
    assert options["image_size"] == 16
    assert wandb.finished == 2


def test_tracker_that_cannot_start_is_reported_in_one_sentence(cfg, installed):
    def init(**options):
        raise OSError("No API key configured.\nUse wandb login")

    installed("wandb", init=init)
    with pytest.raises(RadgenError, match="wandb could not start .OSError: No API key configured.*--log-with none"):
        train(replace(cfg, log_with="wandb"))


class Mlflow:
    "A stub of MLflow that remembers its calls."

    def __init__(self):
        self.uri, self.began, self.rows, self.params, self.files = None, [], [], [], []

    def functions(self):
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        return dict(
            utils=SimpleNamespace(validation=limits),
            is_tracking_uri_set=lambda: self.uri is not None,
            set_tracking_uri=lambda uri: setattr(self, "uri", uri),
            search_experiments=lambda filter_string: [],
            create_experiment=lambda name, artifact_location, tags: artifact_location,
            start_run=self.start_run,
            log_params=self.params.append,
            log_metrics=lambda metrics, step: self.rows.append((step, metrics)),
            log_artifact=lambda local_path, artifact_path: self.files.append(local_path),
            end_run=lambda: None,
        )

    def start_run(self, **options):
        self.began.append(options)
        return SimpleNamespace(info=SimpleNamespace(run_id=options["run_id"] or "abc"))


def test_mlflow_writes_beside_the_runs_and_goes_on(cfg, installed):
    stub = Mlflow()
    installed("mlflow", **stub.functions())
    cfg = replace(cfg, log_with="mlflow", steps=4, log_every=1, checkpoint_every=8, preview_every=16)
    with cut_off_before(3):
        train(cfg)
    run = train(cfg)
    assert stub.uri == f"sqlite:///{(cfg.runs / 'mlflow.db').resolve().as_posix()}"
    assert [options["run_id"] for options in stub.began] == [None, "abc"]
    assert stub.began[0]["experiment_id"] == (cfg.runs / ".mlflow").resolve().as_uri()
    assert [step for step, _ in stub.rows] == [1, 2, 3, 3, 4]
    assert len(stub.params) == 1  # MLflow does not let an option change
    assert stub.files == [str(run.dir / "samples" / "step-00000004.png")]
