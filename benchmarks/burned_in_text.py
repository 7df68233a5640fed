"""Whether text burned into a picture can be told by something simple: `python benchmarks/burned_in_text.py` (chapter 200 reports it: not well enough).

A line of text is drawn into copies of 300 pictures; the area under the curve says how often a measure is larger with it than without.
"""

import random, time
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


def strokes(a):
    "Share of bright pixels with dark ones on both sides within five pixels, across or down."
    bright, dark = a >= 235, a <= 110

    def between(axis):
        return np.logical_and(
            *(np.any([np.roll(dark, sign * k, axis) for k in range(1, 6)], axis=0) for sign in (1, -1))
        )

    return (bright & (between(0) | between(1))).mean()


def tophat(a):
    return (white_tophat(a, size=7) >= 120).mean()  # share of pixels that an opening of 7 by 7 takes away


def written(a, rng):
    im = Image.fromarray(a)
    ImageDraw.Draw(im).text(
        (rng.uniform(0.03, 0.5) * im.width, rng.choice([0.03, 0.9]) * im.height),
        rng.choice(LINES),
        fill=255,
        font=ImageFont.load_default(max(10, im.height // 18)),
    )
    return np.asarray(im)


if __name__ == "__main__":
    out = {}
    for name, folder in {"phantoms": make_phantoms(ROOT / "work" / "phantoms"), "real sample": SAMPLE}.items():
        files, rng = sorted(folder.glob("*_images/*.jpg")), np.random.default_rng(0)
        pictures, began = [], time.perf_counter()
        for f in random.Random(0).sample(files, min(300, len(files))):
            try:
                pictures.append(load_grey(f))
            except ImageError:
                pass
        decoding = time.perf_counter() - began
        for measure in (strokes, tophat) if pictures else ():
            began = time.perf_counter()
            without = np.array([measure(a) for a in pictures])
            cost = (time.perf_counter() - began) / decoding
            with_text = np.array([measure(written(a, rng)) for a in pictures])[:, None]
            auc = ((with_text > without) + 0.5 * (with_text == without)).mean()
            print(
                f"{name:12} {measure.__name__:8} area under the curve {auc:.3f}, {cost:.1f} times the price of decoding"
            )
            out[f"{name}, {measure.__name__}"] = {"auc": round(float(auc), 3), "over_decoding": round(cost, 2)}
    write_json(Path(__file__).parent / "results" / "burned_in_text.json", out)
