"""The blind reading of rewritten captions, in two steps around a reader:

    python benchmarks/blind_check.py draw FOLDER     writes FOLDER/rows.json for the reader and, beside FOLDER, the key
    python benchmarks/blind_check.py record FOLDER   joins FOLDER/judgement.csv with the key into results/

50 validation rows that Llama 3 rewrote, too, drawn by seed; the two rewritings of each in random order, A and B.
FOLDER lies outside the repository: rows.json holds captions of the data set. judgement.csv has the columns row,which
(A or B) and the marks, 0 or 1, that `radgen.captions.blind_check.blind_check` reads; the rules for the reader are the
names of the columns, spelt out in chapter 395.
"""

import argparse
import json
import random
from pathlib import Path

from radgen.captions.blind_check import BLIND
from radgen.captions.facts import source
from radgen.captions.records import rewrite_by_rules
from radgen.captions.template import render
from radgen.data.cells import read_cells
from radgen.data.tables import read_names

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT.parent / "shared" / "data" / "rocov2_text"


def draw(folder, seed, n=50):
    "Rows and their key."
    names = read_names(TEXT / "cui_mapping.csv")
    concepts = read_cells(TEXT / "valid_concepts.csv", ("ID", "CUIs")).set_index("ID").CUIs
    llama = read_cells(TEXT / "valid_llama3_keywords.csv", ("ID", "Caption", "Keywords"))
    rows, key, rng = [], [], random.Random(seed)
    for i, r in enumerate(llama[llama.ID.isin(concepts.index)].sample(n, random_state=seed).itertuples(), 1):
        cuis = concepts[r.ID].split(";")
        pair = [("ours", render(rewrite_by_rules(source(r.Caption, cuis, names)))), ("llama3", r.Keywords)]
        rng.shuffle(pair)
        rows.append(
            dict(row=i, caption=r.Caption, concepts=[names.get(c, "?") for c in cuis], A=pair[0][1], B=pair[1][1])
        )
        key.append(dict(row=i, id=r.ID, A=pair[0][0], B=pair[1][0]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    folder.with_suffix(".key.json").write_text(json.dumps(key), encoding="utf-8")


def record(folder):
    "Marks without texts."
    key = {str(k["row"]): k for k in json.loads(folder.with_suffix(".key.json").read_text())}
    marks = read_cells(folder / "judgement.csv", ("row", "which", *BLIND, "readable"), missing="the reader writes it")
    marks.insert(1, "system", [key[r][w] for r, w in zip(marks.row, marks.which)])
    marks = (
        marks.drop(columns="which")
        .assign(n=marks.row.astype(int))
        .sort_values(["system", "n"], ascending=[False, True])
        .drop(columns="n")
    )
    marks.to_csv(ROOT / "benchmarks" / "results" / "blind_check.csv", index=False, lineterminator="\n")
    print(marks[[*BLIND, "readable"]].astype(int).groupby(marks.system).sum().T)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["draw", "record"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=20261126)
    args = parser.parse_args()
    draw(args.folder, args.seed) if args.step == "draw" else record(args.folder)
