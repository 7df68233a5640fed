"""Abbreviations with and without a legend."""

import pytest

from radgen.captions.abbreviations import expand, is_short_for


@pytest.mark.parametrize(
    "short, long",
    [
        ("CT (computed tomography) of the RUL", "computed tomography of the right upper lobe"),
        ("CTA", "computed tomography angiography"),
        ("PARTICULAR", "PARTICULAR"),
        ("multiple GGOs", "multiple ground-glass opacities"),
        ("PA catheter", "PA catheter"),
        ("The SMV is wide. SMV: superior mesenteric vein", "The superior mesenteric vein is wide"),
        ("LV, left ventricle; the LV is wide", "the left ventricle is wide"),
        ("Ulcer-like projection (ULP). The ULP grew", "Ulcer-like projection. The Ulcer-like projection grew"),
        ("ABC: not its letters", "ABC: not its letters"),
        ("IgG4 (immunoglobulin G4)", "IgG4 (immunoglobulin G4)"),
        ("Lt kidney", "left kidney"),
        ("T2-CT", "T2-CT"),
        ("xCT", "xCT"),
    ],
)
def test_expand_writes_abbreviations_out(short, long):
    assert expand(short) == long


@pytest.mark.parametrize(
    "short, long, fits",
    [
        ("ULP", "ulcer-like projection", True),
        ("B/L", "bilateral", True),
        ("ABC", "not its letters", False),
        ("LV", "the left ventricle", False),
    ],
)
def test_is_short_for_wants_letters_in_order_from_the_first(short, long, fits):
    assert is_short_for(short, long) == fits


@pytest.mark.parametrize(
    "caption, written",
    [
        ("RA: Rheumatoid arthritis. Hand in RA", "Hand in rheumatoid arthritis"),  # its own legend
        ("Hand with erosions in RA", "Hand with erosions in rheumatoid arthritis"),
        ("Echocardiogram: RA and RV", "Echocardiogram: right atrium and right ventricle"),
        ("Echocardiogram with severe MR", "Echocardiogram with severe mitral regurgitation"),
        ("MR of the knee", "magnetic resonance of the knee"),
        ("Cardiac MR image, mitral valve", "Cardiac magnetic resonance image, mitral valve"),
        ("Coronary angiogram of the LAD", "Coronary angiogram of the left anterior descending artery"),
        ("LAD in the neck", "lymphadenopathy in the neck"),
        ("Child with SMA", "Child with SMA"),  # a muscular atrophy or an artery: it stays
        ("Angiogram of the SMA", "Angiogram of the superior mesenteric artery"),
        ("Stenosis of the LAD artery on angiogram", "Stenosis of the left anterior descending artery on angiogram"),
    ],
)
def test_ambiguous_abbreviations_are_read_by_the_words_beside_them(caption, written):
    assert expand(caption) == written
