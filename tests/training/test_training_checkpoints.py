"""Checkpoints and the log: damage, other runs' checkpoints, kills before the first one, and a disk that is full."""

import shutil
from dataclasses import replace

import pytest
import torch

import radgen.cli
from radgen.training.train import train
from training_tools import cut_off_before, last_weights


def same_bits(a, b):
    "Whether two runs have the same newest weights, averages, losses and final weights."
    for part in ("model", "ema"):
        ours, theirs = last_weights(a, part), last_weights(b, part)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), (part, name)
    assert a.metrics().loss.tolist() == b.metrics().loss.tolist()
    assert a.weights() == b.weights()


@pytest.fixture
def four(cfg):
    return replace(cfg, steps=4, checkpoint_every=8, log_every=1)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_run_cut_off_goes_on_with_the_same_bits(four, four_steps, step):
    with cut_off_before(step):
        train(four)
    assert (four.runs / "r" / "last").exists() == (step > 1)
    torch.rand(7)  # the global generator is in another state now
    same_bits(train(four), four_steps)


@pytest.mark.parametrize(
    "options",
    [
        dict(patch=2, prediction="flow"),
        dict(recipe="paper"),
        pytest.param(dict(optimizer="adamw", snr_floor=0.1), marks=pytest.mark.soak),
        pytest.param(dict(model="VGG16UNet_FrozenStart", patch=2), marks=pytest.mark.soak),
        dict(data_path="colour"),
    ],
    ids=str,
)
def test_every_kind_of_run_goes_on_with_the_same_bits(four, options, request):
    if "data_path" in options:
        options = {"data_path": request.getfixturevalue(options["data_path"]).dir}
    four = replace(four, **options)
    whole = train(replace(four, name="whole"))
    with cut_off_before(3):
        train(four)
    same_bits(train(four), whole)


def test_damaged_checkpoint_is_set_aside_again_and_again(four, four_steps, copied, capsys):
    run = copied(four_steps)
    for _ in range(2):
        shutil.rmtree(run.dir / "final")
        (run.dir / "checkpoints" / "step-00000004" / "ema.safetensors").write_bytes(b"")
        same_bits(train(four), four_steps)
        assert "does not have the recorded sha256" in capsys.readouterr().err
    assert (run.dir / "checkpoints" / "damaged-step-00000004").exists()


def test_checkpoint_of_another_run_is_not_taken(four, four_steps, capsys):
    other = replace(four, seed=1)
    with cut_off_before(3):
        train(other)
    folder = four.runs / "r" / "checkpoints"
    shutil.copytree(four_steps.dir / "checkpoints" / "step-00000004", folder / "step-00000004")
    assert train(other).weights() != four_steps.weights()
    assert (folder / "damaged-step-00000004").exists()
    assert "belongs to a run with other options" in capsys.readouterr().err


def test_log_on_a_full_disk_is_one_sentence(cfg, monkeypatch, capsys):
    def full(self, row):
        raise OSError(28, "No space left on device")  # as a write to an open file does: without a name

    monkeypatch.setattr("radgen.training.checkpoints.MetricsLog.add", full)
    options = ["--data-path", cfg.data_path, "--image-size", 16, "--batch-size", 4, "--size", "tiny"]
    options += ["--encoder", "minilm", "--steps", 2, "--runs", cfg.runs, "--name", "r", "--device", "cpu"]
    assert radgen.cli.main(["train", *map(str, options)]) == 2
    err = capsys.readouterr().err
    assert "radgen: the disk is full" in err
    assert "give the same command again" in err
    assert "Traceback" not in err
