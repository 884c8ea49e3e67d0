"""Clients of both versions at once on a shadow and its anchor, and a ledger of what was acknowledged to them."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors, sql
from support.carrying import Carrying
from support.mutants import Clause, Mutant, must_fail
from support.shadow_clients import LONG_S, NEW, OLD, clients, errors_in, held_up_by
from support.shadows import CUSTOMERS, Shadow, addresses, create_orders, parted, wide

from pgduet.operations import shadow_rows
from pgduet.operations.shadow_sync import Form

Connection = psycopg.AsyncConnection[Any]


@pytest.mark.parametrize("keys", [5, 4096])
async def test_clients_of_both_versions_neither_deadlock_nor_lose_a_write(
    dsn: str, conn: Connection, keys: int
) -> None:
    await create_orders(conn, keys)
    # One unique key, so that no upsert has an error of its own.
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    m = Shadow(conn, wide(unique=()))
    await m.published()
    kinds = ["increment", "increment", "two_in_order", "upsert", "if_absent", "delete", "read_then_write", "unrelated"]
    async with clients(dsn, keys, [*kinds, "by_snapshot"], (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    assert errors_in(ledger) == {}
    assert ledger["done"] > 500
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_rows_that_move_between_partitions_and_have_children_lose_no_write(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 20)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    m = Shadow(conn, parted())
    await m.published()
    async with clients(dsn, 20, ["move", "move", "increment", "two_in_order", "child"], (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    # Who waits for a row that goes to another partition is told so by PostgreSQL, on any partitioned table; old clients have none.
    assert all(what.startswith("Serialization") and what.endswith(NEW) for what in errors_in(ledger))
    assert ledger["done"] > 500
    assert await m.one("SELECT sum(amount)::int FROM public.orders") == (ledger["amount"],)
    assert await m.parity() == (20, 0)


@pytest.mark.parametrize("by", ["constraint", "index"])
async def test_with_two_unique_keys_upserts_end_as_they_do_without_us(dsn: str, conn: Connection, by: str) -> None:
    await create_orders(conn, 5)
    if by == "index":
        await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
        await conn.execute("CREATE UNIQUE INDEX codes ON public.orders (lower(code))")
    m = Carrying(conn, wide() if by == "constraint" else wide(unique=()))
    await m.published()
    kinds = [
        "increment",
        "upsert",
        "upsert_by_code" if by == "constraint" else "upsert_by_lower",
        "if_absent",
        "delete",
    ]
    async with clients(dsn, 5, kinds, (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    # Two clients insert one row at once, by a key that is not the other's arbiter: so PostgreSQL tells 1 in 2,000 without us, too.
    # New clients meet at the old table, whose every key is an arbiter to them.
    assert all(what.startswith("UniqueViolation: upsert") and what.endswith(OLD) for what in errors_in(ledger))
    assert sum(errors_in(ledger).values()) < 5 + ledger["done"] / 500
    assert ledger["done"] > 500
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_clients_that_write_all_through_the_copy_see_no_error_and_lose_nothing(
    dsn: str, conn: Connection
) -> None:
    await create_orders(conn, 20_000)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    m = Shadow(conn, wide(unique=()))
    await m.expand()
    kinds = ["increment", "two_in_order", "if_absent", "delete", "unrelated"]
    async with clients(dsn, 20_000, kinds, (OLD,)) as before:
        while before["done"] < 100:
            await asyncio.sleep(0.01)
        await m.copy(step=4)
        await m.keyed()
        await m.drain(200)
        await m.publish()
        async with clients(dsn, 200, kinds, (OLD, NEW)) as after:
            await asyncio.sleep(LONG_S / 2)
    assert errors_in(before) == errors_in(after) == {}
    assert min(before["done"], after["done"]) > 200
    assert (await m.parity())[1] == 0
    total = before["amount"] + after["amount"]
    assert await m.one("SELECT sum(amount)::int FROM public.orders") == (total,)


async def test_a_client_whose_snapshot_is_older_than_the_copy_brings_no_row_back(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 100)
    m = Shadow(conn, wide())
    await m.expand()
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await client.execute("SELECT FROM public.orders")
        await m.copy()
        await m.keyed()
        await client.execute("DELETE FROM public.orders WHERE id = 1")
        await client.execute("UPDATE public.orders SET amount = 5 WHERE id = 2")
        await client.execute("UPDATE public.orders SET id = 1000 WHERE id = 3")
        assert await m.drain() == 0
        await client.commit()
    assert await m.drain() == 4
    assert await m.parity() == (99, 0)


async def test_the_drain_waits_for_nobody_and_forgets_nothing(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 10)
    m = Shadow(conn, wide())
    await m.expand()
    await m.copy()
    await conn.execute("UPDATE public.orders SET amount = 1")
    await m.keyed()
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.execute("UPDATE public.orders SET amount = 2 WHERE id = 1")
        await client.execute("DELETE FROM public.orders WHERE id = 2")
        await conn.execute("SET lock_timeout = '100ms'")
        done = await (await conn.execute(shadow_rows.drain(m.design, 100))).fetchone()
        assert done is not None
        assert done[1:] == (10, 2)  # taken, and left for the next time
        await client.rollback()
    await m.drain()
    assert await m.parity() == (10, 0)
    await m.form(Form.BOTH)


async def test_truncate_beside_new_clients_does_not_deadlock(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 50)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    m = Shadow(conn, wide(unique=()))
    await m.published()
    async with clients(dsn, 50, ["increment", "upsert"], (NEW, OLD)) as ledger:
        for _ in range(10):
            await asyncio.sleep(0.05)
            await conn.execute("TRUNCATE public.orders")
    assert errors_in(ledger) == {}
    assert (await m.parity())[1] == 0


async def test_a_policy_locks_the_anchor_before_the_shadow(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 3)
    m = Shadow(conn, wide())
    await m.published()
    async with await psycopg.AsyncConnection.connect(dsn) as old, await psycopg.AsyncConnection.connect(dsn) as new:
        await old.execute("SELECT FROM public.orders WHERE id = 1 FOR UPDATE")
        await new.execute("SET lock_timeout = '100ms'")
        await new.commit()
        for statement in (
            "UPDATE public_v2.orders SET amount = 2 WHERE id = 1",
            "DELETE FROM public_v2.orders WHERE id = 1",
            "SELECT FROM public_v2.orders WHERE id = 1 FOR UPDATE",
        ):
            with pytest.raises(errors.LockNotAvailable):
                await new.execute(statement.encode())
            await new.rollback()
        await new.execute("SELECT FROM public_v2.orders WHERE id = 1")
        # The shadow's row is free: the new client never got as far.
        await conn.execute("SET lock_timeout = '100ms'")
        shadow = m.design.shadow_label
        await conn.execute(f"SELECT FROM {shadow} WHERE id = 1 FOR UPDATE NOWAIT".encode())


@pytest.mark.parametrize("shape", ["plain", "partitioned", "extracted"])
async def test_a_row_that_has_another_key_by_now_is_locked_in_the_anchor_first(
    dsn: str, conn: Connection, shape: str
) -> None:
    soon = sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(sql.Identifier(conn.info.dbname))
    await conn.execute(soon)
    await create_orders(conn, 2)
    m = Shadow(conn, {"plain": wide(), "partitioned": parted(), "extracted": addresses()}[shape])
    table, view, found, written = OLD, NEW, "code", "note"
    if shape == "extracted":
        await conn.execute(CUSTOMERS)
        await conn.execute("UPDATE public.customers SET name = 'c' || id, street = 'c' || id")
        table, view, found, written = "public.customers", "public_v2.addresses", "street", "city"
    await m.published()
    change = f"UPDATE {{}} SET {written} = concat({written}, '!') WHERE {found} IN (%s, %s)"
    async with (
        await psycopg.AsyncConnection.connect(dsn) as first,
        await psycopg.AsyncConnection.connect(dsn) as second,
        await psycopg.AsyncConnection.connect(dsn) as new,
    ):
        await first.execute(change.format(table).encode(), ("c1", ""))
        waiting = asyncio.create_task(new.execute(change.format(view).encode(), ("c1", "c2")))
        await held_up_by(first, new)
        await conn.execute(f"UPDATE {table} SET id = 1002 WHERE id = 2".encode())
        await second.execute(f"SELECT FROM {table} WHERE id = 1002 FOR UPDATE".encode())
        await first.commit()
        await held_up_by(second, new)
        await second.execute(change.format(table).encode(), ("c2", ""))
        await second.commit()
        assert (await waiting).rowcount == 2
        await new.commit()
    assert (await m.parity())[1] == 0
    assert await m.one(f"SELECT count(*) FROM {table} WHERE {written} LIKE '%%!!'") == (2,)


async def test_nor_is_the_row_taken_that_has_its_old_key_by_now(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 2)
    m = Shadow(conn, wide())
    await m.published()
    async with (
        await psycopg.AsyncConnection.connect(dsn) as old,
        await psycopg.AsyncConnection.connect(dsn) as new,
    ):
        await old.execute("UPDATE public.orders SET note = 'x' WHERE id = 1")
        waiting = asyncio.create_task(new.execute("UPDATE public_v2.orders SET amount = 7 WHERE code IN ('c1', 'c2')"))
        await held_up_by(old, new)
        await conn.execute("UPDATE public.orders SET id = 1002 WHERE id = 2")
        await conn.execute("INSERT INTO public.orders (id, code) VALUES (2, 'another one')")
        await old.commit()
        assert (await waiting).rowcount == 2
        free = "SELECT array_agg(id) FROM (SELECT id FROM public.orders FOR UPDATE SKIP LOCKED) o"
        assert await m.one(free) == ([2],), "a row that was not asked for"
        await new.commit()
    assert await m.parity() == (3, 0)


AT_MOST_ONE_SIDE = Clause(
    "the policy locks the anchor",
    "shadow",
    "lock_body",
    "{lock}\n",
)
NO_ISOLATION = Clause(
    "old snapshots are noted", "shadow", "note_always", "IN ('repeatable read', 'serializable')", "= 'none'"
)
FORGETFUL = Clause("a held row stays in the journal", "shadow", "drain", "WHERE (EXISTS", "WHERE false AND (EXISTS")
LEFT = Clause("a row is followed to its key", "shadow", "lock_body", "EXIT WHEN FOUND OR NOT {known};", "EXIT;")
MISTAKEN = Clause("whose key it is by now is asked", "shadow", "lock_body", " AND _since", " AND false")
WHOLE = Clause(
    "TRUNCATE deletes row by row",
    "shadow",
    "truncate_published",
    "DELETE FROM {shadow} AS s WHERE NOT EXISTS (SELECT FROM {relation} AS o WHERE {o_is_s})",
    "TRUNCATE {shadow}",
)


@pytest.mark.parametrize(
    ("scenario", "mutant", "says"),
    [
        (
            partial(test_clients_of_both_versions_neither_deadlock_nor_lose_a_write, keys=5),
            AT_MOST_ONE_SIDE,
            "DeadlockDet",
        ),
        (test_nor_is_the_row_taken_that_has_its_old_key_by_now, MISTAKEN, "not asked for"),
        (test_a_client_whose_snapshot_is_older_than_the_copy_brings_no_row_back, NO_ISOLATION, "duplicate key"),
        (test_the_drain_waits_for_nobody_and_forgets_nothing, FORGETFUL, "(10, 0) == (10, 2)"),
        (test_truncate_beside_new_clients_does_not_deadlock, WHOLE, "eadlock"),
    ],
    ids=lambda value: value.name if isinstance(value, Clause) else "",
)
async def test_the_rule_is_needed(
    dsn: str, conn: Connection, scenario: Callable[..., Coroutine[Any, Any, None]], mutant: Mutant, says: str
) -> None:
    await must_fail(scenario(dsn=dsn, conn=conn), mutant, says=says)


async def test_who_does_neither_is_a_deadlocks_victim(dsn: str, conn: Connection) -> None:
    scenario = test_a_row_that_has_another_key_by_now_is_locked_in_the_anchor_first(dsn, conn, "plain")
    await must_fail(scenario, LEFT, MISTAKEN, says="deadlock detected")
