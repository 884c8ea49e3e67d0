"""A service that reads reviews by both versions, as a real router's migrator has it, and whose new read path may be at fault."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgduet.routing import Path
from pgduet.routing.aio_migrator import AsyncMigrator

ROWS = 1_000


@dataclass
class Fault:
    """What is wrong with the new read path, from when it is set."""

    wrong_each: int = 0
    """Every so many rows it gives another answer."""
    fails_each: int = 0
    """Every so many rows the database refuses its statement."""
    slower: float = 1.0


class Service:
    """Both versions give a text. Each read has a connection of its own for its time, which is at least `takes_s` long."""

    def __init__(self, dsn: str, *, takes_s: float = 0.0) -> None:
        self.dsn = dsn
        self.takes_s = takes_s
        self.fault = Fault()
        self.opened: list[psycopg.AsyncConnection[Any]] = []
        self.free: list[psycopg.AsyncConnection[Any]] = []
        self.read_new = 0
        self.hold_s = 0.0
        """How long a read of the new version keeps its transaction open: long enough for a census to see it."""
        self.answers = {"right": 0, "wrong": 0, "failed": 0}
        """What callers got."""

    async def old(self, path: Path, key: int) -> str | None:
        """Read the rating; before the migration there are no version schemas."""
        query = sql.SQL("SELECT rating FROM reviews, pg_sleep(%(takes_s)s) WHERE id = %(key)s")
        return await self.fetch(path, query, {"key": key, "takes_s": self.takes_s})

    async def new(self, path: Path, key: int) -> str | None:
        """Read the stars, with the path's fault."""
        self.read_new += 1
        fault = self.fault
        fails = fault.fails_each and key % fault.fails_each == 0
        query = sql.SQL("SELECT (stars / %(one)s)::text FROM reviews, pg_sleep(%(takes_s)s) WHERE id = %(key)s")
        values = {"key": key, "takes_s": self.takes_s * fault.slower, "one": 0 if fails else 1}
        found = await self.fetch(path, query, values, self.hold_s)
        return "wrong" if fault.wrong_each and key % fault.wrong_each == 0 else found

    async def fetch(self, path: Path, query: sql.SQL, values: dict[str, Any], hold_s: float = 0) -> str | None:
        """Read one value in a transaction that says which version it is of."""
        conn = self.free.pop() if self.free else await self.connect()
        try:
            async with conn.transaction():
                if path.search_path:
                    await conn.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.SQL(path.search_path)))
                row = await (await conn.execute(query, values)).fetchone()
                await asyncio.sleep(hold_s)
        finally:
            self.free.append(conn)
        return row[0] if row else None

    @asynccontextmanager
    async def reading(self, reviews: AsyncMigrator[str | None], readers: int = 1) -> AsyncIterator[None]:
        """Have rows read over and over until the block ends. What its fault cannot explain ends it."""
        leave = asyncio.Event()

        async def read(draw: random.Random) -> None:
            while not leave.is_set():
                await self.once(reviews, draw.randrange(1, ROWS + 1))
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            for number in range(readers):
                group.create_task(read(random.Random(number)))
            yield
            leave.set()

    async def once(self, reviews: AsyncMigrator[str | None], key: int) -> None:
        """Read a row as a caller does, and tell what it got."""
        try:
            found = await reviews.read(key)
        except psycopg.errors.DivisionByZero:
            self.answers["failed"] += 1
            return
        assert found in {str(key % 5 + 1), "wrong"}, f"{found} is row {key}'s by no version"
        self.answers["wrong" if found == "wrong" else "right"] += 1

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open one more connection."""
        conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        self.opened.append(conn)
        return conn

    async def close(self) -> None:
        """Close the connections, those of reads that nobody waits for too."""
        for conn in self.opened:
            await conn.close()
