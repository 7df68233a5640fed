"The audit of rewritten captions: sums, tokens, and the official text counted a second way."

import csv
import re

import numpy as np
import pandas as pd
import pytest
from audit_cases import CT, NAMES, WORKED, table
from helpers import OFFICIAL

from radgen.captions.audit import CONTRADICTIONS, OMISSIONS, audit
from radgen.captions.audit_files import read_captions
from radgen.captions.facts import source
from radgen.captions.records import rewrite_by_rules
from radgen.captions.template import render
from radgen.text.encoders import TextEncoder
from radgen.text.token_counts import TokenCounter

VALID = len(WORKED) - 1  # the last row is 'invalid'


@pytest.fixture(scope="module")
def worked():
    return audit(table(), NAMES)


@pytest.mark.parametrize("kind", [*CONTRADICTIONS, *OMISSIONS])
def test_audit_counts_a_kind(worked, kind):
    n = sum(kind in row[3] for row in WORKED)
    assert (worked.kinds.rows[kind], worked.kinds.share[kind]) == (n, n / VALID)


def test_audit_counts_agreement_by_modality(worked):
    m = worked.modalities
    ct = sum(row[1][:1] == [CT] for row in WORKED)
    expected = {  # (modality, measure) -> number
        ("Computed tomography", "rows"): ct,
        ("Computed tomography", "image type stated"): ct,
        ("Computed tomography", "image type agrees"): 1 - 1 / ct,
        ("Computed tomography", "body part stated"): 2,
        ("Computed tomography", "body part agrees"): 0.5,
        ("X-ray", "view stated"): 3,
        ("X-ray", "view agrees"): 2 / 3,
        ("all", "rows"): len(WORKED),
        ("all", "coverage"): VALID / len(WORKED),
        ("not stated", "rows"): 1,
        ("not stated", "coverage"): 0,
    }
    for (modality, measure), number in expected.items():
        assert m.loc[modality, measure] == pytest.approx(number), (modality, measure)


def test_audit_adds_totals_up(worked):
    totals = worked.totals
    assert totals.normal == pytest.approx(sum("ormal" in row[2] for row in WORKED) / VALID)
    assert (totals.normal_concept, totals.normal_caption) == (1, 1)
    assert totals.words_median == np.median([len(row[2].split()) for row in WORKED[:-1]])
    assert np.isnan(totals.tokens_median)
    assert "tokens, median" not in totals.measures()
    assert worked.verdicts.to_dict() == {"rules": (len(WORKED) + 1) // 2, "ok": len(WORKED) // 2}


READINGS = [("contradicts", {"side differs": ["nodule"], "word added": ["wall"]})]
READINGS += [("unsupported", {"word added": ["mass", "pleura"]}), ("paraphrase", {}), ("same", {})]


def test_audit_counts_both_readings_apart(worked):
    rows = [WORKED[0], WORKED[2], WORKED[0], WORKED[0]]  # one has another image type than its concepts
    totals = audit(table(rows), NAMES, readings=READINGS).totals
    measures = totals.measures()
    assert measures["a contradiction (own reading)"] == 0.25
    for label in ("a contradiction", "unsupported", "paraphrase", "the caption's words"):
        assert measures[f"{label} (independent reading)"] == 0.25
    assert not [label for label in worked.totals.measures() if "independent" in label]


def test_audit_counts_the_kinds_of_the_independent_reading():
    counted = audit(table(WORKED[:4]), NAMES, readings=READINGS)
    assert counted.reading_kinds.rows.to_dict() == {"word added": 2, "side differs": 1}
    assert counted.reading_kinds.share["word added"] == 0.5
    assert counted.rows.reading.tolist() == ["contradicts", "unsupported", "paraphrase", "same"]


def test_invalid_captions_have_no_share_in_the_independent_reading():
    counted = audit(table([WORKED[0], WORKED[-1]]), NAMES, readings=[("contradicts", {}), ("", {})])
    assert counted.totals.contradicts == 1


def test_audit_keeps_one_bad_row_from_the_others(worked):
    corrupted = table()
    corrupted.loc[0, "transformed"] = "X-ray, Knee, Axial view, Right fracture of 9 cm"
    before, after = worked.rows.kinds, audit(corrupted, NAMES).rows.kinds
    assert (before[1:] == after[1:]).all()
    assert {"image type", "number invented", "side swapped", "plane invented", "new word"} <= set(after[0])


def test_audit_of_nothing_valid_has_no_shares():
    nothing = audit(table([WORKED[-1]]), NAMES)
    assert nothing.totals.coverage == 0
    assert np.isnan(nothing.totals.normal)
    assert nothing.kinds.rows.sum() == 0


def test_audit_counts_the_encoders_tokens():
    count, encoder = TokenCounter("minilm"), TextEncoder("minilm", max_length=64)
    texts = ["lung " * n for n in (61, 62, 63, 64, 100)]
    tokens = [len(encoder.tokenizer(text)["input_ids"]) for text in texts]
    assert encoder(texts[-1:]).mask.sum() == 64
    a = audit(table([("CT of a lung.", [CT], text, []) for text in texts]), NAMES, count, limit=64)
    assert a.rows.tokens.tolist() == tokens
    assert 0 < a.totals.truncated < 1
    assert a.totals.measures()["cut at 64 tokens"] == np.mean([n > 64 for n in tokens])


# The official text, counted a second way: csv, a list of CUIs, and a few words

MODALITIES = {
    "C0040405": "Computed tomography",
    "C1306645": "X-ray",
    "C0024485": "Magnetic resonance imaging",
    "C0041618": "Ultrasonography",
    "C0002978": "Angiogram",
    "C0032743": "Positron emission tomography",
}
PLAIN_WORDS = {  # image type -> words that name it; the first that fits
    "Positron emission tomography": r"\bpet\b|\bpositron",
    "Magnetic resonance imaging": r"\bmri\b|\bmr\b|\bmagnetic",
    "Angiogram": r"\bangiogra|\barteriogra|\bvenogra",
    "Computed tomography": r"\bct\b|\btomogra",
    "Ultrasonography": r"\bultraso|\bsonogra|\becho|\bdoppler",
    "X-ray": r"\bx-ray|\bxray|x-|\bradiogra|\bfluorosc",
}


def cells(path):
    "The rows of a CSV file."
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def plain_type(text):
    "The image type that a first field names, by a few words."
    for kind, pattern in PLAIN_WORDS.items():
        if re.search(pattern, text, re.I):
            return kind
    return ""


def stated_type(cuis):
    "The image type of a row whose concepts state exactly one."
    found = {MODALITIES[cui] for cui in cuis if cui in MODALITIES}
    return found.pop() if len(found) == 1 else ""


@pytest.fixture(scope="module")
def llama(official_text):
    path = official_text / "valid_llama3_keywords.csv"
    file = read_captions(path)
    return cells(path), audit(file.table, file.names)


def test_audit_of_llama3_agrees_with_a_plain_count(llama):
    rows, a = llama
    assert len(rows) == a.totals.rows
    agree = {}
    for row in rows:
        kind = stated_type(row["CUIs"].split(";"))
        agree.setdefault(kind, []).append(plain_type(row["Keywords"].split(",")[0]) == kind)
    for kind in ("Computed tomography", "X-ray", "Magnetic resonance imaging", "Ultrasonography", "Angiogram"):
        assert a.modalities["image type agrees"][kind] == pytest.approx(np.mean(agree[kind]), abs=0.05), kind
        assert abs(a.modalities.rows[kind] - len(agree[kind])) <= 0.02 * len(agree[kind]), kind


def test_audit_of_llama3_counts_normal_as_a_plain_count_does(llama):
    rows, a = llama
    word = np.mean(["normal" in row["Keywords"].lower() for row in rows])
    last = np.mean([bool(re.search(r"[,;:]\s*normal\.?\s*$", row["Keywords"], re.I)) for row in rows])
    assert 0.55 < word < 0.70
    assert a.totals.word_normal == pytest.approx(word)
    assert last <= a.totals.normal <= word
    assert a.kinds.rows["'Normal' beside a finding"] > 0


def audit_rules(folder, every=1):
    "The audit of official captions rewritten by rules, and their table."
    names = {row["CUI"]: row["Canonical name"] for row in cells(folder / "cui_mapping.csv")}
    rows = []
    for split in ("valid", "test"):
        concepts = {row["ID"]: row["CUIs"].split(";") for row in cells(folder / f"{split}_concepts.csv")}
        for row in cells(folder / f"{split}_captions.csv")[::every]:
            text = render(rewrite_by_rules(source(row["Caption"], concepts[row["ID"]], names)))
            rows.append((row["ID"], row["Caption"], concepts[row["ID"]], text))
    t = pd.DataFrame(rows, columns=["id", "caption", "cuis", "transformed"])
    return t, audit(t, names)


@pytest.mark.soak
def test_rules_contradict_nothing_in_some_official_captions():
    if not OFFICIAL.exists():
        pytest.skip("the ROCOv2 texts are not beside this checkout (../shared/data/rocov2_text)")
    t, a = audit_rules(OFFICIAL, every=40)
    assert a.totals.coverage >= 0.97
    assert a.kinds.rows.filter(regex="^(number|side|negation)").sum() == 0
    assert a.totals.normal_concept == 0


def test_rules_contradict_nothing_in_official_captions(official_text):
    "Every fourth caption; chapter 394 counts all 19,831."
    t, a = audit_rules(official_text, every=4)
    assert len(t) > 4900
    assert (a.modalities["image type agrees"].dropna() >= 0.995).all()
    assert a.totals.coverage >= 0.97
    assert a.kinds.rows.filter(regex="^(number|side|negation)").sum() <= 0.0005 * len(t)
    assert a.totals.normal_concept == 0
    assert a.kinds.rows["'Normal' beside a finding"] == 0
    hits = {}
    for text, cuis in zip(t.transformed, t.cuis):
        kind = stated_type(cuis)
        if kind and text != "invalid":
            hits.setdefault(kind, []).append(kind.lower() in text.split(",")[0].lower())
    for kind, found in hits.items():
        assert np.mean(found) >= 0.995, kind


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind, share",
    [
        ("Computed tomography", 0.65),
        ("X-ray", 0.98),
        ("Magnetic resonance imaging", 0.92),
        ("Ultrasonography", 0.95),
        ("Angiogram", 0.57),
    ],
)
def test_audit_of_llama3_finds_the_recorded_agreement(llama_train, kind, share):
    assert llama_train.modalities["image type agrees"][kind] == pytest.approx(share, abs=0.015)


@pytest.fixture(scope="module")
def llama_train(official_text):
    file = read_captions(official_text / "train_llama3_keywords.csv")
    assert len(file.table) == 10311
    return audit(file.table, file.names)
