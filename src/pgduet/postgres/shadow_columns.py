"""Reads what somebody has changed of an anchor's columns since preflight; `pgduet.operations.shadow_columns` judges it (ADR 28)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from pgduet.operations import shadow_columns
from pgduet.operations.facts import ColumnFacts
from pgduet.operations.shadow_columns import Filled
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Statement
from pgduet.postgres import catalogue
from pgduet.postgres.session import Connection
from pgduet.sql import block


@dataclass(frozen=True, slots=True)
class Seen:
    """An anchor's columns at one moment."""

    columns: Sequence[ColumnFacts]
    mark: str
    """Tells whether they have changed since."""
    design: ShadowDesign
    """The design with what follows them."""
    filled: Sequence[Filled]
    """What must not be empty any more."""
    loosened: Sequence[Statement]
    """What lets the shadow be empty where it may."""


async def seen(conn: Connection, design: ShadowDesign) -> Seen:
    """Read them; the mark first, so that it is never newer than they are."""
    (look,) = await (
        await conn.execute(block("shadow_final", "look").format(now=shadow_columns.mark(design)))
    ).fetchall()
    facts = await catalogue.table(conn, design.schema_name, design.anchor_name)
    now = shadow_columns.as_now(design, facts.columns)
    names = await catalogue.not_null_names(conn, design.relation_label)
    rows = await (await conn.execute(block("shadow_final", "required"), {"relation": design.shadow_label})).fetchall()
    required = {row["name"] for row in rows}
    if design.swapped is not None:
        return Seen(facts.columns, look["mark"], now, [], [])
    filled = shadow_columns.filled(now, required, names)
    return Seen(facts.columns, look["mark"], now, filled, shadow_columns.loosened(now, required))


async def stored(conn: Connection, design: ShadowDesign) -> dict[str, dict[str, Any]]:
    """Read how the shadow's columns are stored."""
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''")
        found = await _rows(conn, "table", {"relation": design.shadow_label})
        if not found:
            return {}
        (table,) = found
        return {row["name"]: row for row in await _rows(conn, "columns", {"oid": table["oid"]})}


async def _rows(conn: Connection, name: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("shadow_carry", name), values)).fetchall()
