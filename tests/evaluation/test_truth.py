"""Finding, side and size of phantoms, compared with their prompts."""

import numpy as np
import pytest

from radgen.evaluation.truth import grid_features, phantom_truth, truth_alignment


@pytest.mark.soak
def test_mirrored_phantoms_have_the_wrong_sides(prepared):
    grid, rows = grid_features(), prepared.rows("test").assign(prompt=prepared.texts("test", 0))[:120]
    images = np.array(prepared.images("test", 32))[:120]
    finding, side, _ = truth_alignment(images, rows, prepared, "test", 32, False, grid)
    assert side.readable
    assert finding.readable
    assert side.generated > 0.85
    assert side.real > 0.85
    assert finding.real > 3 * finding.chance
    assert 20 < side.asked < finding.asked
    _, mirrored, _ = truth_alignment(images[:, :, ::-1], rows, prepared, "test", 32, False, grid)
    assert mirrored.generated < 0.3
    assert mirrored.real == side.real


@pytest.mark.soak
def test_few_phantoms_show_their_side(few):
    grid, rows = grid_features(), few.rows("test").assign(prompt=few.texts("test", 0))
    images = np.array(few.images("test", 16))
    _, side, _ = truth_alignment(images[:, :, ::-1], rows, few, "test", 16, False, grid)
    assert side.readable
    assert side.real > 0.7
    assert side.generated < 0.5


def test_truth_is_known_for_phantoms_alone(prepared, monkeypatch):
    truth = phantom_truth(prepared)
    assert set(truth.side) == {"", "left", "right"}
    assert set(prepared.rows("test").id) <= set(truth.index)
    monkeypatch.setitem(prepared.manifest["config"], "data_path", "elsewhere")
    assert phantom_truth(prepared) is None
    assert truth_alignment(None, None, prepared, "test", 32, False, None) is None
