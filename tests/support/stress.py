"""Sixteen clients of both versions on one table of any shape: they never retry, and a ledger has what was acknowledged to them.

Each puts rows in, counts them up, takes them out and gives them other keys, through the version that it is of. What a client gives
another key is its own from then on, so that no two rows want one key. Where a row's key is another table's business as well,
each client moves a row of its own to and fro.

Each version's clients have a role, whose search_path names the schema, as services have: so a census can see who is there.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.common.shapes import Shape, Side

Connection = psycopg.AsyncConnection[Any]
KINDS = ("more", "more", "more", "put", "put", "take", "move")
APART = 1_000_000
"""Keys of a client's own begin at its number times this."""
MOST = 64
"""So many clients there may be, those that come again counted anew."""
TIMEOUT_S = 60.0
SCHEMAS = ("public", "public_v1", "public_v2")
_ROLE = (
    "CREATE ROLE {role} LOGIN",
    "ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}",
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
)


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

    def __init__(self, conn: Connection, number: int, group: str, stress: "Stress", side: Side) -> None:
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


class Stress:
    """Clients that come and go in groups, on one table."""

    def __init__(self, dsn: str, shape: Shape, keys: int, pause_s: float) -> None:
        self.dsn = dsn
        self.shape = shape
        self.keys = keys
        self.pause_s = pause_s
        self.ledger = Ledger(rows=keys)
        self.numbers = iter(range(MOST))
        self.roles = {schema: f"stress_{schema}_{secrets.token_hex(4)}" for schema in SCHEMAS}
        self.groups: dict[str, list[asyncio.Task[None]]] = {}
        self.leaving: set[str] = set()

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
        for schema, name in self.roles.items():
            for statement in _ROLE:
                parts = {"role": name, "database": conn.info.dbname, "schema": schema}
                named = {part: sql.Identifier(value) for part, value in parts.items()}
                await conn.execute(sql.SQL(statement).format(**named))

    async def drop(self) -> None:
        """Drop the roles, which would outlive the database."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            for name in self.roles.values():
                for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
                    await conn.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def come(self, group: str, schema: str, clients: int, *, new: bool = False) -> None:
        """Have a group of clients come, through a schema."""
        side = self.shape.new if new else self.shape.old
        self.groups[group] = [
            asyncio.create_task(self._client(next(self.numbers), group, schema, side)) for _ in range(clients)
        ]

    async def leave(self, *groups: str) -> None:
        """Let groups finish what they are at, and go."""
        self.leaving.update(groups)
        for group in groups:
            await asyncio.gather(*self.groups.pop(group))
        self.leaving.difference_update(groups)

    async def working(self, more: int) -> None:
        """Wait until each group that is there has done so much more; what broke a client is raised."""
        wanted = {group: self.ledger.done[group] + more for group in self.groups}
        async with asyncio.timeout(TIMEOUT_S):
            while any(self.ledger.done[group] < number for group, number in wanted.items()):
                for task in [task for tasks in self.groups.values() for task in tasks if task.done()]:
                    task.result()
                await asyncio.sleep(0.01)

    async def _client(self, number: int, group: str, schema: str, side: Side) -> None:
        conn = await psycopg.AsyncConnection.connect(
            self.dsn, user=self.roles[schema], autocommit=True, application_name=group, prepare_threshold=0
        )
        async with conn:
            client = Client(conn, number, group, self, side)
            while group not in self.leaving:
                await client.act()
                await asyncio.sleep(self.pause_s)


@asynccontextmanager
async def stress(dsn: str, shape: Shape, keys: int, pause_s: float = 0.002) -> AsyncIterator[Stress]:
    """Give clients that are gone at the end."""
    made = Stress(dsn, shape, keys, pause_s)
    try:
        yield made
    finally:
        try:
            await made.leave(*made.groups)
        finally:
            await made.drop()
