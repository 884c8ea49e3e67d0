"""Clients of both versions at once on rows that are merged, and a ledger of what was acknowledged to them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from support.merging import Merge, create_lines, totals
from support.mutants import Clause, must_fail
from support.shadow_clients import errors_in

Connection = psycopg.AsyncConnection[Any]
CLIENTS, LONG_S = 16, 2.0


class Old:
    """An old client: never retries, and notes what was acknowledged."""

    def __init__(self, conn: Connection, number: int, keys: int, ledger: Counter[str]) -> None:
        self.conn = conn
        self.number = number
        self.chance = random.Random(number)
        self.keys = keys
        self.ledger = ledger

    def key(self) -> int:
        return self.chance.randint(1, self.keys)

    async def insert(self) -> int:
        await self.conn.execute("INSERT INTO public.lines (invoice_id, amount) VALUES (%s, 1)", (self.key(),))
        return 1

    async def update(self) -> int:
        # Its own line, under a lock that others want for theirs: the ledger is of sums, which lose nothing but by a lost write.
        query = (
            "UPDATE public.lines SET amount = amount + 1 WHERE id ="
            " (SELECT id FROM public.lines WHERE invoice_id = %s ORDER BY random() LIMIT 1)"
        )
        return int((await self.conn.execute(query, (self.key(),))).rowcount)

    async def delete(self) -> int:
        query = (
            "DELETE FROM public.lines WHERE id = (SELECT id FROM public.lines WHERE invoice_id = %s ORDER BY random() LIMIT 1)"
            " RETURNING amount"
        )
        gone = await (await self.conn.execute(query, (self.key(),))).fetchone()
        return -int(gone[0]) if gone else 0

    async def regroup(self) -> int:
        query = (
            "UPDATE public.lines SET invoice_id = %s WHERE id ="
            " (SELECT id FROM public.lines WHERE invoice_id = %s ORDER BY random() LIMIT 1)"
        )
        await self.conn.execute(query, (self.key(), self.key()))
        return 0

    async def own(self) -> int:
        """Write twice and read the merged row in between, in one transaction."""
        key = 1_000_000 + self.number
        async with self.conn.transaction():
            await self.conn.execute("INSERT INTO public.lines (invoice_id, amount) VALUES (%s, 1)", (key,))
            query = (
                "SELECT total - (SELECT sum(amount) FROM public.lines WHERE invoice_id = %s) FROM public_v2.totals"
                " WHERE id = %s"
            )
            row = await (await self.conn.execute(query, (key, key))).fetchone()
            assert row is not None
            self.ledger["read wrong"] += row[0] != 0
        return 1


async def _old(dsn: str, number: int, keys: int, ledger: Counter[str], stop: Callable[[], bool]) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        client = Old(conn, number, keys, ledger)
        while not stop():
            kind = client.chance.choice(["insert", "update", "update", "delete", "regroup", "own"])
            try:
                amount = await getattr(client, kind)()  # apart: others count while we wait
                ledger["amount"] += amount
                ledger["done"] += 1
            except psycopg.Error as error:
                ledger[f"{type(error).__name__}: {kind}"] += 1


async def _new(dsn: str, number: int, keys: int, ledger: Counter[str], stop: Callable[[], bool]) -> None:
    """Read one group and the source beside it by one snapshot: every reader is a comparison."""
    chance = random.Random(number)
    query = (
        "SELECT (SELECT (lines, total) FROM public_v2.totals WHERE id = %(key)s) IS DISTINCT FROM"
        " (SELECT (count(*), sum(amount)) FROM public.lines WHERE invoice_id = %(key)s HAVING count(*) > 0)"
    )
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        if number % 4 == 1:
            await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        while not stop():
            try:
                row = await (await conn.execute(query, {"key": chance.randint(1, keys)})).fetchone()
                assert row is not None
                ledger["read"] += 1
                ledger["read wrong"] += row[0]
            except psycopg.Error as error:
                ledger[f"{type(error).__name__}: read"] += 1


@asynccontextmanager
async def both(dsn: str, keys: int) -> AsyncIterator[Counter[str]]:
    """Let sixteen clients work while the block runs, half of either version."""
    ledger: Counter[str] = Counter()
    stopped = False
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            client = _new if number % 2 else _old
            group.create_task(client(dsn, number, keys, ledger, lambda: stopped))
        try:
            yield ledger
        finally:
            stopped = True


async def _until(seconds: float, step: Callable[[], Any]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await step()


@pytest.mark.parametrize("keys", [5, 4096])
async def test_clients_of_both_versions_see_no_error_and_read_what_was_written(
    dsn: str, conn: Connection, keys: int
) -> None:
    await create_lines(conn, keys)
    m = Merge(conn, totals())
    await m.published()
    before = (await m.one("SELECT sum(total)::int FROM public_v2.totals"))[0]
    async with both(dsn, keys) as ledger, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        twin = Merge(other, m.design)

        async def twice() -> None:
            await asyncio.gather(m.drain(50), twin.drain(50))

        await _until(LONG_S, twice)
    assert errors_in(ledger) == {}
    assert ledger["read wrong"] == 0
    assert min(ledger["done"], ledger["read"]) > 200
    assert await m.one("SELECT sum(total)::int FROM public_v2.totals") == (before + ledger["amount"],)
    assert (await m.parity())[1] == 0
    await m.drain()
    assert (await m.stored())[1] == 0


async def test_the_target_is_filled_beside_clients_and_drains(dsn: str, conn: Connection) -> None:
    await create_lines(conn, 300)
    m = Merge(conn, totals())
    await m.expand()
    await m.publish()
    async with both(dsn, 300) as ledger, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        twin = Merge(other, m.design)

        async def again() -> None:
            await conn.execute(f"TRUNCATE {m.design.target_label}".encode())
            await asyncio.gather(m.fill(20), twin.drain(50))

        while ledger["done"] < 50:
            await asyncio.sleep(0.01)
        await _until(LONG_S, again)
    await m.drain()
    assert errors_in(ledger) == {}
    assert (await m.stored())[1] == 0


SAME_NOTES = Clause(
    "notes stay until they are read",
    "merging",
    "reading",
    "NOT EXISTS (SELECT FROM {journal}",
    "EXISTS (SELECT FROM {journal}",
)


async def test_without_the_rule_readers_see_wrong_rows(dsn: str, conn: Connection) -> None:
    await must_fail(
        test_clients_of_both_versions_see_no_error_and_read_what_was_written(dsn, conn, 5),
        SAME_NOTES,
        says="assert",
    )
