"""`radgen ema`: the finished model with another width, the curve over widths, and requests that cannot work."""

import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from radgen.cli import main
from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json
from radgen.tools.config import EmaConfig
from radgen.tools.ema import choose_ema, width_scores
from radgen.training.averages import reconstruct
from radgen.training.config import TrainConfig
from radgen.training.run import load_run
from radgen.training.train import train

TINY = dict(image_size=16, batch_size=4, size="tiny", encoder="minilm", device="cpu", preview_every=0, valid_every=0)


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    "A finished run of twelve steps; not to be changed."
    return train(TrainConfig(few.dir, steps=12, runs=tmp_path_factory.mktemp("runs"), name="r", **TINY))


@pytest.fixture
def run(finished, tmp_path):
    "A copy of the run that may be changed."
    return load_run(shutil.copytree(finished.dir, tmp_path / "r"))


def weights_of(folder):
    return load_file(folder / "denoiser" / "diffusion_pytorch_model.safetensors")


def test_width_is_written_and_recorded(run):
    from radgen.diffusion.pipeline import update_card

    update_card(run.final(), scores={"distance": 3.0})
    before = weights_of(run.final())
    result = choose_ema(EmaConfig(run.dir, width=0.04))
    assert result["folder"] == run.final()
    after, (wanted, error) = weights_of(run.final()), reconstruct(run.dir, 0.04)
    assert result["error"] == error
    for name, tensor in wanted.items():
        assert torch.equal(after[name], tensor), name
    assert any(not torch.equal(after[name], before[name]) for name in wanted)
    for name in before.keys() - wanted.keys():
        assert torch.equal(after[name], before[name]), name
    about = read_json(run.final() / "model_index.json")["about"]
    assert about["options"]["ema_width"] == 0.04
    assert "scores" not in about
    assert "0.04" in (run.final() / "README.md").read_text()
    assert load_run(run.dir).config.ema_width == 0.04


def test_former_width_restores_the_same_bits(run):
    before = run.weights()
    choose_ema(EmaConfig(run.dir, width=0.2))
    assert run.weights() != before
    choose_ema(EmaConfig(run.dir, width=run.config.ema_width))
    assert run.weights() == before


def test_out_leaves_the_run_alone(run, tmp_path):
    before, config = run.weights(), read_json(run.dir / "config.json")
    choose_ema(EmaConfig(run.dir, width=0.2, out=tmp_path / "other"))
    assert run.weights() == before
    assert read_json(run.dir / "config.json") == config
    assert read_json(tmp_path / "other" / "model_index.json")["about"]["options"]["ema_width"] == 0.2
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        choose_ema(EmaConfig(run.dir, width=0.2, out=tmp_path / "notes"))


def test_run_goes_on_as_finished_after_a_change(run, few, capsys):
    choose_ema(EmaConfig(run.dir, width=0.2))
    weights = run.weights()
    again = train(TrainConfig(few.dir, steps=12, runs=run.dir.parent, name="r", **TINY))
    assert "is finished" in capsys.readouterr().err
    assert again.weights() == weights


def test_loss_at_the_runs_width_is_that_of_its_log(few, tmp_path):
    options = {**TINY, "valid_every": None}
    run = train(TrainConfig(few.dir, steps=6, runs=tmp_path, name="v", **options))
    [score] = width_scores(EmaConfig(run.dir, widths=(run.config.ema_width,), device="cpu"), run)
    assert score.loss == pytest.approx(run.metrics().valid_loss.dropna().iloc[-1], abs=2e-6)
    assert score.error == 0


@pytest.mark.soak
def test_command_draws_the_curve(run, capsys):
    args = ["ema", run.dir, "--curve", "True", "--distance", "True", "--widths", 0.05, 0.1, "--n", 50]
    assert main([*map(str, args), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["width"] for point in found["curve"]] == [0.05, 0.1]
    assert all(point["distance"] > 0 for point in found["curve"])
    assert found["curve"][0]["loss"] != found["curve"][1]["loss"]
    assert pd.read_csv(run.dir / "ema.csv").width.tolist() == [0.05, 0.1]
    assert (run.dir / "fig" / "ema.png").exists()


def test_command_prints_what_it_wrote(run, capsys):
    assert main(["ema", str(run.dir), "--width", "0.07"]) == 0
    assert "final holds the EMA of width 0.07" in capsys.readouterr().out


def test_requests_that_cannot_work(run, tmp_path):
    with pytest.raises(ConfigError, match="nothing to do: give --width"):
        choose_ema(EmaConfig(run.dir))
    with pytest.raises(ConfigError, match="without --width"):
        choose_ema(EmaConfig(run.dir, curve=True, out=tmp_path / "x"))
    with pytest.raises(DataError, match="no run"):
        choose_ema(EmaConfig(tmp_path / "nowhere", width=0.07))
    with pytest.raises(ConfigError, match="--width is 0.5"):
        EmaConfig(run.dir, width=0.5)
    shutil.rmtree(run.dir / "averages")
    with pytest.raises(DataError, match="has no snapshots"):
        choose_ema(EmaConfig(run.dir, width=0.07))
    shutil.rmtree(run.final())
    with pytest.raises(DataError, match="no finished model"):
        choose_ema(EmaConfig(run.dir, width=0.07))


def test_data_are_needed_for_the_curve_only(run):
    "The finished model is written where the prepared folder is gone."
    config = read_json(run.dir / "config.json")
    (run.dir / "config.json").write_text(json.dumps({**config, "prepared": "/nowhere"}))
    choose_ema(EmaConfig(run.dir, width=0.07))
    with pytest.raises(DataError):
        choose_ema(EmaConfig(run.dir, curve=True, device="cpu"))
