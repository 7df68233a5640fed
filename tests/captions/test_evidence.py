"""Facts with the words that they belong to."""

import pytest

from radgen.captions.evidence import evidence, stem


@pytest.mark.parametrize(
    "one, other",
    [
        ("no effusion", "without any effusion"),
        ("left lung nodule", "nodule in the left lung"),
        ("haemorrhage", "hemorrhages"),
    ],
)
def test_same_facts_in_other_words(one, other):
    assert {n[1:] for n in evidence(one).negations} == {n[1:] for n in evidence(other).negations}
    assert {s.side for s in evidence(one).sides} == {s.side for s in evidence(other).sides}
    assert evidence(one).finding == evidence(other).finding


def test_side_belongs_to_the_word_after_it():
    assert evidence("no effusion, left nodule").sides != evidence("left effusion, no nodule").sides


@pytest.mark.parametrize(
    "text, finding",
    [
        ("pneumonia, no effusion", True),
        ("no evidence of pneumonia", False),
        ("no effusion but pneumonia", True),
        ("normal study without fracture", False),
        ("the liver", False),
    ],
)
def test_finding_counts_where_no_negation_reaches_it(text, finding):
    assert evidence(text).finding == finding


@pytest.mark.parametrize(
    "word, other", [("calcification", "calcifications"), ("tumour", "tumors"), ("oedema", "edema")]
)
def test_stem_joins_inflections_and_spellings(word, other):
    assert stem(word) == stem(other)
