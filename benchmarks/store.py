"""What a store of the paper's size takes and saves: `python benchmarks/store.py [--texts 60000]`; needs no network.

It takes 6 GB under work/, which are removed afterwards. Synthetic vectors of 64 tokens by 768, in bf16, go through the
real writer; then batches of 12 are read at random, once from the disk and once more from the system's file cache, and
compared with an encoder of RadBERT's size (random weights) that encodes 12 captions of 64 tokens. One thread. Private
memory is what the process alone needs; mapped pages of the store come on top and go when the system wants the room.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from radgen.core.files import write_json
from radgen.text.embedding import TextEmbedding
from radgen.text.store import EmbeddingStore, store_bytes
from radgen.text.store_writer import fill_store

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "store.json"
TOKENS, WIDTH, BATCH = 64, 768, 12
KEY = dict(
    encoder="synthetic", source="synthetic", revision="1", pooling="mean", max_length=TOKENS, dtype="bf16", layout=1
)


def private():
    "Memory that is this process's alone, in MiB."
    memory = psutil.Process().memory_info()
    return (memory.rss - getattr(memory, "shared", 0)) / 2**20


class Synthetic:
    "Gives each text, a number, random vectors that begin with that number, and notes the memory in use."

    width, max_length = WIDTH, TOKENS

    def __init__(self):
        self.base, self.peak = torch.randn(64, TOKENS, WIDTH), 0.0

    def lengths(self, texts):
        return [TOKENS] * len(texts)

    def __call__(self, texts):
        tokens = self.base[: len(texts)].clone()
        tokens[:, 0, 0] = torch.tensor([int(t) % 256 for t in texts]).float()
        self.peak = max(self.peak, private())
        return TextEmbedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))


def build(path, n):
    "Writes the store; returns its texts and what it took."
    texts, encoder = [str(i) for i in range(n)], Synthetic()
    before, began = private(), time.perf_counter()
    fill_store(path, KEY, texts, lambda: encoder)
    seconds, files = time.perf_counter() - began, list(path.glob("part-*/*"))
    size, formula = (
        sum(f.stat().st_size for f in files),
        store_bytes(n, n * TOKENS, WIDTH, "bf16", len({f.parent for f in files})),
    )
    return texts, [
        dict(
            way="on disk",
            texts=n,
            GB=round(size / 1e9, 3),
            formula_GB=round(formula / 1e9, 3),
            float32_GB=round(store_bytes(n, n * TOKENS, WIDTH, "f32", len({f.parent for f in files})) / 1e9, 3),
            met=size == formula,
        ),
        dict(
            way="building: private memory above the start",
            MiB=round(encoder.peak - before),
            share_of_store=round((encoder.peak - before) * 2**20 / size, 4),
            seconds=round(seconds),
        ),
    ]


def read(path, texts, batches=200):
    "Reads random batches; median seconds from the disk and from the file cache, and the memory's growth."
    for f in path.glob("part-*/*"):
        with open(f, "rb") as h:
            if hasattr(os, "posix_fadvise"):  # elsewhere the first reading comes from the file cache, too
                os.posix_fadvise(h.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    store = EmbeddingStore(path, KEY)
    opened, rng = time.perf_counter() - began, np.random.default_rng(0)
    wanted = [rng.choice(len(texts), BATCH, replace=False) for _ in range(batches)]
    before, peak, medians = private(), 0.0, []
    for _ in ("disk", "cache"):
        seconds = []
        for ids in wanted:
            rows = store.rows([texts[i] for i in ids])
            began = time.perf_counter()
            e = store.get(rows, length=TOKENS)
            seconds.append(time.perf_counter() - began)
            assert e.tokens[:, 0, 0].tolist() == [i % 256 for i in ids], "a row holds another text's vectors"
            peak = max(peak, private())
        medians.append(statistics.median(seconds))
    return opened, *medians, peak - before


def encode(batches=5):
    "Median seconds that an encoder of RadBERT's size takes for one batch."
    from transformers import RobertaConfig, RobertaModel

    model = RobertaModel(
        RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1), add_pooling_layer=False
    ).eval()
    ids, seconds = torch.randint(5, 50000, (BATCH, TOKENS)), []
    for _ in range(batches + 1):
        began = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=ids)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=60_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = ROOT / "work" / "store_benchmark" / "store"
    shutil.rmtree(path.parent, ignore_errors=True)
    try:
        texts, rows = build(path, args.texts)
        opened, disk, cache, grown = read(path, texts)
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
    alone = encode()
    rows += [
        dict(way=f"reading batches of {BATCH}: private memory above the start", MiB=round(grown)),
        dict(way="opening", ms=round(opened * 1000)),
        dict(
            way=f"a batch of {BATCH} from the disk", ms=round(disk * 1000, 2), ratio_to_encoding=round(disk / alone, 4)
        ),
        dict(
            way=f"a batch of {BATCH} from the file cache",
            ms=round(cache * 1000, 2),
            ratio_to_encoding=round(cache / alone, 4),
        ),
        dict(way=f"a batch of {BATCH} by an encoder of RadBERT's size", ms=round(alone * 1000)),
    ]
    for row in rows:
        print(
            f"  {row['way']:58}",
            "  ".join(f"{k} {v:,}" for k, v in row.items() if k not in ("way", "met")),
            {True: "met", False: "MISSED", None: ""}[row.get("met")],
        )
    write_json(RESULTS, {"store": rows})
