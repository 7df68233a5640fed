"""Small images, features that cost nothing, and quick options, for the tests of evaluation."""

import json
from functools import partial

import numpy as np
import torch
from PIL import Image

from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.features import Features
from radgen.evaluation.memorisation import register


class PixelMeans(torch.nn.Module):
    "Sixteen means of an image."

    def forward(self, u):
        return torch.nn.functional.adaptive_avg_pool2d(u.float(), 4).flatten(1)


def pixel_features(name="", device="cpu"):
    "Features without a network, in the place of `make_features`."
    return Features("FD-pixels", "pixels", PixelMeans())


def cheaply(patch):
    "Evaluate without VGG16, with two scales of crops and few steps of registration; `patch` is pytest's."
    for module in ("report", "any_images"):
        patch.setattr(f"radgen.evaluation.{module}.make_features", pixel_features)
    patch.setattr("radgen.evaluation.scores.grid_features", lambda device: None)
    patch.setattr("radgen.evaluation.scores.truth_alignment", lambda *a: None)
    patch.setattr("radgen.evaluation.memorisation.SCALES", (1.0, 0.9))
    patch.setattr("radgen.evaluation.memorisation.register", partial(register, steps=4))


def random_images(n, size=32, seed=0):
    "Noise, (n, size, size) uint8."
    return np.random.default_rng(seed).integers(0, 256, (n, size, size)).astype(np.uint8)


def write_images(folder, images, mode="L"):
    "A folder of PNG files."
    folder.mkdir()
    for i, a in enumerate(images):
        Image.fromarray(a).convert(mode).save(folder / f"{i:03d}.png")
    return folder


def quick(run, **options):
    "Options of an evaluation without curves, losses and classifiers."
    return EvaluateConfig(run.dir, **{"curves": 0, "membership": 0, "classifiers": False, "device": "cpu", **options})


def draw_images(folder, rows, metadata=True):
    "Mirrored images of a split as JPEG files of mixed sizes, in grey and colour, at two depths."
    table = []
    for i, row in enumerate(rows.itertuples()):
        name = f"part-{i % 2}/{i:03d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(row.image).convert("L").resize((40 + i % 3 * 8,) * 2).transpose(0)
        image.convert("RGB" if i % 2 else "L").save(folder / name, quality=90)
        table.append({"file_name": name, "text": row.caption, "id": row.id})
    if metadata:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, table)))
    return folder


def of_images(few, images, **more):
    "Options of an evaluation of a folder of images at 16 pixels."
    common = dict(size=16, min_images=20, classifiers=False, features="vgg16", device="cpu")
    return EvaluateConfig(images=images, data=few.dir, **{**common, **more})
