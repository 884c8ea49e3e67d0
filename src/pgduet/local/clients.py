"""Live clients of the flights table: what an application does all day, and a check of every answer against its own ledger.

A client holds one connection and its own rows: some that were there before, some that it inserts. It never tries anything
again: each exception is a client error, and each answer that is not what was acknowledged is one too, without an SQLSTATE.
Old clients know the old version until they are deployed anew; new clients have code for both and ask a router each time.
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgduet.local.doors import BASE, V1, V2, Door, Flight
from pgduet.local.ledger import Ledger
from pgduet.local.measures import ClientError, Group, Recorder
from pgduet.routing import AsyncRouter, Path

THINK_S = 0.02
UNTOUCHED = (20_001, 330_000)
"""Keys of rows that no client ever changes."""
_FIRST = datetime(2013, 1, 1)  # noqa: DTZ001  the data has local times without a zone
_MINUTES = 365 * 24 * 60


@dataclass
class Controls:
    """What all clients obey."""

    running: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    v1_is_there: bool = False
    deployed: bool = False


class WrongAnswer(Exception):
    """The database answered, and not what had been acknowledged."""


class Client(ABC):
    """One client: a loop of transactions with a little time to think in between."""

    group: Group

    def __init__(self, name: str, dsn: str, recorder: Recorder, controls: Controls, number: int) -> None:
        self.name = name
        self.dsn = dsn
        self.recorder = recorder
        self.controls = controls
        self.ledger = Ledger()
        self.idle = asyncio.Event()
        self.random = random.Random(number)  # noqa: S311  repeatable, not secret
        self.adopting = range(number * 150 + 1, number * 150 + 151)
        self.doing = "connect"
        self.touched: list[int] = []
        self.conn: psycopg.AsyncConnection | None = None
        self.is_new = False

    @abstractmethod
    def choose(self, key: object) -> tuple[Door, Path | None]:
        """Choose the way for a key's next statement."""

    # The loop

    async def run(self) -> None:
        """Work until told to stop; every error is noted, none ends the work."""
        actions, weights = zip(*self.actions(), strict=True)
        while True:
            self.idle.set()
            await self.controls.running.wait()
            if self.controls.stopping:
                break
            self.idle.clear()
            [action] = self.random.choices(actions, weights)
            await self.noting(action)
            await asyncio.sleep(self.random.expovariate(1 / THINK_S))
        if self.conn:
            await self.conn.close()

    def actions(self) -> Sequence[tuple[Callable[[], Awaitable[None]], int]]:
        """Give what this client does, and how often."""
        return [
            (self.insert, 15),
            (self.reschedule, 20),
            (self.change_other, 15),
            (self.delete, 6),
            (self.read_own, 25),
            (self.read_untouched, 10),
            (self.several, 9),
        ]

    async def noting(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do something once; note what went wrong."""
        self.is_new = False
        self.touched.clear()
        try:
            await self.connect()
            await action()
        except WrongAnswer as wrong:
            self.note("", str(wrong))
            await self.recover()
        except psycopg.Error as error:
            self.note(error.sqlstate or type(error).__name__, str(error))
            await self.recover()
        except Exception as error:  # noqa: BLE001  whatever a client meets is a client error
            self.note(type(error).__name__, str(error))
            await self.recover()
        else:
            self.recorder.done(self.group, is_new=self.is_new)

    def note(self, sqlstate: str, text: str) -> None:
        """Note an error."""
        self.recorder.errors.append(
            ClientError(
                client=self.name,
                group=self.group,
                phase=self.recorder.phase,
                statement=self.doing,
                sqlstate=sqlstate,
                text="; ".join(text.split("\n"))[:500],
            )
        )

    async def connect(self) -> None:
        """Connect, the first time and after the connection was lost."""
        if self.conn is not None and not self.conn.closed:
            return
        self.doing = "connect"
        self.conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, application_name=self.name)
        if not self.ledger.rows:
            await self.adopt()

    async def adopt(self) -> None:
        """Own some of the rows that are there; this happens before any migration."""
        for row in await self.send(BASE.query("read"), [list(self.adopting)], "adopt"):
            self.ledger.adopt(row[0], BASE.flight(row))

    async def recover(self) -> None:
        """Leave a transaction that failed; where the connection went, nobody knows what became of its writes."""
        if self.conn is None or self.conn.closed:
            self.ledger.doubt(self.touched)
        elif self.conn.info.transaction_status.name != "IDLE":
            await self.conn.execute("ROLLBACK")

    # Statements

    async def send(self, query: bytes, values: Sequence[Any], doing: str) -> list[Any]:
        """Execute a statement and take the time; gives its rows, or for a write without any the number that it hit."""
        assert self.conn is not None  # noqa: S101  nothing is sent before `connect`
        self.doing = doing
        began = time.perf_counter()
        try:
            cursor = await self.conn.execute(query, values or None)
        finally:
            self.recorder.took(self.group, self.name, doing, began, time.perf_counter())
        return await cursor.fetchall() if cursor.description else [(cursor.rowcount,)]

    @asynccontextmanager
    async def way(self, key: object, *, transaction: bool = False) -> AsyncIterator[Door]:
        """Go by the way for a key: now and then by SET LOCAL search_path, else by naming the schema.

        A transaction decides once, as an application would.
        """
        door, path = self.choose(key)
        self.is_new = door.is_new
        began, error = time.perf_counter(), True
        by_search_path = door.schema != "public" and self.random.random() < 0.3
        try:
            if by_search_path or transaction:
                await self.send(b"BEGIN", (), "begin")
            if by_search_path:
                await self.send(_set_local(door), (), "set search_path")
                door = door.by_search_path()
            yield door
            if by_search_path or transaction:
                await self.send(b"COMMIT", (), "commit")
            error = False
        finally:
            self.after(path, time.perf_counter() - began, error=error)

    def after(self, path: Path | None, seconds: float, *, error: bool) -> None:
        """Hear how it went; who asked no router has nobody to tell."""
        del path, seconds, error

    async def write(self, door: Door, name: LiteralString, values: Sequence[Any]) -> int:
        """Write one row; gives its key where it is new. One that is not there is a wrong answer."""
        if name != "insert":
            self.touched.append(values[-1])
        [(told,)] = await self.send(door.query(name), values, f"{name} through {door.schema or 'search_path'}")
        if name != "insert" and told != 1:
            message = f"{name} of row {values[-1]} hit {told} rows"
            raise WrongAnswer(message)
        return int(told)

    # What a client does

    def invented(self, door: Door) -> Flight:
        """Make up a flight."""
        note = f"gate {self.random.randrange(60)}" if door.is_new and self.random.random() < 0.7 else None
        when = _FIRST + timedelta(minutes=self.random.randrange(_MINUTES))
        return Flight(when, f"N{self.random.randrange(10_000)}", self.random.randrange(-30, 200), note)

    def own(self) -> tuple[int, Flight]:
        """Pick one of this client's rows."""
        key = self.random.choice(self.ledger.living())
        flight = self.ledger.rows[key]
        assert flight is not None  # noqa: S101  it is among the living
        return key, flight

    def noted(self, key: int) -> bool:
        """Tell whether a row has a note."""
        flight = self.ledger.rows[key]
        return flight is not None and flight.gate_note is not None

    async def insert(self) -> None:
        """Insert a row; its key is known only afterwards, so the choice is made by another."""
        async with self.way(self.random.random()) as door:
            flight = self.invented(door)
            key = await self.write(door, "insert", door.values(flight))
        self.ledger.wrote(key, flight, inserted=True)

    async def reschedule(self) -> None:
        """Change what the migration is about; in the new version also the note."""
        key, flight = self.own()
        async with self.way(key) as door:
            changed = await self.changed(door, key, flight)
        self.ledger.wrote(key, changed)

    async def changed(self, door: Door, key: int, flight: Flight) -> Flight:
        """Send an update of the departure or, in the new version, now and then of the note."""
        made = self.invented(door)
        if door.is_new and self.random.random() < 0.5:
            await self.write(door, "note", [made.gate_note, key])
            return replace(flight, gate_note=made.gate_note)
        await self.write(door, "departure", [*door.when(made), key])
        return replace(flight, departure=made.departure)

    async def change_other(self) -> None:
        """Change columns that the migration is not about."""
        key, flight = self.own()
        async with self.way(key) as door:
            made = self.invented(door)
            await self.write(door, "other", [made.tailnum, made.arr_delay, key])
        self.ledger.wrote(key, replace(flight, tailnum=made.tailnum, arr_delay=made.arr_delay))

    async def delete(self) -> None:
        """Delete a row that this client inserted; one with a note it keeps, so that every archived note has its row."""
        without = [key for key in self.ledger.inserted if not self.noted(key)]
        if not without:
            return await self.insert()
        key = self.random.choice(without)
        async with self.way(key) as door:
            await self.write(door, "delete", [key])
        self.ledger.wrote(key, None)
        return None

    async def read_own(self) -> None:
        """Read own rows, deleted ones too, and check every value."""
        keys = self.random.sample(list(self.ledger.rows), min(5, len(self.ledger.rows)))
        async with self.way(keys[0]) as door:
            await self.check(door, keys, self.ledger.rows)

    async def check(self, door: Door, keys: list[int], expected: "dict[int, Flight | None]") -> None:
        """Read rows and compare them with what must be stored."""
        found = {row[0]: door.flight(row) for row in await self.send(door.query("read"), [keys], "read own rows")}
        for key in keys:
            flight = expected[key]
            if found.get(key) != (door.seen(flight) if flight else None):
                message = f"row {key} is {found.get(key)}, acknowledged was {flight}"
                raise WrongAnswer(message)

    async def read_untouched(self) -> None:
        """Read rows that nobody changes, and check them against what else the data says."""
        keys = [self.random.randrange(*UNTOUCHED) for _ in range(5)]
        async with self.way(keys[0]) as door:
            [(count, right)] = await self.send(door.query("untouched"), [keys], "read untouched rows")
        if count != len(set(keys)) or not right:
            message = f"of rows {keys} {count} are there, right: {right}"
            raise WrongAnswer(message)

    async def several(self) -> None:
        """Change several rows in one transaction, in any order, and read them back inside it."""
        keys = self.random.sample(self.ledger.living(), min(3, len(self.ledger.living())))
        written: dict[int, Flight | None] = {}
        async with self.way(keys[0], transaction=True) as door:
            for key in keys:
                flight = self.ledger.rows[key]
                assert flight is not None  # noqa: S101  it is among the living
                written[key] = await self.changed(door, key, flight)
            made = self.invented(door)
            fresh = await self.write(door, "insert", door.values(made))
            await self.check(door, [*keys, fresh], {**written, fresh: made})
        for key, changed in written.items():
            self.ledger.wrote(key, changed)
        self.ledger.wrote(fresh, made, inserted=True)


class OldClient(Client):
    """A client that knows one version: the old one, by the table itself or by public_v1, until it is deployed anew."""

    group: Group = "old"

    def __init__(self, *given: Any, by_view: bool) -> None:
        super().__init__(*given)
        self.by_view = by_view
        self.deployed = False

    async def connect(self) -> None:
        """Come back with the new version's code once that is deployed."""
        if self.controls.deployed and not self.deployed and self.conn is not None:
            await self.conn.close()
            self.deployed = True
        await super().connect()

    def choose(self, key: object) -> tuple[Door, Path | None]:
        """Take what this client knows."""
        del key
        if self.deployed:
            return V2, None
        return (V1 if self.by_view and self.controls.v1_is_there else BASE), None


class NewClient(Client):
    """A client with code for both versions, which asks the router."""

    group: Group = "new"

    def __init__(self, *given: Any, router: AsyncRouter, migration: str) -> None:
        super().__init__(*given)
        self.router = router
        self.migration = migration

    def choose(self, key: object) -> tuple[Door, Path | None]:
        """Go where the router says; without a migration, to the table itself."""
        path = self.router.path(self.migration, key)
        if path.is_new:
            return V2, path
        return (V1 if path.search_path else BASE), path

    def after(self, path: Path | None, seconds: float, *, error: bool) -> None:
        """Tell the router, which tells the migration."""
        if path is not None and path.version is not None:
            self.router.record(self.migration, path, seconds, error=error)


def _set_local(door: Door) -> bytes:
    assert door.schema is not None  # noqa: S101  only ways with a schema can do without naming it
    return sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(door.schema)).as_bytes(None)
