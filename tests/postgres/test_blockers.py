"""Who stands in the way of a table lock: exactly those who do, by what a person can act on, and without a value of theirs."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.plans import create_reviews

from pgduet.errors import LockDeadline
from pgduet.operations.statement import Lock, Statement
from pgduet.postgres import executor
from pgduet.postgres.blockers import CONFLICTS, blockers
from pgduet.postgres.databases import Database
from pgduet.postgres.executor import LockBudget, execute_locked, locks_of
from pgduet.postgres.session import Connection, session

RELATION = '"public"."reviews"'
Client = psycopg.AsyncConnection[Any]
MODES = (
    *("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE"),
    *("SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"),
)
NAP = LockBudget(timeout_ms=20, deadline_s=0)


@pytest.fixture
async def engine(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    """Give a session of the engine's on a database with a table."""
    await create_reviews(conn, 10)
    async with session(Database("shop", dsn), "test") as connection:
        yield connection


@pytest.fixture
async def opened(dsn: str) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Open clients that keep their transactions open."""
    async with AsyncExitStack() as stack:

        async def client() -> Client:
            return await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(dsn, application_name="reporting")
            )

        yield client


def changing(relation: str, lock: Lock = Lock.ACCESS_EXCLUSIVE) -> Statement:
    return Statement(sql.SQL("SELECT 1"), "something", lock, relation)


async def test_only_those_are_named_whose_lock_conflicts_with_ours(
    engine: Connection, opened: Callable[[], Awaitable[Client]]
) -> None:
    for ours, theirs in itertools.product([lock for lock in Lock if lock is not Lock.NONE], MODES):
        client = await opened()
        await client.execute(f"LOCK TABLE public.reviews IN {theirs} MODE".encode())
        try:
            async with engine.transaction():
                await engine.execute(f"LOCK TABLE public.reviews IN {ours} MODE NOWAIT".encode())
            stopped = False
        except errors.LockNotAvailable:
            stopped = True
        found = await blockers(engine, {RELATION: ours})
        assert (str(client.info.backend_pid) in found.text) == stopped, (ours, theirs, found)
        await client.close()
    assert set(CONFLICTS) == set(Lock)


async def test_a_prepared_transaction_is_named_with_what_ends_it(
    engine: Connection, opened: Callable[[], Awaitable[Client]], conn: Client
) -> None:
    client = await opened()
    gid = f"transfer's {secrets.token_hex(4)}"
    await client.execute("UPDATE public.reviews SET note = 'x' WHERE id = 1")
    await client.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(gid)))
    await client.close()
    with pytest.raises(LockDeadline) as caught:
        await execute_locked(engine, [changing(RELATION)], NAP)
    assert gid.replace("'", "''") in caught.value.message
    assert caught.value.hint is not None
    ending = sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)).as_string(None)
    assert ending in caught.value.hint
    await conn.execute(ending.encode())
    assert await execute_locked(engine, [changing(RELATION)], NAP) == 1


async def test_a_lock_on_a_partition_is_one_in_the_way_of_its_parent(
    engine: Connection, opened: Callable[[], Awaitable[Client]], conn: Client
) -> None:
    await conn.execute(
        "CREATE TABLE public.events (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id);"
        "CREATE TABLE public.events_1_1 PARTITION OF public.events_1 FOR VALUES IN (1)"
    )
    client = await opened()
    await client.execute("SELECT FROM public.events_1_1")
    with pytest.raises(LockDeadline) as caught:
        await execute_locked(engine, [changing('"public"."events"')], NAP)
    assert str(client.info.backend_pid) in caught.value.message


async def test_four_holders_are_three_and_one_more_the_oldest_first(
    engine: Connection, opened: Callable[[], Awaitable[Client]]
) -> None:
    pids = []
    for _ in range(4):
        client = await opened()
        await client.execute("SELECT FROM public.reviews")
        pids.append(client.info.backend_pid)
    found = await blockers(engine, {RELATION: Lock.ACCESS_EXCLUSIVE})
    assert found.ending == tuple(f"SELECT pg_terminate_backend({pid})" for pid in pids[:3])
    assert found.text.endswith("; and 1 more")


async def test_who_waits_longer_than_we_did_is_in_front_of_us(
    engine: Connection, opened: Callable[[], Awaitable[Client]], conn: Client
) -> None:
    holder, waiter = await opened(), await opened()
    await holder.execute("LOCK TABLE public.reviews IN ROW SHARE MODE")
    task = asyncio.create_task(waiter.execute("LOCK TABLE public.reviews IN EXCLUSIVE MODE"))
    await _waits(conn, waiter)
    found = await blockers(engine, {RELATION: Lock.SHARE_ROW_EXCLUSIVE})
    assert found.text.startswith(f"queued behind pid {waiter.info.backend_pid}")
    assert f", which waits itself, held by pid {holder.info.backend_pid}" in found.text, (
        "though its lock does not conflict"
    )
    assert found.ending == (f"SELECT pg_terminate_backend({holder.info.backend_pid})",)
    assert not (await blockers(engine, {RELATION: Lock.SHARE_ROW_EXCLUSIVE}, 3600)).text
    await holder.rollback()
    await task


async def test_who_holds_a_lock_and_waits_for_a_row_is_named_with_whoever_has_that_row(
    engine: Connection, opened: Callable[[], Awaitable[Client]], conn: Client
) -> None:
    first, second, third = await opened(), await opened(), await opened()
    await first.execute("UPDATE public.reviews SET note = 'x' WHERE id = 1")
    await second.execute("UPDATE public.reviews SET note = 'x' WHERE id = 2")
    tasks = [asyncio.create_task(second.execute("UPDATE public.reviews SET note = 'y' WHERE id = 1"))]
    await _waits_for_a_row(conn, second)
    tasks.append(asyncio.create_task(third.execute("UPDATE public.reviews SET note = 'z' WHERE id = 2")))
    await _waits_for_a_row(conn, third)
    found = await blockers(engine, {RELATION: Lock.ACCESS_EXCLUSIVE})
    for client in (second, third):
        _, _, told = found.text.partition(f"held by pid {client.info.backend_pid} ")
        assert f"which waits itself, held by pid {first.info.backend_pid} " in told.partition("; ")[0]
    assert found.ending == (f"SELECT pg_terminate_backend({first.info.backend_pid})",)
    await first.rollback()
    await tasks[0]
    await second.rollback()
    await tasks[1]


async def _waits_for_a_row(conn: Client, client: Client) -> None:
    async with asyncio.timeout(10):
        while not (await (await conn.execute(BLOCKED, (client.info.backend_pid,))).fetchall()):
            pass


async def test_without_the_right_to_see_others_a_pid_is_named_and_what_is_missing(
    dsn: str, engine: Connection, opened: Callable[[], Awaitable[Client]], conn: Client
) -> None:
    role = f"{conn.info.dbname}_blind"
    await conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    client = await opened()
    await client.execute("SELECT FROM public.reviews WHERE note = 'geheim'")
    try:
        async with session(Database("shop", dsn, role), "test") as blind:
            found = await blockers(blind, {RELATION: Lock.ACCESS_EXCLUSIVE})
    finally:
        await conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert found.text == (
        f"held by pid {client.info.backend_pid} (AccessShareLock; to see more, the worker's role needs pg_read_all_stats)"
    )


BLOCKED = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
WAITING = """
SELECT relation::regclass::text, extract(epoch FROM clock_timestamp() - waitstart)::float8 * 1000 FROM pg_locks
 WHERE pid = %s AND NOT granted AND waitstart IS NOT NULL
"""


async def waits_of(conn: Client, pid: int, free: dict[str, Client], after_ms: float) -> dict[str, float]:
    """Watch a backend until it is idle: how long it waited for each table; those in `free` are let go after a while."""
    waited: dict[str, float] = {}
    while True:
        await conn.commit()
        for table, took_ms in await (await conn.execute(WAITING, (pid,))).fetchall():
            waited[table] = took_ms
            if took_ms > after_ms and table in free:
                await free.pop(table).rollback()
        state = await (await conn.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", (pid,))).fetchone()
        if waited and state == ("idle",):
            return waited


@pytest.mark.parametrize("bounded", [True, False], ids=["as it is", "without the bound on the sum"])
async def test_many_locks_together_wait_no_longer_than_one(
    engine: Connection,
    opened: Callable[[], Awaitable[Client]],
    conn: Client,
    monkeypatch: pytest.MonkeyPatch,
    bounded: bool,  # noqa: FBT001
) -> None:
    if not bounded:
        monkeypatch.setattr(executor, "SLACK_MS", 60_000)
    names = [f"t{number}" for number in range(4)]
    free = {}
    for name in names:
        await conn.execute(f"CREATE TABLE {name} ()".encode())
        free[name] = await opened()
        await free[name].execute(f"LOCK TABLE {name} IN ACCESS SHARE MODE".encode())
    budget = LockBudget(timeout_ms=400, deadline_s=0)
    task = asyncio.create_task(execute_locked(engine, [changing(f"public.{name}") for name in names], budget))
    # Each lock comes free when more than half of its own lock_timeout has gone by.
    waited = await waits_of(conn, engine.info.backend_pid, free, after_ms=240)
    if bounded:
        with pytest.raises(LockDeadline):
            await task
        assert sum(waited.values()) < 1.5 * budget.timeout_ms
    else:
        assert await task == 1
        assert sum(waited.values()) > 2 * budget.timeout_ms


async def test_locks_that_take_long_by_work_alone_are_had_all_the_same(
    engine: Connection, conn: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "FIRST_PAUSE_S", 0.001)
    slow = Statement(sql.SQL("SELECT 1"), "x", Lock.ACCESS_EXCLUSIVE, RELATION, sql.SQL("PERFORM pg_sleep(0.15)"))
    assert await execute_locked(engine, [slow], LockBudget(timeout_ms=10, deadline_s=20)) > 1


def test_pauses_grow_to_a_bound_and_are_never_the_same() -> None:
    pauses = [executor._pause_s(tries) for tries in range(1, 400)]
    assert all(0.1 <= pause <= 0.3 for pause in pauses[:1])
    assert all(0.5 <= pause <= 1.5 for pause in pauses[20:])
    assert len(set(pauses)) == len(pauses)


def test_the_strongest_locks_are_taken_first_and_else_in_the_order_of_the_statements() -> None:
    weak, view, table = changing("b", Lock.SHARE_ROW_EXCLUSIVE), changing("v"), changing("a")
    again = changing("b", Lock.SHARE_UPDATE_EXCLUSIVE)
    assert list(locks_of([weak, view, again, table]).items()) == [
        ("v", Lock.ACCESS_EXCLUSIVE),
        ("a", Lock.ACCESS_EXCLUSIVE),
        ("b", Lock.SHARE_ROW_EXCLUSIVE),
    ]


async def _waits(conn: Client, client: Client) -> None:
    async with asyncio.timeout(10):
        while not await (await conn.execute(WAITING, (client.info.backend_pid,))).fetchall():
            pass
