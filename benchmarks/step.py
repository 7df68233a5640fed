"""How fast a training step and a guided sampling step are: `python benchmarks/step.py [--rounds 3] [--threads 2]
[--part train|sample|patch|optimizer]`, all parts by default.

train and sample: all contenders take turns in this one process, at 64 px and batch 12, texts of 64 tokens by an encoder
of RadBERT's architecture and size (random weights, which cost the same). Next to each are its parameters, its time per
image, how many times as long as ours that is, and its achieved FLOP/s as a share of what a plain matrix product reaches
here, measured in the same run. The networks of other libraries have parameters within 10 % of ours and attention where
ours has it: diffusers at 32 px and below; denoising-diffusion-pytorch has full attention at 8 px (its linear attention
at every size cannot be switched off), and is compared with ours with attention at 8 px. Training means the whole step:
text, loss, gradients, clipping, AdamW, EMA of the weights. Sampling means one guided evaluation, with and without text.
patch: our networks at 64 px with patches of 2 against the same at 32 px, in training and in sampling. optimizer: a
training step with Muon against one with AdamW. The last two parts are in bfloat16 where the CPU has it, else in
float32, and then the others leave bfloat16 out. The parts that were run are written to benchmarks/results/step.json.
"""

import argparse
import copy
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel
from diffusers.training_utils import EMAModel

import peer_networks as networks
from naive import NaiveEMA, NaiveUNet, encode_in_the_loop
from scoring import has_bfloat16
from radgen.core.files import read_json, write_json
from radgen.diffusion.guidance import guided
from radgen.diffusion.process import make_schedule, q_sample
from radgen.text.embedding import TextEmbedding
from radgen.text.store_writer import build_store
from radgen.training.config import TrainConfig
from radgen.training.run import resolve, schedule_of
from radgen.training.batches import step_noise
from radgen.training.minimal import step_loss
from radgen.networks.registry import make_denoiser
from radgen.training.optimizers import make_optimizer

RESULTS = Path(__file__).resolve().parent / "results" / "step.json"
B, PX, L, D = 12, 64, 64, 768
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32} if has_bfloat16() else {"f32": torch.float32}
FAST = next(iter(DTYPES))
PARTS = ("train", "sample", "patch", "optimizer")


def roberta(folder):
    "A text encoder of RadBERT's size with random weights, and a tokenizer of our own, saved as the hub keeps them."
    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(100))])}
    tok = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=L,
    ).save_pretrained(folder)
    RobertaModel(
        RobertaConfig(max_position_embeddings=514, type_vocab_size=1), add_pooling_layer=False
    ).save_pretrained(folder)
    return RobertaModel.from_pretrained(folder, add_pooling_layer=False), PreTrainedTokenizerFast.from_pretrained(
        folder
    )


class Ours:
    "The training step of chapter 660 on stored texts, and a guided evaluation."

    def __init__(self, preset, dtype, store, rows, size="paper", px=PX, optimizer="adamw", **options):
        self.dtype, self.store, self.rows, self.px = dtype, store, rows, px
        model = make_denoiser("UNet", preset, size, px, text_dim=D, **options)
        self.model = model.to(memory_format=torch.channels_last)
        given = dict(recipe=preset, size=size, image_size=px, optimizer=optimizer, patch=options.get("patch", 1))
        self.cfg = resolve(TrainConfig("data", **given))
        self.schedule = schedule_of(self.cfg)
        self.opt = make_optimizer(self.model, optimizer, self.cfg.lr)
        self.ema = EMAModel(self.model.parameters(), foreach=True)

    def train(self, x0):
        noise, text = step_noise(self.cfg, 0, B), self.store.get(self.rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            loss = step_loss(self.model, self.model, self.schedule, x0, text, noise, self.cfg)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.opt.zero_grad()
        self.ema.step(self.model.parameters())

    def sample(self, x_t, t, text):
        return guided(self.model, x_t, t, text, 2.0)

    def forward(self, x_t, t, text):
        return self.model(x_t, t, text)


class Naive:
    "The first implementation's loop: texts encoded on the way, everything f32. It did not guide its samples."

    dtype, px = "f32", PX

    def __init__(self, encoder, tokenizer, texts):
        self.model, self.encoder, self.batch = (
            NaiveUNet(D),
            encoder.train(),
            tokenizer(texts, return_tensors="pt", padding=True),
        )
        self.opt, self.ema, self.schedule = (
            torch.optim.AdamW(self.model.parameters(), 3e-4),
            NaiveEMA(self.model),
            make_schedule(),
        )

    def train(self, x0):
        tokens, pooled = encode_in_the_loop(self.encoder, self.batch["input_ids"], self.batch["attention_mask"])
        t, noise = torch.randint(0, 1000, (B,)), torch.randn_like(x0)
        F.mse_loss(self.model(q_sample(self.schedule, x0, t, noise), t, tokens, pooled), noise).backward()
        self.opt.step()
        self.opt.zero_grad()
        self.ema.step(self.model)

    def forward(self, x_t, t, text):
        return self.model(x_t, t, text.tokens, text.pooled)


class Peer:
    "Another library's network in our loop, and which of ours has attention where it has."

    px = PX

    def __init__(self, model, dtype, call, guide, ours):
        self.ours, self.model, self.dtype, self.call, self.guide = (
            ours,
            model.to(memory_format=torch.channels_last),
            dtype,
            call,
            guide,
        )
        self.schedule, self.opt, self.ema = (
            make_schedule(),
            torch.optim.AdamW(model.parameters(), 1e-4),
            EMAModel(model.parameters(), foreach=True),
        )

    def train(self, x0):
        t, noise = torch.randint(0, 1000, (B,)), torch.randn_like(x0)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            loss = F.mse_loss(self.call(self.model, q_sample(self.schedule, x0, t, noise), t, TEXT).float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.opt.zero_grad()
        self.ema.step(self.model.parameters())

    def sample(self, x_t, t, text):
        return self.guide(self.model, x_t, t, text)

    def forward(self, x_t, t, text):
        return self.call(self.model, x_t, t, text)


TEXT = TextEmbedding(torch.randn(B, L, D), torch.ones(B, L).bool(), torch.randn(B, D))


DIFFUSERS = (
    partial(networks.cross_attention_call, masked=False),
    partial(networks.cross_attention_guided, masked=False),
)
DDP = (networks.class_call, networks.class_guided)


def stored_texts(folder):
    "An encoder, its tokenizer, texts and their store."
    encoder, tokenizer = roberta(folder)
    texts = [" ".join(f"w{(7 * i + j) % 100}" for j in range(L)) for i in range(B)]
    store = build_store(texts, Path(folder) / "store", str(folder), L)
    return encoder, tokenizer, texts, store, store.rows(texts)


def contenders(encoder, tokenizer, texts, store, rows):
    "Name -> object, in the order of the table."
    out = {"naive loop, f32": Naive(encoder, tokenizer, texts)}
    for dtype in DTYPES:
        for preset in ("paper", "radgen"):
            out[f"ours, {preset}, {dtype}"] = Ours(preset, dtype, store, rows)
        for layers, widths in ((1, (48, 96, 192, 192)), (2, (64, 96, 128, 160))):
            out[f"diffusers, {layers} layer{'s' * (layers > 1)} a block, {dtype}"] = Peer(
                networks.diffusers_unet(PX, D, widths, layers), dtype, *DIFFUSERS, "radgen"
            )
        out[f"ours, radgen at 8 px, {dtype}"] = Ours("radgen", dtype, store, rows, attention_max=8)
        ddp = networks.ddp_unet(48, D, (1, 2, 4, 6))
        out[f"denoising-diffusion-pytorch, {dtype}"] = Peer(ddp, dtype, *DDP, "radgen at 8 px")
    return out


def patch_contenders(store, rows):
    "Our networks at 32 px, and at 64 px with patches of 2."
    out = {}
    for size in ("small", "paper"):
        out[f"{size} network, 32 px"] = Ours("radgen", FAST, store, rows, size, 32, patch=1)
        out[f"{size} network, 64 px, patches of 2"] = Ours("radgen", FAST, store, rows, size, 64, patch=2)
    return out


def optimizer_contenders(store, rows):
    "The demonstration's network and the paper's size with both optimisers."
    out = {}
    for size in ("small", "paper"):
        for name, optimizer in (("AdamW", "adamw"), ("Muon", "muon")):
            label = f"{size} network, 64 px, patches of 2, {name}"
            out[label] = Ours("radgen", FAST, store, rows, size, 64, optimizer, patch=2)
    return out


def matmul_peak(dtype, n=2048):
    "FLOP/s of a plain matrix product, the best of five."
    a, b, best = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype), 0
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def flops(c):
    "FLOPs of one evaluation of the batch, counted on tensors without data."
    meta = copy.deepcopy(c.model).to("meta")
    text = TextEmbedding(*(x.to("meta") for x in TEXT))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as f:
        x, t = torch.randn(B, 1, c.px, c.px), torch.randint(0, 1000, (B,))
        type(c).forward(type("Meta", (), {"model": meta, "call": staticmethod(getattr(c, "call", None))})(), x, t, text)
    return f.get_total_flops()


def encoder_flops(encoder):
    "FLOPs of one caption."
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as f:
        copy.deepcopy(encoder).to("meta")(torch.zeros(1, L, dtype=torch.long))
    return f.get_total_flops()


def size(c):
    return sum(p.numel() for p in c.model.parameters())


def measure(part, all_, rounds):
    "Seconds of each contender, in turn, and the most that the machine's matrix product reached between them."
    images = {c.px: torch.randn(B, 1, c.px, c.px) for c in all_.values()}
    t = torch.randint(0, 1000, (B,))
    seconds, peak = {n: [] for n in all_}, dict.fromkeys(DTYPES, 0.0)
    for r in range(rounds + 1):  # the first round warms up
        peak = {d: max(p, matmul_peak(DTYPES[d])) for d, p in peak.items()}
        for n, c in all_.items():
            if part == "sample":
                if not hasattr(c, "sample"):
                    continue
                c.model.eval()
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=c.dtype == "bf16"):
                    began = time.perf_counter()
                    c.sample(images[c.px], t, TEXT)
            else:
                c.model.train()
                began = time.perf_counter()
                c.train(images[c.px])
            if r:
                seconds[n].append(time.perf_counter() - began)
            print(f"{part} round {r}: {n:40} {time.perf_counter() - began:6.2f} s", flush=True)
    return {n: s for n, s in seconds.items() if s}, peak


def table(part, seconds, all_, peak):
    "One row a contender; ratios are medians over rounds of the ratio within a round."
    rows = []
    for n, s in seconds.items():
        c, work = (
            all_[n],
            flops(all_[n]) * (3 if part == "train" else 2),
        )  # backward twice a forward; guidance is two forwards
        if isinstance(c, Naive):
            work += 2 * B * encoder_flops(c.encoder)
        if isinstance(c, Peer):
            assert abs(size(c) / size(all_[f"ours, {c.ours}, {c.dtype}"]) - 1) < 0.1, n
        row = dict(
            contender=n,
            parameters_M=round(size(c) / 1e6, 2),
            ms_an_image=round(1000 * statistics.median(s) / B, 1),
            gflop_an_image=round(work / B / 1e9, 1),
            share_of_matmul=round(work / statistics.median(s) / peak[c.dtype], 3),
        )
        for ours in ("paper", "radgen", "radgen at 8 px"):
            against = seconds[
                f"ours, {ours}, {c.dtype if isinstance(c, Peer) else FAST}"
            ]  # peers against ours in the same precision, the naive loop against what we run
            row[f"times {ours}"] = round(statistics.median(a / b for a, b in zip(s, against)), 2)
        rows.append(row)
    wanted = [
        (f"{r['contender']}: {c.ours} is {r['times ' + c.ours]} times as fast, wanted 1.6", r["times " + c.ours] >= 1.6)
        for r in rows
        if isinstance(c := all_[r["contender"]], Peer)
    ]
    if part == "train":
        wanted += [
            (
                f"naive loop in f32: {p} in {FAST} is {rows[0]['times ' + p]} times as fast, wanted {w}",
                rows[0][f"times {p}"] >= w,
            )
            for p, w in (("paper", 4), ("radgen", 20), ("radgen at 8 px", 20))
        ]
    return rows, [dict(claim=c, met=bool(m)) for c, m in wanted]


def print_table(part, rows, peak, threads):
    "Print what was measured, one line per contender."
    width = max(len(r["contender"]) for r in rows)
    reached = ", ".join(f"{flops / 1e9:.0f} in {dtype}" for dtype, flops in peak.items())
    print(f"\n{part}, {PX} px, batch {B}, {threads} threads; matrix product at {reached} GFLOP/s")
    print(f"{'':{width}}  params  ms/image  GFLOP/image  of matmul  times: paper  radgen  radgen at 8 px")
    for r in rows:
        cost = f"{r['parameters_M']:5.2f}M  {r['ms_an_image']:8.1f}  {r['gflop_an_image']:11.1f}"
        times = f"{r['times paper']:12.2f}  {r['times radgen']:6.2f}  {r['times radgen at 8 px']:14.2f}"
        print(f"{r['contender']:{width}}  {cost}  {r['share_of_matmul']:9.1%}  {times}")


def compare(parts, pairs, all_, rounds, wanted):
    """Ratios of the time of two contenders, pair by pair: medians over rounds of the ratio within a round. `wanted` is
    the largest ratio, or None where it is only reported."""
    rows, claims = [], []
    for part in parts:
        seconds, _ = measure(part, all_, rounds)
        for one, other in pairs:
            ratio = statistics.median(a / b for a, b in zip(seconds[one], seconds[other]))
            ms = {name: round(1000 * statistics.median(seconds[name]) / B, 2) for name in (one, other)}
            rows.append(
                dict(
                    part=part,
                    contender=one,
                    against=other,
                    parameters_M=round(size(all_[one]) / 1e6, 2),
                    ms_an_image=ms[one],
                    ms_an_image_against=ms[other],
                    ratio=round(ratio, 3),
                )
            )
            if wanted:
                claim = f"{part}: {one} takes {ratio:.2f} times as long as {other}, wanted at most {wanted}"
                claims.append(dict(claim=claim, met=bool(ratio <= wanted)))
    for r in rows:
        print(
            f"{r['part']:6} {r['contender']:46} {r['ms_an_image']:7.2f} ms/image, {r['ratio']:.2f} times {r['against']}"
        )
    return rows, claims


def part_of(part, texts, rounds, threads):
    "Measure a part: its rows, its claims, and what else is known."
    if part in ("patch", "optimizer"):
        all_ = (patch_contenders if part == "patch" else optimizer_contenders)(*texts[3:])
        names = list(all_)
        pairs = [(names[1], names[0]), (names[3], names[2])]
        parts, wanted = (("train", "sample"), 1.3) if part == "patch" else (("train",), None)
        rows, claims = compare(parts, pairs, all_, rounds, wanted)
        return dict(rows=rows, claims=claims)
    all_ = contenders(*texts)
    seconds, peak = measure(part, all_, rounds)
    rows, claims = table(part, seconds, all_, peak)
    print_table(part, rows, peak, threads)
    return dict(rows=rows, claims=claims, matmul_gflops={k: round(v / 1e9) for k, v in peak.items()})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--part", action="append", choices=PARTS)
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    results = read_json(a.out) if a.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        texts = stored_texts(folder)
        for part in a.part or PARTS:
            found = part_of(part, texts, a.rounds, a.threads)
            for c in found["claims"]:
                print(("met    " if c["met"] else "missed ") + c["claim"])
            results[part] = dict(**found, threads=a.threads, rounds=a.rounds)
            write_json(a.out, results)


if __name__ == "__main__":
    main()
