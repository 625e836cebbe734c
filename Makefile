# `make demo` and `make test` do all set-up themselves, into ./.venv, on a machine with Python 3.11 or newer.
# Settings: PYTHON=python3.12  TORCH_INDEX_URL=https://.../whl/cu128 (another torch build)  WORKERS=2  ARGS="..."

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH := $(shell sed -n 's/^torch==/torch==/p' requirements.lock)
PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
WORKERS ?= 2
# Published as source only, and pure Python: built here, which asks for no compiler.
SOURCES := rouge-score,sqlitedict,word2number
TRITON := triton==3.9.0
PIP := $(BIN)/python -m pip --disable-pip-version-check
APT := -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60
VERSION_CHECK := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: help setup demo test test-slow test-browser lint bench lock clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## make ./.venv with the pinned versions; repeated only when they change

demo: $(READY)  ## train four ways on the lab and print the table (ARGS=--quick: one seed)
	$(BIN)/infosteer demo $(ARGS)

test: $(READY)  ## run the tests, all but the slow ones and those that need a browser
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser" $(ARGS)

test-slow: $(READY)  ## run the slow tests
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

# Chromium comes from Debian where this may install it; where there is none, the tests are skipped and say so.
test-browser: $(READY)  ## open the report in headless Chromium
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "`id -u`" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium" && \
	{ timeout 120 apt-get $(APT) update; \
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get $(APT) install -y --no-install-recommends chromium; } >/dev/null 2>&1; } || \
	echo "no Chromium here, and it cannot be installed: the browser tests are skipped"
	$(BIN)/python -m pytest -rs -m browser tests/inspection $(ARGS)

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## measure the overhead of steering against the plain step
	$(BIN)/python benchmarks/overhead.py $(ARGS)

lock: $(READY)  ## write requirements.lock from what ./.venv holds
	$(BIN)/python benchmarks/lock.py

clean:  ## remove ./.venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: whatever is installed later finds it there and pulls no other build. Wheels only, but for
# SOURCES: a machine without a compiler is told which package has none for it. Triton is no part of torch's CPU build,
# its kernels are then tested by interpreter; where torch brought its own, or there is none (not Linux), that is left.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c '$(VERSION_CHECK)' 2>/dev/null || { echo "InfoSteer needs Python 3.11 or newer, but '$(PYTHON)' is \
	`$(PYTHON) --version 2>&1 | head -n 1`. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -c '$(VERSION_CHECK)' 2>/dev/null && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	|| $(PYTHON) -m venv --clear $(VENV) || { echo "'$(PYTHON) -m venv' failed: install the venv module of your \
	Python (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PIP) install --only-binary :all: $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(PIP) install --only-binary :all: --no-binary $(SOURCES) -r requirements.lock
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) install --only-binary :all: --no-deps $(TRITON) || \
	echo "no Triton here: its tests are skipped"
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@
