# `make demo` and `make test` do their own set-up; `make setup` does just that, text and model included.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
PY := .venv/bin/python
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PROTOS := $(wildcard protos/*.proto)
INSTALLED := .venv/.installed

.PHONY: help setup env text demo test slow coverage chaos format lint contract types protos protos-check tests clean

help:
	@echo "make demo    a federation of four clients on this machine; sets itself up"
	@echo "make test    the gate: every check but the slow tests; sets itself up"
	@echo "make slow    the slow tests: real processes, other engines, kill -9 at every write; CI runs both"
	@echo "make coverage   the gate's tests again, counting lines: about 15 minutes; fails under the floor"
	@echo "make setup   .venv, the demo's text and its model; afterwards no network is needed"
	@echo "make chaos   real programs under random faults for an hour; MINUTES=5 SEED=7 for less, and again"
	@echo "make format | lint | types | contract | protos | tests | clean   one thing at a time"

setup: text

env: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.11 or newer, or say which one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version 2>&1) is too old, 3.11 or newer is needed; say which one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "setting up .venv (a few minutes the first time)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install -qq -c constraints.txt --upgrade pip
	$(PY) -m pip install -qq -c constraints.txt hatchling
	$(PY) -m pip install -qq -c constraints.txt --no-build-isolation --group dev -e .
	@touch $@

text: env
	@$(PY) -m fedmore.sims.cli sim fetch quickstart

demo: text
	.venv/bin/fedmore sim run quickstart --engine grpc

test: lint contract types protos-check tests

format: env
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint: env
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

contract: env
	PYTHONPATH=.editable .venv/bin/lint-imports

types: env
	.venv/bin/mypy .editable/fedmore

GENERATE = $(PY) -m grpc_tools.protoc -I.editable

protos: env
	$(GENERATE) --python_out=.editable --pyi_out=.editable --grpc_python_out=.editable $(PROTOS:%=.editable/fedmore/%)

protos-check: env
	$(PY) tests/check_protos.py

tests: env
	HF_HUB_OFFLINE=1 .venv/bin/pytest -q -n 2 -m "not slow"

slow: env
	FEDMORE_EXAMPLES=4 HF_HUB_OFFLINE=1 .venv/bin/pytest -q -n 2 -m "slow or hypothesis"

# Counting lines makes the tests about half as long again, so neither the gate nor `slow` does it.
coverage: env
	rm -rf .coverage && mkdir .coverage
	HF_HUB_OFFLINE=1 .venv/bin/coverage run -m pytest -q -n 2 -m "not slow"
	.venv/bin/coverage combine -q
	.venv/bin/coverage report --skip-covered

MINUTES ?= 60
chaos: env
	HF_HUB_OFFLINE=1 $(PY) tests/chaos/chaos.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
