"""A training is killed without warning and stopped politely, goes on each time, and ends with the bits of one that
nobody touched; a full disk, a second writer and a damaged checkpoint do no harm."""

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from radgen.training.run import load_run
from training_tools import last_weights

STEPS = 120
RARELY = ("--checkpoint-every", "240")  # may differ from one call to the next
ENDLESS = ("--steps", "1000000")  # for runs that are not meant to end

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
pytestmark = posix


def command(prepared, runs, *more):
    "A training that logs every step and saves every third."
    fixed = "--image-size 16 --batch-size 4 --size tiny --encoder minilm --device cpu --log-every 1 --valid-every 0"
    rest = f"--preview-every 0 --checkpoint-every 12 --steps {STEPS} --name r --patch 2 --prediction flow"
    return ["train", "--data-path", str(prepared.dir), "--runs", str(runs), *fixed.split(), *rest.split(), *more]


def radgen(args, messages, limit=None):
    "One command in a process, its messages in a file; `limit` bounds the size of files, as a full disk does."
    import resource

    from radgen.cli import main

    torch.set_num_threads(1)
    for descriptor in (1, 2):
        os.dup2(os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(args))


@dataclass
class Started:
    "A process that trains in a folder."

    process: multiprocessing.Process
    run: Path
    messages: Path

    def wait_for(self, steps):
        "Until the log has so many steps, or the process has ended."
        while self.process.is_alive() and steps_done(self.run) < steps:
            time.sleep(0.001)

    def end(self, way=None):
        "The exit status, after a signal where one is given."
        if way:
            os.kill(self.process.pid, way)
        self.process.join()
        return self.process.exitcode


@pytest.fixture(scope="module")
def start(small, tmp_path_factory):
    "A function that starts a command in a process forked from one that has everything imported."
    from radgen.text.store_writer import build_store

    texts = [text for split in ("train", "valid", "test") for text in small.texts(split, 2)]
    build_store(texts, small.dir / "embeddings", "minilm", 64)  # else the first run alone would load the text encoder
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radgen.cli", "radgen.training.train", "test_survival"])
    logs = tmp_path_factory.mktemp("logs")

    def go(runs, *more, limit=None):
        messages = logs / f"{len(list(logs.iterdir()))}.txt"
        messages.touch()
        process = context.Process(target=radgen, args=(command(small, runs, *more), messages, limit))
        process.start()
        return Started(process, runs / "r", messages)

    return go


@pytest.fixture(scope="module")
def untouched(start, tmp_path_factory):
    "A run that nobody disturbed."
    started = start(tmp_path_factory.mktemp("untouched"), *RARELY)
    assert started.end() == 0, started.messages.read_text()
    return started.run


def steps_done(run):
    "Steps in the log, read while it is written."
    try:
        return (run / "metrics.csv").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return 0


def moments(run):
    "The optimiser's state of the newest checkpoint."
    path = run / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.pt"
    return torch.load(path, weights_only=True)["optimizer"]["state"]


def assert_same_bits(a, b):
    "Weights, averages, moments, finished model and log of two runs agree."
    one, other = load_run(a), load_run(b)
    for part in ("model", "ema"):
        ours, theirs = last_weights(one, part), last_weights(other, part)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), (part, name)
    ours, theirs = moments(a), moments(b)
    for parameter in ours:
        for name in ours[parameter]:
            assert torch.equal(ours[parameter][name], theirs[parameter][name]), (parameter, name)
    assert one.weights() == other.weights()
    assert one.metrics().loss.tolist() == other.metrics().loss.tolist()


def interrupt(started, way, rng):
    "Let a training take some steps and end it in one of the ways; whether it was caught while it wrote a checkpoint."
    started.wait_for(steps_done(started.run) + rng.randint(0, 6))
    pattern, caught = f".tmp-*-{started.process.pid}-*", False
    if way == "kill in a write":
        while started.process.is_alive() and not caught:
            caught = any((started.run / "checkpoints").glob(pattern))
    else:
        time.sleep(rng.random() * 0.05)
    if way.startswith("kill"):
        assert started.end(signal.SIGKILL) == -signal.SIGKILL
    else:
        number = getattr(signal, way)
        assert started.end(number) in (75, -number)  # obeyed with a checkpoint, or not yet there to hear it
    return caught


def interrupted_run(start, runs, ways):
    "A run that was interrupted again and again and then finished, and how often a write was hit."
    rng = random.Random(0)
    ways = rng.sample(ways, len(ways))
    hits = sum(interrupt(start(runs), way, rng) for way in ways)
    assert steps_done(runs / "r") < STEPS
    assert not (runs / "r" / "final").exists()
    started = start(runs, *RARELY)
    assert started.end() == 0, started.messages.read_text()
    for pattern in (".tmp-*", "damaged-*"):
        assert not list(started.run.rglob(pattern)), pattern
    return started.run, hits


@pytest.mark.soak
def test_run_interrupted_fifteen_times_ends_with_the_same_bits(start, untouched, tmp_path):
    ways = ["kill"] * 5 + ["kill in a write"] * 6 + ["SIGTERM"] * 2 + ["SIGUSR1"] * 2
    run, hits = interrupted_run(start, tmp_path, ways)
    assert hits >= 2
    assert_same_bits(untouched, run)


@pytest.mark.soak
def test_polite_stop_loses_no_step(start, tmp_path):
    started = start(tmp_path, "--checkpoint-every", "100000", *ENDLESS)
    started.wait_for(20)
    assert started.end(signal.SIGUSR1) == 75
    assert (started.run / "last").read_text().strip() == f"step-{steps_done(started.run):08d}"


@pytest.mark.soak
def test_second_writer_is_refused_and_the_lock_dies_with_its_holder(start, tmp_path):
    first = start(tmp_path, *ENDLESS)
    first.wait_for(5)
    second = start(tmp_path, "--overwrite", "True", *ENDLESS)
    assert second.end() == 2
    assert "another process is training" in second.messages.read_text()
    assert first.process.is_alive()
    first.end(signal.SIGKILL)
    third = start(tmp_path, *ENDLESS)
    third.wait_for(steps_done(third.run) + 3)
    assert third.process.is_alive()
    third.end(signal.SIGKILL)


@pytest.mark.soak
def test_full_disk_leaves_the_checkpoint_before(start, untouched, tmp_path):
    started = start(tmp_path)
    started.wait_for(10)
    started.end(signal.SIGTERM)
    run = started.run
    whole = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    limit = max(map(len, whole.values())) - 1000  # the largest file no longer fits
    full = start(tmp_path, limit=limit)
    assert full.end() == 2
    message = full.messages.read_text()
    assert "could not write the checkpoint" in message
    assert "make room" in message
    assert "Traceback" not in message
    for path, content in whole.items():
        assert path.read_bytes() == content, path
    assert not list(run.rglob(".tmp-*"))
    assert start(tmp_path, *RARELY).end() == 0
    assert_same_bits(untouched, run)


@pytest.mark.soak
def test_run_without_a_whole_checkpoint_does_not_begin_from_nothing(start, tmp_path):
    started = start(tmp_path, *ENDLESS)
    started.wait_for(10)
    started.end(signal.SIGTERM)
    for path in (started.run / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("{")
    for _ in range(2):  # the second attempt must not begin from nothing either
        again = start(tmp_path, *ENDLESS)
        assert again.end() == 2
        assert "no whole checkpoint left" in again.messages.read_text()
    assert pd.read_csv(started.run / "metrics.csv").step.max() >= 10
