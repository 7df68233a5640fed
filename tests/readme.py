"""README.md is nbs/index.ipynb as markdown: `python tests/readme.py` writes it, and a test checks that they agree."""

import re
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]


def render() -> str:
    "The text of README: cells marked `#| hide` left out, of those marked `#| echo: false` what they show; paths as seen from the root."
    import nbformat

    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    nb.cells = [
        nbformat.v4.new_markdown_cell(c.outputs[0].data["text/markdown"])
        if c.source.startswith("#| echo: false")
        else c
        for c in nb.cells
        if not c.source.startswith("#| hide")
    ]
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r"\]\((?=\w+\.ipynb)", "](nbs/", body)  # before the paths that begin with the root
    return body.replace("](../", "](").replace('src="../', 'src="').strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(render(), encoding="utf-8")
