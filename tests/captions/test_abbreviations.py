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
