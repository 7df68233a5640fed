# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test coverage setup assets readme export docs
.DEFAULT_GOAL := demo

# A path file and no import hook (compat): a script that lies beside a checkout called radgen would otherwise find the checkout and not the package in it.
$(STAMP): settings.ini setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q --no-build-isolation --config-settings editable_mode=compat -e .[dev,app,ray]
	touch $@

setup: $(STAMP)

assets: $(STAMP)
	$(BIN)/python -c "from radgen.core import fetch_asset; [fetch_asset(a) for a in ('minilm', 'vgg16')]"

demo: assets
	$(BIN)/radgen demo

# Two workers of one thread each (pytest-xdist): two thirds of the time that one of two threads takes on two cores. Files in the order of their names:
# left to itself the plugin begins with those of many tests, and ends with one worker on a slow file of few.
test: assets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=20 -n 2 --dist loadfile --no-loadscope-reorder tests

# Which lines of radgen/ the tests reach. The chapters reach more and are not counted. Not part of `make test`, since following every line takes time.
coverage: assets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --ignore-glob='tests/test_notebooks*' --cov=radgen --cov-report=term:skip-covered tests

# For those who edit notebooks.
export: $(STAMP)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

readme: $(STAMP)
	$(BIN)/python tests/readme.py

# The book, into _docs, where Quarto is installed (quarto.org); .github/workflows/docs.yml does the same.
docs: $(STAMP) readme
	command -v quarto > /dev/null || { echo "Quarto is not here: see https://quarto.org/docs/get-started"; exit 2; }
	$(BIN)/nbdev_docs
