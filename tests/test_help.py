"""The help of every command under version control: a change of options is seen in review.

`python tests/test_help.py` writes the files of tests/help anew.
"""

import contextlib
import io
import os
from pathlib import Path

import pytest

HELP = Path(__file__).resolve().parent / "help"


def commands():
    "The words of each command, for example ['captions', 'audit']."
    from radgen.cli import COMMANDS, Group

    yield []
    for name, command in COMMANDS.items():
        yield [name]
        if isinstance(command, Group):
            yield from ([name, inner] for inner in command.commands)


def help_text(words):
    "What `radgen WORDS --help` prints on a terminal of 120 columns without colours."
    from radgen.cli import main

    os.environ.update(COLUMNS="120", NO_COLOR="1", TERM="dumb")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines()) + "\n"


def file_of(words):
    return HELP / f"{'-'.join(words) or 'radgen'}.txt"


@pytest.mark.parametrize("words", list(commands()), ids=lambda words: " ".join(words) or "radgen")
def test_help_is_the_committed_text(words):
    path = file_of(words)
    assert path.exists(), f"{path.name} is missing: run python tests/test_help.py"
    text = help_text(words)
    assert text == path.read_text(encoding="utf-8"), f"the help of {path.stem} changed: run python tests/test_help.py"


def test_no_help_file_is_left_over():
    assert {p.name for p in HELP.glob("*.txt")} == {file_of(words).name for words in commands()}


if __name__ == "__main__":
    for path in HELP.glob("*.txt"):
        path.unlink()
    for words in commands():
        file_of(words).write_text(help_text(words), encoding="utf-8")
