"""The book: `python tests/docs.py` prepares its pages with nbdev and renders them with smalldocs into _docs."""

import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from radgen.core.assets import Asset, fetch_wheels

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
# Not the command nbdev_proc_nbs: it would first download Quarto and install the package with whatever pip it finds.
PROCESS_NOTEBOOKS = "from nbdev.serve import proc_nbs; proc_nbs()"
KATEX_ADDRESS = "https://cdn.jsdelivr.net/npm/katex@0.16.11/dist"  # in the pages of smalldocs
KATEX = Asset(
    package="djangocms-katex",
    version="1.0.2",
    sha256="79774fa17f7d328252f6dd05688799fa7ee49abebb7cbe09f0cbf6f103352ac2",
    inside="djangocms_katex/static/djangocms_katex/vendor/katex",
    what="KaTeX 0.16.40, which draws the equations in the browser",
)


def settings(root: Path) -> dict[str, str]:
    "The settings of the repository."
    config = ConfigParser()
    config.read(root / "settings.ini")
    return dict(config["DEFAULT"])


def documented_at(root: Path) -> dict[str, str]:
    "Where the book documents each name, by the address that nbdev links to: nbdev omits the numbers of the chapters."
    chapters = {}
    for path in (root / "nbs").glob("*.ipynb"):
        if module := re.search(r"#\| default_exp ([\w.]+)", path.read_text(encoding="utf-8")):
            chapters["radgen/" + module[1].replace(".", "/") + ".py"] = path.name
    index = (root / "radgen" / "_modidx.py").read_text(encoding="utf-8")
    host = settings(root)["doc_host"] + settings(root)["doc_baseurl"]
    addresses = {}
    for page, anchor, module in re.findall(r"\(\s*'(\w+\.html)(#[\w.]+)',\s*'(radgen/[\w/]+\.py)'\)", index):
        addresses[f"{host}/{page}{anchor}"] = chapters[module] + anchor
    return addresses


def plain_signature(block: re.Match) -> str:
    "A signature without what nbdev writes into it: links, and the modules of its types."
    without_links = re.sub(r"\[(`[\w.]+`)\]\(http[^)\s]*\)", r"\1", block[0])
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", without_links)


def finish_text(text: str, files: str, addresses: dict[str, str]) -> str:
    "Point to names and figures in the book and to other files at their address; leave out badges."
    text = re.sub(r"\[(`_\w+`)\]\(http[^)\s]*\)", r"\1", text)  # a private name has no place in the book
    text = re.sub(r"(?<=\]\()http[^)\s]*", lambda link: addresses.get(link[0], link[0]), text)
    text = re.sub(r"^\[?!\[[^\]]*\]\(https://.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\]\(\.\./(?=\w)", f"]({files}", text.replace("../fig/", "fig/"))


def smaller_headings(text: str) -> str:
    "Markdown that a cell displays, its headings below those of the chapter; code keeps its comments."
    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"^##? ", "#### ", part, flags=re.MULTILINE) for part in parts[::2]]
    return "".join(parts)


def finish_output(output: dict, files: str, addresses: dict[str, str]) -> None:
    "Finish the documentation of a name; show a figure in the size that its cell gave."
    shown = output.get("data", {})
    if "text/markdown" in shown:
        text = "".join(shown["text/markdown"])
        text = re.sub(r"^```python\n.*?^```", plain_signature, text, flags=re.MULTILINE | re.DOTALL)
        shown["text/markdown"] = finish_text(smaller_headings(text), files, addresses)
    if size := output.get("metadata", {}).get("image/png"):
        data = "".join(shown["image/png"]).replace("\n", "")
        shown["text/html"] = f'<img src="data:image/png;base64,{data}" width="{size["width"]}">'


def finish_page(path: Path, files: str, addresses: dict[str, str]) -> None:
    "Finish the prose and the outputs of a page, and drop a key that only Quarto reads."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "raw":
            cell["source"] = re.sub(r"output-file: .*\n", "", source)
        if cell["cell_type"] == "markdown":
            cell["source"] = finish_text(source, files, addresses)
        for output in cell.get("outputs", []):
            finish_output(output, files, addresses)
    path.write_text(json.dumps(nb), encoding="utf-8")


def prepare_pages(root: Path) -> Path:
    "Run the prose and the documentation of each chapter through nbdev, into `_proc`."
    subprocess.run([sys.executable, "-c", PROCESS_NOTEBOOKS], cwd=root, check=True)
    pages = root / "_proc"
    shutil.copytree(root / "fig", pages / "fig", dirs_exist_ok=True)
    files = settings(root)["git_url"] + "/blob/main/"
    addresses = documented_at(root)
    for path in pages.glob("*.ipynb"):
        finish_page(path, files, addresses)
    return pages


def broken_links(pages: Path) -> list[str]:
    "What smalldocs finds in the prepared pages."
    checked = subprocess.run([TOOLS / "smalldocs", "check", pages], capture_output=True, text=True)
    return [line for line in checked.stdout.splitlines() if "broken link" in line]


def add_katex(book: Path) -> None:
    "Put KaTeX beside the pages, so that equations are drawn without a network too."
    shutil.copytree(fetch_wheels(KATEX), book / "site_libs" / "katex")
    for path in book.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        path.write_text(page.replace(KATEX_ADDRESS, "site_libs/katex"), encoding="utf-8")


def make_book(root: Path = ROOT) -> Path:
    "The folder of the rendered book; stops where a link leads nowhere."
    pages = prepare_pages(root)
    if broken := broken_links(pages):
        raise SystemExit("\n".join(broken))
    subprocess.run([TOOLS / "smalldocs", "render", "--quiet", pages], check=True)
    add_katex(pages / "_docs")
    shutil.rmtree(root / "_docs", ignore_errors=True)
    return Path(shutil.move(pages / "_docs", root / "_docs"))


if __name__ == "__main__":
    print(make_book())
