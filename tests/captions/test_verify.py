"""Facts that a rewriting changes, and facts that it keeps."""

import pytest
from caption_cases import CT, MR, NAMES

from radgen.captions.facts import source
from radgen.captions.template import Record
from radgen.captions.verify import named_values, verify


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
    difference = verify(good._replace(**{field: value}), s)
    assert (difference.reason if difference else "") == reason


def test_verify_wants_the_finding_of_the_caption():
    s = source("Chest CT with pneumonia of a lobe", [CT], NAMES)
    lobe = Record("Computed tomography", "Chest", "", "lobe")
    assert verify(lobe, s) == ("left out", "pneumonia")
    assert verify(lobe, s, allow_shorter=True) is None


@pytest.mark.parametrize(
    "caption, condition, reason",
    [
        ("Chest CT", "Normal", "normal"),  # nobody said so
        ("Chest CT", "", ""),
        ("Normal chest CT", "Normal", ""),
        ("Normal chest CT", "", "normal"),
        ("Chest CT without abnormality", "Normal", ""),
        ("Chest CT with pneumonia", "Normal", "normal"),
        ("Chest CT with pneumonia", "", "normal"),
    ],
)
def test_normal_is_said_only_where_the_caption_says_it(caption, condition, reason):
    difference = verify(Record("Computed tomography", "Chest", "", condition), source(caption, [CT], NAMES))
    assert (difference.reason if difference else "") == reason
