"""Every command that README and the how-to pages show is one that radgen accepts, with options that exist."""

import re
import shlex

import pytest

from helpers import ROOT
from radgen.cli import main
from test_repository import cells

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "nbs").glob("9[56]*.ipynb"))]


def text_of(path):
    "The prose of a page."
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cells(path, "markdown"))


def shown_commands(path):
    "The radgen commands in blocks and tables of a page, as a shell splits them."
    text = text_of(path)
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    lines = [line for line in blocks.splitlines() if not line.lstrip().startswith(("#", "srun"))]
    found = [re.search(r"\bradgen (.*)|radgen\) (.*)", line) for line in lines]
    shown = [match[1] or match[2] for match in found if match]
    shown += re.findall(r"^\|.*`radgen (.*?)` \|", text, re.M)
    return [shlex.split(re.sub(r"\s#.*", "", command)) for command in shown]


COMMANDS = [(path.stem, command) for path in PAGES for command in shown_commands(path)]


def test_pages_show_commands():
    assert len(COMMANDS) > 30
    assert {"prepare", "train", "sample", "evaluate", "app"} <= {command[0] for _, command in COMMANDS}


@pytest.mark.parametrize("page, command", COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_shown_command_is_accepted(page, command, monkeypatch):
    ran = []
    monkeypatch.setattr("radgen.cli.execute", lambda *args: ran.append(args))
    assert main(command) == 0, (page, command)
    assert ran
