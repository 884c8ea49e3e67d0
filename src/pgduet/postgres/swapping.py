"""What PostgreSQL knows of a swap: who is not bound by row level security, and who publishes the table (ADR 34)."""

import asyncio

from pgduet.errors import GateRefused, NotSupported
from pgduet.hazards import Hazard, hazard
from pgduet.operations import swap_refusals
from pgduet.operations.answers import place
from pgduet.operations.facts import TableFacts
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.plan.models import ShadowTable
from pgduet.plan.problems import show_path
from pgduet.postgres import census, store
from pgduet.postgres.session import Connection
from pgduet.sql import block

LOOKS, BETWEEN_S = 10, 0.1
"""A census sees who uses a table at that instant."""


async def hazards(
    conn: Connection, index: int, operation: ShadowTable, table: TableFacts, design: ShadowDesign
) -> list[Hazard]:
    """Refuse what a swap cannot do, and tell what clients should know.

    Raises:
        NotSupported: prepared statements would fail, or subscribers lose the table.
    """
    swap_refusals.refuse(index, operation, table, design)
    path = ("operations", index, operation.kind)
    where = {"schema": table.schema_name, "table": table.table}
    published = await (await conn.execute(block("shadow_swap", "published"), where)).fetchall()
    if published:
        names = ", ".join(row["name"] for row in published)
        raise NotSupported(
            f"{operation.relation} is published ({names}), and a publication would follow the old table under another name",
            place=place(path),
            hint=f"Take the table out of the publication for as long as that. Or set {swap_refusals.ROUTE}.",
        )
    made = swap_refusals.hazards(index, operation, table, design)
    unbound = await (await conn.execute(block("shadow_swap", "unbound"))).fetchall()
    if unbound:
        names = ", ".join(row["name"] for row in unbound)
        made.append(hazard("PD-H51", f"{show_path(path)}, {operation.relation}: {names}"))
    return made


async def refuse_unbound(conn: Connection, migration: store.Migration) -> None:
    """Refuse to swap while somebody uses the table by its name whom no policy binds.

    Raises:
        GateRefused: naming them.
    """
    labels = [design.label for design in migration.design.shadows if design.swaps]
    if not labels:
        return
    for _ in range(LOOKS):
        await census.take(conn, migration, migration.policy.soak.legacy_idle_s)
        await asyncio.sleep(BETWEEN_S)
    where = {"migration": migration.name}
    found = await (await conn.execute(block("shadow_swap", "unbound_now"), where)).fetchall()
    if found:
        raise GateRefused(
            f"row level security does not bind {', '.join(row['who'] for row in found)}, seen at {', '.join(labels)} or another"
            " table of the plan by its name: after a swap they could meet old clients in a deadlock",
            hint="Have them connect as a role that is no superuser and has no BYPASSRLS, or end these sessions; then advance.",
        )
