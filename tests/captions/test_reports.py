"""A hundred reports in the styles of several departments, and what their texts must and must not hold."""

import json
import re
import time
from pathlib import Path

import pytest

from radgen.captions.reports import report_text
from radgen.captions.rules import says_normal

CASES = [json.loads(line) for line in Path(__file__).with_name("report_cases.jsonl").read_text("utf-8").splitlines()]
IDS = [f"{i:03}-{case['style']}" for i, case in enumerate(CASES)]


def position(words, text):
    "Where words stand in a text, whatever their case; -1 if they are not whole words of it."
    found = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.I)
    return found.start() if found else -1


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_the_image_shows_is_there_and_nothing_else(case):
    text = report_text(case["report"])
    assert [words for words in case["has"] if position(words, text) < 0] == [], text
    lacks = [words for words in case["lacks"] if (words in text if not words.isalpha() else position(words, text) >= 0)]
    assert lacks == [], text
    assert "\ue000" not in text


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_report_is_normal_where_it_denies_everything(case):
    text = report_text(case["report"])
    assert text.startswith("Normal") == case["normal"], text
    if case["normal"]:
        assert says_normal(text)
        assert len(text) < 60


@pytest.mark.parametrize("case", [case for case in CASES if case["late"]], ids=lambda case: case["late"][0])
def test_denials_come_after_the_findings(case):
    text = report_text(case["report"])
    last_finding = max(position(words, text) for words in case["has"])
    for words in case["late"]:
        assert position(words, text) > last_finding, text


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_number_of_the_text_is_in_the_report(case):
    numbers = re.findall(r"\d+(?:\.\d+)?", report_text(case["report"]))
    assert not set(numbers) - set(re.findall(r"\d+(?:\.\d+)?", case["report"]))


def test_there_are_a_hundred_reports_of_every_style():
    assert len(CASES) >= 100
    assert {case["style"] for case in CASES} == {
        *("openi", "mimic", "padchest", "ct", "mr", "mammography", "ultrasound", "x-ray")
    }


@pytest.mark.parametrize(
    "text", ["", " \n", "XXXX", "___", "IMPRESSION:", "INDICATION: cough.", "Discussed with Dr. No."]
)
def test_a_report_that_says_nothing_has_no_text(text):
    assert report_text(text) == ""


@pytest.mark.parametrize(
    "text",
    ["word " * 5000, "XXXX " * 3000, "FINDINGS: " * 2000, "no " * 5000, "and, " * 3000, "1. " * 3000, "[**" * 3000],
)
def test_hostile_reports_end_in_time(text):
    began = time.process_time()
    report_text(text)
    assert time.process_time() - began < 3
