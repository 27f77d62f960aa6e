# One command per need. Every target first builds .venv from pyproject.toml and constraints.txt.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# A third of the tests wait for processes of their own, so three workers keep two cores busy.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup train test test-fast test-long test-dist gpu-check fmt lint types check smoke study bench golden wheel clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  ARGS="…" adds overrides to train, smoke, study and bench, parts to gpu-check: make train ARGS="train.steps=50"'

setup: $(READY) ## .venv with the tested set of packages

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { \
		echo "No python3 >= 3.11 is on the PATH: install one, or say make PYTHON=/path/to/python."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) cannot make a virtual environment: install its venv package."; exit 1; }
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[deepspeed,dev,hf,hub,sweep,tensorboard,wandb]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true # on all cores, of which pip uses one; some files are of other Pythons
	@touch $@

train: $(READY) ## train the default hybrid on the embedded text
	$(BIN)/lmtrain train $(ARGS)

test: $(READY) ## every test but those that take minutes
	$(PYTEST) -n $(WORKERS) --dist worksteal

test-fast: $(READY) ## unit tests without the slow ones
	$(PYTEST) -n $(WORKERS) -m 'not slow' tests/unit

test-long: $(READY) ## the tests that take minutes
	$(PYTEST) -m long

test-dist: $(READY) ## several processes against one
	$(PYTEST) tests/distributed

gpu-check: $(READY) ## parity, speed and a short run on this machine's GPU
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/gpu_check.sh $(ARGS)

fmt: $(READY) ## rewrite the sources in the house format
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

lint: $(READY) ## style, and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## static types
	$(BIN)/pyright

check: lint types ## all that needs no run

smoke: $(READY) ## thirty steps with 1, 2 and 4 processes to a row: one loss curve
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/smoke.sh $(ARGS)

study: $(READY) ## the experiments of configs/experiment, and one page of what they show
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/study.sh $(ARGS)

bench: $(READY) ## a training step against models of transformers
	$(BIN)/lmtrain bench what=step $(ARGS)

golden: $(READY) ## rewrite the reference losses; read the difference like code
	LMTRAIN_GOLDEN=write $(PYTEST) tests/golden

wheel: $(READY) ## dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist

clean: ## remove what was built; runs and .venv stay
	rm -rf dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
