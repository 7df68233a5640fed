"""Radgen and two other libraries at equal time on the same images, captions and text vectors: `python
benchmarks/peers.py [--minutes 8] [--seeds 3] [--px 64] [--only NAME] [--tuned] [--n 256] [--sides 256] [--steps N]
[--threads 2] [--print]`.

radgen: the demonstration's training, as `recipes.py` has it. diffusers: UNet2DConditionModel in the loop of its own
script examples/text_to_image/train_text_to_image.py: noise prediction with DDPMScheduler's defaults, AdamW with a
constant 1e-4, weight decay 0.01, batches of 16, gradients clipped to 1, EMAModel with its defaults; texts are dropped
in 10 %, as for the model that the script fine-tunes, so that guidance is possible. denoising-diffusion-pytorch: its
conditional UNet and GaussianDiffusion (noise, cosine schedule, text dropped in half) as its Trainer trains them: Adam
with 1e-4 and betas 0.9 and 0.99, batches of 16, gradients clipped to 1, EMA 0.995 every tenth step; without its
horizontal flip, which would exchange left and right. `--tuned` adds both with a learning rate of 1e-3. Parameters are
within 10 % of radgen's, products in bfloat16 for all where the CPU has it. The two do not crop their images, since
their scripts do not. Texts are vectors of MiniLM: tokens for radgen and diffusers, the pooled vector for
denoising-diffusion-pytorch.

Equal time as in `recipes.py`: seconds per step are measured in turn and stored, and each run has the number of steps
that fit into its minutes. Scores as in `scoring.py`. Each library may draw in several ways (50 steps of DDIM, 20 of
DPM-Solver++, for denoising-diffusion-pytorch also its own guidance); the one whose first 64 images are nearer counts.
Runs lie in runs/peers; results are added to benchmarks/results/peers.json after each run, and a call that was
interrupted goes on.
"""

import argparse
import statistics as st
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from ema_pytorch import EMA

import peer_networks as networks
import recipes
from radgen.core.devices import index_generator, to_uint8, to_unit
from radgen.core.files import fingerprint, read_json, write_json
from radgen.diffusion.samplers import run_sampler
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.text.store_writer import build_store
from radgen.training.batches import batch_indices
from scoring import (
    BATCH,
    ENCODER,
    GUIDANCE,
    N,
    PRECISION,
    SIDES,
    STEPS,
    TOKENS,
    best_sampler,
    fast_precision,
    keep_images,
)
from scoring import line_of, load_data, mean_scores, print_rows, scorer

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "benchmarks" / "results" / "peers.json", ROOT / "runs" / "peers"
PEER_BATCH, LR, TUNED_LR, TEXT_DROP, SLOW_STEPS = 16, 1e-4, 1e-3, 0.1, 50


class TrainingData:
    "Training images and texts in the order of a seed."

    def __init__(self, px):
        prepared = load_data("phantoms")
        texts = prepared.texts("train", 2)
        self.images = prepared.images("train", px)
        self.store = build_store(texts, prepared.dir / "embeddings", ENCODER, TOKENS)
        self.rows = self.store.rows(texts)

    def batch(self, step, seed):
        "Images (B, 1, H, W) in -1..1 and their texts."
        chosen = batch_indices(len(self.rows), PEER_BATCH, step, seed)
        images = to_unit(torch.from_numpy(np.array(self.images[chosen])))[:, None]
        return images, self.store.get(self.rows[chosen]).to(torch.float32)


def noise_of(part, px):
    "Starting noise of some images, a function of their numbers."
    noise = [torch.randn(1, 1, px, px, generator=index_generator(0, i)) for i in part]
    return torch.cat(noise)


class Peer:
    "Another library's network and the loop that its own script trains it with."

    def __init__(self, model, px):
        self.model, self.px = model.train(), px

    def step(self, x0, text):
        "One optimiser step."
        with fast_precision():
            loss = self.loss(x0, text)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_average()

    def solver(self, name, steps, scale=GUIDANCE):
        "A function of a slice of the prompts that draws their images by one of radgen's samplers."

        def draw(score, part):
            numbers, found = list(range(len(score.rows)))[part], []
            for i in range(0, len(numbers), BATCH):
                some = numbers[i : i + BATCH]
                text = score.text(some)

                def denoise(x, t):
                    return self.guided(x, t, text, scale).float()

                with torch.inference_mode(), fast_precision():
                    found.append(to_uint8(run_sampler(name, self.schedule, steps, noise_of(some, self.px), denoise)))
            return torch.cat(found)[:, 0].numpy()

        return draw


class Diffusers(Peer):
    "UNet2DConditionModel and the loop of train_text_to_image.py."

    def __init__(self, target, px, text_dim, lr=LR):
        super().__init__(networks.fitted_diffusers(target, px, text_dim, attention_max=16), px)
        self.schedule = DDPMScheduler()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr, weight_decay=1e-2)
        self.average = EMAModel(self.model.parameters(), foreach=True)

    def loss(self, x0, text):
        t, noise = torch.randint(0, len(self.schedule), (len(x0),)), torch.randn_like(x0)
        keep = torch.rand(len(x0)) >= TEXT_DROP
        text = TextEmbedding(text.tokens * keep[:, None, None], text.mask, text.pooled)
        prediction = networks.cross_attention_call(self.model, self.schedule.add_noise(x0, noise, t), t, text)
        return F.mse_loss(prediction.float(), noise)

    def update_average(self):
        self.average.step(self.model.parameters())

    def guided(self, x, t, text, scale):
        return networks.cross_attention_guided(self.model, x, t, text, scale)

    def finish(self):
        "Put the averaged weights in place; name of a sampler -> function that draws."
        self.average.copy_to(self.model.parameters())
        self.model.eval()
        return {
            f"DDIM, {SLOW_STEPS} steps": self.solver("ddim", SLOW_STEPS),
            f"DPM-Solver++, {STEPS} steps": self.solver("dpm++", STEPS),
        }


class DDP(Peer):
    "The conditional UNet and GaussianDiffusion of denoising-diffusion-pytorch, trained as its Trainer does."

    def __init__(self, target, px, text_dim, lr=LR):
        super().__init__(networks.fitted_ddp(target, text_dim), px)
        self.diffusion = GaussianDiffusion(self.model, image_size=px, sampling_timesteps=SLOW_STEPS)
        self.schedule = DDPMScheduler(trained_betas=self.diffusion.betas.tolist())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr, betas=(0.9, 0.99))
        self.average = EMA(self.diffusion, beta=0.995, update_every=10)

    def loss(self, x0, text):
        return self.diffusion((x0 + 1) / 2, classes=text.pooled)

    def update_average(self):
        self.average.update()

    def guided(self, x, t, text, scale):
        return networks.class_guided(self.model, x, t, text, scale)

    def own_sampler(self, scale):
        "A function of a slice of the prompts that draws their images by the library's own DDIM."

        def draw(score, part):
            numbers, found = list(range(len(score.rows)))[part], []
            for i in range(0, len(numbers), BATCH):
                some = numbers[i : i + BATCH]
                torch.manual_seed(some[0])
                with torch.inference_mode(), fast_precision():
                    x = self.diffusion.sample(score.text(some).pooled, cond_scale=scale)
                found.append(to_uint8(x.float() * 2 - 1))
            return torch.cat(found)[:, 0].numpy()

        return draw

    def finish(self):
        "Put the averaged weights in place; name of a sampler -> function that draws."
        self.diffusion = self.average.ema_model.eval()
        self.model = self.diffusion.model
        return {
            f"its own, {SLOW_STEPS} steps, guidance 6": self.own_sampler(6.0),
            f"its own, {SLOW_STEPS} steps, guidance {GUIDANCE:g}": self.own_sampler(GUIDANCE),
            f"DPM-Solver++, {STEPS} steps": self.solver("dpm++", STEPS),
        }


KINDS = {"diffusers": Diffusers, "denoising-diffusion-pytorch": DDP}


def peer_of(name, target, px, text_dim, seed):
    "The peer of a name such as 'diffusers' or 'diffusers, 1e-3'."
    torch.manual_seed(seed)
    kind, _, lr = name.partition(", ")
    return KINDS[kind](target, px, text_dim, float(lr) if lr else LR)


def time_peer(peer, data, steps=10, skip=3):
    "Seconds of some steps, reading included."
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        peer.step(*data.batch(step, 0))
        seconds.append(time.perf_counter() - began)
    return seconds[skip:]


def measure_seconds(names, cfg, target, data, results, threads, rounds=3):
    "Name -> median seconds per step, all in turn; stored under the threads and the image size."
    label = f"{threads} threads, {cfg.image_size} px"
    known = results.setdefault("seconds", {}).setdefault(label, {})
    keys = {name: recipes.kind(cfg) if name == "radgen" else name for name in names}
    if all(key in known for key in keys.values()):
        return {name: known[key] for name, key in keys.items()}
    seconds = {key: [] for key in keys.values()}
    for r in range(rounds):
        for name, key in keys.items():
            if name == "radgen":
                seconds[key] += recipes.time_steps_of(cfg)
            else:
                seconds[key] += time_peer(peer_of(name, target, cfg.image_size, data.store.width, 0), data)
            print(f"round {r}: {st.median(seconds[key]):.3f} s per step: {name}", flush=True)
    known.update({key: st.median(s) for key, s in seconds.items()})
    return {name: known[key] for name, key in keys.items()}


def train_peer(name, target, data, score, steps, seed):
    "Train, draw and score one peer."
    peer, began = peer_of(name, target, score.px, data.store.width, seed), time.perf_counter()
    parameters = networks.parameters(peer.model)
    for step in range(steps):
        peer.step(*data.batch(step, seed))
        if step % 200 == 0:
            print(f"{name}, seed {seed}: step {step} of {steps}, {time.perf_counter() - began:.0f} s", flush=True)
    trained = time.perf_counter()
    samplers = {}
    for sampler, draw in peer.finish().items():
        samplers[sampler] = lambda part, draw=draw: draw(score, part)
    images, sampler = best_sampler(samplers, score)
    drawn = time.perf_counter()
    keep_images(RUNS / f"{name}-{steps}-{seed}".replace(", ", "-"), images, score.rows)
    seconds = dict(train_seconds=round(trained - began), sample_seconds=round(drawn - trained))
    return dict(parameters_M=round(parameters / 1e6, 2), sampler=sampler, **seconds, **score(images))


def settings(name, cfg):
    "What decides a run, beside its steps and seed."
    if name == "radgen":
        return recipes.description(replace(cfg, seed=0))
    lr = float(name.partition(", ")[2] or LR)
    text_drop = TEXT_DROP if name.startswith("diffusers") else 0.5
    return dict(batch_size=PEER_BATCH, lr=lr, text_drop=text_drop, precision=PRECISION)


def one_run(name, cfg, target, data, score, record, a):
    "The scores of one contender and seed."
    if name != "radgen":
        return train_peer(name, target, data, score, record["steps"], record["seed"])
    label = f"peer-{record['px']}-{record['steps']}-{fingerprint(record['options'])[:6]}-{record['seed']}"
    cfg = replace(cfg, steps=record["steps"], seed=record["seed"], name=label, runs=RUNS)
    return recipes.one_run(cfg, "phantoms", a.n, [(cfg.ema_width, a.sides)])[0]


def done(results, record):
    "Whether there is a record of this run; one of other options is moved out of the way."
    keys, kept, found = ("name", "px", "minutes", "seed"), [], False
    for old in results["runs"]:
        alike = all(old[k] == record[k] for k in keys)
        same = alike and old["steps"] == record["steps"] and recipes.same(old["options"], record["options"])
        found |= same
        if alike and not same:
            results.setdefault("superseded", []).append(old)
        else:
            kept.append(old)
    results["runs"] = kept
    return found


def measure(a, results):
    "Run what is missing; the results are written after each run."
    px, names = a.px, ["radgen", *KINDS]
    if a.tuned:
        names += [f"{name}, {TUNED_LR:g}" for name in KINDS]
    if a.only:
        names = [name for name in names if name in a.only]
    cfg = recipes.contender(recipes.demonstration(), "phantoms", px)
    data, score = TrainingData(px), scorer("phantoms", px, a.n, a.sides)
    target = radgen_parameters(cfg, data.store.width)
    if a.steps:
        seconds = dict.fromkeys(names, 1.0)
    else:
        seconds = measure_seconds(names, cfg, target, data, results, a.threads)
    results["baseline"] = score.baseline()
    write_json(a.out, results)
    for seed in range(a.seeds):  # all of one seed before the next
        for name in names:
            batch = cfg.batch_size if name == "radgen" else PEER_BATCH
            steps = a.steps or max(1, round(60 * a.minutes / seconds[name]))
            record = dict(name=name, px=px, minutes=a.minutes, seed=seed, steps=steps, batch=batch)
            record |= dict(images_seen=steps * batch, seconds_per_step=round(seconds[name], 4), threads=a.threads)
            record["options"] = settings(name, cfg)
            if done(results, record):
                continue
            try:
                found = one_run(name, cfg, target, data, score, record, a)
            except Exception:
                traceback.print_exc()
                print(f"{name}, seed {seed} crashed; the next call tries again", flush=True)
                continue
            results["runs"].append({**{k: v for k, v in record.items() if k != "options"}, **found})
            results["runs"][-1]["options"] = record["options"]
            write_json(a.out, results)
            print(line_of(results["runs"][-1]), flush=True)


def radgen_parameters(cfg, text_dim):
    "Parameters of radgen's network."
    options = {name: getattr(cfg, name) for name in ("attention_max", "patch") if hasattr(cfg, name)}
    with torch.device("meta"):
        model = make_denoiser(cfg.model, cfg.recipe, cfg.size, cfg.image_size, text_dim=text_dim, **options)
    return networks.parameters(model)


def table(path=RESULTS):
    "Means and standard deviations over seeds, one row per contender."
    return mean_scores(read_json(path)["runs"], ["px", "minutes", "name"])


def print_table(path):
    "Print the table and what was wanted of it."
    rows = table(path)
    if rows.empty:
        return print("no run has finished yet")
    print_rows(rows, read_json(path)["baseline"])
    for (px, minutes), group in rows.groupby(["px", "minutes"], sort=False):
        distance = group.set_index("name").distance
        peers = distance.drop("radgen", errors="ignore")
        if "radgen" not in distance or peers.empty:
            continue
        ratio = distance["radgen"] / peers.min()
        met = "met    " if ratio <= 0.5 else "missed "
        print(f"{met}radgen's distance is {ratio:.2f} times that of {peers.idxmin()}, the nearer peer; wanted 0.5")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=8)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--px", type=int, default=64)
    p.add_argument("--only", action="append")
    p.add_argument("--tuned", action="store_true")
    p.add_argument("--n", type=int, default=N)
    p.add_argument("--sides", type=int, default=SIDES)
    p.add_argument("--steps", type=int, help="for a trial, instead of --minutes")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--print", action="store_true", dest="print_only")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if not a.print_only:
        results = read_json(a.out) if a.out.exists() else {}
        results.setdefault("runs", [])
        measure(a, results)
    print_table(a.out)


if __name__ == "__main__":
    main()
