"""What is committed agrees with itself: modules with notebooks, README with its notebook, notebooks with nbdev_clean,
links with their targets, examples with what they say."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

from docs import make_book
from helpers import ROOT
from readme import render

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.stem != "index"]


def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def cells(path, kind):
    "The text of the cells of one kind."
    return ["".join(c["source"]) for c in notebook(path)["cells"] if c["cell_type"] == kind]


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_agrees_with_index():
    assert readme() == render(), "README.md is not what nbs/index.ipynb says: run make readme"


def test_readme_shows_two_commands():
    assert set(re.findall(r"^(make \w+)", readme(), re.M)) == {"make demo", "make test"}
    assert not re.search(r"\b[A-Z]{3,}_[A-Z]{3,}\b", readme())  # a number that was to be filled in


@pytest.mark.parametrize("figure", ["fig/pipeline.png", "fig/comparison.png"])
def test_readme_shows_figure(figure):
    assert figure in readme()
    assert (ROOT / figure).exists()


@pytest.mark.soak
def test_python_of_readme_draws(tmp_path, monkeypatch):
    "As it stands there, except for the number of phantoms, the length of the training and the width of the network."
    from PIL import Image

    code = re.search(r"<!-- test: python -->\n```py\n(.*?)```", readme(), re.S)[1]
    shorter = {
        "steps=850": "steps=2",
        'size="small"': 'size="tiny"',
        '"work/phantoms")': '"work/phantoms", 160, 20, 20)',
        '"work/prepared")': '"work/prepared", llm="rules")',
    }
    for long, short in shorter.items():
        assert long in code
        code = code.replace(long, short)
    assert len([line for line in code.splitlines() if line]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    image = Image.open("head.png")
    assert image.size == (64, 64)
    assert image.text["prompt"].startswith("Computed tomography, Head")
    assert image.text["synthetic"] == "true"


def copy_of_repository(folder):
    "The files that nbdev reads and writes."
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "radgen"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / name)


def run_nbdev(tool, folder):
    command = os.path.join(os.path.dirname(sys.executable), tool)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([command], cwd=folder, env=env, capture_output=True, text=True)


def test_export_and_clean_leave_no_diff(tmp_path):
    "The committed modules are the exports of the committed notebooks, and those are clean."
    copy_of_repository(tmp_path)
    for tool in ("nbdev_export", "nbdev_clean"):
        assert run_nbdev(tool, tmp_path).returncode == 0
    written = {p.relative_to(tmp_path) for p in (tmp_path / "radgen").rglob("*.py")}
    assert written == {p.relative_to(ROOT) for p in (ROOT / "radgen").rglob("*.py")}
    for path in [*(tmp_path / "radgen").rglob("*.py"), *(tmp_path / "nbs").glob("*.ipynb")]:
        committed = ROOT / path.relative_to(tmp_path)
        same = committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        assert same, f"{committed.relative_to(ROOT)} changes under nbdev_export and nbdev_clean"


@pytest.mark.soak
def test_docs_are_prepared_and_rendered(tmp_path):
    "nbdev prepares the pages, and smalldocs renders them without Quarto; no link is broken, and all works offline."
    copy_of_repository(tmp_path)
    shutil.copytree(ROOT / "fig", tmp_path / "fig")
    book = make_book(tmp_path)
    assert {p.stem for p in NOTEBOOKS} <= {p.stem for p in book.glob("*.html")}
    for path in book.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.search(r'(src|rel="stylesheet" href)="http', page), f"{path.stem} needs the network"
        assert not re.search(r"https://radgen\.github\.io/radgen/\w+\.html#", page), f"{path.stem} links elsewhere"
    assert (book / "site_libs" / "katex" / "katex.min.js").is_file()


def code_of(path):
    return [c for c in notebook(path)["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_has_ids_and_was_executed(path):
    assert all(c.get("id") for c in notebook(path)["cells"])
    for cell in code_of(path):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", cell["id"]
            assert output.get("name") != "stderr", f"{cell['id']} shows progress bars or warnings"
            assert "/tmp/" not in json.dumps(output), f"{cell['id']} shows a path of the machine that ran it"


def shows_something(source):
    "Whether a cell prints, or ends in an expression or a figure, so that it must have an output."
    if re.match(r"#\|\s*(export|hide|default_exp|cuda|slow|large|eval: false)", source):
        return False
    return bool(re.search(r"^print\(", source, re.M))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_import_or_compute(path):
    "nbdev runs every cell that imports when it prepares the book, and would run what else is in it."
    for cell in code_of(path):
        kinds = {isinstance(n, ast.Import | ast.ImportFrom) for n in ast.parse("".join(cell["source"])).body}
        assert len(kinds) < 2, f"{cell['id']} imports and does something else: make two cells of it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_that_print_hold_their_output(path):
    for cell in code_of(path):
        if shows_something("".join(cell["source"])):
            assert cell["outputs"], f"{cell['id']} prints, but holds no output: run the chapter"


def anchors(text):
    "The anchors that headings make."
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}


def prose(path):
    return "\n".join(cells(path, "markdown")) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


PAGES = [*NOTEBOOKS, *(ROOT / f for f in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    "Those within the repository; no network is used. Code in backticks is no link."
    text = re.sub(r"```.*?```|`[^`]*`", "", prose(path), flags=re.S)
    for found in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        link = unquote(next(filter(None, found)))
        if "://" in link or link.startswith(("mailto:", "data:", "attachment:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{path.name} links to {link}, outside the repository"
        if anchor:
            assert anchor.lower() in anchors(prose(target)), f"{path.name} links to {link}, a heading that is not there"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_installs_radgen_in_colab(path):
    "In a cell behind the title that the book hides and no test runs; pages without code need none."
    if not cells(path, "code"):
        return
    source = "".join(notebook(path)["cells"][1]["source"])
    assert source.startswith("#| hide\n#| eval: false\n")
    assert "google.colab" in source
    assert 'run_line_magic("pip", "install' in source


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_has_title_opening_and_exercises(path):
    text = cells(path, "markdown")
    assert re.fullmatch(r"# .+\n\n> .+", text[0].strip())
    assert not text[1].startswith("#")
    assert "## What we learned" in text[-1]
    assert "**Exercises.**" in text[-1]
    assert "TO BE WRITTEN" not in "\n".join(text)
    size = path.stat().st_size
    assert size < 1_000_000, f"{path.name} has {size:,} bytes: draw its figures smaller"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapters_are_numbered_by_the_step_of_the_method(path):
    assert re.fullmatch(r"\d{3}_[a-z_]+", path.stem)


def test_sidebar_has_every_chapter_once():
    parts = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [f for part in parts for f in ([part] if isinstance(part, str) else part["contents"])]
    assert listed == ["index.ipynb", *(p.name for p in CHAPTERS)]


def example(name):
    "A tested block of CONTRIBUTING."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- test: {name} -->\n```py\n(.*?)```", text, re.S)[1]


def run_example(name):
    code = example(name)
    assert len(code.splitlines()) < 40
    made = {}
    exec(compile(code, name, "exec"), made)
    return made


def test_denoiser_of_contributing_learns_and_is_saved(tmp_path):
    import torch

    from radgen.text.embedding import TextEmbedding

    Plain = run_example("denoiser")["Plain"]
    net = Plain(sample_size=16, text_dim=8, widths=(8,))
    x, t = torch.randn(4, 1, 16, 16), torch.tensor([0, 10, 500, 999])
    text = TextEmbedding(torch.randn(4, 3, 8), torch.ones(4, 3).bool(), torch.randn(4, 8))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (net(x, t, text) - x).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] / 2
    net.save_pretrained(tmp_path)
    assert torch.equal(Plain.from_pretrained(tmp_path)(x, t, text), net(x, t, text))


def test_metric_of_contributing_is_right_for_two_points():
    energy_distance = run_example("metric")["energy_distance"]
    a, b = np.array([[0.0], [0.0]]), np.array([[3.0], [3.0]])
    assert energy_distance(a, b) == 6
    assert energy_distance(a, a) == 0
