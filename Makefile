# One target for each thing one does. `make demo` and `make test` set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint format reliability docs clean
.DEFAULT_GOAL := help

help:  ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with everything, at the tested versions

$(STAMP): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip setuptools wheel
	# torch first and alone: whatever needs it then takes the build that is there.
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q --use-pep517 -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup  ## Real text to shards, pretraining on two ranks, export, fine-tuning, report (runs/demo)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo/run.sh

test: setup  ## The whole test suite, a file of tests on each core; the cluster's alone, as they watch the clock
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup --ignore=tests/slurm
	$(BIN)/python -m pytest tests/slurm

lint: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy experiments/objectives/*.py

format: setup  ## Put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reliability: setup  ## 120 kills on a Slurm cluster of its own, rows counted (benchmarks/reliability.json; about 25 minutes)
	$(BIN)/python -m tests.slurm.reliability

docs: setup  ## docs/commands.md: every field of every command, from the code
	$(BIN)/python docs/make_commands.py

clean:  ## Remove what was built; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
