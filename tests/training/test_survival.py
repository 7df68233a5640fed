"""A training is killed twenty times without warning and stopped five times politely, goes on each time, and ends with the bits of one that nobody touched; a full disk, a second writer and a cut-off checkpoint do no harm."""

import multiprocessing, os, random, resource, signal, sys, time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

STEPS = 480
RARELY = ("--checkpoint-every", "240")  # may differ from one call to the next

ENDLESS = ("--steps", "1000000")  # for runs that are not meant to end


def command(prepared, runs, name, *more):
    return [
        "train",
        "--data-path",
        str(prepared.dir),
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
        str(STEPS),
        "--log-every",
        "1",
        "--valid-every",
        "0",
        "--preview-every",
        "0",
        "--checkpoint-every",
        "3",
        "--runs",
        str(runs),
        "--name",
        name,
        *more,
    ]


def radgen(args, err, limit=None):
    "What a process of the test does: one command, its messages in the file `err`; `limit` is the most bytes that a file may have, as on a disk that is full."
    from radgen.cli import main

    torch.set_num_threads(1)
    for fd in (1, 2):
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(args))


@pytest.fixture(scope="module")
def start(prepared, tmp_path_factory):
    "Start a command in a process forked from one that has everything imported, which takes half a second instead of ten."
    from radgen.text.store_writer import build_store

    build_store(
        [t for s in ("train", "valid", "test") for t in prepared.texts(s, 2)], prepared.dir / "embeddings", "minilm", 64
    )  # else the first run alone would load the text encoder
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radgen.cli", "test_survival"])
    logs = tmp_path_factory.mktemp("logs")

    def go(args, **kw):
        err = logs / f"{len(list(logs.iterdir()))}.txt"
        p = context.Process(target=radgen, args=(args, err), kwargs=kw)
        p.start()
        p.told = lambda: err.read_text()
        return p

    return go


@pytest.fixture(scope="module")
def untouched(start, prepared, tmp_path_factory):
    runs = tmp_path_factory.mktemp("untouched")
    p = start(command(prepared, runs, "r", *RARELY))
    p.join()
    assert p.exitcode == 0
    return runs / "r"


def steps_done(run):
    "Steps in the log, read while it is written."
    try:
        return (run / "metrics.csv").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return 0


def assert_same(a, b):
    for which in ("model", "ema"):
        x, y = (load_file(r / "checkpoints" / f"step-{STEPS:08d}" / f"{which}.safetensors") for r in (a, b))
        assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    moments = [
        torch.load(r / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.pt", weights_only=True)["optimizer"]["state"]
        for r in (a, b)
    ]
    assert all(torch.equal(moments[0][i][k], moments[1][i][k]) for i in moments[0] for k in moments[0][i])
    assert (a / "final/denoiser/diffusion_pytorch_model.safetensors").read_bytes() == (
        b / "final/denoiser/diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert pd.read_csv(a / "metrics.csv").loss.tolist() == pd.read_csv(b / "metrics.csv").loss.tolist()


def test_killed_twenty_times_and_stopped_five(start, prepared, untouched, tmp_path):
    rng, run = random.Random(0), tmp_path / "r"
    ways = ["kill"] * 10 + ["kill in a write"] * 10 + ["SIGTERM"] * 3 + ["SIGUSR1"] * 2
    rng.shuffle(ways)
    caught = 0
    for way in ways:
        p = start(command(prepared, tmp_path, "r"))
        goal, pause = steps_done(run) + rng.randint(0, 14), rng.random() * 0.05
        writing = lambda: [q for q in (run / "checkpoints").glob(f".tmp-*-{p.pid}-*")]
        while p.is_alive() and steps_done(run) < goal:
            time.sleep(0.001)
        if way == "kill in a write":
            while p.is_alive() and not writing():
                pass
        else:
            time.sleep(pause)
        os.kill(p.pid, getattr(signal, way, signal.SIGKILL))
        p.join()
        caught += way == "kill in a write" and bool(writing())
        if way.startswith("kill"):
            assert p.exitcode == -signal.SIGKILL
        else:
            assert p.exitcode in (75, -getattr(signal, way))  # obeyed with a checkpoint, or not yet there to hear it
    assert caught >= 3 and steps_done(run) < STEPS and not (run / "final").exists()
    p = start(command(prepared, tmp_path, "r", *RARELY))
    p.join()
    assert p.exitcode == 0
    assert_same(untouched, run)
    assert not list(run.rglob(".tmp-*")) and not list(run.rglob("damaged-*"))


def test_stopped_politely_loses_nothing(start, prepared, tmp_path):
    run = tmp_path / "r"
    p = start(command(prepared, tmp_path, "r", "--checkpoint-every", "100000", *ENDLESS))
    while p.is_alive() and steps_done(run) < 20:
        time.sleep(0.001)
    os.kill(p.pid, signal.SIGUSR1)
    p.join()
    assert p.exitcode == 75
    assert (run / "last").read_text().strip() == f"step-{steps_done(run):08d}"


def test_one_writer_a_run(start, prepared, tmp_path):
    p = start(command(prepared, tmp_path, "r", *ENDLESS))
    while p.is_alive() and steps_done(tmp_path / "r") < 5:
        time.sleep(0.001)
    q = start(command(prepared, tmp_path, "r", "--overwrite", "True", *ENDLESS))
    q.join()
    assert q.exitcode == 2 and p.is_alive() and "another process is training" in q.told()
    p.kill()
    p.join()
    before = steps_done(tmp_path / "r")
    r = start(command(prepared, tmp_path, "r", *ENDLESS))  # the lock died with its holder
    while r.is_alive() and steps_done(tmp_path / "r") < before + 3:
        time.sleep(0.001)
    assert r.is_alive()
    r.kill()
    r.join()


def test_full_disk_leaves_the_checkpoint_before(start, prepared, untouched, tmp_path):
    p = start(command(prepared, tmp_path, "r"))
    while p.is_alive() and steps_done(tmp_path / "r") < 10:
        time.sleep(0.001)
    os.kill(p.pid, signal.SIGTERM)
    p.join()
    whole = {q: q.read_bytes() for q in (tmp_path / "r" / "checkpoints").rglob("*") if q.is_file()}
    limit = max(map(len, whole.values())) - 1000  # the largest file no longer fits
    p = start(command(prepared, tmp_path, "r"), limit=limit)
    p.join()
    err = p.told()
    assert (
        p.exitcode == 2 and "could not write the checkpoint" in err and "make room" in err and "Traceback" not in err
    ), err[-3000:]
    assert all(q.read_bytes() == data for q, data in whole.items()) and not list((tmp_path / "r").rglob(".tmp-*"))
    p = start(command(prepared, tmp_path, "r", *RARELY))
    p.join()
    assert p.exitcode == 0
    assert_same(untouched, tmp_path / "r")


def test_cut_off_checkpoint_is_set_aside(start, prepared, untouched, tmp_path):
    p = start(command(prepared, tmp_path, "r"))
    while p.is_alive() and steps_done(tmp_path / "r") < 10:
        time.sleep(0.001)
    os.kill(p.pid, signal.SIGTERM)
    p.join()
    newest = max((tmp_path / "r" / "checkpoints").glob("step-*"))
    with (newest / "ema.safetensors").open("r+b") as f:
        f.truncate(2000)  # a power cut that lost pages
    p = start(command(prepared, tmp_path, "r", *RARELY))
    p.join()
    err = p.told()
    assert p.exitcode == 0 and "does not have the sha256" in err and "set aside" in err
    assert_same(untouched, tmp_path / "r")


def test_no_whole_checkpoint_is_told(start, prepared, tmp_path):
    p = start(command(prepared, tmp_path, "r", *ENDLESS))
    while p.is_alive() and steps_done(tmp_path / "r") < 10:
        time.sleep(0.001)
    os.kill(p.pid, signal.SIGTERM)
    p.join()
    for path in (tmp_path / "r" / "checkpoints").glob("step-*"):
        (path / "state.json").write_text("{")
    for _ in range(2):  # the second attempt must not begin from nothing either
        p = start(command(prepared, tmp_path, "r", *ENDLESS))
        p.join()
        assert p.exitcode == 2 and "no whole checkpoint left" in p.told()
