"""Finds partitions of an anchor that came or went since it was looked at, and has their rows carried over (ADR 28, 35)."""

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from pgduet.operations import shadow_leaves, shadow_rows
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Query
from pgduet.postgres.gently import Gently
from pgduet.postgres.heaps import heaps_of, pages_of
from pgduet.postgres.session import Connection
from pgduet.sql import block


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition of the anchor, or a table that was one and still has our trigger."""

    relation: sql.Identifier
    attached: bool
    heard: bool
    """It has our trigger."""
    id: str
    """Names it as it is attached now: after a DETACH and an ATTACH it is another one."""


async def leaves(conn: Connection, design: ShadowDesign, plan: str) -> list[Leaf]:
    """Find them."""
    function = design.routine(shadow_leaves.KIND).as_string(None).rpartition('."')[2][:-1].replace('""', '"')
    asked = {
        "relation": design.relation_label,
        "trigger": shadow_leaves.name_of(plan),
        "function": function,
        "row": shadow_leaves.row_trigger(plan),
    }
    rows = await (await conn.execute(block("shadow_leaves", "leaves"), asked)).fetchall()
    return [Leaf(sql.Identifier(r["schema"], r["table"]), r["attached"], r["heard"], r["id"]) for r in rows]


async def journal_came(conn: Connection, design: ShadowDesign, leaf: Leaf) -> None:
    """Write down the keys of a partition's rows that the shadow has not: reads it once, piece by piece."""
    await _journal(conn, design, leaf.relation, shadow_leaves.journal_came)


async def journal_gone(conn: Connection, design: ShadowDesign) -> None:
    """Write down the keys of all rows that only the shadow has: reads it once, piece by piece."""
    for heap in await heaps_of(conn, design.shadow):
        await _journal(conn, design, heap, shadow_rows.journal_surplus)


async def _journal(
    conn: Connection,
    design: ShadowDesign,
    heap: sql.Identifier,
    query: Callable[[ShadowDesign, sql.Identifier, int, int], Query],
) -> None:
    async for first, last in Gently(conn).pieces(await pages_of(conn, heap)):
        async with conn.transaction():
            await conn.execute(shadow_rows.lock_whole(design))
            # Else each piece could read the whole of the other table.
            await conn.execute(block("shadow_leaves", "by_the_key"))
            await conn.execute(query(design, heap, first, last))


async def alone(conn: Connection, design: ShadowDesign) -> list[str]:
    """Name what single partitions have beside their columns, and would go with them."""
    asked = {"relation": design.relation_label}
    rows = await (await conn.execute(block("shadow_leaves", "alone"), asked)).fetchall()
    return [row["what"] for row in rows]
