"""What recipes and their choices are worth at equal time: `python benchmarks/recipes.py [--part table|ablation] [--data
phantoms|real] [--px 64] [--minutes 8] [--seeds 3] [--only NAME] [--change NAME key=value ...] [--n 256] [--sides 256]
[--steps N] [--threads 2] [--workers 1] [--print]`.

table: the paper's recipe and radgen's, each in the paper's network and in radgen's. A recipe is what the training does
(prediction, noise schedule, loss weights, optimiser, learning rate, batch, crops); a network is its blocks, its width
and its patches. ablation: one change at a time around the demonstration's training. `--change` adds changes of one's
own to the ablation, for example `--change "batch of 16" batch_size=16 lr=2e-3`; `train_phantoms=6400` trains on more
phantoms. Histograms are never equalised, so that all are compared with the same images. All train in bfloat16 where the
CPU has it, else in float32.

Equal time: seconds per step are measured first, with `--threads` threads on an otherwise idle machine, all kinds of
step in turn, and stored; every run then has the number of steps that fit into its minutes, so that other load during
the runs does not matter. `--workers` runs go side by side and share the threads. `--steps` gives all runs a number of
steps instead, for a trial. Each run is scored as `scoring.py` says, over `--n` captions and `--sides` more that name a
side, guidance 2, 20 steps of DPM-Solver++; where noise is predicted, by DDIM (which clips) if its first images are
nearer. Networks of the paper's size draw no images for further captions, since they take ten times as long.

Runs lie in runs/recipes and a call that was interrupted goes on. Results are in benchmarks/results/recipes.json, one
flat record per run beside its options; `--print` prints their tables and runs nothing.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics as st
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import radgen.training.train
from radgen.core.errors import RadgenError
from radgen.core.files import fingerprint, read_json, write_json
from radgen.prepared.folder import load_prepared
from radgen.tools.config import DemoConfig
from radgen.tools.demo import demo_stages
from radgen.training.averages import reconstruct
from radgen.training.config import TrainConfig
from radgen.training.run import CHANGEABLE, Run, describe, resolve
from radgen.training.train import train
from scoring import (
    BATCH,
    ENCODER,
    GUIDANCE,
    N,
    PRECISION,
    SIDES,
    STEPS,
    best_sampler,
    fast_precision,
    keep_images,
    load_data,
)
from scoring import line_of, mean_scores, print_rows, scorer

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "benchmarks" / "results" / "recipes.json", ROOT / "runs" / "recipes"
KNOWN = {f.name for f in fields(TrainConfig)}
RARE = dict(checkpoint_every=20_000, preview_every=0, valid_every=0, log_with="none")
NETWORK = ("model", "recipe", "size", "patch", "attention_max")  # options that decide the network
RECIPE = (  # options that make a recipe
    *("prediction", "betas", "zero_snr", "shift", "snr_gamma", "snr_floor", "t_sampling", "optimizer", "lr"),
    *("lr_schedule", "crop", "text_drop", "ema_width", "ema_decay", "batch_size"),
)
COST = (*NETWORK, "image_size", "optimizer", "batch_size", "precision", "ema_width")  # decide the time of a step
BASE = "as the demonstration"
ABLATION = {  # name -> what differs from the demonstration's training; a number after * multiplies
    "AdamW, 1e-3": dict(optimizer="adamw", lr=1e-3),
    "AdamW, 5e-4": dict(optimizer="adamw", lr=5e-4),
    "no patches": dict(patch=1),
    "patches of 4": dict(patch=4),
    "attention also at 16": dict(attention_max=16),
    "batch of 12": dict(batch_size=12),
    "batch of 48": dict(batch_size=48),
    "half the learning rate": dict(lr="*0.5"),
    "twice the learning rate": dict(lr="*2"),
    "learning rate falls as a cosine": dict(lr_schedule="warmup_cosine"),
    "flow, logit-normal t": dict(prediction="flow", t_sampling="logit_normal", snr_gamma=0.0),
    "flow, uniform t": dict(prediction="flow", t_sampling="uniform", snr_gamma=0.0),
    "predicts velocity, logit-normal t": dict(prediction="v_prediction", t_sampling="logit_normal"),
    "predicts noise": dict(prediction="epsilon"),
    "predicts the image": dict(prediction="sample"),
    "uniform loss weights": dict(snr_gamma=0.0),
    "linear schedule": dict(betas="linear"),
    "SNR floor 0.1": dict(snr_floor=0.1),
    "SNR floor 1": dict(snr_floor=1.0),
    "zero terminal SNR": dict(zero_snr=True),
    "shift 2": dict(shift=2.0),
    "zero terminal SNR, shift 2": dict(zero_snr=True, shift=2.0),
    "SNR floor 0.1, zero terminal SNR": dict(snr_floor=0.1, zero_snr=True),
    "SNR floor 0.1, zero terminal SNR, shift 2": dict(snr_floor=0.1, zero_snr=True, shift=2.0),
    "EMA of width 0.03": dict(ema_width=0.03),  # widths are reconstructed from the snapshots of one training
    "EMA of width 0.05": dict(ema_width=0.05),
    "EMA of width 0.15": dict(ema_width=0.15),
    "EMA of width 0.2": dict(ema_width=0.2),
    "EMA of decay 0.9999": dict(ema_width=0.0),
    "no crops": dict(crop=1.0),
    "crops down to 0.8": dict(crop=0.8),
    "text dropped in 5 %": dict(text_drop=0.05),
    "text dropped in 20 %": dict(text_drop=0.2),
    "image types drawn evenly": dict(balance="types"),
    "four times the phantoms": dict(train_phantoms=6400),
}


def demonstration():
    "The options of the demonstration's training that concern network and recipe."
    stage = demo_stages(DemoConfig()).train
    wanted = {*NETWORK, *RECIPE} & KNOWN
    given = {name: getattr(stage, name) for name in sorted(wanted)}
    return {name: value for name, value in given.items() if value is not None}


def contender(options, data, px, **more):
    "The resolved configuration of a contender; raises `RadgenError` where its options contradict each other."
    options = {"precision": PRECISION, **options, **more}
    phantoms = options.pop("train_phantoms", None)
    folder = load_data(data, *([phantoms] if phantoms else [])).dir
    fixed = dict(image_size=px, encoder=ENCODER, device="cpu", runs=RUNS, equalize=False)
    rare = {name: value for name, value in RARE.items() if name in KNOWN}
    return resolve(TrainConfig(folder, **{**fixed, **rare, **options}))


def table_contenders(data, px):
    "Both recipes in both networks, as options."
    paper = dict(recipe="paper", size="paper", batch_size=12)
    pure = {"paper": paper, "radgen": demonstration()}
    resolved = {name: contender(options, data, px) for name, options in pure.items()}
    found = {}
    for recipe, recipe_of in (("the paper's recipe", "paper"), ("radgen's recipe", "radgen")):
        for network, network_of in (("the paper's network", "paper"), ("radgen's network", "radgen")):
            options = {name: getattr(resolved[recipe_of], name) for name in RECIPE if name in KNOWN}
            options |= {name: getattr(resolved[network_of], name) for name in NETWORK if name in KNOWN}
            found[f"{recipe} in {network}"] = options
    return found


def changed(base, changes):
    "Options with one change; a value such as '*2' multiplies that of the base."
    options = dict(base)
    for name, value in changes.items():
        factor = isinstance(value, str) and value.startswith("*")
        options[name] = base[name] * float(value[1:]) if factor else value
    return options


def ablation_contenders(data, px, only=None, changes=None):
    "The demonstration's training, and one change at a time; what this version cannot do is left out with a line."
    resolved, found = contender(demonstration(), data, px), {}
    base = {name: getattr(resolved, name) for name in (*RECIPE, *NETWORK) if name in KNOWN}
    wanted = {BASE: {}, **ABLATION, **(changes or {})}
    for name, change in wanted.items():
        if only and name not in only and name != BASE:
            continue
        try:
            options = changed(base, change)
            contender(options, data, px)
            found[name] = options
        except (TypeError, KeyError, RadgenError) as e:
            print(f"left out: {name} ({type(e).__name__}: {e})", flush=True)
    return found


def kind(cfg):
    "The options that decide the time of a step, in words."
    return ", ".join(f"{name} {getattr(cfg, name)}" for name in COST if hasattr(cfg, name))


class StepClock:
    "Notes the seconds from the end of one training step to the end of the next."

    def __init__(self, skip=4):
        self.skip, self.ends = skip, []

    def __enter__(self):
        step = radgen.training.train.train_step

        def timed(*args, **kwargs):
            result = step(*args, **kwargs)
            self.ends.append(time.perf_counter())
            return result

        self.patch = mock.patch.object(radgen.training.train, "train_step", timed)
        self.patch.start()
        return self

    def __exit__(self, *error):
        self.patch.stop()

    def seconds(self):
        "Of the steps after the first ones."
        return np.diff(self.ends)[self.skip :].tolist()


def time_steps_of(cfg, steps=14):
    "Seconds of some training steps of a configuration."
    with StepClock() as clock:
        train(replace(cfg, steps=steps, name="timing", overwrite=True))
    return clock.seconds()


def measure_seconds(cfgs, results, threads, rounds=3):
    "Add the median seconds of a step of every new kind to `results`, from short runs of all of them in turn."
    known = results.setdefault("seconds", {}).setdefault(f"{threads} threads", {})
    new = {kind(c): c for c in cfgs if kind(c) not in known}
    seconds = {k: [] for k in new}
    for r in range(rounds if new else 0):
        for k, cfg in new.items():
            seconds[k] += time_steps_of(cfg)
            print(f"round {r}: {st.median(seconds[k]):.3f} s per step: {k}", flush=True)
    known.update({k: st.median(s) for k, s in seconds.items()})
    return known


def sampler_functions(pipe, score, prediction):
    "Name of a sampler -> function of a slice of the prompts that returns their images."
    pipe.set_progress_bar_config(disable=True)

    def with_sampler(name):
        def draw(part):
            indices = list(range(len(score.rows)))[part]
            common = dict(guidance_scale=GUIDANCE, num_inference_steps=STEPS, batch_size=BATCH, sampler=name)
            with fast_precision():
                text = score.text(part)
                return pipe(prompt_embeds=text, indices=indices, output_type="pt", **common).images.numpy()

        return draw

    names = ("dpm++", "ddim") if prediction == "epsilon" else ("dpm++",)
    return {name: with_sampler(name) for name in names}


def one_run(cfg, data, n, entries, keep=False):
    """Train or go on, draw and score: one result for each of `entries`, the width of an EMA and the number of further
    captions. An error of the training is a result. `keep`: the snapshots, for other widths."""
    began = time.perf_counter()
    try:
        run = train(cfg)
    except RadgenError as e:
        return [dict(failed=str(e)) for _ in entries]
    seconds = round(time.perf_counter() - began)
    found = [dict(train_seconds=seconds, **score_run(run, data, n, sides, width)) for width, sides in entries]
    for folder in ("checkpoints",) if keep else ("checkpoints", "averages"):  # hundreds of megabytes per run
        shutil.rmtree(run.dir / folder, ignore_errors=True)
    return found


@torch.no_grad()
def pipeline_of(run: Run, width):
    "The finished pipeline, its weights those of an EMA of this width; 0 leaves them as they are."
    pipe = run.pipeline()
    if width:
        weights, _ = reconstruct(run.dir, width)
        for name, parameter in pipe.denoiser.named_parameters():
            parameter.copy_(weights[name])
    return pipe


def score_run(run: Run, data, n, sides, width):
    "Draw images with a finished run and score them."
    score, began = scorer(data, run.config.image_size, n, sides), time.perf_counter()
    pipe = pipeline_of(run, width)
    images, sampler = best_sampler(sampler_functions(pipe, score, run.config.prediction), score)
    seconds = time.perf_counter() - began
    keep_images(run.dir / "scored" / f"{width:g}", images, score.rows)
    parameters = sum(p.numel() for p in pipe.denoiser.parameters())
    fixed = dict(parameters_M=round(parameters / 1e6, 2), sampler=sampler, sample_seconds=round(seconds))
    return {**fixed, **score(images)}


def same(one, other):
    "Whether two sets of options agree in everything that both know."
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def description(cfg):
    "The options that decide what a training learns, and the content of its data."
    about = describe(cfg, load_prepared(cfg.data_path))
    left_out = {*CHANGEABLE, "steps", "epochs"} - {"precision", "ema_width"}
    return {name: value for name, value in about.items() if name not in left_out}


def job_of(name, options, data, px, minutes, seed, a, seconds):
    "What is to be run: the configuration, and what its record says before it is run."
    cfg = contender(options, data, px, seed=seed)
    steps = a.steps or max(1, round(60 * minutes / seconds[kind(cfg)]))
    about = description(cfg)
    trained = {**about, "ema_width": about.get("ema_width", 0) > 0}  # its width is chosen after the training
    label = fingerprint(trained, minutes, steps)[:8]
    cfg = replace(cfg, steps=steps, name=f"{data}-{px}-{label}-{seed}")
    sides = 0 if cfg.size == "paper" else a.sides
    batch = cfg.batch_size * cfg.grad_accum
    record = dict(
        name=name, data=data, px=px, minutes=minutes, seed=seed, steps=steps, batch=batch, images_seen=steps * batch
    )
    record |= dict(seconds_per_step=round(seconds[kind(cfg)], 4), threads=a.threads, run=cfg.name)
    return cfg, record, about, sides


def find(runs, record, options):
    "A finished record of the same training, under whatever name."
    keys = ("data", "px", "minutes", "seed", "steps")
    for old in runs:
        if all(old[k] == record[k] for k in keys) and same(old["options"], options):
            return old
    return None


def retire(results, part, record, options):
    "Move records of this name that were made with other options out of the way of the tables."
    keys, kept = ("name", "data", "px", "minutes"), []
    for old in results["runs"]:
        alike = old["part"] == part and all(old[k] == record[k] for k in keys) and old["seed"] == record["seed"]
        if alike and not same(old["options"], options):
            results.setdefault("superseded", []).append(old)
        else:
            kept.append(old)
    results["runs"] = kept


def plan(part, contenders, data, px, a, results, seconds):
    """What has no record yet, by training: run -> configuration and the records that it gives. A record that another
    part has of the same training is copied."""
    jobs = {}
    for seed in range(a.seeds):  # all of one seed before the next
        for name, options in contenders.items():
            cfg, record, about, sides = job_of(name, options, data, px, a.minutes, seed, a, seconds)
            retire(results, part, record, about)
            mine = [r for r in results["runs"] if r["part"] == part and r["name"] == name]
            if find(mine, record, about):
                continue
            old = find(results["runs"], record, about)
            if old:
                results["runs"].append({**old, "part": part, "name": name})
                continue
            entry = ({"part": part, **record}, about, sides)
            jobs.setdefault(cfg.name, (cfg, []))[1].append(entry)
    return jobs


def measure(part, data, px, a, results):
    "Train and score what is missing of a part; `results` is written after each run."
    contenders = (
        table_contenders(data, px) if part == "table" else ablation_contenders(data, px, a.only, dict(a.change))
    )
    cfgs = [contender(options, data, px) for options in contenders.values()]
    seconds = {kind(c): 1.0 for c in cfgs} if a.steps else measure_seconds(cfgs, results, a.threads)
    score = scorer(data, px, a.n, a.sides)
    results.setdefault("baselines", {})[f"{data} {px}"] = score.baseline()
    jobs = plan(part, contenders, data, px, a, results, seconds)
    write_json(a.out, results)
    # their snapshots serve the ablation's widths of the EMA, also where the table trained them first
    bases = {job_of(BASE, demonstration(), data, px, a.minutes, seed, a, seconds)[0].name for seed in range(a.seeds)}
    run_jobs(jobs, data, a, results, bases)


def begin_worker(threads):
    "Set the threads of a worker, and let it save a checkpoint and end where the process that began it has ended."
    torch.set_num_threads(threads)
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_jobs(jobs, data, a, results, bases):
    "Run jobs in processes, and keep the snapshots of `bases`; a job that crashes is left for the next call."
    spawn, each = multiprocessing.get_context("spawn"), max(1, a.threads // a.workers)
    pool = ProcessPoolExecutor(a.workers, spawn, initializer=begin_worker, initargs=(each,))
    waiting = {}
    for cfg, entries in jobs.values():
        scored = [(about.get("ema_width", 0), sides) for _, about, sides in entries]
        waiting[pool.submit(one_run, cfg, data, a.n, scored, cfg.name in bases)] = cfg, entries
    try:
        for i, job in enumerate(as_completed(waiting), 1):
            cfg, entries = waiting[job]
            try:
                found = job.result()
            except Exception:
                print(f"{i} of {len(jobs)}: {cfg.name} crashed; the next call goes on with it", flush=True)
                traceback.print_exc()
                continue
            for (record, about, _), scores in zip(entries, found):
                results["runs"].append({**record, **scores, "options": about})
                print(f"{i} of {len(jobs)}: {line_of(results['runs'][-1])}", flush=True)
            write_json(a.out, results)
    finally:
        pool.shutdown(cancel_futures=True)


KEYS = ["data", "px", "minutes", "name"]


def table(path=RESULTS, part="table"):
    "Means and standard deviations over seeds of the runs of a part, one row per data, size, minutes and name."
    return mean_scores([r for r in read_json(path)["runs"] if r["part"] == part], KEYS)


def print_table(path, part):
    "Print the tables of a part."
    rows, baselines = table(path, part), read_json(path).get("baselines", {})
    for (data, px, minutes), group in rows.groupby(KEYS[:3], sort=False) if len(rows) else ():
        print(f"\n{part}, {data}, {px} px, {minutes:g} minutes per run; FD-VGG16 is a stand-in, not FID")
        print_rows(group, baselines.get(f"{data} {px}"))


def parse_change(texts):
    "`NAME key=value ...` as a name and options."
    name, *pairs = texts
    options = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        kinds = {"True": True, "False": False}
        if value in kinds:
            options[key] = kinds[value]
            continue
        for number in (int, float, str):
            try:
                options[key] = number(value)
                break
            except ValueError:
                continue
    return name, options


def arguments():
    "The options of this script."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--part", action="append", choices=["table", "ablation"])
    p.add_argument("--data", action="append", choices=["phantoms", "real"])
    p.add_argument("--px", action="append", type=int, help="by default 64")
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", action="append", help="of the changes")
    p.add_argument("--change", action="append", nargs="+", default=[], metavar="NAME key=value")
    p.add_argument("--n", type=int, default=N)
    p.add_argument("--sides", type=int, default=SIDES)
    p.add_argument("--steps", type=int, help="for a trial, instead of --minutes")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--print", action="store_true", dest="print_only")
    a = p.parse_args()
    a.change = [parse_change(texts) for texts in a.change]
    if a.only:
        a.only = [*a.only, *(name for name, _ in a.change)]
    return a


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    if not a.print_only:
        results = read_json(a.out) if a.out.exists() else {}
        results.setdefault("runs", [])
        for part in a.part or ("table", "ablation"):
            for data in a.data or ("phantoms", "real") if part == "table" else a.data or ("phantoms",):
                for px in a.px or (64,):
                    measure(part, data, px, a, results)
    for part in a.part or ("table", "ablation"):
        print_table(a.out, part)


if __name__ == "__main__":
    main()
