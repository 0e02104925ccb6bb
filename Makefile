# Two commands matter: `make demo` and `make test`; both build what they need first.
# Nothing outside this checkout is touched but system packages: the AiiDA profile lives in ./.aiida.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# Tests run real programs on one core each; files stay together, as their fixtures do.
PYTEST_ARGS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Exact versions for a reproducible environment; `make env CONSTRAINTS=` takes the newest that the ranges allow.
CONSTRAINTS ?= constraints/ci.txt

export AIIDA_PATH := $(CURDIR)
export OMP_NUM_THREADS ?= 1

.PHONY: help env system demo test test-long docs lint clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: system $(VENV)/.installed  ## make .venv with the package and everything it needs

system:  ## check for CP2K, graphviz and a compiler; install them where this is allowed
	@scripts/system-packages

$(VENV)/.created:
	scripts/make-venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml $(wildcard constraints/ci.txt)
	scripts/install-package $(VENV) "$(EXTRAS)" "$(CONSTRAINTS)"
	touch $@

demo: env  ## from an ice crystal to its density and sublimation enthalpy, in some twelve minutes
	$(BIN)/aiida-mlfinetune demo

test: env  ## every check that CI makes
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-long: env  ## the tests that take longer than CI allows
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

docs: env  ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

lint: env  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment, the profile and what was built (asks nothing)
	rm -rf $(VENV) .aiida docs/_build .pytest_cache .mypy_cache .ruff_cache
