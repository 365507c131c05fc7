# make demo | make test | make lint | make docs: each first creates .venv if it is missing or out of date.
#   PYTHON=python3.12     the Python for .venv (3.11 to 3.14)
#   EXTRA=cpu|cuda|none   the vLLM build to install; by default what this machine can run
#   WORKERS=auto          tests that run at the same time; 0 = one after another, in one process (make test)
#   ARGS="..."            passed on to srlm.run (make demo) or pytest (make test, make test-all)

PYTHON ?= python3
WORKERS ?= auto
ARGS ?=
BIN := .venv/bin
# The extra that .venv was created with, otherwise what this machine can run: vLLM's wheels are for Linux only.
EXTRA ?= $(shell cat .venv/extra 2>/dev/null || case "$$(uname -s) $$(uname -m)" in \
	("Linux x86_64" | "Linux aarch64") nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu ;; (*) echo none ;; esac)
EXTRA := $(EXTRA)
$(if $(wildcard requirements/$(EXTRA).txt),,$(error EXTRA=$(EXTRA) is unknown. Use cpu, cuda or none))

# Containers often set it. Without compiled modules, the imports of each process take more than twice as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint docs lock clean-env

help:
	@echo "make demo       install into .venv, then run the main job (srlm run)"
	@echo "make test       install into .venv, then run the tests"
	@echo "make test-all   the same, with the slow variants; what CI runs"
	@echo "make lint       install into .venv, then check format, lint and types"
	@echo "make docs       install into .venv, then build the documentation in site/"
	@echo "make setup      install into .venv, nothing else"
	@echo "make lock       resolve pyproject.toml again, with uv, into requirements/*.txt"
	@echo "make clean-env  remove .venv"
	@echo "Options: PYTHON=python3.12  EXTRA=cpu|cuda|none  WORKERS=0  ARGS=\"...\""

setup: .venv/complete-$(EXTRA)

.venv/complete-%: requirements/%.txt pyproject.toml
	@tools/setup.sh $* $(PYTHON)

demo: setup
	$(BIN)/python -m srlm.run $(ARGS)

# A file's tests run in one worker, which makes their fixtures once. The order of files is that of tests/conftest.py.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST) -m "not variant" $(ARGS)

test-all: setup
	$(PYTEST) --durations 40 $(ARGS)

lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Versions in the lock files are kept as far as pyproject.toml allows. To upgrade one: make lock ARGS="-P trl".
LOCK = .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock" --extra eval --extra dev --extra docs $(ARGS) pyproject.toml requirements/model.in

lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --config-file requirements/uv-cpu.toml -o requirements/none.txt
	$(LOCK) --config-file requirements/uv-cpu.toml --extra cpu -o requirements/cpu.txt
	$(LOCK) --config-file requirements/uv-cuda.toml --extra cuda -o requirements/cuda.txt

clean-env:
	rm -rf .venv .venv-setup.log
