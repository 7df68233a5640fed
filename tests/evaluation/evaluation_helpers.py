"""Small images, features that cost nothing, and quick options, for the tests of evaluation."""

import numpy as np
import torch
from PIL import Image

from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.features import Features


class PixelMeans(torch.nn.Module):
    "Sixteen means of an image."

    def forward(self, u):
        return torch.nn.functional.adaptive_avg_pool2d(u.float(), 4).flatten(1)


def pixel_features(name="", device="cpu"):
    "Features without a network, in the place of `make_features`."
    return Features("FD-pixels", "pixels", PixelMeans())


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
    "Options of an evaluation without curves and classifiers."
    return EvaluateConfig(run.dir, **{"curves": 0, "classifiers": False, "device": "cpu", **options})
