"""Looks at an index while it is built: is it valid, how far is the build, whom does it wait for, who waits for it."""

from pgduet.operations.statement import Table
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def valid(conn: Connection, table: Table, name: str) -> bool | None:
    """Tell whether a table's index is valid; None where it has none of that name."""
    where = {"relation": table.label, "name": name}
    found = await (await conn.execute(block("building", "index_state"), where)).fetchall()
    return bool(found[0]["valid"]) if found else None


async def doing(conn: Connection, pid: int) -> str:
    """Say how far a build is, in PostgreSQL's words; nothing where PostgreSQL says nothing."""
    found = await (await conn.execute(block("building", "progress"), {"pid": pid})).fetchall()
    return "".join(
        f": {row['phase']}" + (f", {row['percent']} %" if row["percent"] is not None else "") for row in found
    )


async def queued(conn: Connection, pid: int, budget_ms: int) -> bool:
    """Tell whether somebody has waited behind a build for longer than the budget, with a lock for which clients would queue."""
    where = {"pid": pid, "budget_ms": budget_ms}
    found = await (await conn.execute(block("building", "queued"), where)).fetchall()
    return bool(found)


async def give_way(conn: Connection, pid: int) -> None:
    """Cancel a build of ours."""
    await conn.execute("SELECT pg_cancel_backend(%s)", (pid,))
