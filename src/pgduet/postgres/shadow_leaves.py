"""Finds partitions of an anchor that came or went since it was looked at, and has their rows carried over (ADR 28)."""

from dataclasses import dataclass

from psycopg import sql

from pgduet.operations import shadow_leaves, shadow_rows
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.postgres.session import Connection
from pgduet.sql import block


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that has come under the anchor without our triggers, or has left with them."""

    relation: sql.Identifier
    attached: bool


async def strangers(conn: Connection, design: ShadowDesign, plan: str) -> list[Leaf]:
    """Find them; at first, all partitions there are."""
    function = design.routine(shadow_leaves.KIND).as_string(None).rpartition('."')[2][:-1].replace('""', '"')
    asked = {"relation": design.relation_label, "trigger": shadow_leaves.name_of(plan, "BEFORE"), "function": function}
    rows = await (await conn.execute(block("shadow_leaves", "strangers"), asked)).fetchall()
    return [Leaf(sql.Identifier(row["schema"], row["table"]), attached=row["attached"]) for row in rows]


async def journal(conn: Connection, design: ShadowDesign, leaf: Leaf) -> None:
    """Write down the keys of its rows: what the anchor has is carried over by the drain, what it has no longer is deleted."""
    await conn.execute(shadow_rows.journal_all(design, leaf.relation))
