"The file of kinds is checked when it is loaded; concepts of an image are those of its kind and little else."

from collections import Counter

import numpy as np
import pytest

from radgen.core.errors import DataError
from radgen.data.canvas import Finding, SIZE
from radgen.data.kinds import FILE, KINDS, TABLE, draw_cuis, parse_kinds

TEXT = FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("share = 0.14", "share = 3", "ct_head: share is 3: it must be above 0 and at most 1"),
        ("share = 0.14", "", "ct_head: share is missing"),
        ("share = 0.14", "shares = 0.14", "ct_head: "),
        ("fibroid = false", 'fibroid = "perhaps"', "us_pelvis: findings"),
        ('modality = "CT"', 'modality = "PET"', "ct_head: modality PET"),
        ("[kinds.ct_head]", "[kinds.ct_foot]", "ct_foot: painter ct_foot"),
        ("C0042149 = 0.12", "C9999999 = 0.12", "us_pelvis: concept C9999999"),
        ('cyst = "C0010709"', 'cyst = "C9999999"', "concept C9999999"),
    ],
)
def test_parse_kinds_names_the_kind_and_what_is_wrong(old, new, message):
    assert old in TEXT
    text = TEXT.replace(old, new)
    if "ct_foot" in new:
        text = text.replace("[kinds.ct_head.", "[kinds.ct_foot.")
    with pytest.raises(DataError, match=message):
        parse_kinds(text)


@pytest.mark.parametrize("name", KINDS)
def test_every_painter_draws_every_finding(name):
    kind = KINDS[name]
    normal = kind.draw(np.random.default_rng(0), Finding())
    assert normal.shape == (SIZE, SIZE)
    for finding, has_side in kind.findings.items():
        organ = "gallbladder" if finding == "gallstones" else ""
        f = Finding(finding, "left" if has_side else "", 30, organ=organ)
        image = kind.draw(np.random.default_rng(0), f)
        assert np.isfinite(image).all(), finding
        assert np.abs(image.clip(0, 255) - normal.clip(0, 255)).max() > 20, finding


def test_draw_cuis_follows_the_probabilities():
    kind = KINDS["ct_head"]
    rng = np.random.default_rng(0)
    counts = Counter()
    for _ in range(2000):
        counts.update(draw_cuis(rng, kind, Finding("mass", "left", 20)))
    share = {cui: n / 2000 for cui, n in counts.items()}
    assert share[TABLE.modalities["CT"]] == 1
    assert abs(share["C0006104"] - 0.05) < 0.02
    assert abs(share[TABLE.findings["mass"]] - 0.40) < 0.04
    assert abs(share[TABLE.unnamed_concepts["left"]] - 0.06) < 0.02
    assert TABLE.unnamed_concepts["right"] not in share
    assert share[TABLE.rare_concepts[0]] > share[TABLE.rare_concepts[3]]
