# On a fresh machine with Python >= 3.11, its venv module and make:
#   make run    the quickstart job under rankd
#   make test   every test that the machine allows, in minutes; PYTEST_ARGS="-m slow" for those that take longer

PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Tests at a time: most of their time they wait for real processes.
JOBS ?= 4
# The quickstart's logs and sockets stay in the checkout.
SCRATCH := $(CURDIR)/.rankd

.PHONY: run install dev test lint format bench bench-output bench-timers bench-health bench-hosts clean
.DEFAULT_GOAL := run

run: install
	@mkdir -p $(SCRATCH)/state && mkdir -p -m 0700 $(SCRATCH)/run
	@PATH="$(BIN):$$PATH" STATE_DIRECTORY=$(SCRATCH)/state RUNTIME_DIRECTORY=$(SCRATCH)/run \
		$(BIN)/rankd run config/quickstart.toml

# Installed again only when pyproject.toml has changed: the checkout itself is what is imported.
install: $(VENV)/installed
dev: $(VENV)/installed-dev

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/installed

test: dev
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A short look beside the floors; bench/README.md has the long runs.
bench: dev
	PATH="$(BIN):$$PATH" $(BIN)/python bench/quick.py

bench-output: dev
	PATH="$(BIN):$$PATH" $(BIN)/python bench/output.py

bench-timers: dev
	PATH="$(BIN):$$PATH" $(BIN)/python bench/timers.py

bench-health: dev
	PATH="$(BIN):$$PATH" $(BIN)/python bench/health.py

bench-hosts: dev
	PATH="$(BIN):$$PATH" $(BIN)/python bench/hosts.py

clean:
	rm -rf $(VENV) $(SCRATCH) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
