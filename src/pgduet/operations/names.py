"""Names of the objects that a migration makes: readable, unique, and never longer than PostgreSQL's 63 bytes."""

from pgduet.versions import fit, version_schema

__all__ = ["MARKER", "fit", "version_schema"]  # the shared names belong with the others

MARKER = "_pgduet_v"
"""The hidden column that tells an insert through the new version's view from every other insert."""
BY_VIEW = 1
"""The marker's value in what that view inserts."""
REPAIRED = 0
"""The marker's value after a repair; after the next one it has none again. What counts is that it is another one than before."""


def physical_column(plan: str, column: str) -> str:
    """Name a column in the making: `_pgduet_<plan>_<column>`, until contract gives it its own."""
    return fit(f"_pgduet_{plan}_{column}")


def working_name(plan: str, name: str) -> str:
    """Name an index or a constraint in the making, until contract gives it its own name."""
    return fit(f"_pgduet_{plan}_{name}")


def trigger_name(plan: str, kind: str) -> str:
    """Name a sync trigger; `~` sorts behind the user's BEFORE triggers, so that it sees what they changed."""
    return fit(f"~pgduet_{kind}_{plan}")


def routine_name(plan: str, kind: str, schema: str, table: str) -> str:
    """Name one of a table's functions in schema `pgduet`."""
    return fit(f"{kind}_{plan}_{schema}.{table}")


def constraint_name(plan: str, column: str) -> str:
    """Name the check that proves NOT NULL before the column is declared so; no `working_name` is like it."""
    return fit(f"_pgduet~{plan}_{column}")


def usual_name(table: str, column: str, kind: str) -> str:
    """Name a constraint as PostgreSQL would: `<table>_<column>_<kind>`."""
    return fit(f"{table}_{column}_{kind}")


def unique_name(table: str, column: str, given: str | None) -> str:
    """Name the uniqueness that a column brings."""
    return given or usual_name(table, column, "key")


def inner_view(schema: str, version: str, table: str) -> str:
    """Name the view in `pgduet_views` that carries the insert marker."""
    return fit(f"{schema}_v{version}.{table}")


def archived_table(plan: str, schema: str, table: str, attempt: int | None = None) -> str:
    """Name a whole table in `pgduet_archive`; with `attempt` where it does not come back."""
    return fit(f"{plan}/{schema}.{table}" + (f"/{attempt}" if attempt is not None else ""))
