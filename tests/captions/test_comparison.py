"""Rewritings that contradict their caption, and fair ones: verifier_cases.jsonl, written without the program."""

import json
from pathlib import Path

import pytest

from helpers import SHARED
from radgen.captions.history import plain_caption
from radgen.captions.comparison import compare_statements

CASES = Path(__file__).with_name("verifier_cases.jsonl")
PROBES = SHARED.parent / "probes" / "verifier.jsonl"


def read_cases(path):
    "The cases about a condition; those about a whole line are for the verifier."
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [case for case in cases if not case.get("line")]


def shares(path):
    "The share of contradictions that are rejected, and of fair rewritings that are accepted."
    right = {True: [], False: []}
    for case in read_cases(path):
        found = compare_statements(plain_caption(case["condition"]), plain_caption(case["caption"]))
        right[case["accept"]].append((found is None) == case["accept"])
    return {accept: sum(answers) / len(answers) for accept, answers in right.items()}


def test_contradictions_are_rejected_and_fair_rewritings_accepted():
    found = shares(CASES)
    assert found[False] >= 0.97
    assert found[True] >= 0.9


def test_probes_of_the_review():
    if not PROBES.exists():
        pytest.skip("the probes are not beside this checkout (../shared/probes)")
    found = shares(PROBES)
    assert found[False] >= 0.95
    assert found[True] >= 0.85


@pytest.mark.parametrize(
    "caption, condition, reason",
    [
        ("no fracture or dislocation", "no fracture; dislocation", "negation"),
        ("no effusion, pneumothorax or consolidation", "no effusion, pneumothorax", "negation"),
        ("resolution of the stricture", "stricture", "negation"),
        ("possible pneumonia", "pneumonia", "uncertainty"),
        ("a mass mimicking an abscess", "abscess, mass", "uncertainty"),
        ("decreased pleural effusion", "pleural effusion", "change"),
        ("left pleural effusion and pneumothorax", "pleural effusion and left pneumothorax", "side"),
        ("stenosis at L4-L5", "stenosis at L3-L4", "level"),
        ("fracture of the fourth rib", "fracture of the fifth rib", "level"),
        ("grade II hydronephrosis", "grade III hydronephrosis", "grade"),
        ("a 3 cm cyst", "a 3 mm cyst", "number"),
        ("less than 50% stenosis", "50% stenosis", "number"),
        ("minimally displaced fracture", "displaced fracture", "degree"),
        ("upper lobe nodule and lower lobe mass", "lower lobe nodule and upper lobe mass", "moved"),
        ("pneumothorax and rib fracture", "rib fracture", "left out"),
        ("renal cyst", "renal abscess", "new word"),
        ("mass in the lung field without silhouette sign", "mass in the lung field, silhouette", "negation"),
        ("free air with no definite contrast leak", "free air with contrast leak", "negation"),
        ("no signs compatible with an embolism in the trunk", "signs of an embolism in the trunk", "negation"),
        ("absence of edema and evidence of recurrence", "absence of edema and of recurrence", "negation"),
        ("the ovary is not enlarged and is dense", "ovary is neither enlarged nor dense", "negation"),
        ("no lymphadenopathy (not shown)", "lymphadenopathy (not shown)", "negation"),
        ("basal infiltrates and no worsening", "basal infiltrates with worsening", "change"),
        ("lesion at L3-L4 has no continuity with the disc", "lesion at L3-L4 with continuity with disc", "negation"),
    ],
)
def test_difference_has_its_reason(caption, condition, reason):
    assert compare_statements(caption, caption) is None
    assert compare_statements(condition, caption).reason == reason


@pytest.mark.parametrize(
    "caption, condition",
    [
        ("a cyst of 3 cm in the left kidney", "30 mm left renal cyst"),
        ("nodules in both lungs", "bilateral pulmonary nodules"),
        ("appendicitis was excluded", "no appendicitis"),
        ("haemorrhage and oedema", "edema; hemorrhage"),
        ("two calculi in the gall bladder", "2 gallbladder stones"),
        ("thickening of the bowel wall", "bowel wall thickening"),
        ("without findings consistent with pulmonary embolism", "no findings consistent with pulmonary embolism"),
        ("absence of edema and evidence of recurrence", "evidence of recurrence and absence of edema"),
        ("free air with no definite leak", "free air, no definite leak"),
    ],
)
def test_fair_rewriting_is_accepted(caption, condition):
    assert compare_statements(condition, caption) is None


def test_finding_may_be_left_out_where_it_is_allowed():
    assert compare_statements("rib fracture", "pneumothorax and rib fracture", may_be_shorter=True) is None


def test_words_of_labels_are_no_new_words():
    assert compare_statements("thoracic mass", "a mass").reason == "new word"
    assert compare_statements("thoracic mass", "a mass", labels="Thorax") is None


def test_hostile_text_is_read_in_linear_time():
    for text in ("no " * 3000, "3 x " * 3000, "(" * 5000, "left and right " * 1000, "a-" * 3000):
        compare_statements(text, text)
