"""Writes rows of a client's table as a batch of the backfill does: no client's row is waited for, the user's triggers are mute."""

import asyncio

from psycopg import errors, sql

from pgduet.operations.statement import Query
from pgduet.postgres.batches import ROW_LOCK_WAIT
from pgduet.postgres.session import Connection

RETRY_S = 0.05


async def write_politely(conn: Connection, query: Query, *, mute: bool) -> int:
    """Run one short write until it finds its rows free; returns the rows written."""
    while True:
        try:
            async with conn.transaction():
                await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(ROW_LOCK_WAIT)))
                if mute:
                    await conn.execute("SET LOCAL session_replication_role = replica")
                return (await conn.execute(query)).rowcount
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            await asyncio.sleep(RETRY_S)
