"""How fast and in how much memory images are measured, near-duplicates found and concepts counted.

Run `python benchmarks/curation.py`. Ratios are of things run in turn in this process, on one core: of each batch of 64
files the best time of several rounds counts.
"""

import os

for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[v] = "1"
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import simplejpeg
from PIL import Image
from skimage.measure import shannon_entropy

from radgen.core.files import write_json
from radgen.data.cuis import choose_cuis, select_rows
from radgen.data.duplicates import close_pairs
from radgen.data.entropy import (
    SMALL,
    grey_histogram,
    histogram_brightness,
    histogram_entropy,
    measure_batch,
    measure_images,
    perceptual_hash,
    small_version,
)
from radgen.data.explore import count_cuis
from radgen.data.images import ImageError, load_grey
from radgen.data.phantoms import make_phantoms
from radgen.data.rows import IMAGE_BATCH
from radgen.data.rocov2 import read_rocov2

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def verdict(value, bound):
    "Whether a value is at most its bound."
    return "met" if value <= bound else "MISSED"


def read(path):
    with open(path, "rb") as f:
        return f.read()


def by_simplejpeg(files):
    for f in files:
        simplejpeg.decode_jpeg(read(f), colorspace="GRAY")


def by_pillow(files):
    for f in files:
        with Image.open(f) as im:
            im.draft("L", None)
            im.load()


def by_torchvision(files):
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    for f in files:
        decode_jpeg(torch.frombuffer(bytearray(read(f)), dtype=torch.uint8), ImageReadMode.GRAY)


def ours(files):
    n = np.stack([grey_histogram(load_grey(f)) for f in files])
    return histogram_entropy(n), histogram_brightness(n)


def ours_and_hash(files):
    n = np.zeros((len(files), 256), np.int64)
    small = np.zeros((len(files), SMALL, SMALL), np.uint8)
    for i, f in enumerate(files):
        a = load_grey(f)
        n[i], small[i] = grey_histogram(a), small_version(a)
    return histogram_entropy(n), histogram_brightness(n), perceptual_hash(small)


def _first_implementation(files):
    import cv2

    for f in files:
        n = cv2.calcHist([cv2.cvtColor(cv2.imread(f), cv2.COLOR_BGR2GRAY)], [0], None, [256], [0, 256]).ravel()
        p = n[n > 0] / n.sum()
        yield -(p * np.log2(p)).sum(), (n * np.arange(256)).sum() / n.sum()


def first_implementation(files):
    return list(_first_implementation(files))


def by_scikit_image(files):
    return [shannon_entropy(load_grey(f)) for f in files]


WAYS = {
    "bare decoding, simplejpeg": by_simplejpeg,
    "bare decoding, Pillow": by_pillow,
    "bare decoding, torchvision": by_torchvision,
    "decode, entropy, brightness": ours,
    "the same and the hash": ours_and_hash,
    "all measures (measure_batch)": measure_batch,
    "OpenCV, the first implementation's way": first_implementation,
    "scikit-image's entropy": by_scikit_image,
}


def times(files, rounds=5):
    "Seconds per image of each way, interleaved batch by batch."
    batches = [files[i : i + IMAGE_BATCH] for i in range(0, len(files), IMAGE_BATCH)]
    best = {w: np.full(len(batches), np.inf) for w in WAYS}
    for _ in range(rounds):
        for b, batch in enumerate(batches):
            by_simplejpeg(batch)  # so that the first way, too, finds the files in the processor's cache
            for w, f in WAYS.items():
                if w == "scikit-image's entropy" and b % 8:
                    continue  # slow, every eighth batch is enough
                began = time.perf_counter()
                f(batch)
                best[w][b] = min(best[w][b], time.perf_counter() - began)
    n = np.array([len(b) for b in batches])
    return {w: t[np.isfinite(t)].sum() / n[np.isfinite(t)].sum() for w, t in best.items()}


def readable(files):
    out = []
    for f in files:
        try:
            load_grey(f)
            simplejpeg.decode_jpeg(read(f), colorspace="GRAY")
        except (ImageError, ValueError):
            continue
        out.append(f)
    return out


def rates(name, files, out):
    process = psutil.Process()
    pinned = hasattr(process, "cpu_affinity")  # not on macOS
    cores = process.cpu_affinity() if pinned else []
    if pinned:
        process.cpu_affinity(cores[:1])
    t = times(files)
    if pinned:
        process.cpu_affinity(cores)
    decode = min(v for w, v in t.items() if w.startswith("bare"))
    one = t["decode, entropy, brightness"]
    print(f"\n{name}: {len(files):,} files, one core")
    for w, v in t.items():
        print(f"  {w:40} {1 / v:7,.0f} images/s")
    ratios = {  # what, over what: the ratio, its upper bound
        "over bare decoding": (one / decode, 1.35),
        "over OpenCV's way": (one / t["OpenCV, the first implementation's way"], 0.75),
        "over scikit-image": (one / t["scikit-image's entropy"], 0.125),
        "hash on top": (t["the same and the hash"] / one, 1.30),
    }
    for w, (v, bound) in ratios.items():
        label = w if w == "hash on top" else f"decode, entropy, brightness: {w}"
        print(f"  {label:51} {v:.3f} (at most {bound}) {verdict(v, bound)}")
    out[name] = {
        "images_per_s": {w: round(1 / v) for w, v in t.items()},
        "ratios": {w: round(v, 3) for w, (v, _) in ratios.items()},
    }


def workers(files, out, rounds=3):
    table = pd.DataFrame({"id": [str(i) for i in range(len(files))], "image": files})
    seconds = {1: [], 2: []}
    for _ in range(rounds):
        for w in seconds:
            began = time.perf_counter()
            measure_images(table, w, progress=False)
            seconds[w].append(time.perf_counter() - began)
    ratio = min(seconds[1]) / min(seconds[2])
    print(f"\ntwo workers against one, measure_images on {len(files):,} files:")
    print(f"  {ratio:.2f} times as fast (at least 1.7) {verdict(1.7, ratio)}")
    out["two_workers"] = round(ratio, 3)


PEAK = """
import sys
import pandas as pd, psutil
from radgen.data.entropy import measure_images

n = int(sys.argv[1])
files = sys.stdin.read().split("\\n")
measure_images(pd.DataFrame({"image": (files * (n // len(files) + 1))[:n]}), 1, False)
memory = psutil.Process().memory_info()
try:
    with open("/proc/self/status") as f:  # Linux; a child inherits ru_maxrss of its parent
        print(int(f.read().split("VmHWM:")[1].split()[0]) / 1024)
except OSError:
    print(getattr(memory, "peak_wset", memory.rss) / 2**20)  # Windows has a peak, macOS the last value
"""


def peak(n, files):
    "Peak memory in MB of a process that measures n images."
    run = [sys.executable, "-c", PEAK, str(n)]
    done = subprocess.run(run, input="\n".join(files), capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory(files, out):
    mb = {n: peak(n, files) for n in (1000, 10000)}
    ratio = mb[10000] / mb[1000]
    print(f"\npeak memory: {mb[1000]:.0f} MB for 1,000 images, {mb[10000]:.0f} MB for 10,000:")
    print(f"  ratio {ratio:.3f} (at most 1.1) {verdict(ratio, 1.1)}")
    out["peak_mb"] = {str(n): round(v, 1) for n, v in mb.items()}


def concepts(out):
    data = read_rocov2(SHARED / "rocov2_text", images=False, captions=False)
    train, best = data.table[data.table.split == "train"], np.inf
    for _ in range(5):
        began = time.perf_counter()
        counts = count_cuis(train, data.names)
        kept = select_rows(train, choose_cuis(counts, 10), data.names).keep.sum()
        best = min(best, time.perf_counter() - began)
    print(f"\nconcepts: {len(train):,} official rows counted and selected, {kept:,} kept:")
    print(f"  {best:.2f} s (under 1 s) {verdict(best, 1)}")
    out["concepts_s"] = round(best, 3)


def copies(out):
    rng, rows = np.random.default_rng(0), {}
    for n in (20_000, 40_000, 80_000, 160_000):
        codes = rng.integers(0, 2**64, (n, 4), dtype=np.uint64)
        bits = np.uint64(1) << rng.integers(0, 64, (n // 100, 4)).astype(np.uint64)
        codes[n // 2 : n // 2 + n // 100] = codes[: n // 100] ^ bits  # one in a hundred has a copy four bits away
        began = time.perf_counter()
        found = len(close_pairs(codes))
        rows[n] = time.perf_counter() - began
        print(f"copies {n:8,} hashes: {rows[n]:5.1f} s, {found:,} of {n // 100:,} pairs found")
    ratio = rows[160_000] / rows[20_000]
    print(f"  eight times the hashes take {ratio:.1f} times as long; all pairs would take 64 times")
    out["copies_s"] = {str(n): round(v, 2) for n, v in rows.items()}


if __name__ == "__main__":
    out, files = {}, {}
    if (SHARED / "radiology_sample").is_dir():
        sample = (SHARED / "radiology_sample").glob("*_images/*.jpg")
        files["real sample"] = readable(sorted(map(str, sample)))
    phantoms = make_phantoms(ROOT / "work" / "phantoms-5000", 5000, 0, 0, seed=9)
    files["5,000 phantoms"] = readable(sorted(map(str, phantoms.glob("*_images/*.jpg"))))
    for name, f in files.items():
        rates(name, f, out)
    some = next(iter(files.values()))
    workers(some * 8, out)  # enough to pay for the start of the processes
    memory(some, out)
    copies(out)
    if (SHARED / "rocov2_text").is_dir():
        concepts(out)
    write_json(Path(__file__).parent / "results" / "curation.json", out)
