"""Draw fig/comparison.png from the run of `make demo`: phantoms of the test split, generated images under them."""

from pathlib import Path

from radgen.core.figures import save_figure
from radgen.evaluation.config import EvaluateConfig
from radgen.evaluation.scores import find_samples, read_samples
from radgen.evaluation.figures import comparison_figure
from radgen.training.run import load_run

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    run = load_run(ROOT / "runs" / "demo")
    generated, rows = read_samples(find_samples(EvaluateConfig(run.dir), run))
    save_figure(comparison_figure(run, generated, rows, n=14, ncol=7), ROOT / "fig" / "comparison.png")
