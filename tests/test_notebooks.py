"""Every notebook runs from top to bottom, heavy cells aside: one test per notebook, in two files for two workers."""

import matplotlib
import pytest
from nbdev.test import test_nb as run_notebook

from helpers import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MIDDLE = "5"  # the first digit of the notebooks of the second file


def runs(path):
    "Execute a notebook in this process."
    matplotlib.use("agg")
    ok, _ = run_notebook(path, skip_flags=["slow", "cuda"], basepath=ROOT)
    assert ok, f"{path.name} failed; its traceback is above"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name < MIDDLE], ids=lambda p: p.stem)
def test_notebook(path, shared_data):
    runs(path)
