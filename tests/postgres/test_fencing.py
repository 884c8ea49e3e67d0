"""A step that was given up for dead cannot come back over a later one, and does not keep locks in its hands."""

import asyncio
import dataclasses
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from temporalio.testing import ActivityEnvironment

from pgduet.activities.engine import _be_alone
from pgduet.postgres.databases import Database
from pgduet.postgres.executor import IDLE_MS, LockBudget, execute_locked
from pgduet.postgres.session import Connection, session

MIGRATION = 7


def attempt(number: int) -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=number)
    return environment


async def test_a_second_try_ends_the_session_of_the_first(dsn: str) -> None:
    database = Database("shop", dsn)
    async with session(database, "second") as second, session(database, "first") as first:
        await attempt(1).run(_be_alone, first, MIGRATION)
        await attempt(2).run(_be_alone, second, MIGRATION)
        with pytest.raises(psycopg.OperationalError):
            await first.execute("SELECT 'it comes to itself too late'")


async def test_another_step_waits_until_the_first_has_ended(dsn: str) -> None:
    database = Database("shop", dsn)
    async with session(database, "undo") as undo:
        async with session(database, "flip") as flip:
            await attempt(1).run(_be_alone, flip, MIGRATION)
            waiting = asyncio.create_task(attempt(1).run(_be_alone, undo, MIGRATION))
            beats = asyncio.create_task(_tries(undo))
            await beats
            assert not waiting.done()
            await flip.execute("SELECT 'it is still there'")
        await waiting


async def _tries(conn: Connection) -> None:
    """Wait until a session has asked for the lock at least once."""
    async with asyncio.timeout(10), await psycopg.AsyncConnection.connect(conn.info.dsn) as watcher:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%pg_try_advisory_lock%%'"
        while await (await watcher.execute(asked, (conn.info.backend_pid,))).fetchone() != (1,):
            await watcher.rollback()


async def test_migrations_do_not_wait_for_each_other(dsn: str) -> None:
    database = Database("shop", dsn)
    async with session(database, "one") as one, session(database, "other") as other:
        await attempt(1).run(_be_alone, one, MIGRATION)
        await attempt(1).run(_be_alone, other, MIGRATION + 1)


async def test_a_worker_that_stops_with_locks_in_its_hands_loses_them(dsn: str) -> None:
    seen: list[Any] = []

    async def look(conn: Connection) -> None:
        shown = await (await conn.execute("SHOW idle_in_transaction_session_timeout")).fetchone()
        seen.append(shown)

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        await execute_locked(conn, [], LockBudget(), also=look)
    assert seen == [{"idle_in_transaction_session_timeout": f"{IDLE_MS // 1000}s"}]
