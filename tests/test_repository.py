"""What is committed agrees with itself: modules with notebooks, README with its notebook, notebooks with nbdev_clean."""
import json, os, re, shutil, subprocess, sys

import pytest

from conftest import ROOT
from readme import render

NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))

def test_readme_agrees_with_index():
    assert (ROOT/"README.md").read_text(encoding="utf-8") == render(), "README.md is not what nbs/index.ipynb says: run make readme"

def test_readme_shows_the_figures_and_two_commands():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    for figure in ("fig/model.png", "fig/comparison.png"): assert figure in text and (ROOT/figure).exists()
    assert set(re.findall(r"^(make \w+)", text, re.M)) == {"make demo", "make test"}
    for link in re.findall(r"\]\(([^)#]+?)\)", text):
        if "://" not in link: assert (ROOT/link).exists(), f"README links to {link}, which does not exist"

def test_export_and_clean_leave_no_diff(tmp_path):
    "The committed modules are the exports of the committed notebooks, and those are clean."
    for name in ("nbs", "radgen"): shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py", "README.md"): shutil.copy(ROOT/name, tmp_path/name)
    bin = os.path.dirname(sys.executable)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for tool in ("nbdev_export", "nbdev_clean"): subprocess.run([os.path.join(bin, tool)], cwd=tmp_path, check=True, env=env)
    for path in [*(tmp_path/"radgen").glob("*.py"), *(tmp_path/"nbs").glob("*.ipynb")]:
        committed = ROOT/path.relative_to(tmp_path)
        assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), f"{committed.relative_to(ROOT)} changes under nbdev_export and nbdev_clean"

@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_holds_outputs_and_ids(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert all(c.get("id") for c in nb["cells"])
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code)
    for c in code:
        lines = "".join(c["source"]).splitlines()
        if lines and lines[0].startswith("#| export"): assert len(lines) <= 61, f"an exported cell of {len(lines)} lines: {lines[1]}"
        assert not any(o["output_type"] == "error" for o in c["outputs"])
