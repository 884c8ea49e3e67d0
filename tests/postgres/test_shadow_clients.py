"""Clients of both versions at once on a shadow and its anchor, and a ledger of what was acknowledged to them."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors
from support.shadows import Shadow, create_orders, wide

from pgduet.operations import shadow_rows
from pgduet.operations.shadow_sync import Form

Connection = psycopg.AsyncConnection[Any]
OLD, NEW = "public.orders", "public_v2.orders"
CLIENTS = 16
LONG_S = 2.0


class Client:
    """One client on one connection: never retries, and counts what was acknowledged."""

    def __init__(self, conn: Connection, number: int, relation: str, keys: int, ledger: Counter[str]) -> None:
        self.conn = conn
        self.chance = random.Random(number)
        self.relation = relation
        self.keys = keys
        self.ledger = ledger

    async def run(self, kinds: list[str], stop: Callable[[], bool]) -> None:
        """Work until told to stop."""
        while not stop():
            kind = self.chance.choice(kinds)
            work: Callable[[], Awaitable[int]] = getattr(self, kind)
            try:
                amount = await work()  # apart: others count while we wait
                self.ledger["amount"] += amount
                self.ledger["done"] += 1
            except psycopg.Error as error:
                self.ledger[f"{type(error).__name__}: {kind} through {self.relation}"] += 1

    def key(self) -> int:
        """Choose a row."""
        return self.chance.randint(1, self.keys)

    async def execute(self, query: str, *values: Any) -> Any:
        """Run a statement on this client's relation."""
        return await self.conn.execute(query.format(self.relation).encode(), values)

    async def increment(self) -> int:
        return int((await self.execute("UPDATE {} SET amount = amount + 1 WHERE id = %s", self.key())).rowcount)

    async def two_in_order(self) -> int:
        done = 0
        async with self.conn.transaction():
            for key in sorted({self.key(), self.key()}):
                done += (await self.execute("UPDATE {} SET amount = amount + 1 WHERE id = %s", key)).rowcount
        return done

    async def upsert(self) -> int:
        key = self.key()
        query = "INSERT INTO {} AS o (id, code, amount) VALUES (%s, %s, 1) ON CONFLICT (id) DO UPDATE SET amount = o.amount + 1"
        await self.execute(query, key, f"c{key}")
        return 1

    async def upsert_by_code(self) -> int:
        key = self.key()
        query = "INSERT INTO {} AS o (id, code, amount) VALUES (%s, %s, 1) ON CONFLICT (code) DO UPDATE SET amount = o.amount + 1"
        await self.execute(query, key, f"c{key}")
        return 1

    async def if_absent(self) -> int:
        key = self.key()
        query = "INSERT INTO {} (id, code, amount) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING"
        return int((await self.execute(query, key, f"c{key}")).rowcount)

    async def delete(self) -> int:
        gone = await (await self.execute("DELETE FROM {} WHERE id = %s RETURNING amount", self.key())).fetchone()
        return -int(gone[0]) if gone else 0

    async def read_then_write(self) -> int:
        key = self.key()
        async with self.conn.transaction():
            found = await (await self.execute("SELECT amount FROM {} WHERE id = %s FOR UPDATE", key)).fetchone()
            if not found:
                return 0
            await self.execute("UPDATE {} SET amount = %s WHERE id = %s", found[0] + 1, key)
        return 1

    async def unrelated(self) -> int:
        await self.execute("UPDATE {} SET note = %s WHERE id = %s", str(self.chance.random()), self.key())
        return 0


@asynccontextmanager
async def clients(dsn: str, keys: int, kinds: list[str], relations: tuple[str, ...]) -> AsyncIterator[Counter[str]]:
    """Let sixteen clients work while the block runs."""
    ledger: Counter[str] = Counter()
    stopped = False

    async def client(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            one = Client(conn, number, relations[number % len(relations)], keys, ledger)
            await one.run(kinds, lambda: stopped)

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))
        try:
            yield ledger
        finally:
            stopped = True


def errors_in(ledger: Counter[str]) -> dict[str, int]:
    """Give what went wrong."""
    return {what: count for what, count in ledger.items() if ":" in what}


@pytest.mark.parametrize("keys", [5, 4096])
async def test_clients_of_both_versions_neither_deadlock_nor_lose_a_write(dsn: str, conn: Connection, keys: int) -> None:
    await create_orders(conn, keys)
    # One unique key, so that no upsert has an error of its own.
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    m = Shadow(conn, wide(unique=()))
    await m.published()
    kinds = ["increment", "increment", "two_in_order", "upsert", "if_absent", "delete", "read_then_write", "unrelated"]
    async with clients(dsn, keys, kinds, (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    assert errors_in(ledger) == {}
    assert ledger["done"] > 500
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_with_two_unique_keys_upserts_end_as_they_do_without_us(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 5)
    m = Shadow(conn, wide())
    await m.published()
    kinds = ["increment", "upsert", "upsert_by_code", "if_absent", "delete"]
    async with clients(dsn, 5, kinds, (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    # Two clients that insert one row at once, by a key that is not the other's arbiter: PostgreSQL says so without us, too.
    assert all(what.startswith("UniqueViolation: upsert") for what in errors_in(ledger))
    assert sum(errors_in(ledger).values()) < ledger["done"] / 50
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_clients_that_write_all_through_the_copy_see_no_error_and_lose_nothing(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 20_000)
    m = Shadow(conn, wide())
    await m.expand()
    kinds = ["increment", "two_in_order", "if_absent", "delete", "unrelated"]
    async with clients(dsn, 20_000, kinds, (OLD,)) as ledger:
        began = time.monotonic()
        while ledger["done"] < 100:
            await asyncio.sleep(0.01)
        await m.copy(step=4)
        await m.keyed()
        await m.drain(200)
        while time.monotonic() < began + LONG_S:
            await m.drain(200)
    await m.drain()
    assert errors_in(ledger) == {}
    assert (await m.parity())[1] == 0
    assert await m.one("SELECT sum(amount)::int FROM public.orders") == (ledger["amount"],)


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
