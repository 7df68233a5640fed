"""Shared by all tests: where things are, the embedded data made once, and the closing line that counts what ran."""

import os, socket
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
OFFICIAL = SHARED / "rocov2_text"


@pytest.fixture(scope="session")
def phantoms():
    "The default phantoms, the same folder that chapters and the demonstration use."
    from filelock import FileLock

    (ROOT / "work").mkdir(exist_ok=True)
    from radgen.data.phantoms import make_phantoms

    with FileLock(ROOT / "work" / ".phantoms.lock"):
        return make_phantoms(ROOT / "work" / "phantoms")  # two workers need it at once


@pytest.fixture(scope="session")
def prepared(phantoms, tmp_path_factory):
    "The phantoms prepared without a language model."
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    return prepare(PrepareConfig(phantoms, tmp_path_factory.mktemp("data") / "prepared", llm="rules"))


@pytest.fixture(scope="session")
def shared_data(phantoms):
    "work/prepared, which many chapters open, made before two workers run them; the paths are those that a notebook gives."
    from filelock import FileLock
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    with FileLock(ROOT / "work" / ".prepared.lock"):
        prepare(PrepareConfig(ROOT / "nbs" / ".." / "work" / "phantoms", ROOT / "nbs" / ".." / "work" / "prepared"))


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    "Fewer phantoms, for tests that evaluate again and again."
    from radgen.data.phantoms import make_phantoms
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    d = tmp_path_factory.mktemp("few")
    return prepare(PrepareConfig(make_phantoms(d / "raw", 240, 20, 110), d / "prepared", llm="rules"))


@pytest.fixture(scope="session")
def real():
    "The real sample, where it lies beside the checkout."
    folder = SHARED / "radiology_sample"
    if not folder.exists():
        pytest.skip("the real sample is not beside this checkout (../shared/data/radiology_sample)")
    return folder


@pytest.fixture(scope="session")
def official_text():
    "The text of the official ROCOv2 release, where it lies beside the checkout."
    if not OFFICIAL.exists():
        pytest.skip("the ROCOv2 texts are not beside this checkout (../shared/data/rocov2_text)")
    return OFFICIAL


def free_port():
    "A port of the loopback that nobody listens at."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Evil:
    "What a pickle must not be allowed to do: opening $EVIL_FILE stands for any code."

    def __reduce__(self):
        return (open, (os.environ["EVIL_FILE"], "w"))


def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get("passed", [])
    notebooks = sum("test_notebooks" in r.nodeid for r in passed)
    terminalreporter.write_line(f"{notebooks} notebooks and {len(passed) - notebooks} tests ran and passed.")
