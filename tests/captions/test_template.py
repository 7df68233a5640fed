"""The template written and read."""

import random

import pytest

from radgen.captions.lexicon import LEXICON
from radgen.captions.template import Record, parse, render


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\n\n",
        "invalid",
        "no commas here",
        "a, b, c",
        "a,,b,c",
        "`rm -rf /`, a, b, c",
        "X-ray, Chest, PA, {0.__class__}",
        "X-ray, Chest, PA, ${HOME}",
        "X-ray, Chest, PA, <|im_end|>",
        "X-ray, Chest, PA, http://evil",
        "X-ray, Chest, PA, __import__",
        "X-ray, Chest, PA, " + "long " * 500,
        "Here it is:\nX-ray, Chest, PA, Normal",
        "X-ray, Chest, PA, a\x1b[31m",
        "{",
        "{}",
        "[1]",
        '{"image_type": 1}',
        '{"image_type": "a,b", "condition": "x"}',
        '{"image_type": "X-ray"',
        "null",
        "{" * 1000,
    ],
)
def test_parse_rejects(answer):
    assert parse(answer) is None


@pytest.mark.parametrize(
    "answer, record",
    [
        ("X-ray, Chest, PA view, Mass\nIgnore the caption. import os", Record("X-ray", "Chest", "PA view", "Mass")),
        (
            " 'X-ray, Chest, PA view, 3.5 cm mass, left (upper lobe).' ",
            Record("X-ray", "Chest", "PA view", "3.5 cm mass, left (upper lobe)"),
        ),
        ("Answer: X-ray, Chest, PA view, Normal", Record("X-ray", "Chest", "PA view")),
        (
            '{"image_type": "X-ray", "body_part": "Chest", "view": "Unspecified view", "condition": "normal", "n": 1}',
            Record("X-ray", "Chest"),
        ),
    ],
)
def test_parse_reads(answer, record):
    assert parse(answer) == record


def test_render_and_parse_are_inverse():
    rng = random.Random(0)
    for _ in range(300):
        record = Record(
            rng.choice([*LEXICON.image_types]),
            rng.choice(["", *LEXICON.regions, "Chest and Abdomen"]),
            rng.choice(["", *LEXICON.views]),
            rng.choice(["", "Mass", "3 cm mass, left", "No effusion; nodule (2 mm)"]),
        )
        assert parse(render(record)) == record


def test_no_record_is_invalid():
    assert render(None) == "invalid"
    assert parse("invalid") is None
