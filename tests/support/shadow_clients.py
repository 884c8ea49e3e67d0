"""Clients of both versions on a table of orders and its shadow: they never retry, and keep a ledger of what was acknowledged."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import errors

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

    async def upsert_by_code(self, arbiter: str = "code", first: str = "c") -> int:
        key = self.key()
        query = f"INSERT INTO {{}} AS o (id, code, amount) VALUES (%s, %s, 1) ON CONFLICT ({arbiter}) DO UPDATE"
        query += " SET amount = o.amount + 1"
        await self.execute(query, key, f"{first}{key}")
        return 1

    async def upsert_by_lower(self) -> int:
        return await self.upsert_by_code("lower(code)", self.chance.choice("cC"))

    async def if_absent(self) -> int:
        key = self.key()
        query = "INSERT INTO {} (id, code, amount) VALUES (%s, %s, 1) ON CONFLICT DO NOTHING"
        return int((await self.execute(query, key, f"c{key}")).rowcount)

    async def arrive(self) -> int:
        """Insert a row that the table numbers."""
        await self.execute("INSERT INTO {} (code, amount) VALUES (%s, 1)", "arrived")
        return 1

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

    async def by_snapshot(self) -> int:
        """Write a row at REPEATABLE READ; that somebody has written it since is PostgreSQL's to tell, and no error of ours."""
        try:
            async with self.conn.transaction():
                await self.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                return await self.chance.choice([self.increment, self.delete, self.upsert])()
        except errors.SerializationFailure:
            self.ledger["too late"] += 1
            return 0

    async def move(self) -> int:
        """Write the time, by which the shadow's partitions go."""
        month = self.chance.randint(1, 4)
        await self.execute("UPDATE {} SET at = %s, amount = amount + 1 WHERE id = %s", f"2026-0{month}-07", self.key())
        return 1

    async def moved_in(self) -> int:
        """Give the parent a value to extract; or insert the extracted row."""
        key = self.key()
        if self.relation == "public.customers":
            query = "UPDATE public.customers SET visits = 1 WHERE id = %s AND visits IS NULL"
        else:
            query = "INSERT INTO {} (customer_id, visits) VALUES (%s, 1) ON CONFLICT DO NOTHING"
        return int((await self.execute(query, key)).rowcount)

    async def visited(self) -> int:
        """Count one more."""
        name = "id" if self.relation == "public.customers" else "customer_id"
        query = f"UPDATE {{}} SET visits = visits + 1 WHERE {name} = %s AND visits IS NOT NULL"
        return int((await self.execute(query, self.key())).rowcount)

    async def moved_out(self) -> int:
        """Take it away again."""
        key = self.key()
        if self.relation != "public.customers":
            gone = await self.execute("DELETE FROM {} WHERE customer_id = %s RETURNING visits", key)
            return -sum([int(row[0]) async for row in gone])
        async with self.conn.transaction():
            query = "SELECT visits FROM {} WHERE id = %s AND visits IS NOT NULL FOR UPDATE"
            found = await (await self.execute(query, key)).fetchone()
            if not found:  # and whoever comes now is not ours to undo
                return 0
            await self.execute("UPDATE {} SET visits = NULL WHERE id = %s", key)
        return -int(found[0])

    async def child(self) -> int:
        """Refer to a row, by a foreign key to the anchor."""
        await self.conn.execute("INSERT INTO public.items VALUES (%s)", (self.key(),))
        return 0

    async def unrelated(self) -> int:
        await self.execute("UPDATE {} SET note = %s WHERE id = %s", str(self.chance.random()), self.key())
        return 0


@asynccontextmanager
async def clients(
    dsn: str, keys: int, kinds: list[str], relations: tuple[str, ...], count: int = CLIENTS
) -> AsyncIterator[Counter[str]]:
    """Let clients work while the block runs."""
    ledger: Counter[str] = Counter()
    stopped = False

    async def client(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            one = Client(conn, number, relations[number % len(relations)], keys, ledger)
            await one.run(kinds, lambda: stopped)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(client(number))
        try:
            yield ledger
        finally:
            stopped = True


def errors_in(ledger: Counter[str]) -> dict[str, int]:
    """Give what went wrong."""
    return {what: count for what, count in ledger.items() if ":" in what}


async def held_up_by(one: Connection, other: Connection) -> None:
    """Wait until a session waits for another one."""
    async with asyncio.timeout(10):
        while True:
            found = await one.execute(
                "SELECT %s = ANY (pg_blocking_pids(%s))", (one.info.backend_pid, other.info.backend_pid)
            )
            if await found.fetchone() == (True,):
                return
            await asyncio.sleep(0.01)
