"""Names of the objects that a migration makes: readable, unique, and never longer than PostgreSQL's 63 bytes."""

import hashlib

MAX_BYTES = 63
MARKER = "_pgduet_v"
"""The hidden column that tells an insert through the new version's view from every other insert."""


def fit(name: str) -> str:
    """Cut `name` to 63 bytes; a cut name ends in a hash of the whole, so that two long names stay apart."""
    raw = name.encode()
    if len(raw) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:10]
    return raw[: MAX_BYTES - 11].decode(errors="ignore") + "_" + digest


def physical_column(plan: str, column: str) -> str:
    """Name a column in the making: `_pgduet_<plan>_<column>`, until contract gives it its own."""
    return fit(f"_pgduet_{plan}_{column}")


def trigger_name(plan: str, kind: str) -> str:
    """Name a sync trigger; `~` sorts behind the user's BEFORE triggers, so that it sees what they changed."""
    return fit(f"~pgduet_{kind}_{plan}")


def routine_name(plan: str, kind: str, schema: str, table: str) -> str:
    """Name one of a table's functions in schema `pgduet`."""
    return fit(f"{kind}_{plan}_{schema}.{table}")


def constraint_name(plan: str, column: str) -> str:
    """Name the check that proves NOT NULL before the column is declared so."""
    return fit(f"_pgduet_{plan}_{column}_filled")


def version_schema(schema: str, version: str) -> str:
    """Name the schema of views that clients of a version use, such as `public_v2`."""
    return fit(f"{schema}_v{version}")


def inner_view(schema: str, version: str, table: str) -> str:
    """Name the view in `pgduet_views` that carries the insert marker."""
    return fit(f"{schema}_v{version}.{table}")
