"""Draw fig/comparison.png from the run of `make demo`: phantoms of the test split and what was generated for their captions."""
from pathlib import Path

from radgen.captions import concept_facts
from radgen.core import save_figure
from radgen.evaluation import EvaluateConfig, find_samples, read_samples
from radgen.report import comparison_figure, spread_over
from radgen.runs import load_run

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    run = load_run(ROOT/"runs"/"demo")
    generated, rows = read_samples(find_samples(EvaluateConfig(run.dir), run))
    table, real = run.prepared.rows("test"), run.prepared.images("test", run.config.image_size, run.config.equalize)
    at = dict(zip(table.id, range(len(table))))
    shown = spread_over([concept_facts(table.cuis[at[i]], run.prepared.names).image_type for i in rows.id[:len(table)]], 14)
    save_figure(comparison_figure(real[[at[rows.id[i]] for i in shown]], generated[shown], [rows.prompt[i] for i in shown], ncol=7), ROOT/"fig"/"comparison.png")
