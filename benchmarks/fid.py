"""What the distance costs: `python benchmarks/fid.py [--d 2048] [--n 4096] [--rounds 3]`.

distance: ours, by singular values of a product of triangular factors, compared with scipy.linalg.sqrtm of the product
of the covariances, as most implementations have it, from the same means and covariances of `d` features of `n` images,
in turn; and the same from the features of 250 images a side, where ours needs no covariance.
features: extraction (VGG16, a stand-in; bytes at 32 px in, vectors out) compared with the bare network's forward pass
on tensors that are ready, in turn. memory: the most memory (anonymous, so without pages of files) that extraction and
statistics take with 1,000 and with 20,000 images, above what the process had.
Numbers go to benchmarks/results/fid.json.
"""

import argparse
import statistics as st
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm

from radgen.core.files import write_json
from radgen.evaluation.distance import Statistics, frechet_distance, matrix_root, statistics
from radgen.evaluation.features import Features, make_features, resize_to

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "fid.json"


def by_sqrtm(m1, s1, m2, s2):
    "Source: Heusel et al. 2017's own code, in short."
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2).real))


def by_us(m1, s1, m2, s2):
    return frechet_distance(Statistics(m1, matrix_root(s1), 0), Statistics(m2, matrix_root(s2), 0))


def in_turn(rounds, **functions):
    "Seconds of each, in turn, and what each returned last."
    seconds, value = {k: [] for k in functions}, {}
    for _ in range(rounds):
        for k, f in functions.items():
            began = time.perf_counter()
            value[k] = f()
            seconds[k].append(time.perf_counter() - began)
    return seconds, value


def moments(x):
    return x.mean(0), np.cov(x, rowvar=False)


def compared(a, b, rounds):
    "Seconds and values of both ways, from moments where there are more images than features."
    if len(a) > a.shape[1]:
        given = *moments(a), *moments(b)
        return in_turn(rounds, ours=lambda: by_us(*given), sqrtm=lambda: by_sqrtm(*given))
    return in_turn(
        rounds,
        ours=lambda: frechet_distance(statistics(a), statistics(b)),
        sqrtm=lambda: by_sqrtm(*moments(a), *moments(b)),
    )


def distance(d, n, rounds):
    "Ratio of seconds and relative difference, at full rank and with few images."
    rng, out = np.random.default_rng(0), {}
    # features of networks are far from independent
    mix = rng.normal(size=(d, d)) * np.geomspace(1, 1e-2, d) / np.sqrt(d)
    for name, images in (("full rank", n), ("few images", 250)):
        a, b = rng.normal(size=(images, d)) @ mix, (rng.normal(size=(images, d)) * 1.2 + 0.1) @ mix
        seconds, value = compared(a, b, rounds)
        ratio = st.median(slow / fast for slow, fast in zip(seconds["sqrtm"], seconds["ours"]))
        difference = abs(value["ours"] - value["sqrtm"]) / value["sqrtm"]
        out[name] = dict(
            images=images,
            d=d,
            seconds=st.median(seconds["ours"]),
            seconds_sqrtm=st.median(seconds["sqrtm"]),
            ratio=ratio,
            difference=difference,
        )
        print(f"{name}: {ratio:.1f} times as fast, relative difference {difference:.1e}", flush=True)
    return out


@torch.inference_mode()
def extraction(rounds, n=256):
    "Ratio of the seconds of extraction to those of the forward pass alone."
    features = make_features("vgg16")
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32)).astype(np.uint8)
    net = features.net
    ready = [
        net.vgg.preprocess(resize_to(torch.from_numpy(images[i : i + 64])[:, None].expand(-1, 3, -1, -1), 64))
        for i in range(0, n, 64)
    ]
    features(images[:64])
    seconds, _ = in_turn(
        rounds + 2, ours=lambda: features(images), bare=lambda: [net.features(x).mean((2, 3)) for x in ready]
    )
    return st.median(o / b for o, b in zip(seconds["ours"], seconds["bare"]))


def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024


class Peak:
    "The most anonymous memory in MiB within a block, above what there was."

    def __enter__(self):
        self.start = self.most = anonymous()
        self.over, self.thread = threading.Event(), threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(0.005):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.mib = self.most - self.start


class Wide(torch.nn.Module):
    "A network that costs nothing and gives as many features as Inception."

    def forward(self, u):
        return torch.nn.functional.adaptive_avg_pool2d(u[:, :1].float(), (32, 64)).flatten(1)


def memory(sizes=(1000, 20000)):
    "MiB of extraction into a file and statistics from it."
    out = {}
    with tempfile.TemporaryDirectory() as d:
        for n in (100, *sizes):  # the first warms up
            path, made = Path(d) / f"{n}.npy", Path(d) / f"images-{n}.npy"
            images = np.lib.format.open_memmap(made, "w+", np.uint8, (n, 32, 32))
            images[:] = np.random.default_rng(0).integers(0, 256, (n, 1, 32))
            images.flush()
            with Peak() as p:
                Features("FD-wide", "none", Wide())(np.load(made, mmap_mode="r"), out=path)
            with Peak() as q:
                statistics(np.load(path, mmap_mode="r"))
            out[n] = dict(extraction=p.mib, statistics=q.mib)
    return {n: out[n] for n in sizes}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--d", type=int, default=2048)
    a.add_argument("--n", type=int, default=4096)
    a.add_argument("--rounds", type=int, default=3)
    a = a.parse_args()
    r = dict(distance=distance(a.d, a.n, a.rounds), extraction=extraction(a.rounds), memory=memory())
    write_json(RESULTS, r)
    far, (small, large) = r["distance"]["full rank"], r["memory"].values()
    met = far["ratio"] >= 5 and far["difference"] <= 1e-6
    print(
        f"{'met' if met else 'missed'}: the distance of {a.n} images at {a.d} features is {far['ratio']:.1f} times as "
        f"fast as by sqrtm, relative difference {far['difference']:.1e}; wanted 5 and 1e-6"
    )
    print(
        f"{'met' if r['extraction'] <= 1.1 else 'missed'}: extraction takes {r['extraction']:.3f} times the bare "
        "forward pass; wanted at most 1.1"
    )
    for k in ("extraction", "statistics"):
        print(f"{k}: {small[k]:.0f} MiB with 1,000 images, {large[k]:.0f} with 20,000")


if __name__ == "__main__":
    main()
