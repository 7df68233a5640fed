"""Style that tools can check: ruff and mypy are clean, and lines, cells and modules stay short."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = [p for p in sorted((ROOT / "radgen").rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")]
COLUMNS, CELL_LINES, CELL_CHARACTERS, MODULE_LINES = 120, 40, 2500, 400


def tool(*command):
    "Run a tool of this environment in the repository."
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_is_clean(command):
    result = tool("ruff", *command, "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_is_clean(tmp_path):
    result = tool("mypy", "--cache-dir", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


def code_cells(path):
    "The id and the lines of each code cell."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(c["id"], "".join(c["source"]).split("\n")) for c in cells if c["cell_type"] == "code"]


def holds_imports_alone(lines):
    "Whether a cell only imports, which nobody reads line by line."
    body = ast.parse("\n".join(lines)).body
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_short(path):
    "An exported cell has at most 40 lines after its directive, and no line of code is wider than 120 columns."
    for cell, lines in code_cells(path):
        widest = max(map(len, lines))
        assert widest <= COLUMNS, f"{cell} has a line of {widest} columns"
        if lines[0].startswith("#| export") and not holds_imports_alone(lines):
            assert len(lines) - 1 <= CELL_LINES, f"{cell} is an exported cell of {len(lines) - 1} lines"
            characters = len("\n".join(lines))
            assert characters <= CELL_CHARACTERS, f"{cell} is an exported cell of {characters} characters"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: ".".join(p.relative_to(ROOT / "radgen").with_suffix("").parts))
def test_modules_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MODULE_LINES, f"{path.name} has {len(lines)} lines"
    code = [line for line in lines if not line.startswith(('"""', "__all__"))]  # which nbdev writes
    assert max(map(len, code)) <= COLUMNS


def test_nothing_is_patched_into_a_class():
    "Methods stand in their class, where type checkers and readers find them."
    for path in MODULES:
        assert "@patch" not in path.read_text(encoding="utf-8"), path.name


def test_pre_commit_runs_the_same_checks():
    hooks = Path(ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    for command in ("nbdev_export", "nbdev_clean", "ruff check", "ruff format", "mypy"):
        assert command in hooks, f"{command} is no hook of pre-commit"
