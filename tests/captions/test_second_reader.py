"The independent check: categories, what it flags, what it must not flag, and that it is independent."

import ast
import json
import re
from pathlib import Path

import pytest
from helpers import ROOT

import radgen.captions
from radgen.captions.clinical_text import ReadingPipeline
from radgen.captions.facts import source
from radgen.captions.records import rewrite_by_rules
from radgen.captions.second_reader import CATEGORIES, CONTRADICTS, UNSUPPORTED, fields, read_rows, spells
from radgen.captions.template import Record, render
from radgen.data.cells import read_cells
from radgen.data.tables import read_names

CASES = [json.loads(line) for line in open(Path(__file__).parent / "verifier_cases.jsonl", encoding="utf-8")]


@pytest.fixture(scope="module")
def pipeline():
    return ReadingPipeline()


@pytest.fixture
def check(pipeline):
    def one(caption, condition, body_part="Chest", labels=()):
        line = f"Computed tomography, {body_part}, Unspecified view, {condition}"
        [row] = read_rows(pipeline, [line], [caption], [list(labels)])
        return row

    return one


@pytest.mark.parametrize("module", ["clinical_text", "second_reader"])
def test_nothing_of_the_verifier_is_imported(module):
    source = Path(radgen.captions.__path__[0], f"{module}.py").read_text(encoding="utf-8")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    own = {node.module for node in nodes if node.level == 1}
    assert own <= {"clinical_text", "template"}
    assert {node.module for node in nodes if node.level > 1} <= {"core.errors"}


@pytest.mark.parametrize(
    "caption, condition, kind",
    [
        ("Nodule and no effusion.", "Nodule and effusion", "negation lost"),
        ("No mass, effusion or pneumothorax.", "Pneumothorax", "negation lost"),
        ("Resolution of the abscess.", "Abscess", "negation lost"),
        ("Noncalcified nodule.", "Calcified nodule", "negation lost"),
        ("Nodule with calcification.", "Nodule without calcification", "negation invented"),
        ("Calcified nodule.", "Noncalcified nodule", "negation invented"),
        ("Opacity suggestive of pneumonia.", "Pneumonia", "certainty raised"),
        ("History of lymphoma; effusion.", "Lymphoma and effusion", "history lost"),
        ("Nodule in the left lung.", "Nodule in the right lung", "side differs"),
        ("Nodule in the left lung.", "Bilateral lung nodules", "side differs"),
        ("L effusion, R pneumothorax.", "Right effusion, left pneumothorax", "side differs"),
        ("2 cm nodule.", "2 mm nodule", "number differs"),
        (".12 mm niche.", "12 mm niche", "number differs"),
        ("8 cm aneurysm with 12 mm thrombus.", "12 mm aneurysm with 8 cm thrombus", "number differs"),
        ("Fractures of five ribs.", "Fractures of three ribs", "number differs"),
        ("Grade 4 laceration.", "Grade 2 laceration", "number differs"),
    ],
)
def test_contradictions(check, caption, condition, kind):
    row = check(caption, condition)
    assert row.category == "contradicts"
    assert kind in row.kinds


@pytest.mark.parametrize(
    "caption, condition, kind, word",
    [
        ("CT shows a nodule.", "Malignant nodule", "word added", "malignant"),
        ("CT shows a nodule.", "Left nodule", "side added", "left"),
        ("CT shows a nodule.", "3 cm nodule", "number added", "0.03 meter"),
        ("CT shows nodules.", "4 nodules", "number added", "4"),
        ("CT shows a nodule.", "Normal", "'normal' added", "normal"),
    ],
)
def test_unsupported(check, caption, condition, kind, word):
    row = check(caption, condition)
    assert row.category == "unsupported"
    assert row.kinds == {kind: [word]}


@pytest.mark.parametrize(
    "caption, condition",
    [
        ("Nodule without calcification in the left lung.", "Left lung nodule, no calcification"),
        ("Effusion is not seen, but there is a mass.", "Mass, no effusion"),
        ("Both lungs show nodules of 20 mm.", "Bilateral lung nodules of 2 cm"),
        ("Three haemorrhages.", "3 hemorrhages"),
        ("Thrombosis of the SVC, LV dilated.", "Superior vena cava thrombosis, dilated left ventricle"),
        ("Right Anterior Oblique view of an occluded LAD.", "Occluded left anterior descending artery; oblique right"),
        ("COVID-19 ARDS.", "Acute respiratory distress syndrome of COVID-19"),
        ("Axial T2WI of a lesion.", "Lesion on T2-weighted image"),
        ("Stenosis of the gall bladder neck.", "Stenotic gallbladder neck"),
        ("Bone loss in the NT group.", "Bone loss in the no treatment group"),
        ("There aren’t any pathologic findings.", "Normal"),
        ("Unremarkable chest radiograph.", "Normal"),
        ("Resolution of symptoms prior to discharge.", "Resolution prior to discharge"),
        ("Abscess with possible air. No residual abscess later.", "Abscess"),
    ],
)
def test_paraphrases_are_no_contradictions(check, caption, condition):
    row = check(caption, condition, labels=["Artery"])
    assert row.category in ("paraphrase", "same"), row.kinds


def test_same_is_word_for_word(check):
    caption = "CT chest (arrow): 2 cm nodule in the left lung. No effusion."
    assert check(caption, "2 cm nodule in the left lung; no effusion").category == "same"
    assert check(caption, "Left lung nodule of 2 cm").category == "paraphrase"
    assert check(caption, "Unspecified finding").category == "same"


def test_names_of_concepts_and_body_part_support_words(check):
    assert check("Image of a patient.", "Pneumonia").category == "unsupported"
    assert check("Image of a patient.", "Pneumonia", labels=["Pneumonia"]).category == "paraphrase"


def test_a_body_part_counts_by_its_side(check):
    assert check("Fracture of the left femur.", "Fracture", body_part="Right femur").category == "contradicts"
    assert check("Absence of the left kidney.", "Absence of the left kidney", body_part="Kidney").category == "same"


def test_rows_are_read_by_themselves_and_in_order(pipeline):
    lines = ["X-ray, Chest, Unspecified view, No nodule", "invalid", "Nodule and mass"]
    rows = read_rows(pipeline, lines, ["A nodule."] * 3, [[]] * 3)
    assert [row.category for row in rows] == ["contradicts", "", "unsupported"]
    assert read_rows(pipeline, lines[:1], ["A nodule."], [[]]) == rows[:1]


def test_fields_reads_lines_of_anybody():
    assert fields("CT, Chest, Axial view, Mass, large") == Record("CT", "Chest", "Axial view", "Mass, large")
    assert fields("CT, Chest, Mass") == Record("CT", "Chest", "", "Mass")
    assert fields("A mass") == Record("", condition="A mass")


@pytest.mark.parametrize(
    "short, words, expected",
    [
        ("svc", "superior vena cava", True),
        ("hcc", "hepatocellular carcinoma", True),
        ("tb", "tuberculosis", True),
        ("svc", "superior mesenteric artery", False),
        ("ct", "abdomen", False),
        ("ct", "", False),
    ],
)
def test_spells(short, words, expected):
    assert spells(short, words.split()) == expected


def test_fair_answers_of_the_verifiers_cases_are_no_contradictions(pipeline):
    lines = [case["line"] or f"X-ray, Chest, Unspecified view, {case['condition']}" for case in CASES]
    rows = read_rows(pipeline, lines, [case["caption"] for case in CASES], [[]] * len(CASES))
    found = [case["condition"] for case, row in zip(CASES, rows) if case["accept"] and row.category == "contradicts"]
    assert len(found) <= 1, found
    contradicting = [row for case, row in zip(CASES, rows) if not case["accept"]]
    assert sum(row.category == "contradicts" for row in contradicting) >= 0.35 * len(contradicting)


def test_every_kind_belongs_to_a_category(pipeline):
    assert len(CATEGORIES) == 4
    assert not set(CONTRADICTS) & set(UNSUPPORTED)


def test_the_benchmark_runs_on_the_cases_of_the_tests():
    source = (ROOT / "benchmarks" / "verifier.py").read_text(encoding="utf-8")
    assert "verifier_cases.jsonl" in source


def test_rules_hardly_contradict_official_captions(official_text, pipeline):
    names = read_names(official_text / "cui_mapping.csv")
    captions = read_cells(official_text / "valid_captions.csv", ("ID", "Caption")).set_index("ID").Caption[::20]
    concepts = read_cells(official_text / "valid_concepts.csv", ("ID", "CUIs")).set_index("ID").CUIs.str.split(";")
    cuis = [concepts[row] for row in captions.index]
    lines = [render(rewrite_by_rules(source(text, known, names))) for text, known in zip(captions, cuis)]
    labels = [[names.get(cui, "") for cui in known] for known in cuis]
    found = [row.category for row in read_rows(pipeline, lines, list(captions), labels)]
    assert len(found) > 400
    assert found.count("contradicts") <= 0.005 * len(found)
    swapped = [re.sub("left", "right", line) for line in lines]
    found = [row.category for row in read_rows(pipeline, swapped, list(captions), labels)]
    wrong = [a != b and "right" not in caption.lower() for a, b, caption in zip(lines, swapped, captions)]
    assert sum(c == "contradicts" for c, w in zip(found, wrong) if w) >= 0.9 * sum(wrong)
