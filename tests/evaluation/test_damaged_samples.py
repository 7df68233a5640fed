"Files of a run that are damaged, cut or exchanged: one sentence that names the file, and no report."

import json

import pandas as pd
import pytest
from evaluation_helpers import quick
from PIL import Image

from radgen.core.errors import DataError
from radgen.evaluation.report import evaluate


def cut(path):
    pd.read_csv(path).head(20).to_csv(path, index=False)


def with_ids(path):
    pd.read_csv(path).assign(id="nobody").to_csv(path, index=False)


def without(path, key):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


DAMAGE = {
    "size": (lambda run, out: Image.new("L", (20, 20)).save(out / "000003.png"), "000003.png has another size"),
    "table cut": (lambda run, out: cut(out / "samples.csv"), "has 20 rows and sample.json names 50 images"),
    "table torn": (lambda run, out: (out / "samples.csv").write_text('index,id\n0,"a'), "samples.csv is not a table"),
    "table empty": (lambda run, out: (out / "samples.csv").write_text(""), "samples.csv is not a table"),
    "table gone": (lambda run, out: (out / "samples.csv").unlink(), "samples.csv is not a table"),
    "ids": (lambda run, out: with_ids(out / "samples.csv"), "50 of 50 samples belong to no image of the test split"),
    "record list": (lambda run, out: (out / "sample.json").write_text("[]"), "sample.json is not what radgen wrote"),
    "record deep": (lambda run, out: (out / "sample.json").write_text("[" * 10**5), "sample.json is not valid JSON"),
    "record short": (lambda run, out: without(out / "sample.json", "split"), "it has no split: delete it"),
    "config list": (lambda run, out: (run / "config.json").write_text("[]"), "config.json is not what radgen wrote"),
    "config empty": (lambda run, out: (run / "config.json").write_text("{}"), "config.json .* has no data_path"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_samples_are_refused_by_name(kind, sampled):
    run, out = sampled
    damage, message = DAMAGE[kind]
    damage(run.dir, out)
    with pytest.raises(DataError, match=message):
        evaluate(quick(run, min_images=20))
    assert not (run.dir / "report.md").exists()


@pytest.mark.parametrize("text", ["", "x,y\n1,2\n", None])
def test_training_curve_that_is_damaged_is_named(text, sampled):
    run, _ = sampled
    path = run.dir / "metrics.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match="metrics.csv is no training curve"):
        run.metrics()
