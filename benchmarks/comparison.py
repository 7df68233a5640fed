"""Draw fig/comparison.png from the run of `make demo`: phantoms of the test split, generated images under them, and a
failure: the image in which a probe is surest to see another finding than the caption states."""

from pathlib import Path

import numpy as np

from radgen.core.figures import save_figure
from radgen.evaluation.alignment import fit_probe
from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.figures import comparison_figure
from radgen.evaluation.material import run_reference
from radgen.evaluation.scores import find_samples, read_samples
from radgen.evaluation.truth import grid_features, phantom_truth
from radgen.training.run import load_run

ROOT = Path(__file__).resolve().parents[1]


def surest_failure(run, generated, rows):
    "Index of the image whose stated finding is least probable to a probe that was fitted to training phantoms."
    table, grid = phantom_truth(run.prepared), grid_features()
    known = table.name.loc[run.prepared.rows("train").id].to_numpy()
    shown = known != ""
    images = np.array(run.prepared.images("train", run.config.image_size, run.config.equalize))
    probe = fit_probe(grid(images[shown]), known[shown])
    wanted = table.name.loc[rows.id].to_numpy()
    stated = [name != "" and name in text.lower() for name, text in zip(wanted, rows.prompt)]
    at = np.flatnonzero(stated)
    columns = np.searchsorted(probe.classes_, wanted[at])
    probability = probe.predict_proba(grid(generated[at]))[np.arange(len(at)), columns]
    return int(at[probability.argmin()])


if __name__ == "__main__":
    run = load_run(ROOT / "runs" / "demo")
    generated, rows = read_samples(find_samples(EvaluateConfig(run.dir), run))
    last = {surest_failure(run, generated, rows): "Failure: "}
    figure = comparison_figure(run_reference(run), generated, rows, n=13, ncol=7, kind="phantom", last=last)
    save_figure(figure, ROOT / "fig" / "comparison.png")
