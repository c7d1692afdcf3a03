# `make` lists the targets. The virtual environment is made by whichever target needs it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHAT ?=
TOUR := pairwise-rankings sinkhorn-newton-sparse polar-express non-euclidean-trust-region \
        hamiltonian-monte-carlo light-sb

export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: help run test bench site docs lint clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.ready ## the tour: six studies on packaged data, their claims, and the site
	@$(BIN)/thalweg run $(TOUR) --preset quick
	@$(BIN)/thalweg site

test: $(VENV)/.ready ## all tests
	$(BIN)/python -m pytest -n 2 -m "not browser"

bench: $(VENV)/.ready-bench ## compare with named peers: make bench WHAT=streams
	$(BIN)/python benchmarks/table.py $(WHAT)

site: $(VENV)/.ready ## build the gallery into site/
	$(BIN)/thalweg site

docs: $(VENV)/.ready-docs ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lint: $(VENV)/.ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what the targets made, the virtual environment too
	rm -rf $(VENV) site runs docs/_build docs/generated build .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,test]"
	@touch $@

$(VENV)/.ready-%: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,test,$*]"
	@touch $@
