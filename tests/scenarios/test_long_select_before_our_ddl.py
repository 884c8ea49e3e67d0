"""Scenario 6: a long SELECT on the table or an FK parent, then our DDL, then 50 short queries: nobody queues behind us for long.

Waits are measured by PostgreSQL (`pg_locks.waitstart`), not by this process's clock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.holding import locked
from support.plans import NAME, STARS, create_reviews
from support.stage import staged

from pgduet.client import Migrations
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.postgres import executor

TRIES_END = "a try ends at its lock_timeout"
YIELDS = "deadlock_timeout is lowered, so that an autovacuum yields to a short try"
"""What is taken out; each test runs without it as well, and sees the fault."""
QUERIES = 50
LOCK_TIMEOUT_MS = 50
SURELY_MS = 1000
BEHIND_US = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0)::float8 * 1000
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE NOT l.granted AND l.locktype = 'relation' AND a.application_name = 'short'
"""
AUTHOR = {
    "add_column": {
        "table": "public.reviews",
        "column": {"name": "author_id", "type": "int", "references": {"table": "public.authors"}},
    }
}
Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the engine try often: each of the short queries is to meet a try."""
    monkeypatch.setattr(executor, "LONGEST_PAUSE_S", 0.03)


def without_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the time limits out of the executor."""
    limit = executor._limit
    monkeypatch.setattr(
        executor, "_limit", lambda name, ms: limit(name, 0 if name in {"lock_timeout", "statement_timeout"} else ms)
    )


async def waits_for_lock(stage: Harness) -> Status:
    """Wait until `status` says that the migration waits for a table lock."""
    client = Migrations(stage.client, task_queue=stage.queue)
    async with asyncio.timeout(30):
        while True:
            status = await client.status(NAME, stage.database)
            if status.waiting_for and status.waiting_for.kind == "lock":
                return status
            await asyncio.sleep(0.05)


async def _queued(conn: Connection) -> bool:
    """Tell whether the engine waits for a table lock right now."""
    found = await conn.execute(
        "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.application_name LIKE 'pgduet/%'"
    )
    return bool(found.rowcount)


async def longest_wait_ms(dsn: str, conn: Connection, table: str) -> float:
    """Run 50 short queries on a table while the engine tries; gives the longest that one of them queued."""
    longest = 0.0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="short") as short:
        for _ in range(QUERIES):
            # Each of them meets us: it comes while we stand in the queue.
            async with asyncio.timeout(30):
                while not await _queued(conn):
                    await asyncio.sleep(0)
            query = asyncio.create_task(short.execute(f"SELECT FROM {table} LIMIT 1".encode()))
            while not query.done():
                found = await (await conn.execute(BEHIND_US)).fetchone()
                longest = max(longest, found[0] if found else 0)
                if longest > SURELY_MS:
                    query.cancel()
                    return longest
            await query
    return longest


@asynccontextmanager
async def long_select(dsn: str, table: str) -> AsyncIterator[None]:
    """Hold what a SELECT holds while it runs."""
    async with locked(dsn, f"SELECT count(*) FROM {table} WHERE 'geheim' <> ''"):
        yield


def _bounded(longest_ms: float, *, mutated: bool) -> None:
    if mutated:
        assert longest_ms > SURELY_MS, "without lock_timeout, clients queue as long as the SELECT takes"
    else:
        assert longest_ms <= LOCK_TIMEOUT_MS + 50


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", TRIES_END])
async def test_on_the_table(
    stage: Harness,
    dsn: str,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    await create_reviews(conn, 500)
    if mutated:
        without_lock_timeout(monkeypatch)
    async with stage.worker():
        async with long_select(dsn, "public.reviews"):
            await stage.start(stage.plan(STARS, gates={"dual_write": "manual"}))
            if not mutated:
                status = await waits_for_lock(stage)
                assert status.waiting_for is not None
                assert "ACCESS EXCLUSIVE on" in status.waiting_for.detail
                assert "SELECT count(*) FROM public.reviews WHERE ? <> ?" in status.waiting_for.detail
                assert status.waiting_for.next_commands[0].startswith("SELECT pg_terminate_backend(")
            _bounded(await longest_wait_ms(dsn, conn, "public.reviews"), mutated=mutated)
        # It gets in by itself when the SELECT ends.
        await stage.waits("gate", Phase.EXPAND)


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", TRIES_END])
async def test_on_the_parent_of_a_foreign_key(
    stage: Harness,
    dsn: str,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE TABLE public.authors (id int PRIMARY KEY); INSERT INTO public.authors VALUES (1)")
    async with stage.worker():
        await stage.start(stage.plan(AUTHOR))
        await stage.waits("window", Phase.SOAK)
        if mutated:
            without_lock_timeout(monkeypatch)
        async with long_select(dsn, "public.authors"):
            # To take the foreign key away locks its target as well.
            await stage.act("abort")
            _bounded(await longest_wait_ms(dsn, conn, "public.authors"), mutated=mutated)
        await stage.until(lambda status: status.state is State.ROLLED_BACK)


async def test_a_build_that_waits_for_older_transactions_says_for_whom(
    stage: Harness, dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE INDEX reviews_rating ON public.reviews (rating)")
    async with stage.worker():
        await stage.start(
            stage.plan(
                {"alter_column": {"table": "public.reviews", "column": "rating", "type": "int"}},
                gates={"verify": "manual"},
            )
        )
        await stage.waits("gate", Phase.BACKFILL)
        async with locked(dsn, "UPDATE public.reviews SET note = 'geheim' WHERE id = 1") as holder:
            await stage.act("advance")
            status = await waits_for_lock(stage)
            assert status.waiting_for is not None
            assert "build reviews_rating of" in status.waiting_for.detail
            assert "UPDATE public.reviews SET note = ? WHERE id = ?" in status.waiting_for.detail
            assert status.waiting_for.next_commands[0].startswith(
                f"SELECT pg_terminate_backend({holder.info.backend_pid})"
            )
            await holder.rollback()
        await stage.waits("window", Phase.SOAK)


VACUUMED = {
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_cost_delay": "100ms",
    "autovacuum_vacuum_cost_limit": "1",
    "fsync": "off",
}


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", YIELDS])
async def test_past_a_real_autovacuum(
    temporal: LocalTemporal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    if mutated:
        monkeypatch.setattr(executor, "DEADLOCK_MS", 1000)
    with EmbeddedPostgres(settings=VACUUMED) as server:
        async with (
            staged(temporal, server.dsn(), tmp_path, monkeypatch) as stage,
            await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as conn,
        ):
            await create_reviews(conn, 20_000)
            await conn.execute("UPDATE public.reviews SET note = note || '!'")
            pid = await _vacuuming(conn)
            async with stage.worker():
                await stage.start(stage.plan(STARS, gates={"dual_write": "manual"}))
                if mutated:
                    status = await waits_for_lock(stage)
                    assert status.waiting_for is not None
                    assert f"held by autovacuum, pid {pid}" in status.waiting_for.detail
                    assert status.waiting_for.next_commands[0].startswith(f"SELECT pg_cancel_backend({pid})")
                else:
                    await stage.waits("gate", Phase.EXPAND)


async def _vacuuming(conn: Connection) -> int:
    """Wait until a worker of autovacuum is at the table, which will take minutes; gives its pid."""
    async with asyncio.timeout(60):
        while True:
            found = await conn.execute(
                "SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE a.backend_type = 'autovacuum worker'"
                " AND l.relation = 'public.reviews'::regclass AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted"
            )
            if row := await found.fetchone():
                return int(row[0])
            await asyncio.sleep(0.05)
