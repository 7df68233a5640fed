"""What the search of the audits costs: `python benchmarks/memorisation.py [--generated 10000] [--train 60000]`.

features: seconds of extraction (VGG16, a stand-in) from a sample of images at 64 px, scaled up to all images of both
sides. search: nearest training image in the space of features (`radgen.evaluation.memorisation.nearest`) on random
features of 512 numbers. patients: the same by the matcher of patients. pixels: the audit of crops, of 128 and of 1,024
images against one block of training images, and the registration of 128, scaled up. memory: the most memory (anonymous,
so without pages of files) that the search takes above its inputs, with a sixth and with all of the training images.
FAISS is timed, too, where it is installed.
Numbers go to benchmarks/results/memorisation.json.
"""

import argparse
import math
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from fid import Peak

from radgen.core.files import write_json
from radgen.evaluation.features import make_features
from radgen.evaluation.memorisation import COMPARED, LOOKED_UP, candidates, nearest, register, shrink
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
    """Seconds of the audit of crops for these numbers of images: a block of training images is cropped once, whatever
    the number of images that are looked up, so the cost of a block is fitted by a straight line."""
    images = np.random.default_rng(0).integers(0, 256, (2 * COMPARED, 64, 64)).astype(np.uint8)
    q, x = shrink(images[:COMPARED], "cpu"), shrink(images[COMPARED:], "cpu")
    few = COMPARED // 8
    (short, (top, frames)), (long, _) = (timed(lambda n=n: candidates(q[:n], x)) for n in (few, COMPARED))
    slope = (long - short) / (COMPARED - few)
    crops = max(0.0, short - slope * few)
    n, c = top.shape
    fitting, _ = timed(lambda: register(q[:n].repeat_interleave(c, 0), x[top.flatten()], frames.flatten(0, 1)))
    blocks = train / COMPARED
    return blocks * (crops * math.ceil(generated / LOOKED_UP) + slope * generated) + fitting / n * generated


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
    nearest(f[:1024], f_train[:1024])  # warms up
    for n in (a.train // 6, a.train):
        with Peak() as peak:
            search, _ = timed(lambda n=n: nearest(f, f_train[:n]))
        memory[n] = peak.mib
    patients, _ = timed(lambda: best_similarities(torch.from_numpy(f), torch.from_numpy(f_train)))
    audit = pixels(a.generated, a.train)
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
