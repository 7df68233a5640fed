"""Contradictions that a verifier rejects, and fair answers that it accepts: ours beside libraries alone.

    python benchmarks/verifier.py

Both run in turn in this process on the same captions and answers: the cases of the tests and, where they lie beside
the repository, those of ../shared/probes. Ours is `radgen.captions.records.judge`. The library pipeline is chapter
393's, used as a verifier: it rejects what contradicts or is unsupported, and an answer that leaves a finding out,
that is, a clause of the caption none of whose words the answer has. Rates are the best of five passes.
"""

import json
import time
from pathlib import Path

from radgen.captions.clinical_text import ReadingPipeline
from radgen.captions.facts import source
from radgen.captions.records import judge
from radgen.captions.second_reader import compare_readings, fields
from radgen.captions.template import Record, render
from radgen.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "verifier.json"
FILES = (ROOT / "tests" / "captions" / "verifier_cases.jsonl", ROOT.parent / "shared" / "probes" / "verifier.jsonl")
CT = "C0040405"
NAMES = {
    CT: "X-Ray Computed Tomography",
    "C1306645": "Plain x-ray",
    "C0024485": "Magnetic Resonance Imaging",
    "C0041618": "Ultrasonography",
    "C0002978": "Angiogram",
    "C0032743": "Positron-Emission Tomography",
    "C0817096": "Chest",
}


def read_cases(path):
    "Caption, concepts, answer in the template, and whether it is fair, of each case."
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        cuis = case.get("cuis") or [CT]
        facts = source(case["caption"], cuis, NAMES).facts
        record = Record(facts.label, facts.region, facts.view, case["condition"])
        cases.append((case["caption"], cuis, case.get("line") or render(record), case["accept"]))
    return cases


def ours(cases):
    "Whether the verifier of this library accepts each answer."
    return [judge(answer, source(caption, cuis, NAMES))[0] is not None for caption, cuis, answer, _ in cases]


def left_out(new, old, known):
    "Whether a clause of the caption has no word in the answer, nor in the fields and names beside it."
    clauses = {}
    for word in old.words:
        clauses.setdefault(word.clause, set()).add(word.stem)
    said = new.by_stem.keys() | known.by_stem.keys()
    return any(not stems & said for stems in clauses.values())


def libraries(pipeline):
    "A function that says whether the library pipeline accepts each answer."

    def accepted(cases):
        records = [fields(answer) for _, _, answer, _ in cases]
        new = pipeline.read(record.condition for record in records)
        old = pipeline.read(caption for caption, _, _, _ in cases)
        texts = []
        for record, (_, cuis, _, _) in zip(records, cases):
            texts.append("; ".join([*record[:3], *(NAMES.get(cui, "") for cui in cuis)]))
        accepts = []
        for answer, caption, known in zip(new, old, pipeline.read(texts)):
            category = compare_readings(answer, caption, known).category
            wrong = category in ("contradicts", "unsupported") or left_out(answer, caption, known)
            accepts.append(not wrong)
        return accepts

    return accepted


def measure(cases, verifiers):
    "A row per verifier: shares and captions per second."
    fair = [case[3] for case in cases]
    best, accepts = dict.fromkeys(verifiers, 0.0), {}
    for _ in range(5):
        for name, verifier in verifiers.items():
            began = time.perf_counter()
            accepts[name] = verifier(cases)
            best[name] = max(best[name], len(cases) / (time.perf_counter() - began))
    rows = []
    for name, accepted in accepts.items():
        rejected = [not a for a, f in zip(accepted, fair) if not f]
        kept = [a for a, f in zip(accepted, fair) if f]
        shares = {"rejected": sum(rejected) / len(rejected), "accepted": sum(kept) / len(kept)}
        rows.append(dict(way=name, contradictions=len(rejected), fair=len(kept), **shares, per_s=round(best[name])))
    return rows


def print_table(name, rows):
    "Print the rows of one file of cases."
    print(f"\n{name}: {rows[0]['contradictions']} contradictions, {rows[0]['fair']} fair answers")
    print(f"  {'':24}{'contradictions rejected':>25}{'fair answers accepted':>24}{'captions per second':>22}")
    for row in rows:
        print(f"  {row['way']:24}{row['rejected']:>25.1%}{row['accepted']:>24.1%}{row['per_s']:>22,}")


if __name__ == "__main__":
    verifiers = {"radgen's verifier": ours, "library pipeline alone": libraries(ReadingPipeline())}
    results = {}
    for path in FILES:
        if path.is_file():
            results[path.stem] = measure(read_cases(path), verifiers)
            print_table(path.name, results[path.stem])
    write_json(RESULTS, results)
