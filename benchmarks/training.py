"""What the training loop costs beside the training: `python benchmarks/training.py [--steps 60] [--threads 2] [--part
overhead|processes]`, both parts by default.

overhead: the share of a run's time that is spent outside forward (with the loss), backward and optimiser (with
clipping): reading, making noise, cropping, the EMA of the weights, the log. The demonstration's small network at 64 px
with patches of 2 and at 32 px without, with Muon and with AdamW, for velocity and for flow, and the paper's network at
32 px, on phantoms; previews, validation and checkpoints are left out, since they are as rare as one wants. processes:
two processes of one thread under gloo (`accelerate launch`) against one of two threads with the joint batch: the
largest difference of any weight, and images per second of both. Numbers go to benchmarks/results/training.json.
"""

import argparse
import os
import statistics as st
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

import radgen.training.loop
import radgen.training.train
from radgen.core.files import read_json, write_json
from radgen.data.phantoms import make_phantoms
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.config import TrainConfig
from radgen.training.run import load_run
from radgen.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
SMALL = dict(size="small", batch_size=32)
CASES = {
    "small network, recipe radgen, batch 32": dict(**SMALL, image_size=32),
    "the same at 64 px, patches of 2": dict(**SMALL, image_size=64, patch=2),
    "the same at 64 px, patches of 2, batch 12": dict(size="small", batch_size=12, image_size=64, patch=2),
    "the same at 64 px, patches of 2, AdamW": dict(**SMALL, image_size=64, patch=2, optimizer="adamw"),
    "the same at 64 px, patches of 2, flow": dict(**SMALL, image_size=64, patch=2, prediction="flow"),
    "the paper's network and recipe, batch 12": dict(size="paper", recipe="paper", batch_size=12, image_size=32),
}


class Clock:
    "Adds up the time within functions, and the whole of each training step."

    def __init__(self):
        self.inside, self.steps, self.began = 0.0, [], None

    def counted(self, f):
        def g(*args, **kw):
            began = time.perf_counter()
            try:
                return f(*args, **kw)
            finally:
                self.inside += time.perf_counter() - began

        return g

    def step(self, f):
        "Notes, from the end of one step to the end of the next, the whole and what was counted."

        def g(*args, **kw):
            out = f(*args, **kw)
            now = time.perf_counter()
            if self.began is not None:
                self.steps.append((now - self.began, self.inside))
            self.began, self.inside = now, 0.0
            return out

        return g


def overhead(folder, options, steps, runs):
    "Median share of a step outside forward, backward and optimiser, and its seconds."
    clock = Clock()
    counted = (
        (radgen.training.loop, "step_loss"),
        (Accelerator, "backward"),
        (Accelerator, "clip_grad_norm_"),
        (AcceleratedOptimizer, "step"),
    )
    cfg = TrainConfig(
        folder,
        encoder="minilm",
        device="cpu",
        steps=steps,
        runs=runs,
        name="overhead",
        preview_every=0,
        valid_every=0,
        checkpoint_every=10**9,
        overwrite=True,
        **options,
    )
    with ExitStack() as patches:
        for owner, name in counted:
            patches.enter_context(mock.patch.object(owner, name, clock.counted(getattr(owner, name))))
        step = clock.step(radgen.training.train.train_step)
        patches.enter_context(mock.patch.object(radgen.training.train, "train_step", step))
        train(cfg)
    kept = clock.steps[5:]
    return dict(
        share=st.median((whole - inside) / whole for whole, inside in kept),
        seconds_a_step=st.median(whole for whole, _ in kept),
        steps=len(kept),
    )


AFTER = (5, 10, 20, 40)  # steps of 16 images


LAUNCH = "launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"


def command(folder, runs, name, batch):
    "A short training that keeps all checkpoints."
    fixed = "--image-size 32 --size small --encoder minilm --device cpu --preview-every 0 --valid-every 0"
    fixed += f" --log-every 80 --checkpoint-every 80 --keep-checkpoints 99 --steps {AFTER[-1]} --optimizer adamw"
    own = ["--data-path", folder, "--runs", runs, "--name", name, "--batch-size", batch]
    return [Path(sys.executable).parent / "radgen", "train", *fixed.split(), *own]


def weights(run, step):
    "Name -> tensor of a checkpoint."
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def differences(one, other):
    "Steps -> largest difference of any weight of two runs."
    found = {}
    for step in AFTER:
        pairs = zip(weights(one, step).values(), weights(other, step).values())
        found[str(step)] = max((a - b).abs().max().item() for a, b in pairs)
    return found


def processes(folder, runs):
    """The same run by two processes of one thread, by one process of two threads, and, to tell rounding from error, by
    one of one thread."""
    launch = [Path(sys.executable).parent / "accelerate", *LAUNCH.split(), "--main_process_port", "0"]
    for name, batch, threads, before in (("two", 8, 1, launch), ("one", 16, 2, []), ("one thread", 16, 1, [])):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([str(part) for part in [*before, *command(folder, runs, name, batch)]], check=True, env=env)
    speed = {name: load_run(runs / name).metrics().images_per_s.iloc[1:].median() for name in ("one", "two")}
    return dict(
        differences=differences(runs / "one", runs / "two"),
        differences_by_threads=differences(runs / "one", runs / "one thread"),
        images_per_s_one=speed["one"],
        images_per_s_two=speed["two"],
        ratio=speed["two"] / speed["one"],
    )


def verdict(met):
    "The first word of a line."
    return "met    " if met else "missed "


def report(results):
    "Print what was measured."
    for name, r in results.get("overhead", {}).items():
        print(
            f"{verdict(r['share'] <= 0.05)}{name}: {r['share']:.1%} of a step of {1000 * r['seconds_a_step']:.0f} ms "
            "is outside forward, backward and optimiser; wanted at most 5%"
        )
    if "processes" not in results:
        return
    p = results["processes"]
    worst, rounding = p["differences"][str(AFTER[1])], p["differences_by_threads"].values()
    found = ", ".join(f"{difference:.1e} after {step}" for step, difference in p["differences"].items())
    print(
        f"{verdict(worst <= 1e-5)}two processes with half the batch each: the largest difference of any weight is "
        f"{found} steps; wanted 1e-5, compared with the one after {AFTER[1]}"
    )
    print(
        "       it is rounding, which training amplifies: one process with one thread instead of two differs by "
        + ", ".join(f"{difference:.1e}" for difference in rounding)
    )
    print(
        f"       they train {p['images_per_s_two']:.1f} images per second (two processes of one thread), one process "
        f"of two threads {p['images_per_s_one']:.1f}: {p['ratio']:.2f} times"
    )


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--steps", type=int, default=60)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--part", action="append", choices=["overhead", "processes"])
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    folder = prepare(
        PrepareConfig(make_phantoms(ROOT / "work" / "phantoms"), ROOT / "work" / "prepared-rules", llm="rules")
    ).dir
    results = read_json(RESULTS) if RESULTS.exists() else {}
    results["threads"] = a.threads
    for part in a.part or ("overhead", "processes"):
        with tempfile.TemporaryDirectory() as tmp:
            if part == "overhead":
                results[part] = {n: overhead(folder, o, a.steps, Path(tmp)) for n, o in CASES.items()}
            else:
                results[part] = processes(folder, Path(tmp))
        write_json(RESULTS, results)
    print()
    report(results)


if __name__ == "__main__":
    main()
