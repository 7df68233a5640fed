"""The installed command: booleans, results for people and scripts, exit statuses, interruption and resumption."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from helpers import ROOT
from radgen.cli import COMMANDS, main

RADGEN = str(Path(sys.executable).parent / "radgen")


def radgen(*args, **kw):
    "Run the command in a process of its own."
    return subprocess.run([RADGEN, *map(str, args)], capture_output=True, text=True, timeout=300, **kw)


def table(text):
    "The options that a dry run prints."
    return dict(line.split(None, 1) for line in text.splitlines())


def test_installed_command_lists_the_stages():
    result = radgen("--help")
    assert result.returncode == 0
    for word in ("prepare", "train", "sample", "evaluate", "demo"):
        assert word in result.stdout


def test_no_command_prints_the_workflow_in_order(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    at = [out.index(f"radgen {c} ") for c in ("doctor", "demo", "prepare", "train", "sample", "evaluate", "app")]
    assert at == sorted(at)
    assert "report.html" in out
    for command in COMMANDS:
        assert command in out


def test_closed_pipe_ends_quietly():
    for args in ("", "--help"):
        shell = f"set -o pipefail; {RADGEN} {args} | head -1"
        result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
        assert result.stderr == ""
        assert len(result.stdout.splitlines()) == 1


@pytest.mark.soak
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_no_exit_status(closed):
    for args, status in ("leaderboard a b --dry-run", 0), ("leaderboard a a", 2):
        shell = subprocess.run(["bash", "-c", f"{RADGEN} {args} {closed}"], capture_output=True, text=True)
        assert shell.returncode == status
        assert "Traceback" not in shell.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_the_common_flags(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "--dry-run" in out
    assert "--json" in out
    assert "%(" not in out
    assert f"Example: radgen {name}" in " ".join(out.split())


def test_dry_run_of_train_prints_the_papers_options(capsys):
    assert main(["train", "--data-path", "d", "--dry-run"]) == 0
    found = table(capsys.readouterr().out)
    paper = {
        "data_path": "d",
        "model": "UNet",
        "epochs": "100",
        "batch_size": "12",
        "image_size": "64",
        "k": "10",
        "caption_mode": "2",
        "use_clip": "False",
        "name": "radgen",
    }
    assert {name: found[name] for name in paper} == paper
    for resolved in ("encoder", "prediction", "snr_gamma", "lr", "attention_max", "equalize", "crop"):
        assert found[resolved] != "None"


@pytest.mark.parametrize("value, encoder", [("True", "clip"), ("False", "radbert")])
def test_booleans_are_read_as_booleans(capsys, value, encoder):
    assert main(["train", "--data-path", "d", "--use-clip", value, "--dry-run"]) == 0
    assert table(capsys.readouterr().out)["encoder"] == encoder


def test_dry_run_shows_what_an_older_run_goes_on_with(tmp_path, capsys):
    "A run that knows no EMA width and no patch goes on without both, unless it is overwritten."
    run = tmp_path / "old"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"data_path": "d", "recipe": "radgen", "vgg_weights": None}))
    args = ["train", "--data-path", "d", "--image-size", "128", "--runs", str(tmp_path), "--name", "old", "--dry-run"]
    assert main(args) == 0
    found = table(capsys.readouterr().out)
    assert (found["ema_width"], found["optimizer"], found["patch"]) == ("0.0", "adamw", "1")
    assert main([*args, "--overwrite", "True"]) == 0
    found = table(capsys.readouterr().out)
    assert float(found["ema_width"]) > 0
    assert found["optimizer"] == "muon"


def test_cuda_without_a_gpu_says_so(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["train", "--data-path", "d", "--device", "cuda", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "running on the CPU" in printed.err
    assert table(printed.out)["device"] == "cpu"


WRONG = (
    ["train", "--model", "GAN"],
    ["train", "--use-clip", "maybe"],
    ["train", "--batch-size", "many"],
    ["paint"],
    ["completion", "tcsh"],
)


@pytest.mark.parametrize("args", WRONG, ids=" ".join)
def test_wrong_words_end_with_status_2(args, capsys):
    try:
        status = main(args)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


def test_json_is_one_object_whatever_the_work_prints(capsys, monkeypatch):
    def sample(cfg):
        print("words")
        return cfg.run / "samples"

    monkeypatch.setattr("radgen.training.sampling.sample", sample)
    assert main(["sample", "--run", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": "r/samples"}


def test_json_has_no_nan(capsys, monkeypatch):
    rows = pd.DataFrame({"distance": [1.5], "concepts": [None], "recall": [float("nan")]})
    monkeypatch.setattr("radgen.evaluation.tables.experiment", lambda cfg: rows)
    assert main(["experiment", "table3", "--data-path", "d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"distance": 1.5, "concepts": None, "recall": None}]


def test_json_of_a_dry_run_keeps_types(capsys):
    assert main(["train", "--data-path", "d", "--device", "cpu", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["use_clip"] is False
    assert found["lr"] == pytest.approx(5e-3)
    assert found["data_path"] == "d"


@pytest.mark.parametrize(
    "shell", ["bash", pytest.param("zsh", marks=pytest.mark.soak), pytest.param("fish", marks=pytest.mark.soak)]
)
def test_completion_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "finetune-clip" in script
    assert "guidance" in script
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"] == script.strip()
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("train --data-path nowhere --device cpu", marks=pytest.mark.soak),  # loads torch
        "captions audit nowhere",
    ],
)
def test_mistake_is_one_sentence_and_status_2(arguments):
    result = radgen(*arguments.split(), cwd=ROOT)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("radgen: there is no folder or file nowhere")


def test_value_out_of_bounds_names_the_option(capsys):
    assert main(["train", "--data-path", "d", "--epochs", "0"]) == 2
    assert "--epochs is 0: it must be a whole number of at least 1." in capsys.readouterr().err


def test_full_disk_is_a_sentence(capsys, monkeypatch):
    def full(cfg):
        raise OSError(28, "No space left on device", "runs/a")

    monkeypatch.setattr("radgen.training.train.train", full)
    assert main(["train", "--data-path", "d"]) == 2
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("code, said", [(21, "is a directory"), (36, "file name too long"), (30, "read-only")])
def test_place_that_cannot_be_written_is_a_sentence(capsys, monkeypatch, code, said):
    def refuse(cfg):
        raise OSError(code, "...", "runs/.tmp-x", None, "runs/" + "a" * 300)

    monkeypatch.setattr("radgen.training.train.train", refuse)
    assert main(["train", "--data-path", "d"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("radgen: cannot write runs/aaa")
    assert f"... ({said}" in err and err.endswith("): choose another folder.\n")


def test_dry_run_shows_options_as_they_are_typed(capsys):
    assert main(["leaderboard", "runs/a", "runs/b", "--dry-run"]) == 0
    assert table(capsys.readouterr().out)["evaluations"] == "runs/a runs/b"
    assert main(["leaderboard", "runs/a"]) == 2
    assert capsys.readouterr().err == "radgen: --evaluations is 'runs/a': give two or more.\n"


TRAINING = "--image-size 16 --batch-size 4 --size tiny --encoder minilm --device cpu --log-every 1 --preview-every 0"


def wait_for_rows(metrics, n):
    "Wait until metrics.csv has more than `n` lines."
    deadline = time.time() + 240
    while time.time() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > n):
        time.sleep(0.2)


@pytest.mark.soak
def test_interrupted_training_resumes(few, tmp_path):
    "Ctrl-C ends with 130 and a checkpoint; the same command goes on from there and finishes."
    args = ["train", "--data-path", few.dir, *TRAINING.split(), "--steps", "60", "--runs", tmp_path, "--name", "cut"]
    process = subprocess.Popen([RADGEN, *map(str, args)], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "cut" / "metrics.csv"
    wait_for_rows(metrics, 5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130, err[-3000:]
    assert "Traceback" not in err
    stopped = pd.read_csv(metrics).step.max()
    assert 4 < stopped < 60
    assert (tmp_path / "cut" / "last").read_text().strip() == f"step-{stopped:08d}"
    result = radgen(*args)
    assert result.returncode == 0, result.stderr[-3000:]
    assert pd.read_csv(metrics).step.tolist() == list(range(1, 61))
    assert (tmp_path / "cut" / "final" / "model_index.json").exists()


@pytest.mark.soak
def test_captions_are_rewritten_and_audited(phantoms, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["captions", "rewrite", "--data-path", str(phantoms), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    files = [str(out / f"{split}_rewritten.csv") for split in ("valid", "test")]
    assert main(["captions", "audit", *files, "--out", str(tmp_path / "audit")]) == 0
    text = capsys.readouterr().out
    assert "valid_rewritten" in text
    assert "test_rewritten" in text
    assert "| number invented | 0 (0%) | 0 (0%) |" in text
    assert sorted(p.name for p in (tmp_path / "audit").iterdir()) == ["audit.csv", "audit.md", "audit.png"]


def test_no_server_is_a_sentence_and_status_2(phantoms, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *args: 0)
    server = "openai:http://127.0.0.1:9/v1#llama3"
    args = ["captions", "rewrite", "--data-path", str(phantoms), "--out", str(tmp_path / "out"), "--llm", server]
    assert main(args) == 2
    assert "http://127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
