"""Roles and meanings of words, and the phrases that begin with them."""

import pytest

from radgen.captions.phrases import ROLES, Role, phrases_from
from radgen.captions.reading import read


@pytest.mark.parametrize(
    "word, role",
    [
        ("radiograph", Role.IMAGE),
        ("axial", Role.IMAGE),
        ("lateral", Role.VIEW_HINT),
        ("chest", Role.REGION),
        ("pneumothorax", Role.CONTENT),
        ("left", Role.SIDE),
        ("without", Role.NEGATION),
        ("portable", Role.GENERIC),
        ("shows", Role.REPORT),
        ("woman", Role.PATIENT),
        ("of", Role.LINK),
        ("the", Role.ARTICLE),
        ("and", Role.CONJUNCTION),
        ("t2", Role.SEQUENCE),
        ("unenhanced", Role.CONTRAST),
        ("xylophone", Role.CONTENT),
    ],
)
def test_word_has_the_role_of_its_section(word, role):
    assert read(word).meanings[0].role is role


def test_longer_phrases_come_first_and_the_word_alone_last():
    lengths = [phrase.length for phrase in phrases_from("computed")]
    assert lengths == sorted(lengths, reverse=True)
    assert [phrase.length for phrase in phrases_from("chest")][-1] == 1


def test_meanings_of_a_single_word_add_up():
    meaning = phrases_from("mammography")[-1].meaning
    assert (meaning.image_type, meaning.region) == ("X-ray", "Breast")


def test_content_hides_other_meanings():
    assert read("bladder neck").meanings[1].region == ""
    assert read("neck").meanings[0].region == "Neck"


def test_every_role_but_number_comes_from_a_section():
    assert set(ROLES.values()) == set(Role) - {Role.NUMBER}
