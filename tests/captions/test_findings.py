"""Statements of a text: which modifiers reach which findings, and what belongs to which."""

import pytest

from radgen.captions.parts import statements


def status_of(text):
    "Finding -> status."
    return {word: s.status for s in statements(text) for word in s.findings}


@pytest.mark.parametrize(
    "text, denied, affirmed",
    [
        ("no effusion or pneumothorax", {"effus", "pneumothorax"}, set()),
        ("no effusion, pneumothorax or mass", {"effus", "pneumothorax", "mass"}, set()),
        ("no effusion, pneumothorax", {"effus"}, {"pneumothorax"}),
        ("no effusion but a mass", {"effus"}, {"mass"}),
        ("mass without effusion", {"effus"}, {"mass"}),
        ("mass, which was not clearly seen", {"mass"}, set()),
        ("mass and effusion are absent", {"mass", "effus"}, set()),
        ("CT fails to show a mass", {"mass"}, set()),
        ("CT chest without contrast shows a mass", set(), {"mass"}),
    ],
)
def test_reach_of_a_negation(text, denied, affirmed):
    found = status_of(text)
    assert {word for word, status in found.items() if "denied" in status} == denied
    assert {word for word, status in found.items() if not status} == affirmed


@pytest.mark.parametrize(
    "text, status",
    [
        ("possible mass", "uncertain"),
        ("a mass cannot be excluded", "uncertain"),
        ("resolution of the mass", "resolved"),
        ("the mass has disappeared", "resolved"),
        ("history of a mass", "historical"),
        ("mimicking a mass", "mimicked"),
        ("enlarging mass", "increased"),
        ("the mass has decreased", "decreased"),
        ("unchanged mass", "stable"),
    ],
)
def test_modifier_gives_a_status(text, status):
    assert status_of(text)["mass"] == {status}


def test_attribute_binds_to_its_finding():
    left, right = statements("a 3 cm left mass and a 5 mm right nodule")
    assert ("side", "left") in left.attributes
    assert ("number", ("", (5.0,), "mm")) in right.attributes


def test_part_without_a_finding_belongs_to_the_one_before():
    (whole,) = statements("mass, 3 cm, in the right lung")
    assert {kind for kind, _ in whole.attributes} == {"number", "side"}
