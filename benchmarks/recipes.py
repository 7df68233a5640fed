"""What the recipes are worth at equal time: `python benchmarks/recipes.py [--data phantoms] [--data real] [--minutes 10] [--seeds 3] [--ablation-minutes 4] [--n 160] [--threads 2]`.

Recipe `paper` with the paper's UNet and batch of 12 against recipe `radgen` with its small UNet and batch of 32, at 32 px, on the demonstration's phantoms and on ../shared/data/radiology_sample (numbers only). Seconds a step are measured first, all kinds in turn, and every run gets
the steps that fit into its minutes. Texts by MiniLM (stand-in for RadBERT), captions by rules, histograms never equalised, so that all are held against the same pictures. A run is judged by FD-VGG16 (a stand-in, not FID) over `n` samples for test captions, guidance 2, by
DPM-Solver++ at 25 steps; where noise is predicted also by DDIM at 25 (which clips, and so forgives such a prediction more), and the better of the two counts. Then each choice of `radgen` is changed alone, one seed. Runs lie in runs/recipes; an interrupted call goes on, and what was measured is in
benchmarks/results/recipes.json.
"""
import argparse, statistics as st
from pathlib import Path

import numpy as np
import torch

from radgen.core import read_json, write_json
from radgen.evaluation import floor, frechet_distance, make_features, read_samples, statistics
from radgen.phantoms import make_phantoms
from radgen.prepare import PrepareConfig, prepare
from radgen.runs import TrainConfig, resolve
from radgen.sampling import SampleConfig, sample
from radgen.training import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT/"benchmarks"/"results"/"recipes.json", ROOT/"runs"/"recipes"
PAPER = dict(recipe="paper", size="paper", batch_size=12)
OURS = dict(recipe="radgen", size="small", batch_size=32)
CONTENDERS = {"paper": PAPER, "radgen": OURS}
ABLATIONS = {"predicts noise": dict(prediction="epsilon"), "predicts the picture": dict(prediction="sample"), "all steps weigh alike": dict(snr_gamma=0.0), "schedule ends in pure noise": dict(zero_snr=True), "cosine schedule": dict(betas="cosine"),
             "rate constant, then linear": dict(lr_schedule="constant_linear"), "rate falls as a cosine": dict(lr_schedule="warmup_cosine"), "rate 3e-4": dict(lr=3e-4), "crops down to 0.8": dict(crop=0.8), "batch of 12": dict(batch_size=12), "average without memory": dict(ema_decay=0.0),
             "bf16": dict(precision="bf16"), "recipe paper, same network": dict(recipe="paper", attention_max=8), "the paper's network, recipe radgen": dict(size="paper", batch_size=12)}

def prepared(data):
    "The folder of one of the two data sets."
    if data == "phantoms": return prepare(PrepareConfig(make_phantoms(ROOT/"work"/"phantoms"), ROOT/"work"/"prepared-rules", llm="rules"))
    return prepare(PrepareConfig(ROOT.parent/"shared"/"data"/"radiology_sample", ROOT/"work"/"real-rules", llm="rules"))

def config(folder, name, options, **more):
    "Options of one run."
    return resolve(TrainConfig(folder, image_size=32, encoder="minilm", equalize=False, device="cpu", runs=RUNS, name=name, preview_every=0, **{**options, **more}))

COSTS = ("recipe", "size", "attention_max", "batch_size", "precision") # options on which the time of a step depends

def seconds_a_step(folder, contenders, rounds=3):
    "Name -> median seconds of a step, from short runs of all kinds in turn; contenders of one kind share theirs."
    kind = lambda options: str({k: options.get(k) for k in COSTS})
    kinds = {kind(options): options for options in contenders.values()}
    seconds = {k: [] for k in kinds}
    for r in range(rounds):
        for k, options in kinds.items():
            run = train(config(folder, "timing", options, steps=14, log_every=1, valid_every=0, overwrite=True))
            seconds[k] += (run.config.batch_size/run.metrics().images_per_s.iloc[4:]).tolist()
            print(f"round {r}: {k} {st.median(seconds[k]):.3f} s a step", flush=True)
    return {n: st.median(seconds[kind(options)]) for n, options in contenders.items()}

def judge(run, features, n, guidance=2.0):
    "Distance of `n` samples from the test images, sampler by sampler, and the share of pixels that are black or white."
    real, out = features(run.prepared.images("test", 32)), {}
    for sampler in ("dpm++", "ddim") if run.config.prediction == "epsilon" else ("dpm++",):
        images = read_samples(sample(SampleConfig(run.dir, n=n, guidance=guidance, sampler=sampler, device="cpu")))[0]
        out[sampler] = dict(distance=frechet_distance(*statistics(features(images)), *statistics(real)), saturated=float(np.isin(images, (0, 255)).mean()))
    return out

def measure(data, contenders, seeds, minutes, n, results):
    "Train and judge what is missing; `results` is written after each run."
    p, features = prepared(data), make_features("vgg16")
    part = results.setdefault(data, {})
    mean, std = floor(features(p.images("train", 32)), features(p.images("test", 32)), n)
    part.update(floor=mean, floor_std=std, generated=n, real=len(p.rows("test")), training=len(p.rows("train")))
    for name, seconds in seconds_a_step(p.dir, {k: v for k, v in contenders.items() if f"{k}|{minutes}" not in part.get("seconds", {})}).items(): part.setdefault("seconds", {})[f"{name}|{minutes}"] = seconds
    for seed in range(seeds):
        for name, options in contenders.items(): # all of one seed before the next
            key = f"{name}|{minutes}|{seed}"
            if key in part.setdefault("runs", {}): continue
            steps = max(1, round(60*minutes/part["seconds"][f"{name}|{minutes}"]))
            run = train(config(p.dir, f"{data}-{key}".replace(" ", "-").replace(",", "").replace("|", "-"), options, steps=steps, seed=seed))
            part["runs"][key] = dict(steps=steps, valid_loss=float(run.metrics().valid_loss.dropna().iloc[-1]), samplers=judge(run, features, n))
            write_json(RESULTS, results)
            print(f"{data}: {name}, seed {seed}, {steps:,} steps for {minutes:g} min: " + ", ".join(f"{s} {r['distance']:.1f} ({r['saturated']:.0%} black or white)" for s, r in part["runs"][key]["samplers"].items()), flush=True)

def best(run): return min(s["distance"] for s in run["samplers"].values())

def table(data, part):
    "Print one line a contender and what was asked for."
    print(f"\n{data}: {part['training']} training images, {part['generated']} samples against {part['real']} test images, floor {part['floor']:.1f} ± {part['floor_std']:.1f} (FD-VGG16, a stand-in, not FID)")
    groups = {}
    for key, run in part["runs"].items(): groups.setdefault(tuple(key.split("|")[:2]), []).append(run)
    for (name, minutes), runs in sorted(groups.items(), key=lambda g: (-float(g[0][1]), g[0][0] not in CONTENDERS)):
        d = [best(r) for r in runs]
        base = [best(r) for k, r in part["runs"].items() if k.startswith(f"radgen|{minutes}|")]
        print(f"{name:36} {float(minutes):4.1f} min  {runs[0]['steps']:6,} steps  {np.mean(d):9.1f}" + (f" ± {np.std(d, ddof=1):.1f} ({len(d)} seeds)" if len(d) > 1 else " (1 seed)      ") + (f"   {np.mean(d)/np.mean(base):.2f} times radgen's" if base and name != "radgen" else ""))
    for minutes in sorted({m for n, m in groups if n == "paper"} & {m for n, m in groups if n == "radgen"}):
        ratio = np.mean([best(r) for r in groups["radgen", minutes]])/np.mean([best(r) for r in groups["paper", minutes]])
        print(("met    " if ratio <= 0.5 else "missed ") + f"{data}, {float(minutes):g} min: radgen's distance is {ratio:.2f} times the paper's, wanted 0.5")

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", action="append", choices=["phantoms", "real"]); a.add_argument("--minutes", type=float, default=10); a.add_argument("--seeds", type=int, default=3)
    a.add_argument("--ablation-minutes", type=float, default=4); a.add_argument("--n", type=int, default=160); a.add_argument("--only", action="append", default=None, help="of the ablations"); a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for data in a.data or ("phantoms", "real"):
        if a.seeds: measure(data, CONTENDERS, a.seeds, a.minutes, a.n, results)
        if a.ablation_minutes: measure(data, {"radgen": OURS, **{k: {**OURS, **v} for k, v in ABLATIONS.items() if not a.only or k in a.only}}, 1, a.ablation_minutes, a.n, results)
        table(data, results[data])

if __name__ == "__main__": main()
