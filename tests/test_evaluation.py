"""From a run to its numbers: what is judged and what is refused, and a report that says what its numbers are."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import radgen.evaluation as E
from radgen.core import ConfigError, DataError
from radgen.distance import Features
from radgen.evaluation import EvaluateConfig, evaluate, spread_over
from radgen.runs import TrainConfig
from radgen.sampling import SampleConfig, sample
from radgen.training import train

def test_spread_over_takes_every_type():
    types = ["x"]*50 + ["y"]*2 + ["z"]
    assert [types[i] for i in spread_over(types, 6)].count("x") == 3 and {types[i] for i in spread_over(types, 6)} == {"x", "y", "z"}

def test_report_and_json_agree_and_name_the_stand_ins(prepared, tmp_path, capsys):
    run = train(TrainConfig(prepared.dir, image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=2, runs=tmp_path, name="r", device="cpu", preview_every=0))
    folder = sample(SampleConfig(run.dir, n=55, steps=2, device="cpu"))
    r = evaluate(EvaluateConfig(run.dir, features="vgg16", device="cpu"))
    report, saved = (run.dir/"report.md").read_text(), json.loads((folder/"evaluation.json").read_text())
    assert saved == r and f"{r['distance']:.1f}" in report and f"{r['floor'][0]:.1f}" in report and "Privacy: " in report
    for name in ("stand-in, not FID", "MiniLM (stand-in for RadBERT)", "no FID"): assert name in report
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(f"{run.dir}/report.md: FD-VGG16")
    own = sample(SampleConfig(run.dir, prompts=("a head",), n=60, steps=1, device="cpu"))
    with pytest.raises(ConfigError, match="no real counterpart"): evaluate(EvaluateConfig(run.dir, samples=own, device="cpu"))

@pytest.fixture
def judged(prepared, tmp_path, monkeypatch):
    "A run with samples, judged on features that cost nothing."
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    class Bytes(torch.nn.Module):
        def forward(self, u): return net(u.float())
    monkeypatch.setattr(E, "make_features", lambda name, device: Features("FD-pixels", "pixels", Bytes()))
    run = train(TrainConfig(prepared.dir, image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=2, runs=tmp_path, name="r", device="cpu", preview_every=0))
    return run, sample(SampleConfig(run.dir, n=50, steps=1, device="cpu"))

def test_same_question_is_not_measured_twice(judged, monkeypatch, capsys):
    run, folder = judged
    first = evaluate(EvaluateConfig(run.dir, device="cpu"))
    told = capsys.readouterr().out
    stamp = (run.dir/"report.md").stat().st_mtime_ns
    with monkeypatch.context() as m:
        m.setattr(E, "measure", lambda *a: pytest.fail("measured again"))
        assert evaluate(EvaluateConfig(run.dir, device="cpu")) == first and capsys.readouterr().out == told
    assert (run.dir/"report.md").stat().st_mtime_ns == stamp
    (run.dir/"report.md").unlink()
    evaluate(EvaluateConfig(run.dir, device="cpu"))
    assert (run.dir/"report.md").exists()
    with pytest.raises(ConfigError, match="sample more"): evaluate(EvaluateConfig(run.dir, min_images=51, device="cpu"))
    with pytest.raises(ConfigError, match="real test images are too few.*prepare more data"): E.measure(np.zeros((9999, 16, 16), np.uint8), None, run, "test", None, EvaluateConfig(run.dir, min_images=9999))

def test_only_held_out_samples_of_the_same_model_are_judged(judged):
    run, folder = judged
    seen = sample(SampleConfig(run.dir, split="train", n=50, steps=1, device="cpu")) # the newest
    with pytest.raises(ConfigError, match="trained on"): evaluate(EvaluateConfig(run.dir, samples=seen, device="cpu"))
    assert evaluate(EvaluateConfig(run.dir, device="cpu"))["real"] == len(run.prepared.rows("test"))
    other = train(replace(run.config, name="other", seed=1))
    with pytest.raises(ConfigError, match="another model"): evaluate(EvaluateConfig(other.dir, samples=folder, device="cpu"))
    with pytest.raises(DataError, match="radgen sample"): evaluate(EvaluateConfig(run.dir, samples=run.dir/"nothing", device="cpu"))

def test_without_image_types_there_is_no_alignment(judged):
    run, folder = judged
    run.prepared.table["cuis"] = [["C0817096"]]*len(run.prepared.table)
    r = E.measure(*E.read_samples(folder), run, "test", E.make_features("", "cpu"), EvaluateConfig(run.dir, classifiers=False, device="cpu"))
    assert r["types"] is r["types_real"] is r["types_deaf"] is r["concepts"] is None
    assert "| image type as asked | unknown | unknown |" in E.report_text(run, folder, json.loads((folder/"sample.json").read_text()), r)

def test_ids_stay_text(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path/"000000.png")
    (tmp_path/"samples.csv").write_text("index,id,prompt,seed\n0,000123,42,0\n")
    rows = E.read_samples(tmp_path)[1]
    assert (rows.id[0], rows.prompt[0]) == ("000123", "42")

def test_missing_and_damaged_samples_are_named(judged):
    run, folder = judged
    (folder/"000003.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read.*sample anew"): evaluate(EvaluateConfig(run.dir, device="cpu"))
    (folder/"000003.png").unlink()
    with pytest.raises(DataError, match="000003.png is missing .1 of 50 images.: sample anew"): evaluate(EvaluateConfig(run.dir, device="cpu"))
