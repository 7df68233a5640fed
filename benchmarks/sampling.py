"""What fast samplers cost and gain, for velocity and for flow: `python benchmarks/sampling.py [--n 500] [--curve-n 250]
[--rounds 3] [--steps 2000] [--workers 2] [--model velocity|flow] [--part speed|slow|steps|few|guidance] [--print]`, all
parts of both models by default.

The models are the demonstration's, 64 px with patches of 2, one that predicts velocity and one that predicts flow; they
are trained here for `--steps` steps each on the phantoms of `scoring.py`, unless runs/sampling holds them. Products are
in bfloat16 where the CPU has it; captions are those of the test split. speed: images per second of DPM-Solver++ at 20
steps, both halves of guidance in one batch, against ancestral sampling (999 steps of DDPM; for flow the same posterior
in 1000 steps) with two passes each, in turn; of the slow one some steps are timed and counted up. slow: the Fréchet
distance of both over `n` images each, the slow ones drawn in `workers` processes of one thread. steps and guidance: the
distance over 5 to 250 steps, and over the guidance scale, `curve-n` images per point, drawn as fig/sampling.png. few:
flow with 8 steps of each of its samplers against velocity with 20 of DPM-Solver++, `n` images each. Distances are
FD-VGG16 (a stand-in, not FID) to the real test images.

Images stay in runs/sampling, so that an interrupted call goes on; the numbers are in benchmarks/results/sampling.json,
those of flow under `flow`.
"""

import argparse
import multiprocessing
import statistics as st
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property, partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor

import recipes
from radgen.core.devices import index_generator, to_uint8
from radgen.core.figures import save_figure
from radgen.core.files import atomic_path, read_json, write_json
from radgen.diffusion.process import alpha_sigma, predict_x0
from radgen.evaluation.distance import frechet_distance, real_baseline, statistics
from radgen.evaluation.features import cached_features, make_features
from radgen.evaluation.scores import read_samples
from radgen.text.store_writer import build_store
from radgen.training.config import SampleConfig
from radgen.training.run import load_run
from radgen.training.sampling import sample
from radgen.training.train import train
from scoring import PRECISION, fast_precision, load_data

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sampling.json"
RUNS = ROOT / "runs" / "sampling"
FIGURE = ROOT / "fig" / "sampling.png"
BATCH, SCALE, FAST, FEW, SLOW, PX = 50, 2.0, 20, 8, 999, 64
PREDICTIONS = {"velocity": "v_prediction", "flow": "flow"}
SHORT = (5, 8, 12, 20, 35, 60)
STEPS = {
    "velocity": {"dpm++": (*SHORT, 120, 250), "unipc": SHORT, "ddim": SHORT},
    "flow": {"dpm++": (*SHORT, 120, 250), "unipc": SHORT, "euler": SHORT, "heun": SHORT},
}
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
PARTS = ("speed", "slow", "steps", "few", "guidance")


def train_model(kind, steps):
    "The finished run of a model; trained, or gone on with, where there is none."
    if (RUNS / kind / "final").exists():
        return
    options = {**recipes.demonstration(), "prediction": PREDICTIONS[kind]}
    cfg = recipes.contender(options, "phantoms", PX, steps=steps, name=kind, runs=RUNS)
    train(cfg)


class Ancestral:
    "Noise added at each of all steps, with text and without in two passes, as the papers have it line by line."

    def __init__(self, pipe, kind):
        self.net, self.schedule = pipe.denoiser, pipe.scheduler
        if kind == "flow":
            self.times, self.step = list(range(self.schedule.config.num_train_timesteps - 1, -1, -1)), self.flow_step
        else:
            self.schedule = DDPMScheduler.from_config(self.schedule.config)
            self.times, self.step = list(range(SLOW - 1, -1, -1)), self.ddpm_step
            self.schedule.set_timesteps(timesteps=self.times)

    def ddpm_step(self, prediction, t, x, generators):
        "Ho et al. 2020, algorithm 2, by diffusers."
        return self.schedule.step(prediction, t, x, generator=generators).prev_sample

    def flow_step(self, prediction, t, x, generators):
        "A draw of x at the step before, given x_t and the clean image that the prediction implies."
        here = torch.full((len(x),), t)
        x0 = predict_x0(self.schedule, x, here, prediction).clamp(-1, 1)
        if t == 0:
            return x0
        (a_t, s_t), (a_s, s_s) = alpha_sigma(self.schedule, here, x), alpha_sigma(self.schedule, here - 1, x)
        ratio = a_t / a_s
        added = s_t**2 - ratio**2 * s_s**2  # variance that the forward process adds between the two steps
        mean = (ratio * s_s**2 * x + a_s * added * x0) / s_t**2
        return mean + (added * s_s**2 / s_t**2).sqrt() * randn_tensor(x.shape, generator=generators)

    @torch.inference_mode()
    def __call__(self, text, generators, steps=None):
        "All steps of the trajectory for a batch, or the first `steps`."
        side, n = self.net.config.sample_size, len(generators)
        x = torch.cat([torch.randn(1, 1, side, side, generator=g) for g in generators])
        null = self.net.drop_text(text, torch.ones(n).bool())
        for t in self.times[:steps]:
            with_text, without = (self.net(x, torch.full((n,), t), y).float() for y in (text, null))
            x = self.step(without + SCALE * (with_text - without), t, x, generators)
        return to_uint8(x)[:, 0]


@cache
def test_features(split):
    "Features of the real images."
    prepared = load_data("phantoms")
    return cached_features(prepared.images(split, PX), make_features("vgg16"), prepared.dir / "features")


class Model:
    "A trained model, its captions and what it draws."

    def __init__(self, kind):
        self.kind, self.run = kind, load_run(RUNS / kind)
        self.pipe, prepared = self.run.pipeline(), load_data("phantoms")
        self.pipe.set_progress_bar_config(disable=True)
        self.texts = prepared.texts("test", self.run.config.caption_mode)
        folder = prepared.dir / "embeddings"
        self.store = build_store(self.texts, folder, self.run.config.encoder, self.run.config.max_length)
        self.drawn = RUNS / f"{kind}-drawn" / self.run.weights()[:12]

    @property
    def slow_steps(self):
        return len(Ancestral(self.pipe, self.kind).times)

    def text(self, indices):
        "The embeddings of captions, repeated as often as needed."
        rows = self.store.rows([self.texts[i % len(self.texts)] for i in indices])
        return self.store.get(rows).to(torch.float32)

    @cached_property
    def features(self):
        return make_features("vgg16")

    def fast(self, n, sampler="dpm++", steps=FAST, scale=SCALE):
        out = self.drawn / f"{sampler}-{steps}-{scale:g}-{n}"
        how = dict(sampler=sampler, steps=steps, guidance=scale, batch_size=BATCH, precision=PRECISION, device="cpu")
        return read_samples(sample(SampleConfig(self.run.dir, n=n, out=out, **how)))[0]

    def slow(self, n, workers):
        "The same captions and starting noise; each batch takes minutes and is kept."
        parts = {}
        for i in range(0, n, BATCH):
            at = list(range(i, min(i + BATCH, n)))
            parts[self.drawn / f"slow-{i:06d}-{at[-1] + 1}.npy"] = at
        missing = [path for path in parts if not path.exists()]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            draw = partial(draw_slowly, self.kind)
            for path in pool.map(draw, missing, [parts[p] for p in missing]):
                print(f"{self.kind}, ancestral: {path.stem}", flush=True)
        return np.concatenate([np.load(path) for path in parts])

    def distance(self, images):
        return frechet_distance(statistics(self.features(images)), statistics(test_features("test")))


def draw_slowly(kind, path, at):
    "One batch of ancestral samples, written to `path`."
    m = Model(kind)
    with atomic_path(path) as tmp, fast_precision():
        np.save(tmp, Ancestral(m.pipe, kind)(m.text(at), [index_generator(0, i) for i in at]).numpy())
    return path


def speed(m, rounds, some=25):
    "Seconds of a batch by the one and the other, in turn."
    ancestral, indices = Ancestral(m.pipe, m.kind), list(range(BATCH))
    text, seconds = m.text(indices), {"fast": [], "slow": []}
    fixed = dict(guidance_scale=SCALE, num_inference_steps=FAST, batch_size=BATCH, output_type="pt")
    for r in range(rounds + 1):  # the first round warms up
        with fast_precision():
            began = time.perf_counter()
            m.pipe(prompt_embeds=text, **fixed)
            fast = time.perf_counter() - began
            began = time.perf_counter()
            ancestral(text, [index_generator(0, i) for i in indices], some)
            slow = (time.perf_counter() - began) * len(ancestral.times) / some
        if r:
            seconds["fast"].append(fast)
            seconds["slow"].append(slow)
        print(f"{m.kind}, round {r}: {BATCH / fast:.2f} images per second against {BATCH / slow:.4f}", flush=True)
    return dict(
        images_per_s=BATCH / st.median(seconds["fast"]),
        images_per_s_ancestral=BATCH / st.median(seconds["slow"]),
        ratio=st.median(s / f for f, s in zip(seconds["fast"], seconds["slow"])),
    )


def step_distances(m, n):
    "Sampler and steps -> distance of `n` images."
    found = {}
    for sampler, counts in STEPS[m.kind].items():
        for steps in counts:
            found[f"{sampler} {steps}"] = m.distance(m.fast(n, sampler, steps))
    return found


def few_steps(n):
    "Flow with few steps, and velocity with DPM-Solver++ at 20."
    velocity, flow = Model("velocity"), Model("flow")
    samplers = {s: flow.distance(flow.fast(n, s, FEW)) for s in STEPS["flow"]}
    wanted = velocity.distance(velocity.fast(n))
    return dict(n=n, flow=samplers, velocity=wanted, baseline=baseline(n))


@cache
def baseline(n):
    "The distance of `n` real training images."
    return real_baseline(test_features("train"), test_features("test"), n)[0]


def measure_part(m, part, a):
    "The numbers of a part of one model."
    if part == "speed":
        return speed(m, a.rounds)
    if part == "slow":
        slow, fast = m.distance(m.slow(a.n, a.workers)), m.distance(m.fast(a.n))
        return dict(n=a.n, floor=baseline(a.n), ancestral=slow, fast=fast)
    if part == "steps":
        found = step_distances(m, a.curve_n)
    else:
        found = {f"{g:g}": m.distance(m.fast(a.curve_n, scale=g)) for g in SCALES}
    return dict(n=a.curve_n, floor=baseline(a.curve_n), distance=found)


def figure(results):
    "Draw distance over steps and over guidance, velocity above flow."
    kinds = [kind for kind in PREDICTIONS if {"steps", "guidance"} <= set(part_of(results, kind))]
    if not kinds:
        return
    size = (9, 2.8 * len(kinds))
    fig, axs = plt.subplots(len(kinds), 2, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for row, kind in zip(axs, kinds):
        found, counts = part_of(results, kind), STEPS[kind]
        for name, steps in counts.items():
            row[0].plot(steps, [found["steps"]["distance"][f"{name} {n}"] for n in steps], marker="o", ms=3, label=name)
        row[0].set(xscale="log", yscale="log", xlabel="sampler steps", ylabel=f"{kind}: FD-VGG16 (not FID)")
        row[0].set_xticks(counts["dpm++"], counts["dpm++"])
        row[0].minorticks_off()
        row[1].plot(SCALES, [found["guidance"]["distance"][f"{g:g}"] for g in SCALES], marker="o", ms=3, color="C4")
        row[1].set_xlabel(f"guidance scale, DPM-Solver++ at {FAST} steps")
        for ax, part in zip(row, ("steps", "guidance")):
            ax.axhline(found[part]["floor"], color="0.7", lw=4, alpha=0.6, label="real images")
        row[0].legend(fontsize=7)
    save_figure(fig, FIGURE)


def part_of(results, kind):
    "The results of a model: velocity's are at the top."
    return results if kind == "velocity" else results.setdefault(kind, {})


def verdict(met):
    "The first word of a line."
    return "met    " if met else "missed "


def report_curves(kind, found):
    "Print distance over steps and over guidance."
    if "steps" in found:
        part = found["steps"]
        print(f"\n{kind}: {part['n']} samples per point, real images {part['floor']:.2f}")
        print("steps    " + "".join(f"{n:8}" for n in STEPS[kind]["dpm++"]))
        for sampler, counts in STEPS[kind].items():
            print(f"{sampler:9}" + "".join(f"{part['distance'][f'{sampler} {n}']:8.2f}" for n in counts))
    if "guidance" in found:
        part = found["guidance"]
        points = ", ".join(f"{scale}: {distance:.2f}" for scale, distance in part["distance"].items())
        print(f"{kind}: guidance, {part['n']} samples per point, real images {part['floor']:.2f}: {points}")


def report_claims(kind, found):
    "Print what was wanted of speed and distance."
    if "speed" in found:
        s = found["speed"]
        print(
            f"{verdict(s['ratio'] >= 40)}{kind}: DPM-Solver++ at {FAST} steps generates {s['images_per_s']:.2f} images "
            f"per second, {s['ratio']:.1f} times as many as ancestral sampling of two passes per step "
            f"({s['images_per_s_ancestral']:.3f}); wanted 40"
        )
    if "slow" in found:
        slow = found["slow"]
        ratio = slow["fast"] / slow["ancestral"]
        print(
            f"{verdict(ratio <= 1.05)}{kind}: its distance is {slow['fast']:.2f} against {slow['ancestral']:.2f} over "
            f"{slow['n']} images each, real images {slow['floor']:.2f}, {ratio:.3f} times; wanted at most 1.05"
        )


def report(results):
    "Print what was measured."
    for kind in PREDICTIONS:
        found = part_of(results, kind)
        report_curves(kind, found)
        report_claims(kind, found)
    if "few" in results:
        few = results["few"]
        best = min(few["flow"], key=few["flow"].get)
        print(
            f"{verdict(few['flow'][best] <= few['velocity'])}flow with {FEW} steps of {best} has distance "
            f"{few['flow'][best]:.2f}, velocity with {FAST} of DPM-Solver++ {few['velocity']:.2f}, over {few['n']} "
            "images each; wanted no greater"
        )
        print("       " + ", ".join(f"{name} {distance:.2f}" for name, distance in few["flow"].items()))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--n", type=int, default=500)
    a.add_argument("--curve-n", type=int, default=250)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--steps", type=int, default=2000, help="of training, where a model is missing")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--model", action="append", choices=list(PREDICTIONS))
    a.add_argument("--part", action="append", choices=PARTS)
    a.add_argument("--out", type=Path, default=RESULTS)
    a.add_argument("--print", action="store_true", dest="print_only")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    results = read_json(a.out) if a.out.exists() else {}
    if a.print_only:
        return report(results)
    kinds = a.model or list(PREDICTIONS)
    for kind in kinds:
        train_model(kind, a.steps)
        m, found = Model(kind), part_of(results, kind)
        if found.get("weights") != m.run.weights():
            other = results.get("flow") if kind == "velocity" else None
            found.clear()
            found.update(weights=m.run.weights(), **({"flow": other} if other else {}))
        found.update(real=len(test_features("test")), training=len(test_features("train")), guidance_scale=SCALE)
        for part in a.part or PARTS:
            if part != "few":
                found[part] = measure_part(m, part, a)
                write_json(a.out, results)
    if "few" in (a.part or PARTS) and all((RUNS / kind / "final").exists() for kind in PREDICTIONS):
        results["few"] = few_steps(a.n)
        write_json(a.out, results)
    report(results)
    figure(results)


if __name__ == "__main__":
    main()
