"""How fast and in how much memory radgen trains and samples on a GPU, next to two other libraries: `python
benchmarks/gpu.py [--minutes 10] [--device cuda] [--tiny] [--predict] [--out FILE]`.

Images per second in training (text, loss, gradients, clipping, fused AdamW, EMA) and in sampling (25 guided steps) at
64, 128 and 256 px: the presets `paper` and `radgen`, the latter with patches of 1, 2 and 4, diffusers'
UNet2DConditionModel and denoising-diffusion-pytorch's conditional UNet with parameters within 10 % of radgen's without
patches; in bfloat16 (float16 on older GPUs) and in float32 (with TF32 where the GPU has it), compiled and not.
Contenders of a group take turns in this one process; groups come in order of importance, and the last ones are left out
when the minutes are over. A batch that does not fit is halved. The peak memory of a training step stands next to what
chapter 670 predicts, which needs no GPU: `--predict` adds what is missing afterwards, on any machine.

Rows are written to benchmarks/results/gpu.json after each group, with the name of the device and the versions; rows of
another device are kept. `--device cpu --tiny` shows in about a minute that everything runs, and writes gpu_tiny.json.
`table(path)` gives the rows as a DataFrame.
"""

import argparse
import gc
import platform
import statistics as st
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel

import peer_networks as networks
from radgen.core.files import read_json, write_json
from radgen.core.precision import autocast, choose_precision, speed_up
from radgen.diffusion.guidance import guided
from radgen.diffusion.process import diffusion_loss, make_schedule, move_schedule, q_sample
from radgen.networks.registry import make_denoiser
from radgen.text.embedding import TextEmbedding
from radgen.training.memory import peak_memory

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = {64: 64, 128: 32, 256: 12}  # pixels per side -> batch
TINY = {16: 2, 32: 2}
TOKENS, WIDTH, STEPS = 64, 768, 25  # of the texts, and of sampling
CELL = ("part", "network", "px", "patch", "precision", "compiled")  # what makes a row
ROUND_SECONDS, ROUNDS = 0.3, 5


class Contender:
    "A network with an optimiser and an EMA, in its own loop."

    def __init__(self, name, model, px, patch, batch, a):
        self.name, self.px, self.patch, self.batch, self.a = name, px, patch, batch, a
        self.model = model.to(a.device, memory_format=torch.channels_last)
        self.forward = torch.compile(self.model, dynamic=False) if a.compiled else self.model
        fused = a.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=fused)
        self.average = EMAModel(self.model.parameters(), foreach=True)
        self.schedule = move_schedule(make_schedule(), a.device)
        self.make_inputs()

    def make_inputs(self):
        "Images, time steps and texts of a batch."
        a, n = self.a, self.batch
        self.x = torch.randn(n, 1, self.px, self.px, device=a.device)
        self.t = torch.randint(0, 1000, (n,), device=a.device)
        mask = torch.ones(n, TOKENS, dtype=torch.bool, device=a.device)
        tokens, pooled = (torch.randn(n, *shape, device=a.device) for shape in ((TOKENS, WIDTH), (WIDTH,)))
        self.text = TextEmbedding(tokens, mask, pooled)

    def train(self):
        "One training step."
        self.model.train()
        with autocast(self.a.device, self.a.precision):
            loss = self.loss(torch.randn_like(self.x))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.step(self.model.parameters())

    def sample(self):
        "One guided step of sampling."
        self.model.eval()
        with torch.inference_mode(), autocast(self.a.device, self.a.precision):
            self.guided()


class Ours(Contender):
    "A denoiser of radgen."

    def loss(self, noise):
        drop = torch.rand(self.batch, device=self.a.device) < 0.1
        text = self.model.drop_text(self.text, drop)
        return diffusion_loss(self.forward, self.schedule, self.x, text, self.t, noise, 5.0)

    def guided(self):
        return guided(self.forward, self.x, self.t, self.text, 2.0)


class Theirs(Contender):
    "A network of another library."

    def __init__(self, *args):
        super().__init__(*args)
        diffusers = self.name == "diffusers"
        self.call = partial(networks.cross_attention_call, masked=False) if diffusers else networks.class_call
        self.call_guided = (
            partial(networks.cross_attention_guided, masked=False) if diffusers else networks.class_guided
        )

    def loss(self, noise):
        x_t = q_sample(self.schedule, self.x, self.t, noise)
        return F.mse_loss(self.call(self.forward, x_t, self.t, self.text).float(), noise)

    def guided(self):
        model = self.forward if self.name == "diffusers" else self.model  # whose method is not compiled
        return self.call_guided(model, self.x, self.t, self.text)


def make_ours(preset, px, patch, tiny):
    "A function that makes a network of radgen."
    return lambda: make_denoiser("UNet", preset, "tiny" if tiny else "paper", px, patch=patch, text_dim=WIDTH)


def makers(px, tiny):
    "Network, patch and class of a contender -> a function that makes it, in order of importance."
    found = {}
    for preset, patches in (("radgen", (1, 2, 4)), ("paper", (1,))):
        for patch in patches:
            found[preset, patch, Ours] = make_ours(preset, px, patch, tiny)
    with torch.device("meta"):
        target = networks.parameters(found["radgen", 1, Ours]())
    if tiny:  # no width of theirs is so small
        found["diffusers", 1, Theirs] = lambda: networks.diffusers_unet(px, WIDTH, (8, 16, 16))
        found["denoising-diffusion-pytorch", 1, Theirs] = lambda: networks.ddp_unet(4, WIDTH, (1, 2))
    else:
        found["diffusers", 1, Theirs] = lambda: networks.fitted_diffusers(target, px, WIDTH)
        found["denoising-diffusion-pytorch", 1, Theirs] = lambda: networks.fitted_ddp(target, WIDTH)
    return found


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(step, device, times):
    "Seconds of one of `times` steps."
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        step()
    synchronize(device)
    return (time.perf_counter() - began) / times


def peak_of(make, device):
    "What a function returns, and the GiB that the GPU had in use at most beyond what was in use before."
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, (torch.cuda.max_memory_allocated(device) - before) / 2**30


def begin(key, make, px, batch, a):
    "A contender that has taken three training steps, its batch halved until it fits, and its peak memory."
    name, patch, kind = key

    def first_steps():
        contender = kind(name, make(), px, patch, batch, a)
        for _ in range(3):
            contender.train()
        return contender

    while True:
        try:
            return peak_of(first_steps, a.device)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        gc.collect()
        torch.cuda.empty_cache()


def begin_all(px, batch, a):
    "The contenders of a group that work, with their peak memory; a failure is said."
    found = []
    for key, make in makers(px, a.tiny).items():
        if a.left() < (60 if a.compiled else 10) and not a.tiny:
            break
        try:
            found.append(begin(key, make, px, batch, a))
        except Exception as e:  # a compiler that is missing, a GPU that is too small
            print(f"left out: {key[0]}, patch {key[1]}: {type(e).__name__}: {str(e).splitlines()[0][:200]}", flush=True)
    return found


def measure_part(part, contenders, a):
    "Seconds per step of each contender, in turn."
    steps = {c: getattr(c, part) for c in contenders}
    times, seconds = {}, {c: [] for c in contenders}
    for c, step in steps.items():
        step()  # compiles, and chooses kernels
        once = timed(step, a.device, 2)
        times[c] = 1 if a.tiny else max(1, min(50, round(ROUND_SECONDS / once)))
    for _ in range(2 if a.tiny else ROUNDS):
        for c, step in steps.items():
            seconds[c].append(timed(step, a.device, times[c]))
    return seconds


def row_of(part, c, seconds, peak, a):
    "One row."
    each = st.median(seconds) * (STEPS if part == "sample" else 1)
    return dict(
        device=a.name,
        part=part,
        network=c.name,
        px=c.px,
        patch=c.patch,
        precision=a.precision,
        compiled=a.compiled,
        batch=c.batch,
        parameters_M=round(networks.parameters(c.model) / 1e6, 3),
        images_per_s=round(c.batch / each, 3),
        ms_per_image=round(1000 * each / c.batch, 4),
        spread=round((max(seconds) - min(seconds)) / st.median(seconds), 3),
        peak_GiB=None if peak is None or part == "sample" else round(peak, 3),
        predicted_GiB=None,
        tiny=a.tiny,
    )


def measure_group(px, batch, a):
    "All rows of an image size, a precision, compiled or not."
    begun = begin_all(px, batch, a)
    peaks = {c: peak for c, peak in begun}
    rows = []
    for part in ("train", "sample"):
        try:
            seconds = measure_part(part, list(peaks), a)
        except Exception as e:
            print(f"left out: {part} at {px} px: {type(e).__name__}: {str(e).splitlines()[0][:200]}", flush=True)
            continue
        rows += [row_of(part, c, s, peaks[c], a) for c, s in seconds.items()]
    for row in rows:
        print_row(row)
    return rows


def print_row(r):
    "One line."
    what = f"{r['part']:6} {r['px']:4} px {r['precision']:5} {'compiled' if r['compiled'] else '':8}"
    peak = "" if r["peak_GiB"] is None else f"  peak {r['peak_GiB']:.2f} GiB"
    name = f"{r['network']}, patch {r['patch']}"
    size = f"{r['parameters_M']:7.2f}M batch {r['batch']:3}"
    print(f"{what} {name:38} {size} {r['images_per_s']:10.2f} images per s{peak}", flush=True)


def groups(a):
    "Image size, batch, precision and compiled, the most important first."
    first, *others = (TINY if a.tiny else SIZES).items()
    half = choose_precision("auto", a.device) if a.device.type == "cuda" else "bf16"
    found = [(*size, half, False) for size in (first, *others)]
    found.append((*first, half, True))
    found += [(*size, "no", False) for size in (first, *others)]
    if not a.tiny:
        found += [(*size, half, True) for size in others]
        found.append((*first, "no", True))
    return list(dict.fromkeys(found))  # a GPU without fast 16 bits computes in float32 alone


def cell_of(row):
    "What identifies a row."
    return (row["device"], *(row[name] for name in CELL))


def merged(old, new):
    "Rows of which those measured again are replaced."
    return list({cell_of(row): row for row in [*old, *new]}.values())


def predict(rows, path, results):
    "Add the predicted peak memory to rows of training that lack it."
    known = {}
    for row in rows:
        ours = row["network"] in ("radgen", "paper")
        if not ours or row["part"] != "train" or row["predicted_GiB"] is not None:
            continue
        key = (row["network"], row["px"], row["patch"], row["tiny"], row["batch"], row["precision"])
        if key not in known:
            precision = "no" if row["precision"] == "no" else "bf16"  # fp16 needs as much
            known[key] = peak_memory(make_ours(*key[:4]), row["batch"], precision, length=TOKENS)["all"]
        row["predicted_GiB"] = round(known[key], 4)
        if len(known) % 3 == 0:
            write_json(path, results)
    write_json(path, results)


def about(device):
    "The device and the versions."
    names = ("torch", "diffusers", "denoising-diffusion-pytorch", "radgen")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None
    versions = {name: version(name) for name in names}
    return dict(name=gpu, memory_GiB=memory, cuda=torch.version.cuda, python=platform.python_version(), **versions)


def table(path=RESULTS / "gpu.json"):
    "Rows of the results as a DataFrame: images per second, peak and predicted memory per network, size and precision."
    return pd.DataFrame(read_json(path)["rows"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--device", default="cuda")
    p.add_argument("--tiny", action="store_true", help="tiny networks and images, to see that everything runs")
    p.add_argument("--predict", action="store_true", help="only add predicted memory to the results")
    p.add_argument("--out", type=Path)
    a = p.parse_args()
    path = a.out or RESULTS / ("gpu_tiny.json" if a.tiny else "gpu.json")
    results = read_json(path) if path.exists() else {"devices": {}, "rows": []}
    if a.predict:
        return predict(results["rows"], path, results)
    a.device = torch.device(a.device)
    if a.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU is available here: run with --device cpu --tiny to see that the script works.")
    torch.manual_seed(0)
    speed_up(a.device)
    end = time.monotonic() + 60 * a.minutes
    a.left = lambda: end - time.monotonic()
    device = about(a.device)
    a.name = device["name"]
    results["devices"][a.name] = device
    for px, batch, a.precision, a.compiled in groups(a):
        if a.left() < (90 if a.compiled else 20) and not a.tiny:
            print(f"out of time: {px} px, {a.precision}{', compiled' if a.compiled else ''} is left out", flush=True)
            continue
        results["rows"] = merged(results["rows"], measure_group(px, batch, a))
        write_json(path, results)
        gc.collect()
        torch.compiler.reset()
        if a.device.type == "cuda":
            torch.cuda.empty_cache()
    if a.tiny or a.left() > 60:
        predict(results["rows"], path, results)
    print(f"{path} holds {len(results['rows'])} rows; --predict adds predicted memory where it is missing.")


if __name__ == "__main__":
    main()
