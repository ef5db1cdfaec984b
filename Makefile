# `make demo` and `make test` do all the set-up; everything else is for people who change mixc.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= demo-out
# Files of tests go to a process a core, four at most: half of a test's time is waiting for programs that it starts.
# In the order of tests/conftest.py, the long ones first, not by their number of tests.
SPREAD ?= -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

.PHONY: help venv demo test check lint format types docs site clean

help:  ## what there is to make
	@sed -nE 's/^([a-z]+):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: $(STAMP)  ## install mixc and what its tests need into .venv
	@echo "now: source $(VENV)/bin/activate"

demo: $(STAMP)  ## compile, train, diff and report on the shipped demo, into demo-out
	@PATH="$(CURDIR)/$(BIN):$$PATH" OUT="$(OUT)" bash specs/demo/run.sh

test: $(STAMP)  ## every test that this machine can run
	$(BIN)/python -m pytest $(SPREAD)

check: $(STAMP) lint types  ## what to run day to day: lint, types, quick tests
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not dist"

lint: $(STAMP)  ## the style of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## bring the code into that style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## check the types
	$(BIN)/mypy

docs: $(STAMP)  ## write the generated pages again
	$(BIN)/python -m mixc.spec.reference > docs/spec.md

# torch comes first and with its version said: a range alone lets pip take a CUDA build of several GB on x86 Linux.
# On a machine with a GPU install the torch build that fits it, then mixc.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q "torch==2.13.0"
	$(BIN)/pip install -q --upgrade "pip>=25.1"
	$(BIN)/pip install -q -e . --group test --group lint
	touch $(STAMP)

site: $(STAMP)  ## the documentation as a site, into docs/_site; a link that leads nowhere is an error
	$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_site

clean:  ## remove all that was made
	rm -rf $(VENV) $(OUT) docs/_site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
