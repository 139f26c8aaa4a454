# `make demo` and `make test` do their own set-up; `make setup` alone does just that.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PROTOS := $(wildcard protos/*.proto)

.PHONY: setup demo test text format lint types contract protos protos-check tests slow clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -q -c constraints.txt torch hatchling
	$(PY) -m pip install -q -c constraints.txt "pip>=25.1"
	$(PY) -m pip install -q -c constraints.txt --group dev -e . --no-build-isolation
	touch $@

text: setup
	$(PY) -m fedmore.sims.cli sim fetch quickstart

demo: text
	.venv/bin/fedmore sim run quickstart --engine grpc

test: setup lint contract types protos-check tests

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

contract: setup
	PYTHONPATH=.editable .venv/bin/lint-imports

types: setup
	.venv/bin/mypy .editable/fedmore

GENERATE = $(PY) -m grpc_tools.protoc -I.editable

protos: setup
	$(GENERATE) --python_out=.editable --pyi_out=.editable --grpc_python_out=.editable $(PROTOS:%=.editable/fedmore/%)

protos-check: setup
	$(PY) tests/check_protos.py

tests: setup
	HF_HUB_OFFLINE=1 .venv/bin/pytest -q -n 2

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
