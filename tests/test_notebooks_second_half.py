"""The notebooks of the networks, diffusion, evaluation and tools; see test_notebooks.py."""

import pytest

from test_notebooks import MIDDLE, NOTEBOOKS, runs


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name >= MIDDLE], ids=lambda p: p.stem)
def test_notebook(path, shared_data):
    runs(path)
