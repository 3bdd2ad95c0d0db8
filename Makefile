# Everything runs from a bare checkout: the first target that needs it sets up .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The first Python 3.11+ found; choose another with `make PYTHON=...`.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.13 python3.12,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
READY := .venv/ready
C_PARTS := setup.py src/cairn/_plain.c $(wildcard src/cairn/hashing/kernel/*)

.PHONY: help serve test check lint soak sanitize bench lock clean

help:            ## list the targets
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  +##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

# This package, editable, with its C parts; without a C compiler it goes without.
$(READY): .venv/locked pyproject.toml $(C_PARTS)
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

# pip installs exactly what requirements-dev.lock names, by hash.
.venv/locked: requirements-dev.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON)"
	@$(PYTHON) -m venv --clear .venv || { apt-get install -qq -y python3-venv >/dev/null && $(PYTHON) -m venv --clear .venv; }
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

serve: $(READY)  ## run a node on http://127.0.0.1:5000; LAB=1: on a scratch copy that can be tampered with
	@$(BIN)/cairn serve --ledger cairn-data $(if $(LAB),--lab)

# The page that checks receipts is tested in a real browser.
.venv/browser: .venv/locked
	@command -v chromium google-chrome >/dev/null || { echo "installing Chromium"; apt-get update -qq >/dev/null && apt-get install -qq -y --no-install-recommends chromium >/dev/null 2>&1; } || { echo "Chromium is needed: install it" >&2; exit 1; }
	@touch $@

# Tests start hundreds of processes: none of them shall compile the sources again, whatever the
# environment says of writing bytecode.
test: $(READY) .venv/browser ## pass the tests
	@$(BIN)/python -m compileall -q src tests
	@$(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered tests/core
	@$(BIN)/pytest -n 2 --dist worksteal --ignore tests/core

lint: $(READY)   ## format, lint, types
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/mypy --no-error-summary

check: lint test ## what CI runs

soak: $(READY) .venv/browser ## the long fault and fuzz runs
	@$(BIN)/python -m compileall -q src tests
	@$(BIN)/pytest -n 2 -m soak
	@$(BIN)/pytest -n 2 -m 'hypothesis and not soak' --hypothesis-profile soak

# A copy of the sources, since a kernel built so works only where the sanitizers were loaded first.
# NVIDIA's compiler does not find its own parts there; it is not what is looked at.
SANITIZED := build/sanitized

sanitize: $(READY) ## the tests of hashing, on a C kernel that reports wrong memory and undefined acts
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r src/cairn $(SANITIZED)
	@rm -f $(SANITIZED)/cairn/hashing/*.so
	@$(CC) -shared -fPIC -std=gnu11 -O1 -g -Wall -Wextra -fno-omit-frame-pointer \
	    -fsanitize=address,undefined -fno-sanitize-recover=all \
	    -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') \
	    $(SANITIZED)/cairn/hashing/kernel/*.c -o $(SANITIZED)/cairn/hashing/_lanes.abi3.so
	@LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED) \
	    $(BIN)/pytest -q tests/hashing -k 'not valid_cuda'

bench: $(READY)  ## measure, and print ratios
	@$(BIN)/python -m bench

lock: $(READY)   ## renew requirements-dev.lock from pyproject.toml
	@$(BIN)/pip install -q uv
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --upgrade --group dev pyproject.toml -o requirements-dev.lock

clean:           ## remove what the targets made
	rm -rf .venv build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache cairn-data src/cairn/*.so src/cairn/hashing/*.so
	find src tests -name __pycache__ -prune -exec rm -rf {} +
