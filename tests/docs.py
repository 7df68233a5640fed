"""The book: `python tests/docs.py` prepares its pages with nbdev and renders them with smalldocs into _docs."""

import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent


def git_url(root: Path) -> str:
    "Where the files of the repository can be read."
    config = ConfigParser()
    config.read(root / "settings.ini")
    return config["DEFAULT"]["git_url"] + "/blob/main/"


def finish_page(path: Path, files: str) -> None:
    "Point to figures in the book's own copy and to other files at their address; drop a key only for Quarto."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        if cell["cell_type"] == "raw":
            cell["source"] = re.sub(r"output-file: .*\n", "", "".join(cell["source"])).splitlines(True)
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"]).replace("../fig/", "fig/")
            cell["source"] = re.sub(r"\]\(\.\./(?=\w)", f"]({files}", text).splitlines(True)
    path.write_text(json.dumps(nb), encoding="utf-8")


def prepare_pages(root: Path) -> Path:
    "Run the prose and the documentation of each chapter through nbdev, into `_proc`."
    subprocess.run([TOOLS / "nbdev_proc_nbs"], cwd=root, check=True)
    pages = root / "_proc"
    shutil.copytree(root / "fig", pages / "fig", dirs_exist_ok=True)
    for path in pages.glob("*.ipynb"):
        finish_page(path, git_url(root))
    return pages


def broken_links(pages: Path) -> list[str]:
    "What smalldocs finds in the prepared pages."
    checked = subprocess.run([TOOLS / "smalldocs", "check", pages], capture_output=True, text=True)
    return [line for line in checked.stdout.splitlines() if "broken link" in line]


def make_book(root: Path = ROOT) -> Path:
    "The folder of the rendered book; stops where a link leads nowhere."
    pages = prepare_pages(root)
    if broken := broken_links(pages):
        raise SystemExit("\n".join(broken))
    subprocess.run([TOOLS / "smalldocs", "render", "--quiet", pages], check=True)
    shutil.rmtree(root / "_docs", ignore_errors=True)
    return Path(shutil.move(pages / "_docs", root / "_docs"))


if __name__ == "__main__":
    print(make_book())
