"Captions of phantoms: untidy like those of papers, and never wrong."

import numpy as np
import pytest

from radgen.data.kinds import KINDS
from radgen.data.phantom_captions import draw_caption
from radgen.data.phantoms import draw_finding, draw_kind

NOT_A_SIDE = ("r: right; l: left.", "right upper quadrant", "internal carotid artery", "-sided")  # in every caption
MODALITY_WORDS = (
    *("ct", "mr", "x-ray", "radiograph", "cxr", "us ", "sono", "angio"),
    *("dsa", "tomograph", "film", "t1", "t2", "hrct"),
)


@pytest.fixture(scope="module")
def captions():
    "Captions with their findings, drawn without an image."
    pairs = []
    for i in range(1200):
        rng = np.random.default_rng(i)
        kind = draw_kind(rng)
        finding = draw_finding(rng, kind)
        pairs.append((draw_caption(rng, kind, finding), finding))
    return pairs


def test_captions_never_name_another_side(captions):
    for caption, finding in captions:
        if not finding.side:
            continue
        text = caption.lower()
        for words in NOT_A_SIDE:
            text = text.replace(words, "")
        other = "right" if finding.side == "left" else "left"
        assert other not in text.split(), caption


@pytest.mark.parametrize(
    "words",
    ["Fig", "(arrow", "year-old", "CT", "MRI", " mm ", "no evidence", "(a)", "Computed tomography", ";", '"'],
)
def test_captions_have_what_captions_of_papers_have(captions, words):
    assert any(words.lower() in caption.lower() for caption, _ in captions)


def test_captions_vary_and_some_do_not_name_the_modality(captions):
    texts = [caption for caption, _ in captions]
    assert len(set(texts)) > 0.8 * len(texts)
    silent = [text for text in texts if not any(word in text.lower() for word in MODALITY_WORDS)]
    assert len(silent) > 0.03 * len(texts)


def test_a_normal_image_has_no_finding_in_its_caption():
    rng = np.random.default_rng(0)
    for kind in KINDS.values():
        for _ in range(20):
            finding = draw_finding(rng, kind)
            caption = draw_caption(rng, kind, finding).lower()
            named = [name for name in kind.findings if name in caption and f"no {name}" not in caption]
            absent = [name for name in named if f"no evidence of {name}" not in caption]
            assert finding.name or not absent, caption
