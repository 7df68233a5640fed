"""Captions of several panels: what belongs to another panel is left out, never mixed."""

import pytest
from caption_cases import CT, MR, NAMES, XR

from radgen.captions.facts import source
from radgen.captions.panels import image_text, split_panels
from radgen.captions.records import rewrite_by_rules
from radgen.captions.template import render

ANY = "Unspecified region, Unspecified view"


@pytest.mark.parametrize(
    "caption, common, texts",
    [
        ("(a) CT of the chest, (b) MRI of the brain", "", ["CT of the chest,", "MRI of the brain"]),
        ("Sepsis. A: axial CT. B: coronal CT", "Sepsis.", ["axial CT.", "coronal CT"]),
        ("A) chest X-ray; B) CT; C) MRI", "", ["chest X-ray;", "CT;", "MRI"]),
        ("CT of the chest (A)", "CT of the chest (A)", []),
        ("(B) MRI of the brain", "(B) MRI of the brain", []),
        ("A mass. B cells were found", "A mass. B cells were found", []),
    ],
)
def test_split_panels(caption, common, texts):
    assert split_panels(caption).common.strip() == common.strip()
    assert [text.strip() for text in split_panels(caption).texts] == texts


@pytest.mark.parametrize(
    "caption, cuis, line",
    [
        (
            "(a) CT of the chest, (b) MRI of the brain",
            [CT],
            "Computed tomography, Chest, Unspecified view, Unspecified finding",
        ),
        (
            "(a) CT of the chest with a nodule, (b) MRI of the brain with a cyst",
            [MR],
            "Magnetic resonance imaging, Head, Unspecified view, Cyst",
        ),
        (
            "(a) CT of the chest with a nodule; (b) CT of the pelvis with ascites",
            [CT],
            f"Computed tomography, {ANY}, Unspecified finding",
        ),
        (
            "A: axial CT of the liver with a cyst. B: coronal CT of the liver with a cyst",
            [CT],
            "Computed tomography, Liver, Unspecified view, Cyst",
        ),
        ("Axial (A) and coronal (B) CT show a mass", [CT], f"Computed tomography, {ANY}, Mass"),
        ("A; B; C. X-ray of the hip with a fracture", [XR], "X-ray, Hip, Unspecified view, Fracture"),
        (
            "MRI before treatment shows a mass; after treatment the mass is smaller",
            [MR],
            f"Magnetic resonance imaging, {ANY}, Before treatment shows a mass; after treatment the mass is smaller",
        ),
        (
            "CT of the abdomen w/wo contrast shows a mass",
            [CT],
            "Contrast-enhanced and non-contrast computed tomography, Abdomen, Unspecified view, Mass",
        ),
        (
            "T2 lesion at T2-T3 level on MRI",
            [MR],
            f"T2-weighted magnetic resonance imaging, {ANY}, T2 lesion at T2-T3 level",
        ),
    ],
)
def test_panels_are_not_mixed(caption, cuis, line):
    assert render(rewrite_by_rules(source(caption, cuis, NAMES))) == line


def test_a_caption_without_panels_is_read_as_a_whole():
    assert image_text("Axial CT (arrow) of the chest") == "Axial computed tomography of the chest"
