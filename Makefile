# Every command that a person or CI runs. `make` alone lists them.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two cores are enough; torch alone would take every core in every test process.
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check format docs screenshots bench tokenizers formats published-client catalog-mirror catalog-refresh clean

help:  ## List these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready  ## Install everything into .venv

$(VENV)/.ready: constraints.txt requirements-dev.txt requirements-nodeps.txt $(wildcard packages/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-r requirements-dev.txt $(foreach p,sdk api runtime engine,-e packages/$(p))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	@touch $@

demo: setup  ## The whole journey on this machine: catalog, refusal, rehearsal, adapter
	$(BIN)/python examples/demo.py

serve: setup  ## Start the API, the dispatcher and the engine on this machine
	$(BIN)/dn serve

test: setup tokenizers  ## Every test
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

check: setup  ## Format, lint, types, imports, and that generated files are up to date
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target $(CHECKS)

CHECKS := check-types check-generated check-dependencies check-style check-layers
.PHONY: $(CHECKS)

check-types:
	$(BIN)/mypy

check-generated:
	$(BIN)/python scripts/mirror_catalog.py --check
	$(BIN)/python scripts/make_docs.py --check
	$(BIN)/python scripts/check_links.py
	$(BIN)/python scripts/check_words.py

check-dependencies:
	$(foreach p,sdk api runtime engine,(cd packages/$(p) && $(abspath $(BIN))/deptry .) &&) true
	$(BIN)/python scripts/audit.py

check-style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive packages scripts

check-layers:
	$(BIN)/lint-imports

format: setup  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## Write the generated reference pages and schemas from the code
	$(BIN)/python scripts/make_docs.py

catalog-mirror: setup  ## Write the API's copy of the catalog from the SDK's
	$(BIN)/python scripts/mirror_catalog.py

catalog-refresh: setup  ## Compare the catalog with SOURCE=url-or-file (WRITE=1 writes it)
	$(BIN)/python scripts/refresh_catalog.py $(SOURCE) $(if $(WRITE),--write)

screenshots: setup  ## Write the console's pictures for the documentation
	$(BIN)/python scripts/make_screenshots.py

bench: setup  ## Measure, and print ratios taken side by side in one run
	$(BIN)/python benchmarks/run.py

tokenizers: setup  ## Fetch the tokenizers that tests of chat formats compare with
	-@$(BIN)/python scripts/fetch_tokenizers.py

formats: tokenizers  ## Write docs/reference/formats.md from real runs of every chat format
	$(BIN)/python scripts/make_formats.py

published-client: .published-client/.ready  ## Install the published dn 2.x client into an environment of its own

.published-client/.ready: tests/clients/dreadnode-2.0.52.lock.txt
	$(PYTHON) -m venv .published-client
	.published-client/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

clean:  ## Remove what make made, and nothing else
	rm -rf $(VENV) .published-client .tokenizers .mypy_cache .ruff_cache .pytest_cache .hypothesis
