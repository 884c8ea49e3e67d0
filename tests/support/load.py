"""Clients that never retry, and the ledger of what was acknowledged to them.

Each writer owns its keys, so the ledger says exactly what a row must hold. Old clients write through the base table and through
`public_v1`; new clients are steered by a router: through `public_v2` where it says new, else as old clients do. `deploy` moves the
old clients to the new version for good, as their teams would before the old one goes.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import psycopg
from psycopg import sql

from pgduet.routing import AsyncRouter
from support.plans import NAME

BASE = sql.Identifier("public", "reviews")
V1 = sql.Identifier("public_v1", "reviews")
V2 = sql.Identifier("public_v2", "reviews")
KEYS_EACH = 60
PAUSE_S = 0.004
LEASE_S = 1.0

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What was acknowledged last; `mood` is the new version's own."""

    rating: str
    note: str
    mood: str | None = None


@dataclass
class Writer:
    """One client on one connection: writes and reads its own keys until told to stop, and records what goes wrong."""

    name: str
    dsn: str
    keys: range
    table: sql.Identifier
    pause_s: float = PAUSE_S
    ledger: dict[int, Row | None] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    writes: int = 0
    updates: int = 0
    new_writes: int = 0
    survives: bool = False
    doubts: set[int] = field(default_factory=set)
    """Keys whose last write nobody knows to have been committed or not: the connection went. They are left alone from then on."""
    doubtful_adds: int = 0
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by whoever wants this client to come back as one of the new version, and cleared by the client."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; come back on another connection when deployed anew."""
        chance = random.Random(self.name)
        while not stop.is_set():
            try:
                await self.session(stop, chance)
            except psycopg.OperationalError:
                if not self.survives:
                    raise
                await asyncio.sleep(0.1)
            if self.leave.is_set():
                self.table = V2
                self.leave.clear()

    async def session(self, stop: asyncio.Event, chance: random.Random) -> None:
        """Work on one connection."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, application_name=self.name) as conn:
            if self.table is V1:
                await _exists(conn, "public_v1.reviews", stop)
            while not stop.is_set() and not self.leave.is_set():
                act = chance.choices(
                    (self.change, self.annotate, self.add, self.remove, self.both, self.look), (6, 4, 2, 1, 2, 3)
                )
                await self.one(conn, act[0], chance)
                await asyncio.sleep(self.pause_s)

    async def one(self, conn: Connection, act: Callable[..., Any], chance: random.Random) -> None:
        """Do one act; an error is recorded, never retried."""
        key = chance.choice([*self.keys, *self.ledger])
        if key in self.doubts:
            return
        if act != self.add and self.ledger.get(key, key in self.keys) is None:
            return
        try:
            await act(conn, key, chance)
        except psycopg.Error as error:
            if self.survives and conn.closed:
                if act == self.add:
                    self.doubtful_adds += 1
                else:
                    self.doubts.add(key)
                raise
            self.errors.append(f"{self.name} {act.__name__} {key}: {error.sqlstate} {error}")

    def known(self, key: int) -> Row:
        """Give what a key holds."""
        return self.ledger.get(key) or original(key)

    def route(self, key: object) -> tuple[sql.Identifier, bool]:
        """Tell through which relation a key goes, and whether that is the new version's."""
        del key
        return self.table, self.table is V2

    async def change(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Change what both versions know in their own way."""
        table, new = self.route(key)
        row = replace(self.known(key), rating=str(chance.randint(1, 5)))
        if new:
            row = replace(row, mood=chance.choice(("glad", "glum", None)))
            query = "UPDATE {} SET stars = %s, mood = %s WHERE id = %s"
            await self.write(conn, query, table, (int(row.rating), row.mood, key))
        else:
            await self.write(conn, "UPDATE {} SET rating = %s WHERE id = %s", table, (row.rating, key))
        self.ledger[key] = row
        self.new_writes += new

    async def annotate(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Change a column that the migration does not touch; often long enough to move the row."""
        table, _ = self.route(key)
        row = replace(self.known(key), note="n" * chance.randint(1, 120))
        await self.write(conn, "UPDATE {} SET note = %s WHERE id = %s", table, (row.note, key))
        self.ledger[key] = row

    async def add(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Insert a row; the database gives the key."""
        table, new = self.route(key)
        row = Row(str(chance.randint(1, 5)), "added", chance.choice(("new", None)) if new else None)
        if new:
            query, values = (
                "INSERT INTO {} (stars, note, mood) VALUES (%s, %s, %s) RETURNING id",
                (int(row.rating), row.note, row.mood),
            )
        else:
            query, values = "INSERT INTO {} (rating, note) VALUES (%s, %s) RETURNING id", (row.rating, row.note)
        made = await self.write(conn, query, table, values)
        self.ledger[made] = row
        self.new_writes += new

    async def remove(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Delete a row."""
        del chance
        await self.write(conn, "DELETE FROM {} WHERE id = %s", self.route(key)[0], (key,))
        self.ledger[key] = None

    async def both(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Change a row twice in one transaction, which holds its lock for a while."""
        before = self.ledger.get(key)
        try:
            async with conn.transaction():
                await self.change(conn, key, chance)
                await asyncio.sleep(chance.uniform(0, 0.03))
                await self.annotate(conn, key, chance)
        except psycopg.Error:
            if before is not None:
                self.ledger[key] = before
            raise

    async def look(self, conn: Connection, key: int, chance: random.Random) -> None:
        """Read a row back: what was acknowledged must be there, through either version."""
        del chance
        table, new = self.route(key)
        columns = "stars::text, note, mood" if new else "rating, note"
        cursor = await conn.execute(sql.SQL(f"SELECT {columns} FROM {{}} WHERE id = %s").format(table), (key,))
        found, known = await cursor.fetchone(), self.known(key)
        wanted = (known.rating, known.note, known.mood) if new else (known.rating, known.note)
        if found != wanted:
            self.errors.append(f"{self.name} reads {found} of {key}, was acknowledged {wanted}")

    async def write(self, conn: Connection, query: Any, table: sql.Identifier, values: tuple[Any, ...]) -> int:
        """Write exactly one row; gives its key where the statement returns it."""
        cursor = await conn.execute(sql.SQL(query).format(table), values)
        self.writes += 1
        self.updates += query.startswith("UPDATE")
        if cursor.rowcount != 1:
            self.errors.append(f"{self.name}: {cursor.rowcount} rows instead of one by {query}")
        made = await cursor.fetchone() if cursor.description else None
        return int(made[0]) if made else 0


@dataclass
class NewWriter(Writer):
    """A client that has code for both versions, and asks the router which to use."""

    router: AsyncRouter | None = None

    def route(self, key: object) -> tuple[sql.Identifier, bool]:
        """Ask the router."""
        assert self.router is not None
        is_new = self.router.path(NAME, key).is_new
        return (V2, True) if is_new else (BASE, False)


class Load:
    """Clients of both versions at work: `async with Load(dsn) as load:`."""

    def __init__(self, dsn: str, each: int = 1, pause_s: float = PAUSE_S, *, survives: bool = False) -> None:
        """Make the clients; with `survives` they come back after their connection was cut, and say what they do not know."""
        self.dsn = dsn
        self.router: AsyncRouter | None = None
        self.stop = asyncio.Event()
        kinds = [("base", BASE, Writer), ("v1", V1, Writer), ("new", V2, NewWriter)] * each
        apart = len(kinds)
        self.writers: list[Writer] = [
            kind(
                f"{name}-{number}",
                dsn,
                range(1 + number, 1 + number + KEYS_EACH * apart, apart),
                table,
                pause_s,
                survives=survives,
            )
            for number, (name, table, kind) in enumerate(kinds)
        ]
        """Keys are dealt out in turn, so that writers meet on pages but never on rows."""
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start them all."""
        self.router = await AsyncRouter.open(self.dsn, service="reviews-web", lease_s=LEASE_S)
        for writer in self.writers:
            if isinstance(writer, NewWriter):
                writer.router = self.router
            self.tasks.append(asyncio.create_task(writer.run(self.stop)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let each finish what it is at."""
        await self.end()

    async def deploy(self) -> None:
        """Have every old client come back with the new version's code; returns when all have left their old connections."""
        old = [writer for writer in self.writers if not isinstance(writer, NewWriter)]
        for writer in old:
            writer.leave.set()
        await self._until(lambda: not any(writer.leave.is_set() for writer in old))

    async def end(self) -> None:
        """Stop everybody; what broke a client is raised."""
        self.stop.set()
        tasks, self.tasks = self.tasks, []
        await asyncio.gather(*tasks)
        if self.router:
            await self.router.close()
            self.router = None

    @property
    def errors(self) -> list[str]:
        """Everything that any client saw go wrong."""
        return [error for writer in self.writers for error in writer.errors]

    @property
    def writes(self) -> int:
        """Acknowledged writes."""
        return sum(writer.writes for writer in self.writers)

    @property
    def updates(self) -> int:
        """Acknowledged updates: each is one version of one row, whatever way it came."""
        return sum(writer.updates for writer in self.writers)

    @property
    def new_writes(self) -> int:
        """Acknowledged writes through the new version."""
        return sum(writer.new_writes for writer in self.writers)

    @property
    def ledger(self) -> dict[int, Row | None]:
        """What every written row must hold; None: it was deleted."""
        return {key: row for writer in self.writers for key, row in writer.ledger.items()}

    @property
    def moods(self) -> dict[int, str]:
        """What only the new version knows."""
        return {key: row.mood for key, row in self.ledger.items() if row and row.mood is not None}

    async def working(self, more: int = 60, *, new: int = 0) -> None:
        """Wait until so many more writes were acknowledged, so many of them through the new version."""
        writes, new_writes = self.writes + more, self.new_writes + new
        await self._until(lambda: self.writes >= writes and self.new_writes >= new_writes)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the clients do; what broke one of them is raised."""
        async with asyncio.timeout(60):
            while not condition():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def verify(self, conn: Connection, *, new: bool = False) -> None:
        """Compare every acknowledged write, and every row that nobody wrote, with what is stored; `new`: in the new version."""
        assert self.errors == []
        if new:
            cursor = await conn.execute("SELECT id, mood FROM public_v2.reviews WHERE mood IS NOT NULL")
            assert dict(await cursor.fetchall()) == self.moods
        source = "stars::text, note, updated_at FROM public_v2" if new else "rating, note, updated_at FROM public"
        cursor = await conn.execute(f"SELECT id, {source}.reviews".encode())
        stored = {row[0]: row[1:] for row in await cursor.fetchall()}
        doubts = {key for writer in self.writers for key in writer.doubts}
        ledger = {key: row for key, row in self.ledger.items() if key not in doubts}
        expected = {key: (row.rating, row.note) for key, row in ledger.items() if row}
        found = {key: stored[key][:2] for key in ledger if key in stored}
        assert found == expected
        idle = {key: row for key, row in stored.items() if key not in ledger and key not in doubts}
        if extra := [key for key, row in idle.items() if row[1] == "added"]:
            assert len(extra) <= sum(writer.doubtful_adds for writer in self.writers), "rows that no client knows of"
            idle = {key: row for key, row in idle.items() if key not in extra}
        assert {key: row[:2] for key, row in idle.items()} == {
            key: (original(key).rating, original(key).note) for key in idle
        }
        assert len({row[2] for row in idle.values()}) == 1, "updated_at of a row that no client wrote has changed"


def original(key: int) -> Row:
    """What a row held at the start."""
    return Row(str(key % 5 + 1), f"note {key}")


async def _exists(conn: Connection, relation: str, stop: asyncio.Event) -> None:
    """Come when the version has come."""
    while not stop.is_set():
        cursor = await conn.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,))
        if (await cursor.fetchone()) == (True,):
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)
