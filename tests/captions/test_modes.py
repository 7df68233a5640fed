"The four caption modes, worked examples."

import pytest

from llm_model import NAMES, table
from radgen.captions.modes import caption_texts
from radgen.core.errors import ConfigError

LINE = "Computed tomography, Chest, Unspecified view, Normal"


@pytest.fixture
def rows():
    captions = ("Fig. 1. Chest CT (arrow).", "An angle.", "Head and chest")
    return table(*captions, cuis=("C0040405", "C0817096")).assign(transformed=[LINE, "invalid", ""])


def test_mode_0_is_the_caption(rows):
    assert caption_texts(rows, 0, NAMES) == ["Fig. 1. Chest CT (arrow).", "An angle.", "Head and chest"]


def test_mode_1_begins_with_the_concepts(rows):
    assert caption_texts(rows, 1, NAMES)[1] == "X-Ray Computed Tomography, Chest. An angle"


def test_mode_2_is_transformed_or_concepts_and_clean_caption(rows):
    assert caption_texts(rows, 2, NAMES) == [
        LINE,
        "X-Ray Computed Tomography, Chest. An angle",
        "X-Ray Computed Tomography, Chest. Head and chest",
    ]


def test_mode_3_leaves_out_concepts_that_are_said(rows):
    assert caption_texts(rows, 3, NAMES)[0] == f"{LINE}. X-Ray Computed Tomography. Fig. 1. Chest CT (arrow)"


@pytest.mark.parametrize("mode", [-1, 4, "2"])
def test_unknown_mode(rows, mode):
    with pytest.raises(ConfigError, match="there is no caption mode"):
        caption_texts(rows, mode, NAMES)


def test_mode_2_needs_transformed_captions():
    with pytest.raises(ConfigError, match="needs transformed captions"):
        caption_texts(table("x"), 2, NAMES)
