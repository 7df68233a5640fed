"""Facts that a rewriting changes, and facts that it keeps."""

import pytest
from caption_cases import CT, MR, NAMES

from radgen.captions.evidence import evidence
from radgen.captions.facts import source
from radgen.captions.template import Record
from radgen.captions.verify import changed_fact, named_values, verify

OLD = "3 cm mass in the right lung, 12 mm nodule in the left lung after 3 months, no effusion"


@pytest.mark.parametrize(
    "new, fact",
    [
        (OLD, ""),
        (OLD.replace(" after 3 months", ""), ""),  # a time may be left out
        (OLD.replace("3 cm", "4 cm"), "number"),
        (OLD.replace("3 cm", "3 mm"), "number"),
        (OLD.replace("12 mm ", ""), "number"),
        (OLD.replace("3 cm", "X").replace("12 mm", "3 cm").replace("X", "12 mm"), "number"),
        (OLD.replace("right", "left"), "side"),
        (OLD.replace("right", "X").replace("left", "right").replace("X", "left"), "side"),
        (OLD.replace("no effusion", "effusion"), "negation"),
        (OLD.replace("no effusion", "no edema"), "negation"),
    ],
)
def test_changed_fact(new, fact):
    assert changed_fact(evidence(new), evidence(OLD)) == fact


def test_without_abnormality_may_become_normal():
    assert changed_fact(evidence("normal"), evidence("without abnormality")) == ""
    assert changed_fact(evidence("abnormality"), evidence("without abnormality")) == "negation"


@pytest.mark.parametrize(
    "label, field, values",
    [
        ("Axial and coronal view", "view", {"Axial view", "Coronal view"}),
        ("Contrast-enhanced and non-contrast", "contrast", {"Contrast-enhanced", "Non-contrast"}),
        ("T1-weighted and fat-suppressed", "sequence", {"T1-weighted", "Fat-suppressed"}),
        ("", "view", set()),
    ],
)
def test_named_values_takes_a_label_apart(label, field, values):
    assert named_values(label, field) == values


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("image_type", "Magnetic resonance imaging", "image type"),
        ("body_part", "Chest", "body part"),
        ("view", "Coronal view", "view"),
        ("condition", "", "normal"),
        ("condition", "lesion on ultrasound", "other modality"),
        ("condition", "lesion on coronal images", "plane"),
        ("condition", "lesion after contrast", "contrast"),
        ("condition", "lesion on T1", "sequence"),
        ("condition", "malignant lesion", "new word"),
        ("condition", "lesion", ""),
    ],
)
def test_verify_gives_the_reason(field, value, reason):
    s = source("Axial T2-weighted FLAIR MRI of the brain shows a lesion", [MR], NAMES)
    image_type = "T2-weighted and fluid-attenuated inversion recovery magnetic resonance imaging"
    good = Record(image_type, "Head", "Axial view", "lesion")
    assert verify(good._replace(**{field: value}), s) == reason


def test_verify_wants_the_finding_of_the_caption():
    s = source("Chest CT with pneumonia of a lobe", [CT], NAMES)
    assert verify(Record("Computed tomography", "Chest", "", "lobe"), s) == "finding left out"
