"""What is committed agrees with itself: modules with notebooks, README with its notebook, notebooks with nbdev_clean, links with their targets, hints with the code, examples with what they say, the wheel with what it should hold."""

import json, os, re, shutil, subprocess, sys, zipfile
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

from conftest import ROOT
from readme import render

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def test_readme_agrees_with_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == render(), (
        "README.md is not what nbs/index.ipynb says: run make readme"
    )


def test_readme_shows_the_figures_and_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\b[A-Z]{3,}_[A-Z]{3,}\b", text)  # a number that was to be filled in
    for figure in ("fig/model.png", "fig/comparison.png"):
        assert figure in text and (ROOT / figure).exists()
    assert set(re.findall(r"^(make \w+)", text, re.M)) == {"make demo", "make test"}
    for link in re.findall(r"\]\(([^)#]+?)\)", text):
        if "://" not in link:
            assert (ROOT / link).exists(), f"README links to {link}, which does not exist"


def test_python_of_readme_draws(tmp_path, monkeypatch):
    "As it stands there, but for the length of the training and the width of the network."
    from PIL import Image

    code = re.search(r"<!-- test: python -->\n```py\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[
        1
    ]
    for long, short in (
        ("steps=900", "steps=2"),
        ('size="small"', 'size="tiny"'),
        ('"work/prepared")', '"work/prepared", llm="rules")'),
    ):
        assert long in code
        code = code.replace(long, short)
    assert len([l for l in code.splitlines() if l]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    im = Image.open("head.png")
    assert (
        im.size == (32, 32)
        and im.text["prompt"].startswith("Computed tomography, Head")
        and im.text["synthetic"] == "true"
    )


def test_export_and_clean_leave_no_diff(tmp_path):
    "The committed modules are the exports of the committed notebooks, and those are clean."
    for name in ("nbs", "radgen"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    for name in ("settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    bin = os.path.dirname(sys.executable)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for tool in ("nbdev_export", "nbdev_clean"):
        subprocess.run([os.path.join(bin, tool)], cwd=tmp_path, check=True, env=env)
    for path in [*(tmp_path / "radgen").glob("*.py"), *(tmp_path / "nbs").glob("*.ipynb")]:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), (
            f"{committed.relative_to(ROOT)} changes under nbdev_export and nbdev_clean"
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_holds_outputs_and_ids(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert all(c.get("id") for c in nb["cells"])
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code)
    for c in code:
        lines = "".join(c["source"]).splitlines()
        if lines and lines[0].startswith("#| export"):
            assert len(lines) <= 61, f"an exported cell of {len(lines)} lines: {lines[1]}"
        assert not any(o["output_type"] == "error" for o in c["outputs"])


def cells(path, kind):
    return [
        "".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind
    ]


def anchors(text):
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}


PAGES = [*NOTEBOOKS, *(ROOT / f for f in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    "Those within the repository; no network is asked. Code in backticks is no link."
    read = lambda p: "\n".join(cells(p, "markdown")) if p.suffix == ".ipynb" else p.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```|`[^`]*`", "", read(path), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        link = unquote(next(filter(None, link)))
        if "://" in link or link.startswith(("mailto:", "data:", "attachment:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{path.name} links to {link}, outside the repository"
        if anchor:
            assert anchor.lower() in anchors(read(target)), f"{path.name} links to {link}, a heading that is not there"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem != "index"], ids=lambda p: p.stem)
def test_a_chapter_reads_as_one(path):
    "Title, subtitle, an opening, what was learned and exercises; small enough for a page."
    text = cells(path, "markdown")
    assert re.fullmatch(r"# .+\n\n> .+", text[0].strip()) and not text[1].startswith("#")
    assert "## What we learned" in text[-1] and "**Exercises.**" in text[-1]
    assert path.stat().st_size < 1_000_000, f"{path.name} has {path.stat().st_size:,} bytes: draw its figures smaller"


def test_the_sidebar_has_every_chapter_once():
    parts = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [f for part in parts for f in ([part] if isinstance(part, str) else part["contents"])]
    assert listed == ["index.ipynb", *(p.name for p in NOTEBOOKS if p.stem != "index")]


def test_hints_of_the_modules():
    from mypy import api

    out, err, status = api.run(
        ["--config-file", str(ROOT / "mypy.ini"), "--cache-dir", os.devnull, str(ROOT / "radgen")]
    )
    assert status == 0, out + err


def example(name):
    return re.search(
        rf"<!-- test: {name} -->\n```py\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S
    )[1]


def test_examples_for_contributors(tmp_path):
    "The denoiser learns, and is saved and loaded; the metric is right for two points."
    import torch
    from radgen.text.embedding import TextEmbedding

    made = {}
    for name in ("denoiser", "metric"):
        code = example(name)
        assert len(code.splitlines()) < 30
        exec(compile(code, name, "exec"), made)
    net = made["Plain"](sample_size=16, text_dim=8, widths=(8,))
    x, t, text = (
        torch.randn(4, 1, 16, 16),
        torch.tensor([0, 10, 500, 999]),
        TextEmbedding(torch.randn(4, 3, 8), torch.ones(4, 3).bool(), torch.randn(4, 8)),
    )
    opt, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(30):
        losses.append((net(x, t, text) - x).square().mean())
        opt.zero_grad()
        losses[-1].backward()
        opt.step()
    assert losses[-1] < losses[0] / 2
    net.save_pretrained(tmp_path)
    assert torch.equal(made["Plain"].from_pretrained(tmp_path)(x, t, text), net(x, t, text))
    a, b = np.array([[0.0], [0.0]]), np.array([[3.0], [3.0]])
    assert made["energy_distance"](a, b) == 6 and made["energy_distance"](a, a) == 0


def test_the_wheel_holds_the_library_alone(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".venv", ".git", "runs", "work", "assets", "build", "*.egg-info", "__pycache__", ".tmp-*"
        ),
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            str(source),
        ],
        check=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {n.split("/")[0].split("-")[0] for n in names} == {"radgen"} and {
        os.path.splitext(n)[1] for n in names if n.startswith("radgen/")
    } == {".py", ".jsonl"}
    assert {p.name for p in (ROOT / "radgen").glob("*.py")} <= {n.split("/")[-1] for n in names} and any(
        n.endswith("LICENSE") for n in names
    )
