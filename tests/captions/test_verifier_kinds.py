"""Answers of every kind in which a caption can be contradicted or reworded, by row: verifier_kinds.jsonl."""

import json
from pathlib import Path

import pytest

from radgen.captions.facts import source
from radgen.captions.history import plain_caption
from radgen.captions.records import judge
from radgen.captions.template import Record, render

CASES = Path(__file__).with_name("verifier_kinds.jsonl")
NAMES = {
    "C0040405": "X-Ray Computed Tomography",
    "C1306645": "Plain x-ray",
    "C0024485": "Magnetic Resonance Imaging",
    "C0041618": "Ultrasonography",
    "C0002978": "Angiogram",
    "C0032743": "Positron-Emission Tomography",
}


def accepted(case):
    "Whether the answer of a case may be used."
    s = source(case["caption"], case["cuis"], NAMES)
    fields = (s.facts.label, s.facts.region, s.facts.view)
    answer = case["line"] or render(Record(*fields, case["condition"]))
    return judge(answer, s)[0] is not None


def test_contradictions_are_rejected_and_fair_answers_accepted():
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    right = {True: [], False: []}
    for case in cases:
        right[case["accept"]].append(accepted(case) == case["accept"])
    assert len(right[False]) > 240 and len(right[True]) > 240
    assert sum(right[False]) >= 0.98 * len(right[False])
    assert sum(right[True]) >= 0.92 * len(right[True])


@pytest.mark.parametrize(
    "caption, without",
    [
        ("CT obtained for suspected embolism shows pneumonia", "embolism"),
        ("CT in a patient with suspected appendicitis shows a cyst", "appendicitis"),
        ("Chest X-ray. INDICATION: rule out pneumonia. FINDINGS: clear lungs.", "pneumonia"),
        ("COMPARISON: film with an effusion. FINDINGS: clear lungs.", "effusion"),
        ("Radiograph of a boy with pain in the left knee showing a cyst of the right femur", "left"),
        ("Echocardiogram with severe MR (MR, mitral regurgitation)", "MR"),
    ],
)
def test_what_no_image_shows_is_left_out(caption, without):
    assert without in caption
    assert without not in plain_caption(caption)


def test_a_negation_keeps_its_verb_at_the_end_of_a_clause():
    s = source("CT: the fracture line is no longer visible, callus", ["C0040405"], NAMES)
    assert "no longer visible" in judge(render(Record("Computed tomography", "", "", s.text)), s)[0].condition
