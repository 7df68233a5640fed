"""Two processes on the CPU, started by `accelerate launch`, do what one does: the same weights to rounding, the same
log and the same images; and both hear a signal that their launcher was sent."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from training_tools import largest_difference

from autoencoders import make_vae

from radgen.cli import main
from radgen.core.files import read_json
from radgen.core.pipelines import tiny_pipeline
from radgen.diffusion.saved import saved_weights
from radgen.training.run import load_run
from radgen.training.unfinished import Unfinished, image_name, open_unfinished

pytestmark = pytest.mark.soak

BIN = Path(sys.executable).parent
ADAMW = ("--optimizer", "adamw")  # whose weights differ by rounding alone; see `mean_difference` for Muon
PIPELINE = ("--model", "BASE", "--encoder", "BASE", "--size", "paper")
LAUNCH = "launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()


def free_port():
    "A port of the loopback that nobody listens at."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launched(*args, program=BIN / "radgen"):
    "Two processes of one thread each (accelerate's --cpu would start one; --multi_gpu is its word for several)."
    command = [BIN / "accelerate", *LAUNCH, "--main_process_port", free_port(), program, *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(*args, **more):
    "What two processes print until they end."
    process = launched(*args, **more)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output[-3000:]
    return output


def options(prepared, runs, name, batch, steps, *more):
    "A command of training."
    fixed = "--image-size 16 --size tiny --encoder minilm --device cpu --log-every 1 --preview-every 0 --valid-every 0"
    own = ["--data-path", prepared.dir, "--runs", runs, "--name", name, "--batch-size", batch, "--steps", steps]
    return [str(part) for part in ["train", *fixed.split(), *own, *more]]


def final_weights(run):
    "The weights of a finished run."
    return saved_weights(run / "final")


def mean_difference(*runs):
    """Of the weights of two runs. Muon enlarges the rounding of directions in which a gradient is small, so that single
    weights differ by 1e-4. In the mean, weights move by some 1e-3, and those of equal runs differ by less than 1e-6."""
    one, other = map(final_weights, runs)
    total = sum((one[name] - other[name]).abs().sum().item() for name in one)
    return total / sum(weight.numel() for weight in one.values())


@pytest.fixture(scope="module")
def two(small, tmp_path_factory):
    "A run of two processes, each with two batches per step, and what they printed."
    runs = tmp_path_factory.mktemp("runs")
    output = finished(*options(small, runs, "two", 2, 12, "--grad-accum", 2, *ADAMW))
    return runs / "two", output


def test_two_processes_train_what_one_does(two, small, tmp_path):
    run, output = two
    assert re.search("12 steps of 8 images on cpu.* and 1 more", output)
    assert output.count("12 steps of 8 images") == 1
    assert output.count(str(run)) == 1
    assert main(options(small, tmp_path, "one", 8, 12, *ADAMW)) == 0
    folders = (run, tmp_path / "one")
    assert largest_difference(*map(final_weights, folders)) < 1e-5
    columns = ["step", "epoch", "loss", "lr", "grad_norm"]
    metrics = [pd.read_csv(folder / "metrics.csv")[columns] for folder in folders]
    assert np.allclose(*metrics, rtol=1e-3)


KINDS = {  # options of a run, and how far its weights may lie in the mean from those of one process
    "parameters without a gradient": (["--attention-max", 0], 1e-6),
    "frozen for the first half": (["--model", "VGG16UNet_FrozenStart", "--recipe", "paper"], 1e-7),
    "patches and flow": (["--image-size", 32, "--patch", 2, "--prediction", "flow"], 1e-6),
    "patches and AdamW": (["--image-size", 32, "--patch", 2, *ADAMW], 1e-7),
    "pretrained": ([*PIPELINE, "--lora", 0], 1e-7),
    "adapters": ([*PIPELINE, "--lora", 2], 1e-6),
    "latents": (["--latents", "VAE", *ADAMW], 1e-6),
    "balanced": (["--balance", "types", *ADAMW], 1e-6),
    "colour": (["--data-path", "COLOUR", *ADAMW], 1e-6),
}
SCRIPT = """
import json, sys
from unittest import mock

import torch
from radgen.cli import main

with mock.patch("radgen.cli._close_process_group"):  # the next command needs it
    for name, command in json.load(open(sys.argv[1])).items():
        assert main(command) == 0, name
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def kinds(small, colour, tmp_path_factory):
    "A run of every kind by two processes, which are started once; the options of each, and what was printed."
    folder = tmp_path_factory.mktemp("kinds")
    files = {"BASE": f"diffusers:{tiny_pipeline(folder / 'base')}", "VAE": str(make_vae(folder / "vae"))}
    files["COLOUR"] = str(colour.dir)
    given = {name: [files.get(part, part) for part in more] for name, (more, _) in KINDS.items()}
    commands = {name: options(small, folder / "two", name, 2, 6, *more) for name, more in given.items()}
    (folder / "commands.json").write_text(json.dumps(commands))
    (folder / "script.py").write_text(SCRIPT)
    output = finished(folder / "commands.json", program=folder / "script.py")
    return folder, given, output


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_train_every_kind_of_network(small, kinds, name):
    folder, given, _ = kinds
    assert main(options(small, folder / "one", name, 4, 6, *given[name])) == 0
    # a gradient near zero is rounded to either sign, and an optimiser's first steps move by its sign
    assert mean_difference(folder / "two" / name, folder / "one" / name) < KINDS[name][1]


def test_two_processes_train_in_colour(kinds):
    assert load_run(kinds[0] / "two" / "colour").config.channels == 3


def test_one_of_two_processes_encodes_the_latents(small, kinds):
    assert list((small.dir / "latents").glob("train-16-*.npy"))


def test_two_processes_draw_the_balanced_batches_of_one(small, kinds):
    folder, given, output = kinds
    assert output.count("Draws balanced by types") == 1
    assert main(options(small, folder / "again", "balanced", 4, 6, *given["balanced"])) == 0
    folders = (folder / "two" / "balanced", folder / "again" / "balanced")
    assert (folders[0] / "balance.csv").read_bytes() == (folders[1] / "balance.csv").read_bytes()


def test_two_processes_generate_what_one_does(two, tmp_path):
    args = ["sample", "--run", two[0], "--n", "5", "--steps", "3", "--device", "cpu", "--out"]
    finished(*args, tmp_path / "two")
    assert main([str(part) for part in [*args, tmp_path / "one"]]) == 0
    for i in range(5):
        one, other = (Image.open(tmp_path / folder / f"{i:06d}.png") for folder in ("one", "two"))
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1, i
        assert one.text == other.text
    assert (tmp_path / "one" / "samples.csv").read_text() == (tmp_path / "two" / "samples.csv").read_text()


def test_two_processes_go_on_with_what_one_left(two, tmp_path):
    args = ["sample", "--run", two[0], "--n", "9", "--steps", "3", "--batch-size", "2", "--device", "cpu", "--out"]
    assert main([str(part) for part in [*args, tmp_path / "one"]]) == 0
    unfinished = Unfinished(tmp_path / "two")
    open_unfinished(unfinished, read_json(tmp_path / "one" / "sample.json")["fingerprint"])
    for i in (0, 1, 4):
        shutil.copy2(tmp_path / "one" / image_name(i), unfinished.images)
    output = finished(*args, tmp_path / "two")
    assert "6/6" in output
    for i in range(9):
        one, other = (tmp_path / folder / image_name(i) for folder in ("one", "two"))
        assert one.read_bytes() == other.read_bytes(), i  # batches are the same, whatever draws them
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_signal_to_the_launcher_stops_both_and_one_process_goes_on(small, tmp_path):
    steps = 100
    process = launched(*options(small, tmp_path, "cut", 4, steps))
    metrics, deadline = tmp_path / "cut" / "metrics.csv", time.time() + 240
    while time.time() < deadline and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) > 5:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to the launcher, which hands it on
    output = process.communicate(timeout=240)[0]
    assert process.returncode != 0, output[-3000:]
    assert "stopped by a signal, with a checkpoint" in output, output[-3000:]
    assert (tmp_path / "cut" / "last").read_text().strip() == f"step-{pd.read_csv(metrics).step.max():08d}"
    assert main(options(small, tmp_path, "cut", 4, steps)) == 2  # half as many images per step is another run
    assert main(options(small, tmp_path, "cut", 8, steps)) == 0
    assert pd.read_csv(metrics).step.tolist() == list(range(1, steps + 1))
