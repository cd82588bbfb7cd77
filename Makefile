# Everything from a bare checkout, with python3 (3.11 to 3.13) and make:  make demo, make test
#
#   PYTHON=python3.12     another interpreter
#   VENV=/elsewhere       another place for the virtual environment
#   PIP_INSTALL_FLAGS=... more words for pip, for instance a CPU-only package index

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
PIP_INSTALL_FLAGS ?=
# A file's tests stay together: they share what is slow to make.
PYTEST := -q -n auto --maxprocesses 4 --dist loadfile
# The unit part checks types and shapes at run time in the modules of tensors, the slow part in all of hdvl.
comma := ,
empty :=
TENSOR_FILES := $(shell grep -rl --include=*.py "^from jaxtyping import" hdvl)
TENSOR_MODULES := $(subst $(empty) $(empty),$(comma),$(subst /,.,$(TENSOR_FILES:.py=)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off $(PIP_INSTALL_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help install install-tests test check unit slow small demo bench wheel clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(VENV)/installed  ## the package and what it needs, in .venv

install-tests: $(VENV)/installed-tests  ## the same, with what the tests need

# One pip command for both: torchvision's compiled operators fit exactly one torch.
$(VENV)/torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "hdvl needs Python 3.11, 3.12 or 3.13; try make PYTHON=/path/to/python"; exit 1; }
	@echo "[1/3] virtual environment in $(VENV) ($(PYTHON))"
	@$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing; on Debian: apt install python3-venv"; exit 1; }
	@echo "[2/3] torch and torchvision (some GB: minutes the first time)"
	@$(PIP) -c constraints.txt torch torchvision
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	@echo "[3/3] hdvl and its other requirements"
	@$(PIP) -c constraints.txt -e ".[plots,synthetic]"
	@touch $@

$(VENV)/installed-tests: $(VENV)/installed
	@echo "[+] what the tests need"
	@$(PIP) -c constraints.txt -e ".[tests]"
	@touch $@

test: check unit slow  ## everything that continuous integration runs

check: $(VENV)/installed-tests  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/installed-tests  ## the quick tests
	@$(BIN)/python -m pytest $(PYTEST) -m "not slow and not gpu" --jaxtyping-packages=$(TENSOR_MODULES),tests.checked

slow: $(VENV)/installed-tests  ## the tests that train, build wheels and run notebooks
	$(BIN)/python -m pytest $(PYTEST) -m "slow and not gpu"

small: $(VENV)/installed-tests  ## trains the shipped small model again: hours; goes on where it was stopped
	$(BIN)/python tools/make_small.py

demo: $(VENV)/installed  ## the shipped model answers about the shipped images, offline
	$(BIN)/python -m hdvl.demo

bench: $(VENV)/installed-tests  ## every benchmark of tools/, one after the other
	@set -e; for tool in tools/bench_*.py; do echo "== $$tool"; OMP_NUM_THREADS=1 $(BIN)/python $$tool; done

wheel: $(VENV)/installed-tests  ## sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

clean:  ## removes the virtual environment, caches and what was built
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
