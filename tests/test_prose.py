"""The prose of the book: sentences of a readable length, and the words of the field."""

import json
import re

import pytest

from helpers import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MEAN_WORDS = 17  # per sentence, at most
INSTEAD = {  # what is not written -> what is
    r"held against|turned down|\bdeaf\b|is believed|way back|\bplanted\b|\bspoilt\b": "a word of the field",
    r"\bjudged\b": "evaluated",
    r"\bpictures?\b": "image",
    r"images a second|captions a second": "per second",
    r"learnt from them|usefulness": "train on synthetic, test on real",
    r"burnt[- ]out": "saturated",
    r"(?:poor|rich) in bits": "low or high entropy",
    r"second chance": "retry",
    r"kernel distance at infinitely many": "FD-infinity",
}


def prose(path):
    "The lines of the markdown cells of a chapter, without headings, tables, code, equations and addresses."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        text = re.sub(r"```.*?```|\$\$.*?\$\$", "", "".join(cell["source"]), flags=re.S)
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\$[^$]*\$", "x", text))
        for line in text.splitlines():
            if line.strip() and not line.startswith(("#", "|", "!", "<")):
                yield re.sub(r"^(>|[-*]|\d+\.)\s*", "", line.strip())


def sentences(path):
    "Sentences and what stands between two semicolons or after a colon, of three words or more."
    for line in prose(path):
        for sentence in re.split(r'(?<=[.!?:;])\s+(?=[A-Z"`\[(*x]|\d)', line):
            if len(sentence.split()) > 2:
                yield sentence


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_sentences_are_short(path):
    lengths = [len(sentence.split()) for sentence in sentences(path)]
    assert sum(lengths) / len(lengths) <= MEAN_WORDS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_prose_has_the_words_of_the_field(path):
    for line in prose(path):
        for wrong, right in INSTEAD.items():
            found = re.search(wrong, line, re.I)
            assert not found, f"{found[0]!r} in {line[:80]!r}: write {right}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
