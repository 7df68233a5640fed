"""What the recipes are worth at equal time: `python benchmarks/recipes.py [--data phantoms] [--data real]
[--minutes 10] [--seeds 3] [--ablation-minutes 3] [--n 160] [--workers 2]`.

Recipe `paper` with the paper's UNet and batch of 12 against recipe `radgen` with its small UNet and batch of 32, at 32
px, on the demonstration's phantoms and on ../shared/data/radiology_sample (numbers only). Seconds per step are measured
first with all threads, all kinds in turn, and every run gets the steps that fit into its minutes; the runs themselves
then go side by side, one thread each. Texts by MiniLM (stand-in for RadBERT), captions by rules, histograms never
equalised, so that all are compared with the same images. A run is evaluated by FD-VGG16 (a stand-in, not FID) over `n`
samples for test captions, guidance 2, products in bfloat16, by DPM-Solver++ at 25 steps; where noise is predicted also
by DDIM at 25 (which clips, and so forgives such a prediction more), and the better of the two counts. Then choices are
changed alone, one seed, around recipe `radgen` with the linear schedule, from which it started. Runs lie in
runs/recipes; an interrupted call goes on, and what was measured is in benchmarks/results/recipes.json.
"""

import argparse
import multiprocessing
import statistics as st
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from radgen.core.files import read_json, write_json
from radgen.evaluation.distance import frechet_distance, real_baseline, statistics
from radgen.evaluation.features import make_features
from radgen.evaluation.scores import read_samples
from radgen.data.phantoms import make_phantoms
from radgen.prepared.config import PrepareConfig
from radgen.prepared.prepare import prepare
from radgen.training.config import RECIPES, TrainConfig
from radgen.training.run import resolve
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample
from radgen.training.train import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "benchmarks" / "results" / "recipes.json", ROOT / "runs" / "recipes"
PAPER = dict(recipe="paper", size="paper", batch_size=12)
OURS = dict(recipe="radgen", size="small", batch_size=32)
CONTENDERS = {"radgen": OURS, "paper": PAPER}
START = {**OURS, "betas": "linear"}
AS_PAPER, AS_RADGEN = (
    dict(RECIPES["paper"], lr=3e-4),
    dict(RECIPES["radgen"], lr=3e-4, betas="linear"),
)  # the block of the network goes by the recipe's name, so that its choices are given one by one
ABLATIONS = {
    "predicts noise": dict(prediction="epsilon"),
    "predicts the picture": dict(prediction="sample"),
    "all steps weigh alike": dict(snr_gamma=0.0),
    "schedule ends in pure noise": dict(zero_snr=True),
    "cosine schedule (radgen)": dict(betas="cosine"),
    "rate constant, then linear": dict(lr_schedule="constant_linear"),
    "rate falls as a cosine": dict(lr_schedule="warmup_cosine"),
    "rate 3e-4": dict(lr=3e-4),
    "crops down to 0.8": dict(crop=0.8),
    "batch of 12": dict(batch_size=12),
    "average without memory": dict(ema_decay=0.0),
    "bf16": dict(precision="bf16"),
    "the paper's choices, radgen's network": AS_PAPER,
    "radgen's choices, the paper's network": {**PAPER, **AS_RADGEN},
}


def prepared(data):
    "The folder of one of the two data sets."
    if data == "phantoms":
        return prepare(
            PrepareConfig(make_phantoms(ROOT / "work" / "phantoms"), ROOT / "work" / "prepared-rules", llm="rules")
        )
    return prepare(
        PrepareConfig(ROOT.parent / "shared" / "data" / "radiology_sample", ROOT / "work" / "real-rules", llm="rules")
    )


def config(folder, name, options, **more):
    "Options of one run."
    return resolve(
        TrainConfig(
            folder,
            image_size=32,
            encoder="minilm",
            device="cpu",
            runs=RUNS,
            name=name,
            preview_every=0,
            **{**options, **more, "equalize": False},
        )
    )


COSTS = ("recipe", "size", "attention_max", "batch_size", "precision")  # options on which the time of a step depends


def kind(options):
    "The options on which the time of a step depends, in words."
    return ", ".join(f"{k} {options[k]}" for k in COSTS if k in options)


def seconds_a_step(folder, contenders, rounds=3):
    "Kind -> median seconds of a step, from short runs of all kinds in turn."
    kinds, seconds = {kind(c): c for c in contenders}, {kind(c): [] for c in contenders}
    for r in range(rounds):
        for k, options in kinds.items():
            run = train(config(folder, "timing", options, steps=14, log_every=1, valid_every=0, overwrite=True))
            seconds[k] += (run.config.batch_size / run.metrics().images_per_s.iloc[4:]).tolist()
            print(f"round {r}: {k}: {st.median(seconds[k]):.3f} s a step", flush=True)
    return {k: st.median(s) for k, s in seconds.items()}


def evaluate_samplers(run, n, guidance=2.0):
    "Distance of `n` samples from the test images, sampler by sampler, and the share of pixels that are black or white."
    features, out = make_features("vgg16"), {}
    real = statistics(features(run.prepared.images("test", 32)))
    for sampler in ("dpm++", "ddim") if run.config.prediction == "epsilon" else ("dpm++",):
        with torch.autocast("cpu", torch.bfloat16):
            images = read_samples(sample(SampleConfig(run.dir, n=n, guidance=guidance, sampler=sampler, device="cpu")))[
                0
            ]
        out[sampler] = dict(
            distance=frechet_distance(statistics(features(images)), real),
            saturated=float(np.isin(images, (0, 255)).mean()),
        )
    return out


def one_run(c, n):
    "Train (or go on), judge."
    run = train(c)
    return dict(
        steps=c.steps, valid_loss=float(run.metrics().valid_loss.dropna().iloc[-1]), samplers=evaluate_samplers(run, n)
    )


def measure(data, contenders, seeds, minutes, n, results, workers):
    "Train and judge what is missing, `workers` runs at a time; `results` is written after each."
    p, part = prepared(data), results.setdefault(data, {})
    features = make_features("vgg16")
    mean, std = real_baseline(features(p.images("train", 32)), features(p.images("test", 32)), n)
    part.update(floor=mean, floor_std=std, generated=n, real=len(p.rows("test")), training=len(p.rows("train")))
    seconds = results.setdefault("seconds", {})  # one network and batch cost the same on both data sets
    seconds.update(seconds_a_step(p.dir, [c for c in contenders.values() if kind(c) not in seconds]))
    write_json(RESULTS, results)
    jobs = {}
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for seed in range(seeds):
            for name, options in contenders.items():  # all of one seed before the next
                key = f"{name}|{minutes:g}|{seed}"
                if key in part.setdefault("runs", {}):
                    continue
                c = config(
                    p.dir,
                    f"{data}-{key}".translate(str.maketrans(" |", "--", ",'")),
                    options,
                    steps=max(1, round(60 * minutes / seconds[kind(options)])),
                    seed=seed,
                )
                jobs[pool.submit(one_run, c, n)] = key
        for job in as_completed(jobs):
            part["runs"][jobs[job]] = job.result()
            write_json(RESULTS, results)
            found = []
            for sampler, r in job.result()["samplers"].items():
                found.append(f"{sampler} {r['distance']:.1f} ({r['saturated']:.0%} black or white)")
            print(f"{data}: {jobs[job]}: {', '.join(found)}", flush=True)


def best(run):
    "The lower distance of a run's samplers."
    return min(s["distance"] for s in run["samplers"].values())


def table(data, part):
    "Print one line a contender and what was asked for."
    print(
        f"\n{data}: {part['training']} training images, {part['generated']} samples against {part['real']} test "
        f"images, floor {part['floor']:.1f} ± {part['floor_std']:.1f} (FD-VGG16, a stand-in, not FID)"
    )
    groups = {}
    for key, run in part["runs"].items():
        groups.setdefault(tuple(key.split("|")[:2]), []).append(run)
    for (name, minutes), runs in sorted(groups.items(), key=lambda g: (g[0][0] not in CONTENDERS, -float(g[0][1]))):
        d = [best(r) for r in runs]
        print(
            f"{name:44} {float(minutes):4.1f} min  {runs[0]['steps']:6,} steps  {np.mean(d):6.1f}"
            + (f" ± {np.std(d, ddof=1):.1f} ({len(d)} seeds)" if len(d) > 1 else " (1 seed)")
        )
    for minutes in sorted({m for n, m in groups if n == "paper"} & {m for n, m in groups if n == "radgen"}):
        ratio = np.mean([best(r) for r in groups["radgen", minutes]]) / np.mean(
            [best(r) for r in groups["paper", minutes]]
        )
        print(
            ("met    " if ratio <= 0.5 else "missed ")
            + f"{data}, {float(minutes):g} min: radgen's distance is {ratio:.2f} times the paper's, wanted 0.5"
        )


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", action="append", choices=["phantoms", "real"])
    a.add_argument("--minutes", type=float, default=10)
    a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--ablation-minutes", type=float, default=3)
    a.add_argument("--n", type=int, default=160)
    a.add_argument("--only", action="append", default=None, help="of the ablations")
    a.add_argument("--workers", type=int, default=2, help="runs at a time")
    a = a.parse_args()
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for data in a.data or ("phantoms", "real"):
        if a.seeds:
            measure(data, CONTENDERS, a.seeds, a.minutes, a.n, results, a.workers)
        if a.ablation_minutes:
            contenders = {"linear schedule": START}
            for name, changes in ABLATIONS.items():
                if not a.only or name in a.only:
                    contenders[name] = {**START, **changes}
            measure(data, contenders, 1, a.ablation_minutes, a.n, results, a.workers)
        table(data, results[data])


if __name__ == "__main__":
    main()
