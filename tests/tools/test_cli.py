"""The installed command: help, booleans, answers for people and scripts, exit statuses, interruption and resumption."""

import json, shutil, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT
from radgen.cli import COMMANDS, main

RADGEN = str(Path(sys.executable).parent / "radgen")


def radgen(*args, **kw):
    return subprocess.run([RADGEN, *map(str, args)], capture_output=True, text=True, timeout=300, **kw)


def test_help_lists_the_stages():
    r = radgen("--help")
    assert r.returncode == 0
    for word in ("prepare", "train", "sample", "evaluate", "demo"):
        assert word in r.stdout


def test_alone_it_shows_the_way_from_data_to_report(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    at = [out.index(f"radgen {c} ") for c in ("doctor", "demo", "prepare", "train", "sample", "evaluate", "app")]
    assert at == sorted(at) and "report.html" in out and all(c in out for c in COMMANDS)


@pytest.mark.parametrize(
    "name",
    [*COMMANDS, "captions rewrite", "captions audit", "experiment table3", "experiment table4", "experiment table5"],
)
def test_every_option_is_explained(name, capsys):
    with pytest.raises(SystemExit) as e:
        main([*name.split(), "--help"])
    assert e.value.code == 0
    out = capsys.readouterr().out
    assert "--dry-run" in out and "--json" in out and "%(" not in out
    if name in COMMANDS:
        assert f"Example: radgen {name}" in " ".join(out.split())


def test_paper_options_and_defaults(capsys):
    assert main(["train", "--data-path", "d", "--dry-run"]) == 0
    options = dict(l.split(None, 1) for l in capsys.readouterr().out.splitlines())
    want = dict(
        data_path="d",
        model="UNet",
        epochs="100",
        batch_size="12",
        image_size="64",
        k="10",
        caption_mode="2",
        use_clip="False",
        name="radgen",
    )
    assert {k: options[k] for k in want} == want
    assert "None" not in {
        options[k] for k in ("encoder", "prediction", "snr_gamma", "lr", "attention_max", "equalize", "crop")
    }


@pytest.mark.parametrize("value, encoder", [("True", "clip"), ("False", "radbert")])
def test_booleans_are_read_as_booleans(capsys, value, encoder):
    assert main(["train", "--data-path", "d", "--use-clip", value, "--dry-run"]) == 0
    assert f"encoder            {encoder}".split() in [l.split() for l in capsys.readouterr().out.splitlines()]


def test_cuda_without_a_gpu_says_so(capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--data-path", "d", "--device", "cuda", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "running on the CPU" in told.err
    assert ["device", "cpu"] in [l.split() for l in told.out.splitlines()]


@pytest.mark.parametrize(
    "args",
    [
        ["train", "--model", "GAN"],
        ["train", "--use-clip", "maybe"],
        ["train", "--batch-size", "many"],
        ["paint"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_words_end_with_status_2(args, capsys):
    with pytest.raises(SystemExit) as e:
        main(args)
    assert e.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_answers_for_scripts(tmp_path, capsys, monkeypatch, few):
    "One JSON object on standard output, whatever the work prints."
    ask = lambda *args: (main([*args, "--json"]), json.loads(capsys.readouterr().out))
    code, options = ask("train", "--data-path", "d", "--device", "cpu", "--dry-run")
    assert (
        code == 0
        and options["use_clip"] is False
        and options["lr"] == pytest.approx(3e-4)
        and options["data_path"] == "d"
    )
    monkeypatch.setattr("radgen.cli.sample", lambda c: print("words") or c.run / "samples")
    assert ask("sample", "--run", "r") == (0, {"folder": "r/samples"})
    monkeypatch.setattr(
        "radgen.cli.experiment", lambda c: pd.DataFrame(dict(distance=[1.5], concepts=[None], recall=[float("nan")]))
    )
    assert ask("experiment", "table3", "--data-path", "d") == (
        0,
        [{"distance": 1.5, "concepts": None, "recall": None}],
    )  # JSON has no NaN
    code, found = ask("doctor", "--where", str(tmp_path))
    assert (
        code == 0
        and {w["task"] for w in found["weights"]} == {"FID", "text encoder", "VGG16UNet", "captions"}
        and found["folders"] == {"prepared": [], "begun": [], "finished": [], "sampled": [], "judged": []}
    )
    (tmp_path / "runs" / "a" / "final").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.json").write_text("{}")
    for written, says in (
        (None, "radgen sample --run runs/a"),
        ("samples/x/sample.json", "radgen evaluate --run runs/a"),
        ("report.md", "runs/a/report.md has the numbers"),
    ):
        if written:
            (file := tmp_path / "runs" / "a" / written).parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
        assert ask("doctor", "--where", str(tmp_path))[1]["next"].startswith(says)


def test_doctor_tells_stand_ins_from_the_real_thing(tmp_path, monkeypatch, capsys):
    from radgen.evaluation.features import inception_file

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (
        main(["doctor"]) == 0
        and "stand-in  FID" in (before := capsys.readouterr().out)
        and "radgen demo" in before.splitlines()[-1]
    )
    inception_file().parent.mkdir(parents=True)
    inception_file().touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.json").write_text("{}")
    assert (
        main(["doctor"]) == 0
        and "real      FID" in (after := capsys.readouterr().out)
        and "runs/a has not finished" in after.splitlines()[-1]
    )
    assert not any(p.name not in ("runs", "checkpoints") for p in tmp_path.iterdir())  # it only looks


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert "finetune-clip" in out and "guidance" in out
    assert main(["completion", shell, "--json"]) == 0 and json.loads(capsys.readouterr().out)["script"] == out.strip()
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=out, text=True, capture_output=True).returncode == 0


def test_gone_wrong_in_one_sentence():
    r = radgen("train", "--data-path", "nowhere", "--device", "cpu", cwd=ROOT)
    assert r.returncode == 2 and "Traceback" not in r.stderr
    assert r.stderr.strip().splitlines()[-1].startswith("radgen: there is no folder or file nowhere")


def test_interrupted_training_resumes(prepared, tmp_path):
    "Ctrl-C ends with 130 and a checkpoint; the same command goes on from there and finishes."
    args = [
        "train",
        "--data-path",
        prepared.dir,
        "--image-size",
        "16",
        "--batch-size",
        "4",
        "--size",
        "tiny",
        "--encoder",
        "minilm",
        "--device",
        "cpu",
        "--steps",
        "400",
        "--log-every",
        "1",
        "--preview-every",
        "0",
        "--runs",
        tmp_path,
        "--name",
        "cut",
    ]
    p = subprocess.Popen([RADGEN, *map(str, args)], stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "cut" / "metrics.csv", time.time() + 240
    while time.time() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):
        time.sleep(0.2)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 130 and "Traceback" not in err, err[-3000:]
    stopped = pd.read_csv(metrics).step.max()
    assert 4 < stopped < 400 and (tmp_path / "cut" / "last").read_text().strip() == f"step-{stopped:08d}"
    r = radgen(*args)
    assert r.returncode == 0, r.stderr[-3000:]
    assert pd.read_csv(metrics).step.tolist() == list(range(1, 401))
    assert (tmp_path / "cut" / "final" / "model_index.json").exists()


def test_captions_are_rewritten_and_audited(phantoms, tmp_path, capsys):
    assert main(["captions", "rewrite", "--data-path", str(phantoms), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert (
        main(
            [
                "captions",
                "audit",
                str(tmp_path / "out" / "valid_rewritten.csv"),
                str(tmp_path / "out" / "test_rewritten.csv"),
                "--out",
                str(tmp_path / "audit"),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "valid_rewritten" in out
        and "test_rewritten" in out
        and "| number invented | 0 (0%) | 0 (0%) |" in out
        and sorted(p.name for p in (tmp_path / "audit").iterdir()) == ["audit.csv", "audit.md", "audit.png"]
    )
    assert (
        main(["captions", "rewrite", "--data-path", str(phantoms), "--out", "x", "--dry-run"]) == 0
        and "unanswered  stop" in capsys.readouterr().out
    )


def test_no_server_is_a_sentence_and_status_2(phantoms, tmp_path, capsys):
    assert (
        main(
            [
                "captions",
                "rewrite",
                "--data-path",
                str(phantoms),
                "--out",
                str(tmp_path / "out"),
                "--llm",
                "openai:http://127.0.0.1:9/v1#llama3",
            ]
        )
        == 2
    )
    assert "http://127.0.0.1:9" in capsys.readouterr().err and not (tmp_path / "out").exists()
