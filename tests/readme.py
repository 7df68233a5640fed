"""README.md is nbs/index.ipynb as markdown: `python tests/readme.py` writes it, and a test checks that they agree."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]


def shown(cell):
    "A cell as README shows it: of cells marked `#| echo: false` only what they display."
    if cell.source.startswith("#| echo: false"):
        return nbformat.v4.new_markdown_cell(cell.outputs[0].data["text/markdown"])
    return cell


def render() -> str:
    "The text of README: cells marked `#| hide` are left out; paths as seen from the root."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    nb.cells = [shown(c) for c in nb.cells if not c.source.startswith("#| hide")]
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r"\]\((?=\w+\.ipynb)", "](nbs/", body)  # before the paths that begin with the root
    return body.replace("](../", "](").replace('src="../', 'src="').strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render(), encoding="utf-8")
