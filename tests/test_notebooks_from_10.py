"""The notebooks from chapter 660 on; see test_notebooks.py."""

import pytest

from test_notebooks import NOTEBOOKS, runs


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name >= "10"], ids=lambda p: p.stem)
def test_notebook(path, shared_data):
    runs(path)
