"""Whether simple measures detect text burned into an image: `python benchmarks/burned_in_text.py`.

Chapter 200 reports the result: not well enough. A line of text is drawn into copies of 300 images; the area under the
curve says how often a measure is larger with it than without.
"""

import random
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import white_tophat

from radgen.core.files import write_json
from radgen.data.images import ImageError, load_grey
from radgen.data.phantoms import make_phantoms

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT.parent / "shared" / "data" / "radiology_sample"
LINES = ("HOSPITAL 12.3 cm", "R 5.6 mm  MI 0.9", "W:350 L:40 kV 120")


def near(dark, direction, axis):
    "Whether a dark pixel lies within five pixels in this direction."
    return np.any([np.roll(dark, direction * k, axis) for k in range(1, 6)], axis=0)


def strokes(a):
    "Share of bright pixels with dark ones on both sides within five pixels, across or down."
    bright, dark = a >= 235, a <= 110
    down = near(dark, 1, 0) & near(dark, -1, 0)
    across = near(dark, 1, 1) & near(dark, -1, 1)
    return (bright & (down | across)).mean()


def tophat(a):
    "Share of pixels that an opening of 7 by 7 takes away."
    return (white_tophat(a, size=7) >= 120).mean()


def with_text(a, rng):
    "The image with a line of text near its upper or lower border."
    im = Image.fromarray(a)
    place = (rng.uniform(0.03, 0.5) * im.width, rng.choice([0.03, 0.9]) * im.height)
    font = ImageFont.load_default(max(10, im.height // 18))
    ImageDraw.Draw(im).text(place, rng.choice(LINES), fill=255, font=font)
    return np.asarray(im)


def load_all(files):
    "The images that can be read."
    images = []
    for file in files:
        try:
            images.append(load_grey(file))
        except ImageError:
            pass
    return images


def area_under_curve(positive, negative):
    "How often a value of the first list is larger than one of the second; a tie counts half."
    positive, negative = np.array(positive)[:, None], np.array(negative)
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


if __name__ == "__main__":
    result = {}
    for name, folder in {"phantoms": make_phantoms(ROOT / "work" / "phantoms"), "real sample": SAMPLE}.items():
        files = sorted(folder.glob("*_images/*.jpg"))
        rng = np.random.default_rng(0)
        start = time.perf_counter()
        images = load_all(random.Random(0).sample(files, min(300, len(files))))
        decoding = time.perf_counter() - start
        if not images:
            continue
        for measure in (strokes, tophat):
            start = time.perf_counter()
            without = [measure(a) for a in images]
            cost = (time.perf_counter() - start) / decoding
            auc = area_under_curve([measure(with_text(a, rng)) for a in images], without)
            label = f"{name:12} {measure.__name__:8}"
            print(f"{label} area under the curve {auc:.3f}, {cost:.1f} times the time of decoding")
            result[f"{name}, {measure.__name__}"] = {"auc": round(auc, 3), "over_decoding": round(cost, 2)}
    write_json(Path(__file__).parent / "results" / "burned_in_text.json", result)
