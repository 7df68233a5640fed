"""Peak memory of whole training steps, predicted without a GPU:
`python benchmarks/memory.py [--part table] [--part calibration]`, both parts by default.

table: batch 12, texts of 64 tokens, 64, 128 and 256 px, by chapter 670 on fake tensors (no data, no device).
calibration: the same prediction in 32 bits for three steps that are then really taken on this machine, each in a
process of its own, next to the largest growth of its resident memory.
The parts that were run are written to benchmarks/results/memory.json.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from naive import NaiveUNet
from diffusers.training_utils import EMAModel
from radgen.core.files import read_json, write_json
from radgen.networks.cost import example_inputs
from radgen.training.memory import peak_memory, step_peak
from radgen.diffusion.process import diffusion_loss, make_schedule, q_sample
from radgen.networks.unet import UNet, unet_options
from radgen.networks.vgg_unet import VGG16UNet, vgg_unet_options

RESULTS = Path(__file__).resolve().parent / "results" / "memory.json"
MODELS = {
    "UNet, radgen": lambda px: UNet(**unet_options("radgen", "paper", px)),
    "UNet, paper": lambda px: UNet(**unet_options("paper", "paper", px)),
    "VGG16UNet, radgen": lambda px: VGG16UNet(**vgg_unet_options("radgen", "paper", px)),
    "VGG16UNet, paper": lambda px: VGG16UNet(**vgg_unet_options("paper", "paper", px)),
}


def naive_memory(px, batch=12):
    "The paper's network with attention that forms its weights, in 32 bits, its text encoded elsewhere."
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, schedule = NaiveUNet(), make_schedule()
        x, t, tokens, pooled = (
            torch.randn(batch, 1, px, px),
            torch.zeros(batch, dtype=torch.long),
            torch.randn(batch, 64, 768),
            torch.randn(batch, 768),
        )
        noise = torch.randn_like(x)
        return step_peak(
            model,
            lambda: nn.functional.mse_loss(model(q_sample(schedule, x, t, noise), t, tokens, pooled), noise),
            "no",
        )


def predictions():
    "Rows of the table, in GiB."
    rows = []

    def add(**row):
        rows.append(row)
        how = f"{row['px']:4} px  {row['precision']:5} {'checkpointing' if row['checkpointing'] else '':14}"
        fixed = f"parameters and average {2 * row['parameters']:5.2f}  moments {row['moments']:5.2f}"
        total = f"rest {row['rest']:7.2f}  all {row['all']:7.2f} GiB"
        print(f"{row['model']:44} {how} {fixed}  {total}", flush=True)

    for px in (64, 128, 256):
        for name, make in MODELS.items():
            for precision, checkpointing in (("bf16", False), ("bf16", True), ("no", False)):
                add(
                    model=name,
                    px=px,
                    precision=precision,
                    checkpointing=checkpointing,
                    **peak_memory(lambda: make(px), 12, precision, checkpointing),
                )
        add(
            model="the paper's network with its own attention",
            px=px,
            precision="no",
            checkpointing=False,
            **naive_memory(px),
        )
    return rows


MARGIN = 1.3  # between what is predicted and what a step really takes
CASES = {"UNet, radgen": 128, "UNet, paper": 64, "VGG16UNet, radgen": 64}


def really(name):
    "Take two steps for real and print how far resident memory grew, in GiB."
    torch.set_num_threads(2)
    schedule, example = make_schedule(), torch.randn(64, 64)
    example @ example  # libraries are loaded

    def resident(field):
        return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

    before = resident("VmRSS")
    model = MODELS[name](CASES[name])
    x, t, text = example_inputs(model, 12)
    opt, ema = torch.optim.AdamW(model.parameters()), EMAModel(model.parameters(), foreach=True)
    for _ in range(2):
        diffusion_loss(model, schedule, x, text, t, torch.randn_like(x)).backward()
        opt.step()
        opt.zero_grad()
        ema.step(model.parameters())
    print(resident("VmHWM") - before)


def calibration():
    "Predicted and measured peaks side by side."
    rows = []
    for name, px in CASES.items():
        predicted = peak_memory(lambda: MODELS[name](px), 12, "no")["all"]
        command = [sys.executable, __file__, "--really", name]
        measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        factor = measured / predicted
        rows.append(dict(model=name, px=px, predicted=predicted, measured=measured, factor=factor))
        sizes = f"predicted {predicted:.2f}, measured {measured:.2f} GiB"
        print(f"{name:20} {px:4} px, 32 bits: {sizes}, {factor:.2f} times as much", flush=True)
    met = "met" if max(row["factor"] for row in rows) <= MARGIN else "missed"
    print(f"{met}: measured peaks at most {MARGIN} times the predicted ones")
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--part", action="append", choices=["table", "calibration"])
    p.add_argument("--really", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.really:
        return really(a.really)
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for part in a.part or ("calibration", "table"):
        results[part] = {"table": predictions, "calibration": calibration}[part]()
        write_json(RESULTS, results)
    if "table" in (a.part or ("table",)):
        wanted = ("UNet, radgen", 256, "bf16", False)
        table = {(r["model"], r["px"], r["precision"], r["checkpointing"]): r for r in results["table"]}
        predicted = table[wanted]["all"]
        met = "met" if MARGIN * predicted < 24 else "missed"
        with_margin = f"{predicted:.2f} GiB predicted, {MARGIN * predicted:.2f} with the margin"
        print(f"{met}: radgen at 256 px, batch 12, bf16 under 24 GB: {with_margin}")


if __name__ == "__main__":
    main()
