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
	@$(PIP) -c constraints.txt -e .
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
	$(BIN)/python -m pytest $(PYTEST) -m "not slow and not gpu"

slow: $(VENV)/installed-tests  ## the tests that train, build wheels and run notebooks
	$(BIN)/python -m pytest $(PYTEST) -m "slow and not gpu"

small: $(VENV)/installed-tests  ## trains the shipped small model again: hours; goes on where it was stopped
	$(BIN)/python tools/pretrain_small.py --out runs/small/pretrained
	$(BIN)/python tools/pretrain_fields.py --init-from runs/small/pretrained --out runs/small/fields
	$(BIN)/python tools/train_small.py $(if $(wildcard runs/small/run/train.yaml),resume=runs/small/run,\
		experiment=small init_from=runs/small/fields run_dir=runs/small/run)
	$(BIN)/python tools/average_small.py runs/small/run/model runs/small/run/*-pages/checkpoints/last.ckpt \
		--out runs/small/mean
	$(BIN)/python tools/train_copying.py --init-from runs/small/mean --out runs/small/grown \
		--grow 2 --steps 500 --lr 2e-3
	$(BIN)/python tools/train_copying.py --init-from runs/small/grown --head runs/small/grown.checkpoint.pt \
		--out runs/small/copying --below 0 --decay 0.8 --pages 0.4
	$(BIN)/python tools/train_copying.py --init-from runs/small/copying --head runs/small/copying.checkpoint.pt \
		--out runs/small/values --below 0 --decay 0.85 --pages 0.2 --mix small --steps 350 --lr 9e-4
	$(BIN)/python tools/average_small.py runs/small/copying runs/small/values --out runs/small/copied
	$(BIN)/python tools/pretrain_small.py --init-from runs/small/copied --out runs/small/sharper \
		--heads-first 100 --steps 1250 --lr 2e-3
	$(BIN)/python tools/train_copying.py --init-from runs/small/sharper --head runs/small/values.checkpoint.pt \
		--out runs/small/copying2 --below 0 --decay 0.85 --steps 560 --lr 1.3e-3 --seed 2
	$(BIN)/python tools/train_copying.py --init-from runs/small/copying2 --head runs/small/copying2.checkpoint.pt \
		--out runs/small/values2 --below 0 --decay 0.85 --pages 0.2 --mix small --steps 350 --lr 9e-4 --seed 2
	$(BIN)/python tools/average_small.py runs/small/copying2 runs/small/values2 --out runs/small/copied2
	$(BIN)/python tools/train_copying.py --init-from runs/small/copied2 --head runs/small/values2.checkpoint.pt \
		--out runs/small/values3 --below 0 --decay 0.85 --mix small --steps 260 --lr 8e-4 --seed 3
	$(BIN)/python tools/average_small.py runs/small/copied2 runs/small/values3 --out runs/small/model

demo: $(VENV)/installed  ## the shipped model answers about the shipped images, offline
	$(BIN)/python -m hdvl.demo

bench: $(VENV)/installed-tests  ## every benchmark of tools/, one after the other
	@set -e; for tool in tools/bench_*.py; do echo "== $$tool"; OMP_NUM_THREADS=1 $(BIN)/python $$tool; done

wheel: $(VENV)/installed-tests  ## sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

clean:  ## removes the virtual environment, caches and what was built
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
