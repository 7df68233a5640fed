"""How generated images are scored in `recipes.py` and `peers.py`.

The scores are distance, precision and recall on features of VGG16, and how often probes find the finding, the side and
the image type of the prompt.

The phantoms are those of the demonstration with more test phantoms (2,000 drawn instead of 400), captions by rules.
The first `n` test captions in order give the images that are compared with as many real test images: Fréchet distance
(FD-VGG16, a stand-in, not FID), precision, recall, image type and finding. For the side, `sides` further test captions
that name the side of the finding are drawn from the rest of the test split, each once; those among the first `n` count
too. Finding and side are predicted by logistic regressions on a grid of VGG16 features (chapter 745), the image type by
one on pooled features (chapter 740), all fitted on real training images. Real data have no table of findings, so that
only distance, precision, recall and image type are measured on them.
"""

from functools import cache
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from radgen.core.figures import evenly, image_grid, save_figure
from radgen.core.files import atomic_path, fingerprint
from radgen.core.precision import autocast
from radgen.data.phantoms import make_phantoms
from radgen.evaluation.alignment import fit_probe, type_alignment
from radgen.evaluation.distance import frechet_distance, real_baseline, statistics
from radgen.evaluation.diversity import prdc
from radgen.evaluation.features import cached_features, make_features
from radgen.evaluation.truth import grid_features, phantom_truth
from radgen.prepared.config import PrepareConfig
from radgen.prepared.folder import Prepared
from radgen.prepared.prepare import prepare
from radgen.text.store_writer import build_store

ROOT = Path(__file__).resolve().parents[1]
ENCODER, TOKENS = "minilm", 64
N_TRAIN, N_TEST = 1600, 2000  # phantoms that are drawn
N, SIDES = 256, 256  # captions of the test split, and captions that name a side
FACTS = {"finding": "name", "side": "side"}  # fact -> column of the truth
GUIDANCE, STEPS, BATCH = 2.0, 20, 64  # of sampling


@cache
def load_data(data: str = "phantoms", n_train: int = N_TRAIN) -> Prepared:
    "The prepared folder of the phantoms or of the real sample; written at the first call."
    work = ROOT / "work"
    if data == "real":
        source = ROOT.parent / "shared" / "data" / "radiology_sample"
        return prepare(PrepareConfig(source, work / "real-rules", llm="rules"))
    tag = f"{n_train}-{N_TEST}"
    source = make_phantoms(work / f"phantoms-{tag}", n_train=n_train, n_test=N_TEST)
    return prepare(PrepareConfig(source, work / f"prepared-{tag}-rules", llm="rules"))


def chosen_rows(prepared: Prepared, n: int, sides: int) -> pd.DataFrame:
    "The prompts: `id`, `prompt`, `finding` and `side` ('' where the prompt does not state it), and `part`."
    rows = prepared.rows("test")[["id"]].copy()
    rows["prompt"] = prepared.texts("test", 2)
    rows["finding"], rows["side"] = "", ""
    truth = phantom_truth(prepared)
    if truth is not None:
        lower = rows.prompt.str.lower()
        for column, fact in FACTS.items():
            said = truth.loc[rows.id, fact].to_numpy()
            rows[column] = [s if s and s in text else "" for s, text in zip(said, lower)]
    first, rest = rows.iloc[:n], rows.iloc[n:]
    more = rest[rest.side != ""].iloc[:sides]
    if truth is not None and len(more) < sides:
        raise ValueError(f"only {len(more)} of {sides} further test captions name a side: raise N_TEST.")
    return pd.concat([first.assign(part="test"), more.assign(part="side")], ignore_index=True)


def share_found(probe, features: np.ndarray, wanted: np.ndarray) -> float:
    "Share of images in which the probe finds the wanted class."
    return float((probe.predict(features) == wanted).mean())


class Scorer:
    "Real images, their features and the probes for one data set and image size."

    def __init__(self, data: str, px: int, n: int = N, sides: int = SIDES):
        self.prepared, self.px = load_data(data), px
        self.rows = chosen_rows(self.prepared, n, sides if data == "phantoms" else 0)
        self.n = int((self.rows.part == "test").sum())
        self.features = make_features("vgg16")
        self.train, self.test = self._real(self.features)
        self.grid = grid_features() if data == "phantoms" else None
        self.probes = self._fit_probes() if self.grid else {}

    def _real(self, features) -> list[np.ndarray]:
        "Features of the real training and test images."
        folder = self.prepared.dir / "features"
        return [cached_features(self.prepared.images(s, self.px), features, folder) for s in ("train", "test")]

    def _fit_probes(self) -> dict:
        "Fact -> probe and its share of real test images; fitted once and kept beside the features."
        content = self.prepared.manifest["content"]
        path = self.prepared.dir / "features" / f"probes-{fingerprint(self.grid.identity, content, self.px)}.joblib"
        if not path.exists():
            with atomic_path(path) as p:
                joblib.dump({fact: self._fit_probe(column) for fact, column in FACTS.items()}, p)
        return joblib.load(path)

    def _fit_probe(self, column: str) -> tuple:
        "A probe for a column of the truth, and its share of real test images."
        truth, (train, test) = phantom_truth(self.prepared), self._real(self.grid)
        labels = [truth.loc[self.prepared.rows(s).id, column].to_numpy() for s in ("train", "test")]
        shown = [label != "" for label in labels]
        probe = fit_probe(train[shown[0]], labels[0][shown[0]])
        return probe, share_found(probe, test[shown[1]], labels[1][shown[1]])

    def text(self, rows=slice(None)):
        "The embedding of the prompts, in float32."
        prompts = self.rows.prompt.iloc[rows].tolist()
        store = build_store(self.rows.prompt.tolist(), self.prepared.dir / "embeddings", ENCODER, TOKENS)
        return store.get(store.rows(prompts)).to(torch.float32)

    def distance(self, images: np.ndarray) -> float:
        "Fréchet distance of images for the first test captions; fewer than `n` serve to compare samplers alone."
        return frechet_distance(statistics(self.features(images)), statistics(self.test[: self.n]))

    def __call__(self, images: np.ndarray) -> dict:
        "All scores of the images of `rows`, in their order."
        assert len(images) == len(self.rows), "one image per prompt"
        f, real = self.features(images[: self.n]), self.test[: self.n]
        near = prdc(f, real)
        types = type_alignment(f, self.rows.iloc[: self.n], self.test, self.train, self.prepared, "test")
        scores = dict(
            distance=frechet_distance(statistics(f), statistics(real)),
            precision=near.precision,
            recall=near.recall,
            type=types.generated,
        )
        if self.grid:
            grid = self.grid(images)
            for fact, (probe, _) in self.probes.items():
                stated = (self.rows[fact] != "").to_numpy(copy=True)
                if fact == "finding":  # the further captions all name a side, and so are no sample of findings
                    stated[self.n :] = False
                scores[fact] = share_found(probe, grid[stated], self.rows[fact][stated].to_numpy())
                scores[f"{fact}_prompts"] = int(stated.sum())
        scores["saturated"] = float(np.isin(images, (0, 255)).mean())
        return scores

    def baseline(self) -> dict:
        "The same scores of real images: training images for the distance, test images for the probes."
        some = np.sort(np.random.default_rng(0).choice(len(self.train), min(self.n, len(self.train)), replace=False))
        near = prdc(self.train[some], self.test[: self.n])
        rows = self.prepared.rows("test")
        types = type_alignment(self.test, rows, self.test, self.train, self.prepared, "test")
        mean, std = real_baseline(self.train, self.test[: self.n], self.n)
        facts = {fact: real for fact, (_, real) in self.probes.items()}
        return dict(
            distance=mean,
            distance_std=std,
            precision=near.precision,
            recall=near.recall,
            type=types.real,
            **facts,
            generated=self.n,
            training=len(self.train),
        )


@cache
def scorer(data: str, px: int, n: int = N, sides: int = SIDES) -> Scorer:
    "One scorer per process and setting."
    return Scorer(data, px, n, sides)


def has_bfloat16() -> bool:
    "Whether this CPU multiplies in bfloat16; others emulate it, ten times as slowly as float32."
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


PRECISION = "bf16" if has_bfloat16() else "no"  # of all that is compared


def fast_precision():
    "Products in bfloat16 where the CPU has it."
    return autocast("cpu", PRECISION)


def best_sampler(samplers: dict, score: Scorer, pilot: int = 64) -> tuple[np.ndarray, str]:
    """Images for all prompts by the sampler whose first `pilot` images have the lower distance. `samplers`: name ->
    function of a slice of the prompts that returns (n, H, W) uint8."""
    pilots = {}
    for name, draw in samplers.items():
        pilots[name] = draw(slice(0, len(score.rows) if len(samplers) == 1 else pilot))
    best = min(pilots, key=lambda name: score.distance(pilots[name])) if len(pilots) > 1 else next(iter(pilots))
    missing = slice(len(pilots[best]), len(score.rows))
    rest = [samplers[best](missing)] if missing.start < missing.stop else []
    return np.concatenate([pilots[best], *rest]), best


def keep_images(folder: Path, images: np.ndarray, rows: pd.DataFrame):
    "Write the images as one file and a grid of some of them, for people to look at."
    with atomic_path(folder / "images.npz") as path:
        np.savez_compressed(path, images=images)
    shown = evenly(len(images), 48)
    save_figure(image_grid([images[i] for i in shown], rows.prompt.iloc[shown].tolist()), folder / "grid.png")


COLUMNS = ("distance", "precision", "recall", "finding", "side", "type")


def mean_scores(runs: list[dict], keys: list[str]) -> pd.DataFrame:
    "Means and standard deviations over seeds, one row per combination of `keys`; failed runs are left out."
    runs = pd.DataFrame([r for r in runs if "failed" not in r])
    if runs.empty:
        return runs
    grouped, scores = runs.groupby(keys, sort=False), [c for c in COLUMNS if c in runs]
    parts = [grouped[["parameters_M", "batch", "steps", "images_seen"]].first(), grouped.seed.nunique().rename("seeds")]
    parts += [grouped[scores].mean(), grouped[scores].std().add_suffix("_std")]
    if "side_prompts" in runs:
        parts.append(grouped.side_prompts.first())
    return pd.concat(parts, axis=1).reset_index()


def cells(row) -> str:
    "The scores of a row: mean, and standard deviation where there are several seeds."
    found = ""
    for c in COLUMNS:
        value, spread = row.get(c), row.get(f"{c}_std")
        missing = value is None or np.isnan(value)
        digits = 1 if c == "distance" else 3
        text = "" if missing else f"{value:.{digits}f}"
        if not missing and spread is not None and not np.isnan(spread):
            text += f" ± {spread:.{digits}f}"
        found += f"{text:>16}"
    return found


def print_rows(rows: pd.DataFrame, real: dict | None = None):
    "Print rows of `mean_scores`, and the scores of real images below them."
    head = "".join(f"{c:>16}" for c in COLUMNS)
    print(f"{'':44} {'param':>6} {'batch':>5} {'steps':>6} {'images':>7} seeds{head}")
    for _, r in rows.iterrows():
        size = f"{r.parameters_M:5.1f}M {r.batch:5} {r.steps:6,} {r.images_seen:7,} {r.seeds:5}"
        print(f"{r['name'][:44]:44} {size}{cells(r)}")
    if real:
        print(f"{'real images':77}{cells(real)}")


def line_of(record: dict) -> str:
    "One line about a run."
    if "failed" in record:
        return f"{record['name']}, seed {record['seed']}: {record['failed']}"
    scores = {c: record[c] for c in COLUMNS if record.get(c) is not None}
    found = ", ".join(f"{name} {value:.3g}" for name, value in scores.items())
    return f"{record['name']}, seed {record['seed']}: {found}"
