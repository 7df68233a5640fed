"""How fast a training step and a guided sampling step are:
`python benchmarks/step.py [--rounds 3] [--threads 2] [--part train] [--part sample]`, both parts by default.

All contenders take turns in this one process, at 64 px and batch 12, texts of 64 tokens by an encoder of RadBERT's
architecture and size (random weights, which cost the same). Next to each are its parameters, its time per image, how
many times as long as ours that is, and its achieved FLOP/s as a share of what a plain matrix product reaches here,
measured in the same run. Rivals have parameters within 10 % of ours and attention where ours has it: diffusers at
32 px and below; denoising-diffusion-pytorch has full attention at 8 px (its linear attention at every size cannot be
switched off), and is compared with ours with attention at 8 px. Training means the whole step: text, loss, gradients,
clipping, AdamW, average of the weights. Sampling means one guided evaluation, with and without text.
The parts that were run are written to benchmarks/results/step.json.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel

from naive import NaiveEMA, NaiveUNet, encode_in_the_loop
from radgen.core.files import read_json, write_json
from radgen.diffusion.guidance import guided
from radgen.diffusion.process import make_schedule, q_sample
from radgen.text.embedding import TextEmbedding
from radgen.text.store_writer import build_store
from radgen.training.config import TrainConfig
from radgen.training.run import resolve, schedule_of
from radgen.training.batches import step_noise
from radgen.training.minimal import step_loss
from radgen.networks.unet import UNet, unet_options

RESULTS = Path(__file__).resolve().parent / "results" / "step.json"
B, PX, L, D = 12, 64, 64, 768


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

    def __init__(self, preset, dtype, store, rows, **options):
        self.model = UNet(text_dim=D, **{**unet_options(preset, "paper", PX), **options}).to(
            memory_format=torch.channels_last
        )
        self.cfg, self.dtype, self.store, self.rows = (
            resolve(TrainConfig("data", recipe=preset, image_size=PX)),
            dtype,
            store,
            rows,
        )
        self.schedule, self.opt, self.ema = (
            schedule_of(self.cfg),
            torch.optim.AdamW(self.model.parameters(), 1e-4),
            EMAModel(self.model.parameters(), foreach=True),
        )

    def train(self, x0):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            loss = step_loss(
                self.model,
                self.model,
                self.schedule,
                x0,
                self.store.get(self.rows),
                step_noise(self.cfg, 0, B),
                self.cfg,
            )
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

    dtype = "f32"

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


class Rival:
    "Another library's network in our loop, and which of ours has attention where it has."

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


def diffusers_unet(layers, widths):
    "diffusers' text-conditioned UNet with attention at 32 px and below, one head per 64 channels."
    down = tuple("CrossAttnDownBlock2D" if PX >> i <= 32 else "DownBlock2D" for i in range(4))
    return UNet2DConditionModel(
        sample_size=PX,
        in_channels=1,
        out_channels=1,
        layers_per_block=layers,
        block_out_channels=widths,
        norm_num_groups=8,
        attention_head_dim=tuple(max(1, c // 64) for c in widths),
        cross_attention_dim=D,
        down_block_types=down,
        up_block_types=tuple(d.replace("Down", "Up") for d in reversed(down)),
    )


def diffusers_call(m, x, t, text):
    return m(x, t, encoder_hidden_states=text.tokens).sample


def diffusers_guided(m, x, t, text):
    cond, null = m(
        torch.cat([x, x]),
        torch.cat([t, t]),
        encoder_hidden_states=torch.cat([text.tokens, torch.zeros_like(text.tokens)]),
    ).sample.chunk(2)
    return null + 2 * (cond - null)


def ddp_unet():
    from denoising_diffusion_pytorch.classifier_free_guidance import Unet

    return Unet(48, num_classes=10, channels=1, dim_mults=(1, 2, 4, 6), attn_heads=4)


def ddp_call(m, x, t, text):
    return m(x, t, torch.zeros(len(x), dtype=torch.long))


def ddp_guided(m, x, t, text):
    return m.forward_with_cond_scale(x, t, torch.zeros(len(x), dtype=torch.long), cond_scale=2.0)[0]


def contenders(folder):
    "Name -> object, in the order of the table."
    encoder, tokenizer = roberta(folder)
    texts = [" ".join(f"w{(7 * i + j) % 100}" for j in range(L)) for i in range(B)]
    store = build_store(texts, Path(folder) / "store", str(folder), L)
    rows, out = store.rows(texts), {"naive loop, f32": Naive(encoder, tokenizer, texts)}
    for dtype in ("bf16", "f32"):
        for preset in ("paper", "radgen"):
            out[f"ours, {preset}, {dtype}"] = Ours(preset, dtype, store, rows)
        for layers, widths in ((1, (48, 96, 192, 192)), (2, (64, 96, 128, 160))):
            out[f"diffusers, {layers} layer{'s' * (layers > 1)} a block, {dtype}"] = Rival(
                diffusers_unet(layers, widths), dtype, diffusers_call, diffusers_guided, "radgen"
            )
        out[f"ours, radgen at 8 px, {dtype}"] = Ours("radgen", dtype, store, rows, attention_max=8)
        out[f"denoising-diffusion-pytorch, {dtype}"] = Rival(ddp_unet(), dtype, ddp_call, ddp_guided, "radgen at 8 px")
    return out


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


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
        x, t = torch.randn(B, 1, PX, PX), torch.randint(0, 1000, (B,))
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
    x0, x_t, t = torch.rand(B, 1, PX, PX) * 2 - 1, torch.randn(B, 1, PX, PX), torch.randint(0, 1000, (B,))
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
                    c.sample(x_t, t, TEXT)
            else:
                c.model.train()
                began = time.perf_counter()
                c.train(x0)
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
        if isinstance(c, Rival):
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
                f"ours, {ours}, {c.dtype if isinstance(c, Rival) else 'bf16'}"
            ]  # rivals against ours in the same precision, the naive loop against what we run
            row[f"times {ours}"] = round(statistics.median(a / b for a, b in zip(s, against)), 2)
        rows.append(row)
    wanted = [
        (f"{r['contender']}: {c.ours} is {r['times ' + c.ours]} times as fast, wanted 1.3", r["times " + c.ours] >= 1.3)
        for r in rows
        if isinstance(c := all_[r["contender"]], Rival)
    ]
    if part == "train":
        wanted += [
            (
                f"naive loop in f32: {p} in bf16 is {rows[0]['times ' + p]} times as fast, wanted {w}",
                rows[0][f"times {p}"] >= w,
            )
            for p, w in (("paper", 4), ("radgen", 10))
        ]
    return rows, [dict(claim=c, met=bool(m)) for c, m in wanted]


def print_table(part, rows, peak, threads):
    "Print what was measured, one line per contender."
    width = max(len(r["contender"]) for r in rows)
    f32, bf16 = peak["f32"] / 1e9, peak["bf16"] / 1e9
    print(
        f"\n{part}, {PX} px, batch {B}, {threads} threads; matrix product {f32:.0f} GFLOP/s in f32, {bf16:.0f} in bf16"
    )
    print(f"{'':{width}}  params  ms/image  GFLOP/image  of matmul  times: paper  radgen  radgen at 8 px")
    for r in rows:
        cost = f"{r['parameters_M']:5.2f}M  {r['ms_an_image']:8.1f}  {r['gflop_an_image']:11.1f}"
        times = f"{r['times paper']:12.2f}  {r['times radgen']:6.2f}  {r['times radgen at 8 px']:14.2f}"
        print(f"{r['contender']:{width}}  {cost}  {r['share_of_matmul']:9.1%}  {times}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--part", action="append", choices=["train", "sample"])
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    results = read_json(RESULTS) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        all_ = contenders(folder)
        for part in a.part or ("train", "sample"):
            seconds, peak = measure(part, all_, a.rounds)
            rows, claims = table(part, seconds, all_, peak)
            print_table(part, rows, peak, a.threads)
            for c in claims:
                print(("met    " if c["met"] else "missed ") + c["claim"])
            results[part] = dict(
                rows=rows,
                claims=claims,
                matmul_gflops={k: round(v / 1e9) for k, v in peak.items()},
                threads=a.threads,
                rounds=a.rounds,
            )
            write_json(RESULTS, results)


if __name__ == "__main__":
    main()
