"""Every notebook runs from top to bottom, heavy cells aside, one test a notebook. In two files, so that two workers share them."""

import pytest
from nbdev.test import test_nb as run_notebook

from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def runs(path):
    "Execute a notebook in this process."
    import matplotlib

    matplotlib.use("agg")
    ok, seconds = run_notebook(path, skip_flags=["slow", "cuda"], basepath=ROOT)
    assert ok, f"{path.name} failed; its traceback is above"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name < "10"], ids=lambda p: p.stem)
def test_notebook(path, shared_data):
    runs(path)
