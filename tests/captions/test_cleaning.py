"""Captions of many forms through the cleaner, and hostile text."""

import time

import pytest

from radgen.captions.cleaning import MAX_CHARS, clean_caption, tidy

HOSTILE = [
    "word " * 5000,
    "x" * 50000,
    "((((" * 2000,
    "Fig. 1. " * 800,
    "[1] " * 2000,
    "arrow " * 3000,
    "A: b c d e; " * 900,
    "AB: a b " * 900,
    "CT (CT) " * 900,
    "1 x " * 3000,
    "3 - " * 3000,
    "no " * 3000,
    "left " * 3000,
    "with contrast " * 900,
    "courtesy of (" * 900,
    "for interpretation of the references " * 300,
    "). " * 3000,
    "é" * 9000,
]


@pytest.mark.parametrize(
    "dirty, clean",
    [
        ("Figure 12A. Chest CT (arrows).", "Chest CT"),
        ("Fig 3 - Chest CT", "Chest CT"),
        ("Mass on T-2 weighted and T 1-weighted MRI", "Mass on T2 weighted and T1-weighted MRI"),
        ("Fracture at T 2 and T-1", "Fracture at T 2 and T-1"),
        ("Chest CT (Fig. 2, a-c)", "Chest CT"),
        ("(A, B) Chest CT [1-3].", "Chest CT"),
        ("Panel B: Chest CT", "Chest CT"),
        ("A. Chest CT. B) MRI", "Chest CT. MRI"),
        ("Chest CT\x00\u200b\r\n\tscan", "Chest CT scan"),
        ("CT, 3 × 4 cm – left", "CT, 3 x 4 cm - left"),
        ("", ""),
        ("   ", ""),
        ("(arrow)", ""),
        ("mass (red)", "mass"),
        ("Chest CT <b>scan</b> https://doi.org/10.1/x", "Chest CT scan"),
        ("mass (arrow, 3 cm)", "mass (3 cm)"),
        ("Figure-of-eight sign", "Figure-of-eight sign"),
        ("Vitamin (D) deficiency", "Vitamin deficiency"),
        ("The white arrow points to a mass", "a mass"),
        ("a mass, as indicated by the large black arrowheads, and edema", "a mass, and edema"),
        ("narrow canal", "narrow canal"),
        ("A mass (white arrow).A cyst", "A mass. A cyst"),
        ("mass {x} `y` |z|", "mass x y z"),
        ("Nodule. Case courtesy of Dr. No, Radiopaedia.org, rID: 1234", "Nodule"),
        ("Patient No. 4. Nodule", "Nodule"),
        ("T2* image", "T2-star image"),
        ("MRI in L1.5 position", "MRI in L1.5 position"),
    ],
)
def test_clean_caption_deletes_what_belongs_to_the_figure(dirty, clean):
    assert clean_caption(dirty) == clean


def test_tidy_mends_punctuation():
    assert tidy(" a ,; b . ") == "a, b"


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12] for text in HOSTILE])
def test_clean_caption_bounds_hostile_text_in_linear_time(text):
    began = time.process_time()
    once = clean_caption(text)
    assert time.process_time() - began < 1  # milliseconds, unless a pattern backtracks
    assert len(once) <= MAX_CHARS
    assert "\n" not in once
    assert clean_caption(once) == once
