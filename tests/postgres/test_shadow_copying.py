"""The copy and what follows it, as the engine runs them: ranges with their cursor, the key, the journal emptied."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.shadow_clients import OLD, clients, errors_in
from support.shadows import PLAN, Shadow, create_orders, wide

from pgduet.plan.policy import Policy
from pgduet.postgres import shadowing, store
from pgduet.postgres.copying import Copying, Drain, give_key
from pgduet.postgres.pace import Pace

Connection = psycopg.AsyncConnection[Any]
ROWS = 30_000
ANCHOR = sql.Identifier("public", "orders")
PACE = Pace.of(Policy())


@pytest.fixture
async def engine(dsn: str, conn: Connection) -> AsyncIterator[Connection]:
    """Give a session as the engine has them, with a migration whose shadow is made; its table is cut into two ranges."""
    await create_orders(conn, ROWS)
    await Shadow(conn, wide()).expand()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as session:
        await session.execute(
            "INSERT INTO pgduet.migration"
            " (name, database, attempt, checksum, from_version, to_version, phase, state, plan, design, workflow_id)"
            " VALUES ('x', 'shop', 1, 'x', '1', '2', 'backfill', 'running', '{}', '{}', 'test')"
        )
        size = await Shadow(conn, wide()).pages()
        for part, (first, last) in enumerate(((0, size // 2), (size // 2, size))):
            bounds = {"id": 1, "relation": ANCHOR.as_string(None), "part": part, "block_from": first, "block_to": last}
            await store.run(session, "ranges_insert", bounds)
        yield session


async def copied(engine: Connection, part: int) -> Copying:
    """Copy a range to its end."""
    copying = Copying(engine, 1, wide(), ANCHOR, part)
    await copying.open()
    while not copying.finished:
        await copying.next(PACE)
    return copying


async def drained(engine: Connection) -> Drain:
    """Build the key and empty the journal."""
    assert await give_key(engine, wide(), PLAN, 1)
    assert not await give_key(engine, wide(), PLAN, 1)
    drain = Drain(engine, wide())
    await drain.open()
    while not drain.finished:
        await drain.next(PACE)
    return drain


async def test_ranges_are_copied_beside_clients_and_the_journal_brings_the_rest(
    dsn: str, conn: Connection, engine: Connection
) -> None:
    async with clients(dsn, ROWS, ["increment", "delete", "if_absent"], (OLD,)) as ledger:
        for part in (0, 1):
            assert (await copied(engine, part)).rows > ROWS / 3
        assert (await drained(engine)).keys > 0
    drain = Drain(engine, wide())
    while not drain.finished:
        await drain.next(PACE)
    assert errors_in(ledger) == {}
    assert (await Shadow(conn, wide()).parity())[1] == 0


@pytest.mark.parametrize("rewrite", ["VACUUM FULL public.orders", "TRUNCATE public.orders"])
async def test_a_table_that_is_rewritten_half_way_is_left_to_the_journal(
    conn: Connection, engine: Connection, rewrite: str
) -> None:
    await copied(engine, 0)
    half = Copying(engine, 1, wide(), ANCHOR, 1)
    await half.open()
    await half.next(PACE)
    assert not half.finished
    await conn.execute(rewrite.encode())
    await conn.execute("INSERT INTO public.orders (code) VALUES ('one more')")
    await half.next(PACE)
    assert half.finished
    await drained(engine)
    rows, wrong = await Shadow(conn, wide()).parity()
    assert (rows, wrong) == (1 if rewrite.startswith("TRUNCATE") else ROWS + 1, 0)


async def test_two_sessions_on_one_range_copy_no_row_twice(dsn: str, conn: Connection, engine: Connection) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as other:
        first, second = await asyncio.gather(copied(engine, 0), copied(other, 0))
    await copied(engine, 1)
    assert first.rows + second.rows < ROWS
    await drained(engine)
    assert await Shadow(conn, wide()).parity() == (ROWS, 0)


async def test_who_holds_a_row_of_the_journal_is_named_and_nobody_else(
    dsn: str, conn: Connection, engine: Connection
) -> None:
    for part in (0, 1):
        await copied(engine, part)
    await conn.execute("UPDATE public.orders SET amount = 1 WHERE id = 7")
    assert await give_key(engine, wide(), PLAN, 1)
    said: list[str] = []
    async with (
        await psycopg.AsyncConnection.connect(dsn, application_name="holder") as holder,
        await psycopg.AsyncConnection.connect(dsn, application_name="elsewhere") as elsewhere,
    ):
        await elsewhere.execute("SELECT FROM public.orders WHERE id = 8 FOR UPDATE")
        await holder.execute("SELECT FROM public.orders WHERE id = 7 FOR UPDATE")
        draining = asyncio.create_task(shadowing.drain(engine, wide(), PACE, said.append))
        async with asyncio.timeout(30):
            while not said and not draining.done():
                await asyncio.sleep(0.02)
        await holder.rollback()
        await draining
    assert "holder" in said[0], said
    assert "elsewhere" not in said[0], said
    assert said[-1] == ""
    assert await Shadow(conn, wide()).parity() == (ROWS, 0)
