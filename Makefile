# Two commands matter: `make demo` and `make test`. Both set up all they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: setup demo test test-all lint fmt clean

setup: $(BIN)/uv
	@$(BIN)/uv sync --quiet --extra local

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.9,<1"

demo: setup
	@$(BIN)/pgduet demo $(if $(KEEP),--keep)

test: setup
	$(BIN)/pytest -q -n $(WORKERS) -m "not long"

test-all: setup
	$(BIN)/pytest -q -n $(WORKERS)

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
