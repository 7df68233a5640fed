"A drawing of images is killed ten times, goes on each time, and ends with the files of one that was not."

import multiprocessing
import os
import random
import signal
import time

import pytest
from test_survival import posix, radgen

from radgen.core.files import read_json
from radgen.training.unfinished import Unfinished

pytestmark = [posix, pytest.mark.soak]
N = 66
MEASURED = {"seconds", "images_per_s"}


@pytest.fixture(scope="module")
def start(two_steps, tmp_path_factory):
    "A function that starts `radgen sample` in a process forked from one that has everything imported."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radgen.cli", "radgen.training.sampling", "test_survival"])
    messages = tmp_path_factory.mktemp("logs") / "messages.txt"
    messages.touch()

    def go(out, *more):
        fixed = f"--n {N} --batch-size 3 --steps 2 --device cpu".split()
        args = ["sample", "--run", str(two_steps.dir), *fixed, "--out", str(out), *more]
        process = context.Process(target=radgen, args=(args, messages))
        process.start()
        return process, messages

    return go


def drawn(folder):
    "Name -> time of each finished image."
    if not folder.images.exists():
        return {}
    return {p.name: p.stat().st_mtime_ns for p in folder.images.glob("0*.png")}


def stop(process, way):
    "End a process, and its exit status."
    os.kill(process.pid, way)
    process.join()
    return process.exitcode


def content(out):
    "Name -> bytes of each file but sample.json."
    return {p.name: p.read_bytes() for p in out.iterdir() if p.name != "sample.json"}


def record(out):
    "What does not change from one drawing to the next."
    return {k: v for k, v in read_json(out / "sample.json").items() if k not in MEASURED}


def test_ten_kills_end_with_the_files_of_a_drawing_that_nobody_touched(start, tmp_path):
    rng, folder, seen = random.Random(0), Unfinished(tmp_path / "killed"), {}
    for _ in range(10):
        process, _ = start(folder.out)
        wanted = len(drawn(folder)) + rng.randint(1, 5)
        while process.is_alive() and len(drawn(folder)) < wanted:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        assert stop(process, signal.SIGKILL) == -signal.SIGKILL
        now = drawn(folder)
        assert seen.items() <= now.items()  # nothing was drawn again
        seen = now
    assert not folder.out.exists()
    assert 10 <= len(seen) < N
    for out in (folder.out, tmp_path / "untouched"):
        process, messages = start(out)
        process.join()
        assert process.exitcode == 0, messages.read_text()
    assert content(folder.out) == content(tmp_path / "untouched")
    assert record(folder.out) == record(tmp_path / "untouched")
    assert {name: (folder.out / name).stat().st_mtime_ns for name in seen} == seen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "untouched"]


def test_second_process_is_refused_and_a_signal_is_obeyed_with_a_sentence(start, tmp_path):
    folder = Unfinished(tmp_path / "a")
    first, messages = start(folder.out, "--n", "5000")
    while first.is_alive() and len(drawn(folder)) < 5:
        time.sleep(0.001)
    second, _ = start(folder.out, "--n", "5000")
    second.join()
    assert second.exitcode == 2
    assert "another process is drawing the images" in messages.read_text()
    assert stop(first, signal.SIGTERM) == 75
    assert "stopped by a signal, the images drawn so far are kept; the same command goes on." in messages.read_text()
    assert len(drawn(folder)) % 3 == 0
