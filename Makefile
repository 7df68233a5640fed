# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
# Compiled modules are kept, since tests start many processes.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test soak coverage setup assets lint export readme docs
.DEFAULT_GOAL := demo

# A path file and no import hook (compat): a script that lies beside a checkout called radgen would otherwise find
# the checkout and not the package in it. Versions are pinned by constraints.txt.
install = $(BIN)/python -m pip install -q --no-build-isolation --config-settings editable_mode=compat -c constraints.txt

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel

$(DEMO): settings.ini setup.py constraints.txt | $(BIN)/python
	$(install) -e .[demo]
	touch $@

$(DEV): settings.ini setup.py constraints.txt | $(BIN)/python
	$(install) -e .[all,dev]
	touch $@ $(DEMO)

setup: $(DEV)

# Both need the weights of two small networks; `radgen demo` fetches them itself.
assets: $(DEV)
	$(BIN)/python -c "from radgen.core.assets import fetch_asset; [fetch_asset(a) for a in ('minilm', 'vgg16')]"

demo: $(DEMO)
	$(BIN)/radgen demo

# Two workers of one thread each (pytest-xdist): two thirds of the time that one worker of two threads takes on two cores.
test: assets
	$(PYTEST) -m "not soak" --durations=20 $(PARALLEL) tests

# What takes long: many kills, hundreds of requests, several processes, installations, thousands of official captions.
soak: assets
	$(PYTEST) -m soak --durations=40 $(PARALLEL) tests

# Which lines of radgen/ the tests reach. The chapters reach more and are not counted.
coverage: assets
	$(PYTEST) $(PARALLEL) --ignore=tests/test_notebooks.py --cov=radgen --cov-report=term:skip-covered tests

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# For those who edit notebooks.
export: $(DEV)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: $(DEV)
	$(BIN)/python tests/readme.py

# The book, into _docs: nbdev prepares the pages, smalldocs (pure Python) renders them.
docs: $(DEV) readme
	$(BIN)/python tests/docs.py
