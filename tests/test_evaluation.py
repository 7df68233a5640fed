"""The distance on real Inception code, the refusals, and a report that says what its numbers are."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import radgen.evaluation as E
from radgen.core import AssetError, ConfigError, DataError
from radgen.evaluation import EvaluateConfig, Features, evaluate, floor, frechet_distance, kernel_distance, make_features, memorised_share, probe, spread_over, statistics
from radgen.runs import TrainConfig
from radgen.sampling import SampleConfig, sample
from radgen.training import train

@pytest.fixture
def hub(tmp_path):
    "An empty torch hub cache."
    old = torch.hub.get_dir(); torch.hub.set_dir(str(tmp_path)); yield tmp_path; torch.hub.set_dir(old)

@pytest.fixture
def inception_weights(hub, monkeypatch):
    "Inception's file where the real one would lie: right layout, random numbers."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception
    path = hub/"checkpoints"/"weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    torch.save({}, path)
    with monkeypatch.context() as m:
        m.setattr(Inception, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        net = Inception("inception-v3-compat", ["2048"], str(path))
    torch.save(net.state_dict(), path)

def test_fid_is_inception_and_nothing_else(inception_weights):
    f = make_features("auto")
    assert f.name == "FID" and f.is_fid
    out = f(np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8))
    assert out.shape == (3, 2048) and np.isfinite(out).all() and out.std() > 0

def test_without_inception_the_stand_in_is_named(hub):
    f = make_features("auto")
    assert not f.is_fid and "not FID" in f.name
    with pytest.raises(AssetError, match="download"): make_features("inception")
    with pytest.raises(ConfigError, match="auto, vgg16 or inception"): make_features("resnet")

def test_distance_of_shifted_sets_is_the_squared_shift():
    a = np.random.default_rng(0).normal(size=(5000, 4))
    assert frechet_distance(*statistics(a), *statistics(a + [3, 0, 0, 0])) == pytest.approx(9, abs=1e-6)

def test_distance_with_fewer_images_than_features():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 128)), rng.normal(size=(30, 128))
    assert frechet_distance(*statistics(a), *statistics(b)) == pytest.approx(frechet_distance(*statistics(b), *statistics(a)), rel=1e-6)
    assert frechet_distance(*statistics(a), *statistics(a[::-1])) == pytest.approx(0, abs=1e-6)

def test_floor_and_kernel_distance_know_the_same_from_the_other():
    rng = np.random.default_rng(0)
    train, test, other = rng.normal(size=(500, 8)), rng.normal(size=(200, 8)), rng.normal(1, 1, size=(200, 8))
    assert frechet_distance(*statistics(other), *statistics(test)) > 5*floor(train, test, 200)[0]
    assert kernel_distance(other, test) > 10*abs(kernel_distance(train, test))

def test_copies_are_found_and_probe_reads_classes():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    assert memorised_share(train[:50] + 1e-6, test, train) == 1 and memorised_share(rng.normal(size=(200, 8)), test, train) < 0.05
    look = probe(np.concatenate([train, train + 4]), ["a"]*300 + ["b"]*299 + [""])
    assert look(test[:20]) == ["a"]*20 and look(test[:20] + 4) == ["b"]*20

def test_spread_over_takes_every_type():
    types = ["x"]*50 + ["y"]*2 + ["z"]
    assert [types[i] for i in spread_over(types, 6)].count("x") == 3 and {types[i] for i in spread_over(types, 6)} == {"x", "y", "z"}

def test_report_and_json_agree_and_name_the_stand_ins(prepared, tmp_path, capsys):
    run = train(TrainConfig(prepared.dir, image_size=16, batch_size=4, size="tiny", encoder="minilm", steps=2, runs=tmp_path, name="r", device="cpu", preview_every=0))
    folder = sample(SampleConfig(run.dir, n=55, steps=2, device="cpu"))
    r = evaluate(EvaluateConfig(run.dir, features="vgg16", device="cpu"))
    report, saved = (run.dir/"report.md").read_text(), json.loads((folder/"evaluation.json").read_text())
    assert saved == r and f"{r['distance']:.1f}" in report and f"{r['floor']:.1f}" in report
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
    monkeypatch.setattr(E, "make_features", lambda name, device: Features("FD-pixels", "pixels", False, Bytes(), torch.device("cpu")))
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
    with pytest.raises(ConfigError, match="real test images are too few.*prepare more data"): E.measure(np.zeros((9999, 16, 16), np.uint8), None, run, "test", None, 9999, 0)

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
    r = E.measure(*E.read_samples(folder), run, "test", E.make_features("", "cpu"), 50, 0)
    assert r["alignment"] is r["alignment_real"] is r["alignment_deaf"] is None
    assert "| image type as asked | unknown | unknown |" in E.report_text(run, folder, json.loads((folder/"sample.json").read_text()), r)

def test_ids_stay_text(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path/"000000.png")
    (tmp_path/"samples.csv").write_text("index,id,prompt,seed\n0,000123,42,0\n")
    rows = E.read_samples(tmp_path)[1]
    assert (rows.id[0], rows.prompt[0]) == ("000123", "42")
