"""Statements on tables that clients use: short tries, all or nothing, and a name for whoever is in the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.plans import create_reviews

from pgduet.errors import LockDeadline
from pgduet.operations.statement import Lock, Statement
from pgduet.postgres.blockers import Blockers
from pgduet.postgres.databases import Database
from pgduet.postgres.executor import LockBudget, execute_alone, execute_locked
from pgduet.postgres.session import Connection, session

RELATION = '"public"."reviews"'
ADD = Statement(
    sql.SQL("ALTER TABLE public.reviews ADD COLUMN extra int"), "add extra", Lock.ACCESS_EXCLUSIVE, RELATION
)
TRIES = 4
DEADLINE = LockBudget(timeout_ms=20, deadline_s=0.5)


@pytest.fixture
async def engine(dsn: str, conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[Connection]:
    """Give a session of the engine's on a database with a table."""
    await create_reviews(conn, 100)
    async with session(Database("shop", dsn), "test") as connection:
        yield connection


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Give a client that keeps its transactions open."""
    async with await psycopg.AsyncConnection.connect(dsn, application_name="reporting") as connection:
        yield connection


async def columns(conn: Connection) -> set[str]:
    """Read the table's columns."""
    cursor = await conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'public.reviews'::regclass AND attnum > 0"
    )
    return {row["attname"] for row in await cursor.fetchall()}


async def test_a_free_table_takes_one_try_under_the_plans_lock_timeout(engine: Connection) -> None:
    seen: dict[str, Any] = {}

    async def also(conn: Connection) -> None:
        cursor = await conn.execute(
            """
            SELECT current_setting('lock_timeout') AS lock_timeout, current_setting('deadlock_timeout') AS deadlock_timeout,
                   array(SELECT mode FROM pg_locks WHERE relation = 'public.reviews'::regclass AND pid = pg_backend_pid()) AS locks
            """
        )
        seen.update((await cursor.fetchone()) or {})

    assert await execute_locked(engine, [ADD], LockBudget(timeout_ms=35), also=also) == 1
    assert seen == {"lock_timeout": "35ms", "deadlock_timeout": "10ms", "locks": ["AccessExclusiveLock"]}
    after = await (await engine.execute("SELECT current_setting('lock_timeout') AS set")).fetchone()
    assert after == {"set": "0"}


async def test_it_gives_up_and_tries_again_until_the_holder_has_gone(
    engine: Connection, client: psycopg.AsyncConnection[Any]
) -> None:
    await client.execute("SELECT count(*) FROM public.reviews WHERE note <> 'geheim'")
    heard: list[str] = []
    enough = asyncio.Event()

    def on_wait(who: Blockers) -> None:
        heard.append(who.text)
        assert who.ending == (f"SELECT pg_terminate_backend({client.info.backend_pid})",)
        if len(heard) == TRIES:
            enough.set()

    task = asyncio.create_task(execute_locked(engine, [ADD], LockBudget(timeout_ms=20), on_wait=on_wait))
    await asyncio.wait_for(enough.wait(), 20)
    await client.commit()
    assert await task == len(heard) + 1
    assert await columns(engine) >= {"extra"}
    assert f"pid {client.info.backend_pid} (role postgres, reporting, idle in transaction" in heard[0]
    assert "AccessShareLock" in heard[0]
    assert heard[0].endswith("SELECT count(*) FROM public.reviews WHERE note <> ?")


async def test_clients_get_in_between_two_tries(
    engine: Connection, client: psycopg.AsyncConnection[Any], conn: psycopg.AsyncConnection[Any]
) -> None:
    await client.execute("SELECT count(*) FROM public.reviews")
    waited = asyncio.Event()
    task = asyncio.create_task(execute_locked(engine, [ADD], LockBudget(timeout_ms=50), on_wait=lambda _: waited.set()))
    for key in range(50):
        await conn.execute("UPDATE public.reviews SET note = 'short' WHERE id = %s", (key + 1,))
    await asyncio.wait_for(waited.wait(), 20)
    assert not task.done()
    await client.commit()
    assert await task >= 2


async def test_past_the_deadline_it_names_the_holder_and_leaves_nothing(
    engine: Connection, client: psycopg.AsyncConnection[Any]
) -> None:
    await client.execute("LOCK TABLE public.reviews IN ROW EXCLUSIVE MODE")
    with pytest.raises(LockDeadline) as caught:
        await execute_locked(engine, [ADD], DEADLINE)
    assert not caught.value.retryable, "past its deadline it waits for a person"
    assert "ACCESS EXCLUSIVE on " + RELATION in caught.value.message
    assert str(client.info.backend_pid) in caught.value.message
    assert "extra" not in await columns(engine)
    await client.commit()


async def test_the_strongest_lock_is_taken_first_and_once(
    engine: Connection, client: psycopg.AsyncConnection[Any]
) -> None:
    weak = Statement(sql.SQL("SELECT 1"), "weak", Lock.SHARE_ROW_EXCLUSIVE, RELATION)
    began = Statement(sql.SQL("SELECT pg_notify('began', '')"), "first statement")
    await client.execute("SELECT count(*) FROM public.reviews")
    await engine.execute("LISTEN began")
    with pytest.raises(LockDeadline):
        await execute_locked(engine, [began, weak, ADD], DEADLINE)
    assert [note async for note in engine.notifies(timeout=0)] == [], "no statement ran before the lock was held"
    await client.commit()


async def test_a_statement_that_fails_undoes_the_ones_before_it(engine: Connection) -> None:
    broken = Statement(sql.SQL("ALTER TABLE public.reviews DROP COLUMN nonsense"), "x", Lock.ACCESS_EXCLUSIVE, RELATION)
    with pytest.raises(errors.UndefinedColumn):
        await execute_locked(engine, [ADD, broken], LockBudget())
    assert "extra" not in await columns(engine)


async def test_what_is_recorded_commits_with_the_statements_or_not_at_all(engine: Connection) -> None:
    async def also(conn: Connection) -> None:
        await conn.execute("SELECT 1 / 0")

    with pytest.raises(errors.DivisionByZero):
        await execute_locked(engine, [ADD], LockBudget(), also=also)
    assert "extra" not in await columns(engine)


async def test_without_the_right_to_set_deadlock_timeout_it_works_all_the_same(
    dsn: str, conn: psycopg.AsyncConnection[Any]
) -> None:
    await create_reviews(conn, 10)
    role = sql.Identifier(f"{conn.info.dbname}_owner")
    await conn.execute(
        sql.SQL("CREATE ROLE {0}; ALTER TABLE public.reviews OWNER TO {0}; GRANT ALL ON SCHEMA public TO {0}").format(
            role
        )
    )
    try:
        async with session(Database("shop", dsn, role.as_string(None).strip('"')), "test") as owner:
            seen = []

            async def also(conn: Connection) -> None:
                cursor = await conn.execute("SELECT current_setting('deadlock_timeout') AS value")
                seen.append(await cursor.fetchone())

            assert await execute_locked(owner, [ADD], LockBudget(), also=also) == 1
            assert seen == [{"value": "1s"}]
    finally:
        await conn.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(role))


async def test_validation_locks_out_neither_readers_nor_writers(
    engine: Connection, client: psycopg.AsyncConnection[Any]
) -> None:
    await engine.execute("ALTER TABLE public.reviews ADD CONSTRAINT short CHECK (length(rating) < 9) NOT VALID")
    await client.execute("UPDATE public.reviews SET note = 'mine' WHERE id = 1")
    await execute_alone(
        engine,
        Statement(
            sql.SQL("ALTER TABLE public.reviews VALIDATE CONSTRAINT short"), "", Lock.SHARE_UPDATE_EXCLUSIVE, RELATION
        ),
    )
    await client.commit()


async def test_in_a_deadlock_with_a_client_the_engine_gives_way_and_comes_back(
    engine: Connection, client: psycopg.AsyncConnection[Any]
) -> None:
    await client.execute("SET deadlock_timeout = '60s'")  # it never looks itself
    await client.execute("UPDATE public.reviews SET note = 'held' WHERE id = 1")
    held = Statement(sql.SQL("LOCK TABLE pg_catalog.pg_description IN SHARE MODE"), "other")
    crossing: list[asyncio.Task[Any]] = []
    waited = asyncio.Event()

    async def also(conn: Connection) -> None:
        if not crossing:
            crossing.append(asyncio.create_task(client.execute("COMMENT ON TABLE public.reviews IS 'crosses'")))
            await _waits(conn, client.info.backend_pid)
        await conn.execute("UPDATE public.reviews SET note = 'ours' WHERE id = 1")

    task = asyncio.create_task(
        execute_locked(engine, [held], LockBudget(timeout_ms=30_000), also=also, on_wait=lambda _: waited.set())
    )
    async with asyncio.timeout(20):
        await waited.wait()
        await crossing[0]
        await client.commit()
        assert await task > 1


async def _waits(conn: Connection, pid: int) -> None:
    async with asyncio.timeout(10):
        while True:
            cursor = await conn.execute("SELECT cardinality(pg_blocking_pids(%s)) AS ways", (pid,))
            if (await cursor.fetchone()) == {"ways": 1}:
                return
