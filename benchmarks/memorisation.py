"""What the search of the audits costs: `python benchmarks/memorisation.py [--generated 10000] [--train 60000]`.

features: seconds of extraction (VGG16, a stand-in) from a sample of images at 64 px, scaled up to all images of both
sides. search: nearest training image in the space of features (`radgen.evaluation.memorisation.nearest`) on random
features of 512 numbers. patients: the same by the matcher of patients. pixels: the audit of crops, on a sample of
generated images against a sample of training images; its cost is proportional to the product of both numbers, and is
scaled up. memory: the most memory (anonymous, so without pages of files) that the search takes above its inputs, with
a sixth and with all of the training images. FAISS is timed, too, where it is installed.
Numbers go to benchmarks/results/memorisation.json.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from fid import Peak

from radgen.core.files import write_json
from radgen.evaluation.features import make_features
from radgen.evaluation.memorisation import candidates, nearest, register, shrink
from radgen.evaluation.reidentification import best_similarities

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "memorisation.json"
D = 512


def timed(function):
    "Seconds, and what it returned."
    began = time.perf_counter()
    value = function()
    return time.perf_counter() - began, value


def extraction(sample):
    "Seconds per image."
    features = make_features("vgg16")
    images = np.random.default_rng(0).integers(0, 256, (sample, 64, 64)).astype(np.uint8)
    features(images[:64])
    return timed(lambda: features(images))[0] / sample


def by_faiss(f, f_train):
    "Exact search by FAISS."
    import faiss

    index = faiss.IndexFlatL2(D)
    index.add(f_train)
    return index.search(f, 1)


def pixels(generated, train):
    "Seconds of the two parts of the audit of crops per pair of images, and per generated image."
    images = np.random.default_rng(0).integers(0, 256, (generated + train, 64, 64)).astype(np.uint8)
    q, x = shrink(images[:generated], "cpu"), shrink(images[generated:], "cpu")
    looking, (top, frames) = timed(lambda: candidates(q, x))
    n, c = top.shape
    fitting, _ = timed(lambda: register(q.repeat_interleave(c, 0), x[top.flatten()], frames.flatten(0, 1)))
    return looking / (generated * train), fitting / generated


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--generated", type=int, default=10_000)
    a.add_argument("--train", type=int, default=60_000)
    a.add_argument("--sample", type=int, default=256, help="images whose features are extracted")
    a.add_argument(
        "--pixels", type=int, nargs=2, default=(256, 1024), help="generated and training images of the audit"
    )
    a = a.parse_args()
    rng, images = np.random.default_rng(0), a.generated + a.train
    f, f_train = (rng.standard_normal((n, D), dtype=np.float32) for n in (a.generated, a.train))
    per_image, memory = extraction(a.sample), {}
    for n in (a.train // 6, a.train):
        with Peak() as peak:
            search, _ = timed(lambda n=n: nearest(f, f_train[:n]))
        memory[n] = peak.mib
    patients, _ = timed(lambda: best_similarities(torch.from_numpy(f), torch.from_numpy(f_train)))
    per_pair, per_generated = pixels(*a.pixels)
    audit = per_pair * a.generated * a.train + per_generated * a.generated
    r = dict(
        generated=a.generated,
        train=a.train,
        d=D,
        threads=torch.get_num_threads(),
        features_seconds=per_image * images,
        search_seconds=search,
        patients_seconds=patients,
        search_mib=memory,
        inputs_mib=(f.nbytes + f_train.nbytes) / 2**20,
        pixels_seconds=audit,
        pixels_of_that_search=per_pair * a.generated * a.train / audit,
    )
    if find_spec("faiss"):
        r["faiss_seconds"], _ = timed(lambda: by_faiss(f, f_train))
    for name in ("search", "patients", "pixels"):
        r[f"{name}_over_features"] = r[f"{name}_seconds"] / r["features_seconds"]
    write_json(RESULTS, r)
    for name, words in (("search", "nearest features"), ("patients", "matcher of patients"), ("pixels", "crops")):
        ratio = r[f"{name}_over_features"]
        print(
            f"{'met' if ratio <= 1 else 'missed'}: the search of {words} takes {ratio:.3f} times the feature "
            f"extraction ({r[f'{name}_seconds']:.0f} s of {r['features_seconds']:.0f} s); wanted at most 1"
        )
    print(", ".join(f"{mib:.0f} MiB against {n} training images" for n, mib in memory.items()))


if __name__ == "__main__":
    main()
