"""Imports run downwards through the packages, in no circle, and cost nothing before there is work to do."""

import ast
import configparser
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions

import pytest

import radgen
from helpers import ROOT

LAYERS = (
    "core",
    "data",
    "captions",
    "prepared",
    "text",
    "networks",
    "diffusion",
    "training",
    "evaluation",
    "tools",
    "cli",
)
HEAVY = {"torch", "transformers", "matplotlib", "pandas", "numpy", "diffusers", "sklearn"}
CHEAP = ("cli", "core.options", "core.files", "core.errors") + tuple(
    f"{package}.config" for package in ("captions", "prepared", "text", "training", "evaluation", "tools")
)


@cache
def modules():
    "The syntax tree of each module below a package, by name."
    trees = {}
    for path in sorted((ROOT / "radgen").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name not in ("__init__.py", "_modidx.py"):
            trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imported(name, tree):
    "The modules of radgen that a module imports, those inside functions included."
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = ".".join(name.split(".")[: -node.level]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        if module.count(".") == 1 and (ROOT / module.replace(".", "/")).is_dir():
            yield from (f"{module}.{alias.name}" for alias in node.names)  # from radgen.data import sections
        elif module.startswith("radgen."):
            yield module


@cache
def graph():
    "The modules of radgen that each module imports."
    return {name: sorted(set(imported(name, tree))) for name, tree in modules().items()}


def layer(module):
    return LAYERS.index(module.split(".")[1])


def test_no_import_runs_upwards():
    upwards = [(a, b) for a, targets in graph().items() for b in targets if layer(a) < layer(b)]
    assert not upwards


def test_every_import_names_a_module_that_exists():
    assert {b for targets in graph().values() for b in targets} <= set(graph())


def test_there_is_no_circle():
    done = set()

    def visit(module, path):
        assert module not in path, f"a circle of imports: {' -> '.join((*path, module))}"
        if module in done:
            return
        for target in graph()[module]:
            visit(target, (*path, module))
        done.add(module)

    for module in graph():
        visit(module, ())


def required_distributions():
    "The distributions that every installation has, spelt in one way."
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    names = (re.match(r"[\w-]+", requirement)[0] for requirement in parser["DEFAULT"]["requirements"].split())
    return {name.lower().replace("_", "-") for name in names}


def libraries(tree):
    "The libraries that a module imports when it is loaded; those imported by a function when it runs may be extras."
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def loaded_with(root, trees):
    "A module and all modules of radgen that are loaded with it."
    found, waiting = set(), [root]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            top = ast.Module(body=[n for n in trees[name].body if isinstance(n, ast.ImportFrom)], type_ignores=[])
            waiting += imported(name, top)
    return found


def test_a_module_runs_no_check_when_it_is_loaded():
    "Checks of a chapter stand in cells of their own, which are not exported."
    for name, tree in modules().items():
        calls = [n for n in tree.body if isinstance(n, ast.Assert) or isinstance(n, ast.Expr)]
        found = [n for n in calls if "test_" in ast.unparse(n) or isinstance(n, ast.Assert)]
        assert not found, f"{name}: {ast.unparse(found[0])[:60]}"


def test_what_is_loaded_in_every_installation_is_required_by_the_package():
    "A newcomer's installation has no development tools and no extras."
    required = required_distributions() | {"radgen"}
    distributions = packages_distributions()
    trees = modules()
    roots = {"radgen.cli", "radgen.tools.commands", "radgen.tools.demo", *radgen.PUBLIC.values()}
    for name in sorted(set().union(*(loaded_with(root, trees) for root in roots))):
        for library in set(libraries(trees[name])) - sys.stdlib_module_names:
            found = {d.lower().replace("_", "-") for d in distributions[library]}
            assert found & required, f"{name} imports {library}, which settings.ini does not require"


def loaded(code):
    "Which heavy libraries a program has loaded when it ends."
    program = f"import sys\n{code}\nprint(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("module", CHEAP)
def test_options_and_command_line_load_no_heavy_library(module):
    assert loaded(f"import radgen.{module}") == "[]"


COMMANDS = (["--help"], ["train", "--help"], ["captions", "audit", "--help"], ["completion", "bash"], [])


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: " ".join(args) or "no command")
def test_help_loads_no_heavy_library(args):
    code = f"import contextlib\nfrom radgen.cli import main\nwith contextlib.suppress(SystemExit): main({args!r})"
    assert loaded(code) == "[]"


def test_public_names_are_those_of_their_modules():
    for name, module in radgen.PUBLIC.items():
        assert module in graph()
        assert getattr(radgen, name).__module__ == module
    assert set(radgen.PUBLIC) <= set(dir(radgen))


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        radgen.nothing  # noqa: B018


def test_version_is_that_of_the_settings():
    assert f"version = {radgen.__version__}\n" in (ROOT / "settings.ini").read_text(encoding="utf-8")
