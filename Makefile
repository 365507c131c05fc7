# make demo | make test | make lint: each first makes .venv if it is missing or out of date.
#   PYTHON=python3.12     the Python that .venv is made with (3.11 to 3.14)
#   EXTRA=cpu|cuda|none   the vLLM build to install; by default what this machine can run
#   WORKERS=auto          tests that run at the same time; 0 = one after another, in one process (make test)
#   ARGS="..."            passed on to srlm.run (make demo) or pytest (make test)

PYTHON ?= python3
EXTRA ?= auto
WORKERS ?= auto
ARGS ?=

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean-env

help:
	@echo "make demo       install into .venv, then run the main job (python -m srlm.run)"
	@echo "make test       install into .venv, then run the tests"
	@echo "make lint       install into .venv, then check format, lint and types"
	@echo "make setup      install into .venv, nothing else"
	@echo "make clean-env  remove .venv"
	@echo "Options: PYTHON=python3.12  EXTRA=cpu|cuda|none  WORKERS=0  ARGS=\"...\""

setup:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not installed; name Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=..."; exit 1; }
	@$(PYTHON) tools/setup.py --extra $(EXTRA)

demo: setup
	$(BIN)/python -m srlm.run $(ARGS)

# A file's tests run in one worker, which makes their fixtures once. The order of files is that of tests/conftest.py.
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean-env:
	rm -rf .venv .venv-setup.log
