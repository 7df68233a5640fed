"""Every notebook runs from top to bottom: without its slow cells in `make test`, with them in `make soak`.

Cells marked `large` need hours or large weights and run in neither."""

from functools import partial
from unittest import mock

import matplotlib
import pytest
from execnb.shell import CaptureShell
from nbdev.test import test_nb as run_notebook

from helpers import ROOT, temporary_folder

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
SLOW = [p for p in NOTEBOOKS if '"#| slow' in p.read_text(encoding="utf-8")]


def run(path, skip):
    "Execute a notebook in this process, without the cells that carry one of the flags; figures are drawn coarsely."
    matplotlib.use("agg")
    shell = partial(CaptureShell, mpl_format="png")
    coarse = matplotlib.rc_context({"figure.dpi": 30})
    with temporary_folder(), mock.patch("nbdev.test.CaptureShell", shell), coarse:
        ok, _ = run_notebook(path, skip_flags=skip, basepath=ROOT)
    assert ok, f"{path.name} failed; its traceback is above"


@pytest.fixture
def data(path, request):
    "The shared data for a notebook that opens them; the others need not wait for them."
    if "../work/" in path.read_text(encoding="utf-8"):
        request.getfixturevalue("shared_data")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, data):
    run(path, ["slow", "large", "cuda"])


@pytest.mark.soak
@pytest.mark.parametrize("path", SLOW, ids=lambda p: p.stem)
def test_notebook_with_slow_cells(path, data):
    run(path, ["large", "cuda"])
