# Needs Python 3.11+, git and make; everything else is installed into .venv from uv.lock.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
INSTALLED := .venv/.installed
ARGS ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: demo
demo: $(INSTALLED) ## Start everything with three sample apps; ARGS=--once ends when they ran
	@$(BIN)/apphub demo $(ARGS)

.PHONY: up
up: $(INSTALLED) ## Start everything on http://127.0.0.1:4000 until Ctrl-C
	@$(BIN)/apphub up $(ARGS)

.PHONY: test
test: $(INSTALLED) ## Run the whole suite; ARGS are passed to pytest
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: check
check: $(INSTALLED) ## Lint, types, import rules, and whether the migrations match the tables
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m apphub_assets.stack.throwaway $(BIN)/alembic check

.PHONY: bench
bench: $(INSTALLED) ## Run the benchmarks, each beside the raw engine it stands on
	@for bench in benchmarks/bench_*.py; do $(BIN)/python "$$bench" || exit 1; done

.PHONY: clean
clean: ## Remove caches and the environment; .apphub (your data) stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { echo "python3 is not installed; AppHub needs Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$$($(PYTHON) --version) does not fit; AppHub needs Python 3.11 to 3.13: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# --inexact keeps what else is installed; the stamp keeps this from being repeated.
$(INSTALLED): uv.lock pyproject.toml | $(BIN)/uv
	@$(BIN)/uv sync --quiet --frozen --inexact
	@touch $@
