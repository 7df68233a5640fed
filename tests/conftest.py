"""Shared by all tests: where things are, the embedded data made once, and the closing line that counts what ran."""

import io
import multiprocessing.util
import os
from pathlib import Path

import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image
from xdist.scheduler import LoadFileScheduling

from helpers import CHROMIUM, OFFICIAL, ROOT, SHARED, WORK, temporary_folder


BESIDE = {"official_text", "real"}  # fixtures that open the data beside the checkout


class FilesThenNotebooks(LoadFileScheduling):
    "The tests of a file go to one worker, since they share fixtures; each notebook goes to the next one that is free."

    def _split_scope(self, nodeid):
        return nodeid if "test_notebooks.py" in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return FilesThenNotebooks(config, log)


def pytest_collection_modifyitems(items):
    "Notebooks run last. Tests on thousands of official captions or real images belong to the soak tests."
    items.sort(key=is_notebook)
    for item in items:
        refuse_sets_in_names(item)
        if BESIDE & set(item.fixturenames):
            item.add_marker(pytest.mark.soak)


def refuse_sets_in_names(item):
    "A set in the name of a test has another order in each process, and two workers would not find the same tests."
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for name, value in parameters.items():
        if isinstance(value, set | frozenset) and repr(value) in item.name and len(value) > 1:
            raise pytest.UsageError(f"{item.nodeid}: the parameter {name} is a set; give a list")


def is_notebook(item):
    "Whether a test runs a notebook."
    return item.path.name == "test_notebooks.py"


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory):
    "Tests and the processes that they start leave no temporary files; the path is short, since sockets lie there."
    multiprocessing.util.get_temp_dir()  # goes by itself when the process ends, after this fixture
    tmp_path_factory.getbasetemp()  # stays outside
    with temporary_folder():
        yield


savefig = Figure.savefig


def one_pixel(figure, path, **options):
    "A PNG file of one pixel in the place of a drawing; figures of the repository are drawn."
    if Path(path).resolve().parent == ROOT / "fig":
        return savefig(figure, path, **options)
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    Path(path).write_bytes(file.getvalue())


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    "Drawing takes longer than all else in many tests; notebooks draw what they show, and tests that ask for `figures`."
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", one_pixel)


@pytest.fixture
def figures():
    "Draw the figures of this test."


@pytest.fixture(scope="session")
def phantoms():
    "The default phantoms, the same folder that chapters and the demonstration use."
    from radgen.data.phantoms import make_phantoms

    WORK.mkdir(exist_ok=True)
    with FileLock(WORK / ".phantoms.lock"):  # two workers need it at once
        return make_phantoms(WORK / "phantoms")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    "A folder that the workers of one session share."
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def prepared(phantoms, shared_folder):
    "The phantoms prepared without a language model."
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    with FileLock(shared_folder / "prepared.lock"):
        return prepare(PrepareConfig(phantoms, shared_folder / "prepared", llm="rules"))


@pytest.fixture(scope="session")
def shared_data(phantoms):
    "The prepared folders that several chapters open, made before two workers run them; with the paths of a notebook."
    from radgen.data.phantoms import make_phantoms
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    work = ROOT / "nbs" / ".." / "work"
    with FileLock(WORK / ".prepared.lock"):
        prepare(PrepareConfig(work / "phantoms", work / "prepared"))
        few = make_phantoms(work / "few", 320, 20, 110)
        prepare(PrepareConfig(few, work / "few-prepared", llm="rules"))


@pytest.fixture(scope="session")
def few(shared_folder):
    "Fewer phantoms, for tests that evaluate again and again."
    from radgen.data.phantoms import make_phantoms
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    folder = shared_folder / "few"
    with FileLock(shared_folder / "few.lock"):
        return prepare(PrepareConfig(make_phantoms(folder / "raw", 240, 20, 110), folder / "prepared", llm="rules"))


@pytest.fixture(scope="session")
def colour(tmp_path_factory):
    "Doppler phantoms, prepared in colour; not to be changed."
    from radgen.data.doppler import make_doppler
    from radgen.prepared.config import PrepareConfig
    from radgen.prepared.prepare import prepare

    folder = tmp_path_factory.mktemp("colour")
    raw = make_doppler(folder / "raw", 24, 6, 26)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radgen.prepared.prepare.write_figures", lambda *a: None)
        return prepare(PrepareConfig(raw, folder / "prepared", llm="rules", rule="any", channels=3))


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


@pytest.fixture(scope="module")
def browser():
    "Chromium, for the tests that `needs_browser` marks; of one file, since its event loop would disturb others."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield b
        b.close()


def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get("passed", [])
    notebooks = sum("test_notebooks" in r.nodeid for r in passed)
    terminalreporter.write_line(f"{notebooks} notebooks and {len(passed) - notebooks} tests ran and passed.")
