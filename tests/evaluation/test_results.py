"""The record of scores, to a file and back."""

import pytest

from radgen.core.errors import DataError
from radgen.core.files import read_json, write_json
from radgen.evaluation.report import evaluate
from radgen.evaluation.results import read_scores

from evaluation_helpers import quick


def test_scores_survive_a_file(sampled, tmp_path):
    run, folder = sampled
    scores = evaluate(quick(run))
    write_json(tmp_path / "again.json", scores)
    assert read_scores(read_json(tmp_path / "again.json")) == scores
    assert read_json(tmp_path / "again.json") == read_json(folder / "evaluation.json")


def test_file_without_scores_is_rejected_by_the_first_field():
    with pytest.raises(DataError, match=r"does not hold the scores of an evaluation .features."):
        read_scores({"distance": 1.0})
