"""What fast samplers cost and gain: `python benchmarks/sampling.py [--n 1000] [--curve-n 500] [--rounds 3]
[--workers 2] [--part speed] [--part slow] [--part steps] [--part guidance]`, all parts by default.

The model is that of `make demo` (phantoms, 32 px; run it first), its products in bfloat16; captions are those of the
test split, repeated. speed: images per second of DPM-Solver++ at 20 steps with both halves of guidance in one batch
against 999 ancestral steps (DDPM) with two passes each, in turn; of the slow one some steps are timed and counted up.
slow: the Fréchet distance of both over `n` images each, the slow ones generated in `workers` processes of one thread.
steps and guidance: the distance over 5 to 250 steps, and of the ancestral sampler, and over the guidance scale,
`curve-n` images per point, drawn as fig/sampling.png. Distances are FD-VGG16 (a stand-in, not FID) to the test images.
Generated images stay in runs/sampling, so that an interrupted call goes on; the numbers are in
benchmarks/results/sampling.json.
"""

import argparse
import multiprocessing
import statistics as st
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDPMScheduler

from radgen.core.devices import index_generator, to_uint8
from radgen.core.figures import save_figure
from radgen.core.files import atomic_path, read_json, write_json
from radgen.text.store_writer import build_store
from radgen.evaluation.distance import frechet_distance, real_baseline, statistics
from radgen.evaluation.features import make_features
from radgen.evaluation.scores import read_samples
from radgen.training.run import load_run
from radgen.training.config import SampleConfig
from radgen.training.sampling import sample

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sampling.json"
DRAWN = ROOT / "runs" / "sampling"
FIGURE = ROOT / "fig" / "sampling.png"
BATCH, SCALE, FAST, SLOW = 50, 2.0, 20, 999
STEPS = {
    "dpm++": (5, 8, 12, 20, 35, 60, 120, 250),
    "unipc": (5, 8, 12, 20, 35, 60),
    "ddim": (5, 8, 12, 20, 35, 60),
}
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)


def half_precision():
    "Products in bfloat16."
    return torch.autocast("cpu", torch.bfloat16)


class Ancestral:
    "999 steps of DDPM, with text and without in two passes: what one writes who follows the papers line by line."

    def __init__(self, pipe):
        self.net, self.schedule = pipe.denoiser, DDPMScheduler.from_config(pipe.scheduler.config)
        self.schedule.set_timesteps(timesteps=list(range(SLOW - 1, -1, -1)))

    @torch.inference_mode()
    def __call__(self, text, generators, steps=SLOW):
        "The first `steps` of the trajectory for a batch."
        c, B = self.net.config, len(generators)
        x = torch.cat([torch.randn(1, 1, c.sample_size, c.sample_size, generator=g) for g in generators])
        null = self.net.drop_text(text, torch.ones(B).bool())
        for t in self.schedule.timesteps[:steps]:
            with_text, without = (self.net(x, t.expand(B), y).float() for y in (text, null))
            x = self.schedule.step(without + SCALE * (with_text - without), t, x, generator=generators).prev_sample
        return to_uint8(x)[:, 0]


class Model:
    "The demonstration's model, its captions and the real images."

    def __init__(self):
        self.run = load_run(ROOT / "runs" / "demo")
        self.pipe, self.prepared = self.run.pipeline(), self.run.prepared
        self.pipe.set_progress_bar_config(disable=True)
        texts = self.prepared.texts("test", self.run.config.caption_mode)
        store = build_store(
            texts, self.prepared.dir / "embeddings", self.run.config.encoder, self.run.config.max_length
        )
        self.store, self.texts = store, texts

    def text(self, indices):
        "The embeddings of captions, repeated as often as needed."
        return self.store.get(self.store.rows([self.texts[i % len(self.texts)] for i in indices]))

    @cached_property
    def features(self):
        return make_features("vgg16")

    @cache
    def real(self, split):
        return self.features(self.prepared.images(split, self.run.config.image_size, self.run.config.equalize))

    def fast(self, n, sampler="dpm++", steps=FAST, scale=SCALE):
        with half_precision():
            return read_samples(
                sample(
                    SampleConfig(
                        self.run.dir,
                        n=n,
                        sampler=sampler,
                        steps=steps,
                        guidance=scale,
                        batch_size=BATCH,
                        device="cpu",
                        out=DRAWN / f"{sampler}-{steps}-{scale:g}-{n}",
                    )
                )
            )[0]

    def slow(self, n, workers):
        "The same captions and starting noise; each batch takes minutes and is kept."
        parts = {
            DRAWN / self.run.weights()[:12] / f"{i:06d}-{min(i + BATCH, n)}.npy": list(range(i, min(i + BATCH, n)))
            for i in range(0, n, BATCH)
        }
        missing = [path for path in parts if not path.exists()]
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for path in pool.map(draw_slowly, missing, [parts[p] for p in missing]):
                print(f"{SLOW} ancestral steps: {path.stem}", flush=True)
        return np.concatenate([np.load(path) for path in parts])

    def distance(self, images):
        return frechet_distance(statistics(self.features(images)), statistics(self.real("test")))


def draw_slowly(path, at):
    "One batch of ancestral samples, written to `path`."
    m = Model()
    with atomic_path(path) as tmp, half_precision():
        np.save(tmp, Ancestral(m.pipe)(m.text(at), [index_generator(0, i) for i in at]).numpy())
    return path


def speed(m, rounds):
    "Seconds of a batch by the one and the other, in turn."
    ancestral, indices, some = Ancestral(m.pipe), list(range(BATCH)), 25
    text, seconds = m.text(indices), {"fast": [], "slow": []}
    for r in range(rounds + 1):  # the first round warms up
        with half_precision():
            began = time.perf_counter()
            m.pipe(
                prompt_embeds=text, guidance_scale=SCALE, num_inference_steps=FAST, batch_size=BATCH, output_type="pt"
            )
            fast = time.perf_counter() - began
            began = time.perf_counter()
            ancestral(text, [index_generator(0, i) for i in indices], some)
            slow = (time.perf_counter() - began) * SLOW / some
        if r:
            seconds["fast"].append(fast)
            seconds["slow"].append(slow)
        print(f"round {r}: {BATCH / fast:.2f} images a second against {BATCH / slow:.4f}", flush=True)
    ratio = st.median(s / f for f, s in zip(seconds["fast"], seconds["slow"]))
    return dict(
        images_per_s=BATCH / st.median(seconds["fast"]),
        images_per_s_ancestral=BATCH / st.median(seconds["slow"]),
        ratio=ratio,
    )


def step_distances(m, n):
    "Sampler and steps -> distance of `n` images."
    found = {}
    for sampler, counts in STEPS.items():
        for steps in counts:
            found[f"{sampler} {steps}"] = m.distance(m.fast(n, sampler, steps))
    return found


def figure(results):
    "Draw distance over steps and over guidance."
    fig, axs = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
    for s, counts in STEPS.items():
        axs[0].plot(counts, [results["steps"]["distance"][f"{s} {n}"] for n in counts], marker="o", ms=3, label=s)
    axs[0].set(xscale="log", yscale="log", xlabel="sampler steps", ylabel="FD-VGG16 (stand-in, not FID)")
    axs[0].set_xticks(STEPS["dpm++"], STEPS["dpm++"])
    axs[0].set_yticks((4, 6, 10, 15, 20, 30), (4, 6, 10, 15, 20, 30))
    axs[0].minorticks_off()
    axs[1].plot(SCALES, [results["guidance"]["distance"][f"{g:g}"] for g in SCALES], marker="o", ms=3, color="C3")
    axs[1].set_xlabel(f"guidance scale, DPM-Solver++ at {FAST} steps")
    for ax, part in zip(axs, ("steps", "guidance")):
        ax.axhline(results[part]["floor"], color="0.7", lw=4, alpha=0.6, label="floor (real against real)")
    axs[0].axhline(
        results["steps"]["distance"][f"ddpm {SLOW}"], color="k", ls="--", lw=1, label=f"{SLOW} ancestral steps"
    )
    axs[0].legend(fontsize=7, loc=(0.02, 0.12))
    save_figure(fig, FIGURE)


def verdict(met):
    "The first word of a line."
    return "met    " if met else "missed "


def report(name, results):
    "Print what was measured."
    print(
        f"\nsamples of {name} (phantoms) against {results['real']} test images, guidance {SCALE:g}; "
        "FD-VGG16, a stand-in, not FID"
    )
    if "steps" in results:
        part = results["steps"]
        slow = part["distance"][f"ddpm {SLOW}"]
        print(f"{part['n']} samples per point, floor {part['floor']:.2f}, {SLOW} ancestral steps {slow:.2f}")
        print("steps    " + "".join(f"{n:8}" for n in STEPS["dpm++"]))
        for sampler, counts in STEPS.items():
            print(f"{sampler:9}" + "".join(f"{part['distance'][f'{sampler} {n}']:8.2f}" for n in counts))
    if "guidance" in results:
        part = results["guidance"]
        found = ", ".join(f"{scale}: {distance:.2f}" for scale, distance in part["distance"].items())
        print(f"guidance, {part['n']} samples per point, floor {part['floor']:.2f}: {found}")
    if "speed" in results:
        s = results["speed"]
        print(
            f"{verdict(s['ratio'] >= 40)}DPM-Solver++ at {FAST} steps generates {s['images_per_s']:.2f} images per "
            f"second, {s['ratio']:.1f} times as many as {SLOW} ancestral steps of two passes "
            f"({s['images_per_s_ancestral']:.3f}); wanted 40"
        )
    if "slow" in results:
        slow = results["slow"]
        ratio = slow["fast"] / slow["ancestral"]
        print(
            f"{verdict(ratio <= 1.05)}its distance is {slow['fast']:.2f} against {slow['ancestral']:.2f} over "
            f"{slow['n']} images each, floor {slow['floor']:.2f}, {ratio:.3f} times; wanted at most 1.05"
        )


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--n", type=int, default=1000)
    a.add_argument("--curve-n", type=int, default=500)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--part", action="append", choices=["speed", "slow", "steps", "guidance"])
    a = a.parse_args()
    m, parts = Model(), a.part or ("speed", "slow", "steps", "guidance")
    results = read_json(RESULTS) if RESULTS.exists() else {}
    if results.get("weights") != m.run.weights():
        results = {"weights": m.run.weights()}
    train, test = m.real("train"), m.real("test")
    results.update(real=len(test), training=len(train), guidance_scale=SCALE)

    def keep(part, value):
        results[part] = value
        write_json(RESULTS, results)

    def curve(n, distances):
        return dict(n=n, floor=real_baseline(train, test, n)[0], distance=distances)

    if "speed" in parts:
        keep("speed", speed(m, a.rounds))
    if "steps" in parts:
        keep(
            "steps",
            curve(
                a.curve_n,
                step_distances(m, a.curve_n) | {f"ddpm {SLOW}": m.distance(m.slow(a.curve_n, a.workers))},
            ),
        )
    if "guidance" in parts:
        keep("guidance", curve(a.curve_n, {f"{g:g}": m.distance(m.fast(a.curve_n, scale=g)) for g in SCALES}))
    if "slow" in parts:
        keep(
            "slow",
            dict(
                n=a.n,
                floor=real_baseline(train, test, a.n)[0],
                ancestral=m.distance(m.slow(a.n, a.workers)),
                fast=m.distance(m.fast(a.n)),
            ),
        )
    report(m.run.config.name, results)
    if "steps" in results and "guidance" in results:
        figure(results)


if __name__ == "__main__":
    main()
