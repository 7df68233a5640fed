"""The template written and read."""

import json
import random
import time

import pytest

from radgen.captions.lexicon import LEXICON
from radgen.captions.template import NORMAL, Record, parse, render


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
        "X-ray, Chest, PA, a\x1b[31m",
        "{",
        "{}",
        "[1]",
        '{"image_type": 1}',
        '{"image_type": "a,b", "condition": "x"}',
        '{"image_type": "X-ray"',
        '{"image_type": "X-ray", "body_part": "Chest", "view": "PA", "condition": "Mass"',
        '{"image_type": "X-ray", "condition": ["Mass"]}',
        '[{"image_type": "X-ray", "condition": "Mass"}, {"image_type": "X-ray", "condition": "Normal"}]',
        '{"image_type": "X-ray", "condition": "Mass"} or {"image_type": "X-ray", "condition": "Normal"}',
        '{"a": ' * 6 + '{"image_type": "X-ray"}' + "}" * 6,
        "Sure, here it is, as one line, in the template:",
        "<think>X-ray, Chest, PA view, Normal</think>",
        "<think>",
        "X-ray, Chest, PA view, Mass < left",
        "X-ray, Chest, PA view, <b>5 cm</b> mass",
        "null",
        "{" * 1000,
        "X-ray, Chest, PA view, Mass" + " " * 50_000,
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
        ("Answer: X-ray, Chest, PA view, Normal", Record("X-ray", "Chest", "PA view", NORMAL)),
        ("X-ray, Chest, Unspecified view, Unspecified finding", Record("X-ray", "Chest")),
        (
            '{"image_type": "X-ray", "body_part": "Chest", "view": "Unspecified view", "condition": "Normal", "n": 1}',
            Record("X-ray", "Chest", "", NORMAL),
        ),
    ],
)
def test_parse_reads(answer, record):
    assert parse(answer) == record


LINE = "X-ray, Chest, PA view, 5 cm mass"
RECORD = Record("X-ray", "Chest", "PA view", "5 cm mass")
OBJECT = json.dumps(RECORD._asdict())


@pytest.mark.parametrize("answer", [LINE, OBJECT, json.dumps(RECORD._asdict(), indent=2)])
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "<think>\nThe image is a radiograph, a chest, PA, so\n</think>\n\n{}",
        "<think></think>{}",
        "The image is a radiograph, a chest, PA, so\n</think>\n{}",
        "<think>\nThe image is a radiograph.\n\nThe finding is a mass.\n\n{}",
        "<THINKING>{{}}</THINKING>{}",
        "[THINK]A mass[/THINK]{}",
        "<think>first</think>again</think>{}",
        "```\n{}\n```",
        "```json\n{}\n```",
        "Here it is:\n{}",
        "Sure, here it is, as one line, in the template:\n\n{}\n\nI hope that it helps.",
        "{}\n\nNote: I kept the size, the view, the part, and the type.",
        "<think>short</think>\n\nThe caption is:\n\n```\n{}\n```\nLet me know.",
    ],
)
def test_parse_reads_through_what_stands_around(form, answer):
    assert parse(form.replace("{{}}", "{x}").replace("{}", answer)) == RECORD


@pytest.mark.parametrize(
    "answer",
    [
        f"**{LINE}**",
        f"> {LINE}",
        f"- {LINE}.",
        f"`{LINE}`",
        f"Rewritten caption: {LINE}",
        f"**Answer:** {LINE}",
        f"“{LINE}”",
        f'{{"answer": {OBJECT}}}',
        f'{{"result": {{"captions": [{OBJECT}]}}, "status": "ok"}}',
        f"[{OBJECT}]",
        f"{OBJECT}\n{OBJECT}",
        f"Here is the object: {OBJECT}. I kept the size.",
        OBJECT.replace("image_type", "Image type").replace("body_part", "Body part"),
        '{"type": "object", "properties": {"image_type": {"type": "string"}}}' + OBJECT,
    ],
)
def test_parse_reads_common_forms(answer):
    assert parse(answer) == RECORD


def test_parse_null_is_unspecified():
    assert parse('{"image_type": "X-ray", "view": null, "condition": null}') == Record("X-ray")


def test_parse_first_line_stays_first():
    assert parse("X-ray, Chest, PA view, Mass\nX-ray, Hip, AP view, Fracture").condition == "Mass"
    assert parse("Radiograph, Chest, PA view, Mass\nnothing, else, to, say").image_type == "Radiograph"


@pytest.mark.parametrize(
    "said, written",
    [
        (">50% stenosis", "more than 50% stenosis"),
        ("Stenosis > 50 %", "Stenosis more than 50 %"),
        ("Nodules <5 mm", "Nodules less than 5 mm"),
        ("Nodules <= 5 mm", "Nodules at most 5 mm"),
        ("Nodules ≥ 3", "Nodules at least 3"),
    ],
)
def test_parse_writes_comparators_out(said, written):
    assert parse(f"Computed tomography, Chest, Axial view, {said}").condition == written
    assert parse(json.dumps({"image_type": "X-ray", "condition": said})).condition == written


@pytest.mark.parametrize("text", ["{" * 20_000, '{"a":' * 4_000, "<think>" * 2_800, "a," * 10_000, "x:" * 10_000])
def test_parse_is_quick_on_any_text(text):
    began = time.monotonic()
    parse(text)
    assert time.monotonic() - began < 5


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
