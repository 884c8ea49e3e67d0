"""Sixteen clients of both versions on one table of any shape: they never retry, and a ledger has what was acknowledged to them.

Each puts rows in, counts them up, takes them out and gives them other keys, through the version that it is of. What a client gives
another key is its own from then on, so that no two rows want one key. Where a row's key is another table's business as well,
each client moves a row of its own to and fro.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import psycopg
from psycopg import sql

from benchmarks.common.shapes import Shape, Side
from support.groups import Connection, Groups

KINDS = ("more", "more", "more", "put", "put", "take", "move")
APART = 1_000_000
"""Keys of a client's own begin at its number times this."""
MOST = 64
"""So many clients there may be, those that come again counted anew."""
SCHEMAS = ("public", "public_v1", "public_v2")


@dataclass
class Ledger:
    """What was acknowledged: rows put in less rows taken out, the sum of their numbers, and how much was done by whom."""

    rows: int = 0
    updates: int = 0
    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    own: Counter[str] = field(default_factory=Counter)
    """Errors that PostgreSQL itself has for tables of the new shape."""


class Client:
    """One client on one connection."""

    def __init__(self, number: int, group: str, stress: "Stress", side: Side, conn: Connection) -> None:
        self.conn = conn
        self.group = group
        self.stress = stress
        self.side = side
        self.chance = random.Random(number)
        self.first = APART * (number + 1)
        self.own: set[int] = set() if stress.shape.moves_are_shared else {self.first}

    async def act(self) -> None:
        """Do one thing; an error is noted, never retried."""
        kind = self.chance.choice([kind for kind in KINDS if getattr(self.side, kind)])
        ledger = self.stress.ledger
        try:
            if kind == "move":
                await self.move()
            else:
                await self.say(kind, self.key(kind))
            ledger.done[self.group] += 1
        except psycopg.Error as error:
            name = type(error).__name__
            allowed = self.side is self.stress.shape.new and name in self.stress.shape.own_errors
            (ledger.own if allowed else ledger.errors)[f"{name}: {kind} by {self.group}: {error}"[:200]] += 1

    def key(self, kind: str) -> int:
        """Choose a row, now and then one of our own."""
        if self.own and kind != "put" and self.chance.random() < 0.2:
            return self.chance.choice(sorted(self.own))
        return self.chance.randint(1, self.stress.keys)

    async def say(self, kind: str, key: int, to: int | None = None) -> int:
        """Run a statement, and note what it did."""
        text = getattr(self.side, kind).format(id="%(id)s", to="%(to)s")
        cursor = await self.conn.execute(text.encode(), {"id": key, "to": to})
        gone = [int(row[0] or 0) for row in await cursor.fetchall()] if cursor.description else []
        ledger, count = self.stress.ledger, cursor.rowcount
        if kind == "more":
            ledger.updates += count
            ledger.rows += count * self.side.adds
        elif kind == "put":
            ledger.rows += count
        elif kind == "take":
            ledger.rows -= count
            ledger.updates -= sum(gone)
            if self.stress.shape.moves_are_shared:
                self.own.discard(key)
        return count

    async def move(self) -> None:
        """Give a row another key, which nobody else has."""
        if not self.stress.shape.moves_are_shared:
            (key,) = self.own
            to = 2 * self.first - key + 1
            if await self.say("move", key, to):
                self.own = {to}
            return
        key = self.chance.randint(1, self.stress.keys)
        to = self.first + key
        if to in self.own:
            await self.say("take", to)
        elif await self.say("move", key, to):
            self.own.add(to)


class Stress(Groups[Ledger]):
    """Clients of one shape's table."""

    def __init__(self, dsn: str, shape: Shape, keys: int, pause_s: float) -> None:
        super().__init__(dsn, Ledger(rows=keys), pause_s, SCHEMAS)
        self.shape = shape
        self.keys = keys
        self.numbers = iter(range(MOST))

    async def create(self, conn: Connection) -> None:
        """Create and fill the table; where clients move rows of their own, they have them."""
        await conn.execute(self.shape.table.encode())
        await conn.execute(sql.SQL(self.shape.fill).format(keys=sql.Literal(self.keys)))
        if not self.shape.moves_are_shared:
            rows = sql.SQL(
                "INSERT INTO public.items (id, updates) SELECT {apart} * i, 0 FROM generate_series(1, {most}) i"
            )
            await conn.execute(rows.format(apart=sql.Literal(APART), most=sql.Literal(MOST)))
            self.ledger.rows += MOST
        await conn.execute("VACUUM ANALYZE")

    def come(self, group: str, schema: str, clients: int, *, new: bool = False) -> None:
        """Have a group of clients come, through a schema; the ledger counts them together."""
        side = self.shape.new if new else self.shape.old
        numbers = [next(self.numbers) for _ in range(clients)]
        self.join(group, schema, [(group, partial(Client, number, group, self, side)) for number in numbers])


@asynccontextmanager
async def stress(dsn: str, conn: Connection, shape: Shape, keys: int, pause_s: float = 0.002) -> AsyncIterator[Stress]:
    """Create the table, and give clients that are gone at the end."""
    made = Stress(dsn, shape, keys, pause_s)
    await made.create(conn)
    async with made.at_work():
        for schema in SCHEMAS:
            await made.see(schema, schema)
        yield made
