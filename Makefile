# Needs nothing but make and Python 3.11 or newer. `make PYTHON=python3.12 ...` chooses another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_OUT ?= runs/quickstart

.PHONY: help install install-dev quickstart page test check format docs clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: $(VENV)/.installed  ## create .venv with the package in it
install-dev: $(VENV)/.installed-dev  ## the same with the tools for tests and checks

quickstart: $(VENV)/.installed  ## from nothing to a measured cocktail on real data
	$(BIN)/reccocktail quickstart --out $(RUN_OUT)

page: quickstart  ## the quickstart's films in the browser, at http://127.0.0.1:8000
	$(BIN)/reccocktail serve --precision auto --domain films=$(RUN_OUT)/data/movielens-1m:$(RUN_OUT)/cocktail_warm

test: $(VENV)/.installed-dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: $(VENV)/.installed-dev  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## build the documentation into build/docs
	$(BIN)/mkdocs build --strict

clean:  ## remove the virtual environment and caches; runs and downloads stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "RecCocktail needs Python 3.11 or newer and this is " + sys.version.split()[0] + "; install one and run: make PYTHON=/path/to/python3 <target>")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Cannot create $(VENV); on Debian and Ubuntu install python3-venv first." >&2; exit 1; }

# Each stamp is remade only when what is to be installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[serve]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[docs]"
	@touch $@
