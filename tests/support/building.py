"""An index whose build is held half way: it is there, INVALID, and its build waits for a transaction that wrote to the table."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from support.harness import TIMEOUT_S, Harness
from support.holding import locked

Connection = psycopg.AsyncConnection[Any]

BY_NOTE = {"create_index": {"table": "public.reviews", "name": "by_note", "columns": ["note"]}}
WRITES = "INSERT INTO public.reviews (rating) VALUES ('4')"

BUILDING = """
SELECT pid FROM pg_stat_progress_create_index
 WHERE datname = current_database() AND phase = 'waiting for writers before build'
"""
NO_BUILD = """
SELECT true WHERE NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())
"""
STATES = """
SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname ~ 'note' ORDER BY 1
"""


async def found(conn: Connection, query: str, *values: object) -> Any:
    """Wait until a query gives a row."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            row = await (await conn.execute(query.encode(), values or None)).fetchone()
            if row is not None:
                return row
            await asyncio.sleep(0.02)


async def states(conn: Connection) -> dict[str, bool]:
    """Tell which indexes are there, and which of them are valid."""
    return dict(await (await conn.execute(STATES)).fetchall())


@asynccontextmanager
async def half_way(stage: Harness, conn: Connection) -> AsyncIterator[tuple[int, Connection]]:
    """Hold the build of an index half way: gives its process id, and the session that holds it."""
    async with locked(stage.dsn, WRITES) as writer:
        await stage.start(stage.plan(BY_NOTE, gates={"dual_write": "manual"}))
        (pid,) = await found(conn, BUILDING)
        assert await states(conn) == {"by_note": False}
        yield pid, writer
