"""Two processes on the CPU, started by `accelerate launch`, do what one does: the same weights to rounding, the same log, the same pictures; and both hear a signal that their launcher was sent."""

import os, re, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from radgen.cli import main

BIN = Path(sys.executable).parent


def launched(*args):
    "Two processes of one thread each (accelerate's --cpu would start one; --multi_gpu is its word for several)."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [
            BIN / "accelerate",
            "launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            str(port),
            str(BIN / "radgen"),
            *map(str, args),
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def options(prepared, runs, name, batch, steps=12, *more):
    return [
        "train",
        "--data-path",
        prepared.dir,
        "--image-size",
        "16",
        "--size",
        "tiny",
        "--encoder",
        "minilm",
        "--device",
        "cpu",
        "--steps",
        steps,
        "--log-every",
        "1",
        "--preview-every",
        "0",
        "--valid-every",
        "0",
        "--runs",
        runs,
        "--name",
        name,
        "--batch-size",
        batch,
        *more,
    ]


@pytest.fixture(scope="module")
def two(prepared, tmp_path_factory):
    "A run of two processes, each with two batches a step, and what they said."
    runs = tmp_path_factory.mktemp("runs")
    p = launched(*options(prepared, runs, "two", 2, 12, "--grad-accum", 2))
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0, out[-3000:]
    return runs / "two", out


def test_two_processes_train_what_one_does(two, prepared, tmp_path):
    run, out = two
    assert (
        re.search("12 steps of 8 images on cpu.* and 1 more", out)
        and out.count(str(run)) == 1
        and out.count("12 steps of 8 images") == 1
    )
    assert main(list(map(str, options(prepared, tmp_path, "one", 8)))) == 0
    a, b = (
        load_file(r / "final" / "denoiser" / "diffusion_pytorch_model.safetensors") for r in (run, tmp_path / "one")
    )
    far = max((a[k] - b[k]).abs().max().item() for k in a)
    print(f"largest difference of any weight after 12 steps: {far:.1e}")
    assert far < 1e-5
    a, b = (pd.read_csv(r / "metrics.csv") for r in (run, tmp_path / "one"))
    assert np.allclose(
        a[["step", "epoch", "loss", "lr", "grad_norm"]], b[["step", "epoch", "loss", "lr", "grad_norm"]], rtol=1e-3
    )


def test_two_processes_draw_what_one_does(two, tmp_path):
    run = two[0]
    args = ["sample", "--run", run, "--n", "7", "--steps", "3", "--device", "cpu"]
    p = launched(*args, "--out", tmp_path / "two")
    out = p.communicate(timeout=300)[0]
    assert p.returncode == 0, out[-3000:]
    assert main(list(map(str, [*args, "--out", tmp_path / "one"]))) == 0
    for i in range(7):
        a, b = (Image.open(tmp_path / d / f"{i:06d}.png") for d in ("one", "two"))
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 and a.text == b.text
    assert (tmp_path / "one" / "samples.csv").read_text() == (tmp_path / "two" / "samples.csv").read_text()


def test_a_signal_to_the_launcher_stops_both_and_one_process_goes_on(two, prepared, tmp_path):
    p = launched(*options(prepared, tmp_path, "cut", 4, 1000))
    metrics, deadline = tmp_path / "cut" / "metrics.csv", time.time() + 240
    while (
        time.time() < deadline
        and p.poll() is None
        and not (metrics.exists() and len(metrics.read_text().splitlines()) > 5)
    ):
        time.sleep(0.05)
    p.send_signal(signal.SIGTERM)  # to the launcher, which hands it on
    out = p.communicate(timeout=240)[0]
    last = (tmp_path / "cut" / "last").read_text().strip()
    assert (
        p.returncode != 0
        and "stopped by a signal, with a checkpoint" in out
        and last == f"step-{pd.read_csv(metrics).step.max():08d}"
    ), out[-3000:]
    assert (
        main(list(map(str, options(prepared, tmp_path, "cut", 4, 1000)))) == 2
    )  # half as many images a step is another run
    assert main(list(map(str, options(prepared, tmp_path, "cut", 8, 1000)))) == 0
    assert pd.read_csv(metrics).step.tolist() == list(range(1, 1001))
