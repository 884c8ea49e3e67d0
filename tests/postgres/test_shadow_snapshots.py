"""Publication waits until nobody's snapshot is older than the rows that were written into the shadow."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.shadows import PLAN, Shadow, create_orders, wide

from pgduet.operations import shadow, shadow_sync
from pgduet.operations.shadow_sync import Form
from pgduet.postgres import shadow_snapshots

Connection = psycopg.AsyncConnection[Any]


async def test_a_client_with_an_older_snapshot_is_waited_for_and_gets_no_error(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    async with (
        await psycopg.AsyncConnection.connect(dsn) as old,
        await psycopg.AsyncConnection.connect(dsn) as reader,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as engine,
    ):
        await old.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await old.execute("SELECT count(*) FROM public.orders")  # it has a snapshot, and no number yet
        await reader.execute("SELECT 1")  # it is in a transaction, and holds none
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        before = await shadow_snapshots.older(engine)
        assert before.pids == (old.info.backend_pid,)
        # As long as it is waited for, its write is noted, and no error.
        await old.execute("UPDATE public.orders SET amount = 5 WHERE id = 3")
        assert (await shadow_snapshots.still(engine, before)).pids == before.pids
        await old.commit()
        async with asyncio.timeout(20):
            while (await shadow_snapshots.still(engine, before)).pids:
                await asyncio.sleep(0.01)
        await m.form(Form.BOTH)
        await m.drain()
        # Whoever begins after the drain sees the rows, and writes them.
        await old.execute("SELECT count(*) FROM public.orders")
        assert not (await shadow_snapshots.still(engine, before)).pids
        await old.execute("UPDATE public.orders SET amount = amount + 1")
        await old.commit()
    assert await m.parity() == (10, 0)


async def test_without_the_wait_such_a_client_is_refused(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    async with await psycopg.AsyncConnection.connect(dsn) as old:
        await old.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await old.execute("SELECT count(*) FROM public.orders")
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        await m.form(Form.BOTH)
        refused = None
        try:
            await old.execute("UPDATE public.orders SET amount = 5 WHERE id = 3")
        except psycopg.Error as error:
            refused = error.sqlstate
    assert refused is not None


async def test_a_uniqueness_that_comes_while_changes_are_only_noted_refuses_old_clients(
    dsn: str, conn: Connection
) -> None:
    for early in (True, False):
        await conn.execute("DROP TABLE IF EXISTS public.orders CASCADE")
        await create_orders(conn, 10)
        m = Shadow(conn, wide())
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        if early:
            for statement in shadow.uniqueness(m.design):
                await conn.execute(statement.sql)
        async with await psycopg.AsyncConnection.connect(dsn) as noted:
            await noted.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await noted.execute("UPDATE public.orders SET code = 'free' WHERE code = 'c1'")
            await noted.commit()
        if early:
            with pytest.raises(psycopg.errors.UniqueViolation):
                await conn.execute("UPDATE public.orders SET code = 'c1' WHERE code = 'c2'")
            await m.run(shadow_sync.drop_triggers(m.design, PLAN))
            await m.run([*shadow.drop(m.design), *shadow_sync.drop_functions(m.design)])
        else:
            await conn.execute("UPDATE public.orders SET code = 'c1' WHERE code = 'c2'")
            await m.form(Form.BOTH)
            await m.drain()
            for statement in shadow.uniqueness(m.design):
                await conn.execute(statement.sql)
            assert await m.parity() == (10, 0)
