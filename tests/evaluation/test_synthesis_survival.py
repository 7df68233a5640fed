"A synthetic data set is killed without warning ten times, goes on each time, and has the files of one that was not."

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
from evaluation_helpers import pixel_features

from radgen.training.unfinished import Unfinished

pytestmark = [pytest.mark.soak, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]
N = 30
REJECTED = {1, 2, 8, 15, 30, 31}  # so that there are three rounds


def make_set(args, messages):
    "The command in a process of its own, with features that cost nothing and some rejections of our choice."
    import torch

    import radgen.evaluation.memorisation
    import radgen.evaluation.synthesis as synthesis
    from radgen.cli import main

    torch.set_num_threads(1)
    for descriptor in (1, 2):
        os.dup2(os.open(messages, os.O_WRONLY | os.O_APPEND), descriptor)
    radgen.evaluation.memorisation.SCALES = (1.0,)
    synthesis.make_features = pixel_features
    decide = synthesis.check_round

    def rejecting(*given):
        decided = decide(*given)
        decided.loc[decided["index"].isin(REJECTED), "reason"] = "does not show: anything"
        return decided

    synthesis.check_round = rejecting
    sys.exit(main(args))


@pytest.fixture(scope="module")
def start(small_run, tmp_path_factory):
    "A function that starts the command in a process forked from one that has everything imported."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radgen.cli", "radgen.evaluation.synthesis", "evaluation_helpers"])
    messages = tmp_path_factory.mktemp("logs") / "messages.txt"
    messages.touch()

    def go(out):
        options = f"--n {N} --steps 1 --batch-size 2 --mix balanced --device cpu --out".split()
        args = ["synthesise", str(small_run), *options, str(out)]
        process = context.Process(target=make_set, args=(args, messages))
        process.start()
        return process, messages

    return go


def finished(folder):
    "Name -> time of each image and of each round that is complete."
    if not folder.dir.exists():
        return {}
    found = [*folder.dir.glob("images/0*.png"), *folder.dir.glob("round-*.csv")]
    return {p.name: p.stat().st_mtime_ns for p in found}


def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_ten_kills_end_with_the_data_set_that_nobody_touched(start, tmp_path):
    rng, folder, seen = random.Random(0), Unfinished(tmp_path / "killed"), {}
    for _ in range(10):
        process, messages = start(folder.out)
        wanted = len(finished(folder)) + rng.randint(1, 3)
        while process.is_alive() and len(finished(folder)) < wanted:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, messages.read_text()
        now = finished(folder)
        assert seen.items() <= now.items()  # nothing was drawn or decided again
        seen = now
    assert not folder.out.exists()
    for out in (folder.out, tmp_path / "untouched"):
        process, messages = start(out)
        process.join()
        assert process.exitcode == 0, messages.read_text()
    assert content(folder.out) == content(tmp_path / "untouched")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "untouched"]
