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
        ("ureter compressed by a retroperitoneal mass", "retroperitoneal mass compressed by the ureter", "moved"),
        ("liver metastases from a pancreatic carcinoma", "pancreatic metastases from a liver carcinoma", "moved"),
        ("tumor invading the vein and abutting the aorta", "tumor invading the aorta and abutting the vein", "moved"),
        ("filling of the vein from the aorta", "filling of the aorta from the vein", "moved"),
        ("twin A with hydrops and twin B with ascites", "twin B with hydrops, twin A with ascites", "grade"),
        ("4 cm mass before treatment, 1 cm mass after it", "4 cm mass after treatment, 1 cm mass before it", "moved"),
        ("torn anterior and an intact posterior ligament", "torn posterior and an intact anterior ligament", "moved"),
        ("T1 bright lesion in the pons, T2 bright lesion in the vermis", "T2 bright lesion in the pons", "sequence"),
        ("free air under the diaphragm", "free air above the diaphragm", "new word"),
        ("torsion could not be excluded", "no torsion", "negation"),
        ("stenosis of L3 and L5", "stenosis of L3", "level"),
        ("no gas within the abscess", "gas within the abscess", "negation"),
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
        ("a ureter compressed by a mass", "mass compressing the ureter"),
        ("tight stricture at the anastomosis", "tight anastomotic stricture"),
        ("a heterogenous mass that abuts the aorta", "heterogeneous mass abutting the aorta"),
        ("erosions and hyperdensity", "hyperdense, eroded"),
        ("fractures of the fourth, fifth and sixth ribs", "fractures of the 4th, 5th and 6th ribs"),
        ("bilateral, predominantly peripheral opacities", "opacities, bilateral, predominantly peripheral"),
        ("spondylolisthesis of L5 on S1", "L5-S1 spondylolisthesis"),
        ("the previously seen effusion has cleared", "resolved effusion"),
        ("the aneurysm increased from 4 to 5 cm", "aneurysm, increased from 40 to 50 mm"),
        ("effusion has increased, atelectasis has decreased", "increased effusion and decreased atelectasis"),
        ("no residual tumor after excision of a meningioma", "after excision of a meningioma no residual tumor"),
        ("one stent", "1 stent"),
        ("PI-RADS 5 lesion in the left lobe", "left lobe lesion, PI-RADS 5"),
        ("deviation to the left due to a right thyroid mass", "right thyroid mass, deviation to the left"),
        ("no vascularity within the hypoechoic nodule", "hypoechoic nodule without vascularity"),
        ("12 mm nodule in the left lung. Left lung nodule", "12 mm left lung nodule"),
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
