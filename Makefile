# make demo: sets up everything, then trains, tests and packs the miniature.
# make test: sets up everything, then runs the tests. `make help` lists the rest.
#
# PYTHON=python3.12   the Python to use (3.10, 3.11 or 3.12)
# VENV=folder         where the environment goes (.venv); VENV=none: PYTHON's own
# JOBS=4              processes that tests run in

SHELL := /bin/bash
PYTHON ?=
VENV ?= .venv
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2> /dev/null || echo 1); echo $$((n < 8 ? n : 8)))
COPY ?= 0

ifeq ($(VENV),none)
PY := $(or $(shell command -v $(or $(PYTHON),python3)),python3)
else
PY := $(abspath $(VENV))/bin/python
endif
# shellcheck and the console scripts lie beside Python.
export PATH := $(patsubst %/,%,$(dir $(PY))):$(PATH)
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
# Several test processes share the cores: one thread each.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format link clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20
	@echo 'with PYTHON=..., VENV=none|folder, JOBS=N; make link needs ESPNET_ROOT=... and takes COPY=1'

setup: ## the environment: Python packages in .venv
	@PYTHON='$(PYTHON)' VENV='$(VENV)' local/setup.sh

demo: setup ## PART on a miniature in ten languages, some 16 minutes; goes on where it stopped
	@PY='$(PY)' local/demo.sh

test: setup ## the tests: no network, no GPU, under ten minutes
	$(TEST_ENV) $(PY) -m pytest -n $(JOBS) --dist worksteal

test-all: setup ## the tests and the slow ones
	$(TEST_ENV) $(PY) -m pytest -n $(JOBS) --dist worksteal -m ''

check: setup ## style, shell scripts, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	shellcheck local/*.sh egs2/part_multilingual/s2t1/*.sh .ci/run
	$(PY) -m mypy

format: setup ## rewrites Python files in the style that `check` wants
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

link: ## puts the recipe into a checkout of ESPnet: ESPNET_ROOT=... [COPY=1]
	@local/link.sh '$(ESPNET_ROOT)' '$(COPY)'

clean: ## removes caches and build leftovers; data, experiments and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
