"""Every notebook runs from top to bottom, heavy cells aside, one test a notebook."""
import pytest
from nbdev.test import test_nb as run_notebook

from conftest import ROOT

@pytest.mark.parametrize("path", sorted((ROOT/"nbs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook(path, monkeypatch):
    import matplotlib
    matplotlib.use("agg")
    ok, seconds = run_notebook(path, skip_flags=["slow", "cuda"], basepath=ROOT)
    assert ok, f"{path.name} failed; its traceback is above"
