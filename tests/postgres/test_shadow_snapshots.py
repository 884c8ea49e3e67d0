"""Clients that see by an old snapshot, around each change of form: no lost write, and no error that PostgreSQL would not give."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors, sql
from psycopg.rows import dict_row
from support.mutants import Clause, must_fail
from support.shadows import CUSTOMERS, PLAN, Shadow, addresses, create_orders, parted, wide
from support.worlds import on_each_version

from pgduet.operations import shadow, shadow_rows, shadow_sync
from pgduet.operations.shadow_sync import Form
from pgduet.postgres import emptied, shadow_snapshots

Connection = psycopg.AsyncConnection[Any]

STILL = "serialize access"
"""Of PostgreSQL's words for 40001."""


async def snapshot_of(
    stack: AsyncExitStack, dsn: str, level: IsolationLevel = IsolationLevel.REPEATABLE_READ
) -> Connection:
    """Connect a client that has its snapshot from now on."""
    client = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn))
    await client.set_isolation_level(level)
    await client.execute("SELECT 1")
    return client


async def mirrored(conn: Connection, rows: int) -> Shadow:
    """Go to where the trigger writes the shadow, and notes what clients with old snapshots do."""
    await create_orders(conn, rows)
    m = Shadow(conn, wide())
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    return m


async def noted(dsn: str, *statements: str) -> None:
    """Write as a client at REPEATABLE READ does, in one transaction."""
    async with AsyncExitStack() as stack:
        client = await snapshot_of(stack, dsn)
        for statement in statements:
            await client.execute(statement.encode())
        await client.commit()


async def test_a_client_with_an_older_snapshot_is_waited_for_and_gets_no_error(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    async with (
        await psycopg.AsyncConnection.connect(dsn) as old,
        await psycopg.AsyncConnection.connect(dsn) as reader,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as engine,
    ):
        await old.set_isolation_level(IsolationLevel.REPEATABLE_READ)
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


@pytest.mark.parametrize(
    "statement", ["UPDATE public.orders SET amount = 5 WHERE id = 3", "DELETE FROM public.orders WHERE id = 3"]
)
async def test_who_is_not_waited_for_is_told_to_try_again(dsn: str, conn: Connection, statement: str) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    async with AsyncExitStack() as stack:
        old = await snapshot_of(stack, dsn)
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        await m.form(Form.BOTH)
        with pytest.raises(errors.SerializationFailure, match=STILL):
            await old.execute(statement.encode())
        await old.rollback()
        await old.execute(statement.encode())
        await old.commit()
    assert (await m.parity())[1] == 0


# A row each, by what another client at REPEATABLE READ has done to it while changes were only noted.
INSERTED, CHANGED, DELETED, PLAIN = 500, 100, 200, 300
EACH = 4


async def write_all(client: Connection, at: int) -> None:
    """Update, delete, and give another key, among rows of each sort; insert what was deleted, in two ways."""
    for sort in (INSERTED, CHANGED, PLAIN):
        first = sort + EACH * at
        for statement, row in (
            ("UPDATE public.orders SET amount = amount + 1, code = code || '!' WHERE id = %s", first),
            ("DELETE FROM public.orders WHERE id = %s", first + 1),
            ("UPDATE public.orders SET id = id + 1000 WHERE id = %s", first + 2),
        ):
            done = await client.execute(statement.encode(), (row,))
            assert done.rowcount == 1
    for number, tail in enumerate(("", " ON CONFLICT (id) DO UPDATE SET note = 'met'")):
        row = DELETED + EACH * at + number
        done = await client.execute(
            f"INSERT INTO public.orders (id, code) VALUES (%s, 'again {row}'){tail}".encode(), (row,)
        )
        assert done.rowcount == 1
        await client.execute("UPDATE public.orders SET amount = 7 WHERE id = %s", (row,))


@on_each_version
async def test_a_snapshot_from_before_a_drain_loses_no_write_and_has_no_error(dsn: str, conn: Connection) -> None:
    m = await mirrored(conn, 400)
    rows = "(SELECT %s + i FROM generate_series(0, 79) i)"
    await noted(
        dsn,
        rows.join(("INSERT INTO public.orders (id, code) SELECT id, 'new' || id FROM ", " AS n (id)")) % INSERTED,
        f"UPDATE public.orders SET amount = 3, code = code || '?' WHERE id IN {rows % CHANGED}",
        f"DELETE FROM public.orders WHERE id IN {rows % DELETED}",
    )
    async with AsyncExitStack() as stack:
        clients = [await snapshot_of(stack, dsn) for _ in range(5)]
        await write_all(clients[0], 0)
        await clients[0].commit()
        await m.form(Form.BOTH)
        clients += [await snapshot_of(stack, dsn) for _ in range(4)]
        for number in (1, 5):
            await write_all(clients[number], number)
        await conn.execute(shadow_rows.drain(m.design, 1000))  # all but what these two hold
        for number in (2, 6):
            await write_all(clients[number], number)
        for number in (1, 2, 5, 6):
            await clients[number].commit()
        await m.form(Form.ENFORCE)
        for number in (3, 7):
            await write_all(clients[number], number)
            await clients[number].commit()
        await m.form(Form.MIRROR)  # the way home
        for number in (4, 8):
            await write_all(clients[number], number)
            await clients[number].commit()
        await m.drain()
        assert (await m.parity())[1] == 0, "the versions differ"
        # From here on no snapshot shows a note: what is written is there at once.
        await m.form(Form.BOTH)
        fresh = await snapshot_of(stack, dsn)
        await write_all(fresh, 9)
        await fresh.commit()
    assert (await m.parity())[1] == 0, "the versions differ"
    assert await m.drain() == 0


@pytest.mark.parametrize(
    "level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE], ids=lambda level: level.name
)
async def test_what_the_last_drain_brings_is_written_by_an_older_snapshot(
    dsn: str, conn: Connection, level: IsolationLevel
) -> None:
    m = await mirrored(conn, 10)
    await noted(dsn, "INSERT INTO public.orders (id, code) VALUES (500, 'noted'), (501, 'too')")
    async with AsyncExitStack() as stack:
        client = await snapshot_of(stack, dsn, level)
        await m.form(Form.BOTH)
        await m.drain()
        await client.execute("UPDATE public.orders SET amount = 5 WHERE id = 500")
        await client.execute("DELETE FROM public.orders WHERE id = 501")
        await client.commit()
    await m.drain()
    assert await m.parity() == (11, 0), "the versions differ"


async def test_only_a_row_that_was_really_written_since_is_a_conflict(dsn: str, conn: Connection) -> None:
    m = await mirrored(conn, 10)
    async with AsyncExitStack() as stack:
        early = await snapshot_of(stack, dsn)
        await noted(dsn, "UPDATE public.orders SET amount = 1 WHERE id = 1")
        await m.form(Form.BOTH)
        await m.drain()
        await conn.execute("DELETE FROM public.orders WHERE id = 3")
        await early.execute("UPDATE public.orders SET amount = 2 WHERE id = 2")
        # The snapshot still has a row 3 on either side; the table itself lets it be inserted.
        await early.execute("INSERT INTO public.orders (id, code) VALUES (3, 'another one')")
        with pytest.raises(errors.SerializationFailure, match=STILL):
            await early.execute("UPDATE public.orders SET amount = amount + 1 WHERE id = 1")
        await early.rollback()
        again = await snapshot_of(stack, dsn)
        await early.execute("INSERT INTO public.orders (id, code) VALUES (3, 'another one')")
        await early.commit()
        await again.execute("UPDATE public.orders SET amount = amount + 1 WHERE id = 1")
        await again.commit()
    assert await m.parity() == (10, 0)


async def test_a_key_that_is_free_again_is_taken_by_an_older_snapshot(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    await m.published()
    async with AsyncExitStack() as stack:
        client = await snapshot_of(stack, dsn)
        await conn.execute("DELETE FROM public.orders WHERE id < 3")
        await client.execute("INSERT INTO public.orders (id, code) VALUES (1, 'another one')")
        await client.execute(
            "INSERT INTO public.orders (id, code) VALUES (2, 'c2') ON CONFLICT (id) DO UPDATE SET note = 'met'"
        )
        await client.commit()
    assert await m.parity() == (10, 0), "the versions differ"


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize(
    "statement", ["UPDATE public.orders SET amount = 5 WHERE id = 3", "DELETE FROM public.orders WHERE id = 3"]
)
async def test_a_row_that_was_put_right_since_is_a_conflict_and_no_more(
    dsn: str, conn: Connection, *, statement: str, guarded: bool
) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide(guarded=guarded))
    await m.published()
    label = m.design.shadow_label
    kept = await m.one(f"SELECT to_jsonb(s) FROM {label} s WHERE id = 3")
    await written_by_us(m, f"DELETE FROM {label} WHERE id IN (3, 4)")
    async with AsyncExitStack() as stack:
        client = await snapshot_of(stack, dsn)
        await written_by_us(m, f"INSERT INTO {label} SELECT r.* FROM jsonb_populate_record(NULL::{label}, %s) r", *kept)
        with pytest.raises(errors.SerializationFailure, match=STILL):
            await client.execute(statement.encode())
        await client.rollback()
        # Where nobody has put it right the client does.
        await client.execute(statement.replace("3", "4").encode())
        await client.execute(statement.encode())
        await client.commit()
    assert (await m.parity())[1] == 0, "the versions differ"


@pytest.mark.parametrize("shape", ["partitioned", "extracted"])
async def test_so_do_other_shapes(dsn: str, conn: Connection, shape: str) -> None:
    await create_orders(conn, 10)
    design, view, key = (
        (parted(), "orders", "id") if shape == "partitioned" else (addresses(), "addresses", "customer_id")
    )
    table = design.label
    write = "at = '2026-03-07'" if shape == "partitioned" else "city = 'far'"
    if shape == "extracted":
        await conn.execute(CUSTOMERS)
        await conn.execute("UPDATE public.customers SET street = 's' || id")
    m = Shadow(conn, design)
    await m.published()
    label = design.shadow_label
    kept = await m.one(f"SELECT to_jsonb(s) FROM {label} s WHERE {key} = 3")
    async with AsyncExitStack() as stack:
        for statement in (f"DELETE FROM {table} WHERE id = 3", f"UPDATE {table} SET {write} WHERE id = 3"):
            await written_by_us(m, f"DELETE FROM {label} WHERE {key} = 3")
            client = await snapshot_of(stack, dsn)
            await written_by_us(
                m, f"INSERT INTO {label} SELECT r.* FROM jsonb_populate_record(NULL::{label}, %s) r", *kept
            )
            with pytest.raises(errors.SerializationFailure, match=STILL):
                await client.execute(statement.encode())
        await written_by_us(m, f"DELETE FROM {label} WHERE {key} IN (4, 5)")
        client = await snapshot_of(stack, dsn)
        for row in (2, 4):
            await client.execute(f"UPDATE {table} SET {write} WHERE id = {row}".encode())
        for row in (1, 5):
            await client.execute(f"DELETE FROM {table} WHERE id = {row}".encode())
        await client.commit()
    assert (await m.parity())[1] == 0, "the versions differ"
    assert await m.one(f"SELECT array_agg({key} ORDER BY {key}) FROM public_v2.{view} WHERE {key} < 6") == ([2, 3, 4],)


async def written_by_us(m: Shadow, statement: str, *values: Any) -> None:
    """Write the shadow alone, as a repair does."""
    async with m.conn.transaction():
        await m.conn.execute(sql.SQL("SET LOCAL pgduet.engine = {}").format(sql.Literal(m.design.shadow_label)))
        await m.conn.execute(statement.encode(), [psycopg.types.json.Jsonb(value) for value in values])


@on_each_version
@pytest.mark.parametrize("beside", ["nobody", "a new client"])
async def test_truncate_by_an_older_snapshot_leaves_no_row(dsn: str, conn: Connection, beside: str) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    await m.published()
    async with AsyncExitStack() as stack:
        client = await snapshot_of(stack, dsn)
        await conn.execute("INSERT INTO public.orders (id, code) VALUES (500, 'since')")
        if beside != "nobody":
            reader = await snapshot_of(stack, dsn)
            await reader.execute("SELECT FROM public_v2.orders")
        await client.execute("TRUNCATE public.orders")
        await client.execute("INSERT INTO public.orders (id, code) VALUES (1, 'first again')")
        await client.commit()
        if beside != "nobody":
            assert await m.one("SELECT array_agg(id) FROM public_v2.orders WHERE id > 1") == ([500],)
            with pytest.raises(errors.ObjectNotInPrerequisiteState):  # contract would lose it
                await conn.execute(shadow_rows.owes_nothing(m.design).sql)
    await taken_away(m)
    assert await m.parity() == (1, 0), "rows of the new version were left"


async def taken_away(m: Shadow) -> None:
    """Do what the next look does where something was written down."""
    as_before, m.conn.row_factory = m.conn.row_factory, dict_row
    await emptied.surplus_noted(m.conn, m.design)
    m.conn.row_factory = as_before
    await m.drain()
    await m.conn.execute(shadow_rows.owes_nothing(m.design).sql)


async def test_a_uniqueness_that_comes_while_changes_are_only_noted_refuses_old_clients(
    dsn: str, conn: Connection
) -> None:
    for early in (True, False):
        await conn.execute("DROP TABLE IF EXISTS public.orders CASCADE")
        m = await mirrored(conn, 10)
        if early:
            for statement in shadow.uniqueness(m.design):
                await conn.execute(statement.sql)
        await noted(dsn, "UPDATE public.orders SET code = 'free' WHERE code = 'c1'")
        if early:
            with pytest.raises(errors.UniqueViolation):
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


UNSEEN = Clause(
    "a note that a snapshot shows is heeded", "shadow", "behind", "WHERE {j_is_old} OR {j_is_new}", "WHERE false"
)
UNTOLD = Clause(
    "a row that a snapshot lacks is asked for",
    "shadow",
    "lacking",
    "NOT EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_old})",
    "false",
)
MET = Clause(
    "a row that only the snapshot has is passed by",
    "shadow",
    "lacking",
    "AND EXISTS (SELECT FROM {shadow} AS s WHERE {s_is_new})",
    "AND false",
)
BY_ROW = Clause(
    "a TRUNCATE knows no snapshot", "shadow", "truncate_published", "IN ('repeatable read', 'serializable')", "= 'none'"
)
OLDER = test_what_the_last_drain_brings_is_written_by_an_older_snapshot
REPAIRED = partial(test_a_row_that_was_put_right_since_is_a_conflict_and_no_more, guarded=False)


@pytest.mark.parametrize(
    ("scenario", "mutants", "says"),
    [
        (test_a_snapshot_from_before_a_drain_loses_no_write_and_has_no_error, [UNSEEN], STILL),
        (partial(OLDER, level=IsolationLevel.REPEATABLE_READ), [UNSEEN, UNTOLD], "duplicate key"),
        (partial(REPAIRED, statement="UPDATE public.orders SET amount = 5 WHERE id = 3"), [UNTOLD], "duplicate key"),
        (test_a_key_that_is_free_again_is_taken_by_an_older_snapshot, [MET], STILL),
        (partial(test_truncate_by_an_older_snapshot_leaves_no_row, beside="nobody"), [BY_ROW], "were left"),
    ],
    ids=["note", "note and lack", "lack", "met", "truncate"],
)
async def test_the_rule_is_needed(
    dsn: str, conn: Connection, scenario: Callable[..., Coroutine[Any, Any, None]], mutants: list[Clause], says: str
) -> None:
    await must_fail(scenario(dsn=dsn, conn=conn), *mutants, says=says)
