"""The distributions: a wheel with the library alone, a source distribution that installs, requirements as ranges."""

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

from helpers import ROOT

LEFT_OUT = (".venv", ".git", "runs", "work", "assets", "build", "*.egg-info", "__pycache__", ".tmp-*", "_proc", "_docs")


@pytest.fixture(scope="module")
def settings():
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    "The folder with the source distribution and the wheel that is built from it."
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return folder


def test_wheel_holds_the_library_alone(distributions):
    names = zipfile.ZipFile(next(distributions.glob("*.whl"))).namelist()
    assert {n.split("/")[0].split("-")[0] for n in names} == {"radgen"}
    files = {
        str(p.relative_to(ROOT)) for p in (ROOT / "radgen").rglob("*") if p.is_file() and "__pycache__" not in str(p)
    }
    assert files <= set(names)
    assert any(n.endswith("LICENSE") for n in names)
    assert "radgen/py.typed" in names


def test_source_distribution_has_what_its_build_reads(distributions):
    names = tarfile.open(next(distributions.glob("*.tar.gz"))).getnames()
    inside = {n.split("/", 1)[1] for n in names if "/" in n}
    assert {"settings.ini", "setup.py", "README.md", "LICENSE", "radgen/py.typed"} <= inside


@pytest.mark.soak
def test_source_distribution_installs_into_an_empty_environment(distributions, tmp_path):
    "Without its requirements, which would be downloaded: the metadata and the command are there."
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    for name in ("setuptools", "wheel", "_distutils_hack"):
        found = __import__(name)
        shutil.copytree(found.__path__[0], site / name, dirs_exist_ok=True)
    archive = next(distributions.glob("*.tar.gz"))
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", archive]
    result = subprocess.run(install, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    code = "import radgen, importlib.metadata as m; print(radgen.__version__, m.version('radgen'))"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert len(set(result.stdout.split())) == 1, result.stderr
    assert (tmp_path / "env" / "bin" / "radgen").exists()


def requirement_name(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def test_requirements_are_ranges_and_heavy_ones_are_extras(settings):
    required = settings["requirements"].split()
    assert not [r for r in required if "==" in r]
    optional = {"openai", "gguf", "onnx", "datasets", "timm", "tensorboard", "gradio", "ray"}
    assert not optional & set(map(requirement_name, required))
    assert {"llm", "hub", "eval", "app", "dicom", "ray"} <= set(settings["extras"].split())


def test_constraints_pin_every_requirement(settings):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {requirement_name(line) for line in lines if "==" in line}
    groups = ["requirements", *(f"{extra}_requirements" for extra in settings["extras"].split())]
    wanted = {requirement_name(r) for group in groups for r in settings[group].split()}
    assert wanted - pinned == set()
