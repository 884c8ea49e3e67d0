"""The gauges of a backfill: what the server bears, looked at on sessions of their own, once for all ranges of this process.

A range cannot see on its own session whom its batch keeps waiting, nor may a slow probe hold a batch up. So one session looks at
the server twice a second and for blocked clients four times; another counts what clients run; the plan's probes and the
replicas that `pgduet.toml` names are asked on others. The first range that needs the gauges starts them, the last one stops
them. Where the WAL was is kept for longer, so that a standby's lag is known across slices. Limits: a look that fails ends the
slices, which are then tried again.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from pgduet.plan.probes import Probe
from pgduet.postgres import store
from pgduet.postgres.busy import running
from pgduet.postgres.concurrency import Concurrency
from pgduet.postgres.databases import Database
from pgduet.postgres.pace import Pace
from pgduet.postgres.probed import Probed, keep_asking
from pgduet.postgres.session import APPLICATION, Connection, session
from pgduet.postgres.trail import Trail
from pgduet.sql import block
from pgduet.telemetry import spans

BLOCKED_EVERY_S = 0.25
BLOCKED_KEPT = 100
LOOKS = 2
"""The server is looked at each so many looks for blocked clients."""
ASK_EVERY_S = 1.0
CONNECT_S = 3
LOOK_SHARE = 20
"""A count of clients' statements rests so many times as long as it took: with thousands of sessions it is not free."""
FIRST_LOOKS = 3
KEPT = 50
"""Migrations whose trail is remembered, and how they got on with clients."""


class Blocked(NamedTuple):
    """One look for clients who wait for a batch's locks, by number: how many, and how long the longest has waited."""

    number: int
    clients: int
    longest_ms: float


class Standby(NamedTuple):
    """A standby: how far behind it is. `lag_s` is None where one that is named cannot be asked."""

    name: str
    lag_s: float | None


@dataclass(slots=True)
class Reading:
    """What was seen last; `number` counts the looks at the server. Of those for blocked clients several may fall into a batch."""

    number: int = 0
    at: datetime = field(default_factory=lambda: datetime.min.replace(tzinfo=UTC))
    """By the database's clock."""
    looked_s: float = 0.0
    """By this process's."""
    controls: dict[str, Any] = field(default_factory=dict)
    sees_all: bool = True
    standbys: list[Standby] = field(default_factory=list)
    slots: list[dict[str, Any]] = field(default_factory=list)
    vacuums: list[dict[str, Any]] = field(default_factory=list)
    blocked: deque[Blocked] = field(default_factory=lambda: deque(maxlen=BLOCKED_KEPT))
    probed: dict[str, Probed] = field(default_factory=dict)
    clients: Concurrency = field(default_factory=Concurrency)


class Looking:
    """Looks that go on beside the work that they are for, and what was seen last."""

    reading: Reading
    looking: asyncio.Task[None] | None

    async def end(self) -> None:
        """Stop looking."""
        looking, self.looking = self.looking, None
        if looking:
            looking.cancel()
            with suppress(asyncio.CancelledError, psycopg.Error):
                await looking

    def look(self) -> Reading:
        """Give what was seen last.

        Raises:
            psycopg.Error: the database could not be asked.
        """
        if self.looking is not None and self.looking.done():
            self.looking.result()
        return self.reading


class Gauges(Looking):
    """The gauges of one migration."""

    def __init__(self, database: Database, migration: store.Migration) -> None:
        """Take what is to be looked at; nothing is asked before `begin`."""
        self.database = database
        self.migration = migration
        self.users = 0
        self.trail = Trail()
        self.replicas: dict[str, int | None] = {}
        self.unasked: set[str] = set()
        self.asked = asyncio.Event()
        self.reading = Reading()
        self.turn = asyncio.Lock()
        """Taken by a range for a batch while it gives way: two at a time would take two processors."""
        self.first_look = asyncio.Event()
        self.looking = None

    async def begin(self) -> None:
        """Start looking, unless somebody has, and wait for the first look.

        Raises:
            psycopg.Error: the database cannot be asked.
        """
        if self.looking is None or self.looking.done():
            self.first_look = asyncio.Event()
            self.looking = asyncio.create_task(self._look_all())
        looked = asyncio.create_task(self.first_look.wait())
        try:
            await asyncio.wait({self.looking, looked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            looked.cancel()
        self.look()

    async def _look_all(self) -> None:
        probes = self.migration.policy.backfill.probes
        work: list[Coroutine[Any, Any, None]] = [self._server(), self._clients()]
        if probes:
            work.append(self._probes(probes))
        work += [self._replica(name, dsn) for name, dsn in self.database.replicas.items()]
        self.unasked = (
            {"clients"}
            | {f"probe {probe.name}" for probe in probes}
            | {f"replica {name}" for name in self.database.replicas}
        )
        self.asked = asyncio.Event()
        tasks = [asyncio.create_task(each) for each in work]
        try:
            for done in asyncio.as_completed(tasks):
                await done  # none ends but by an error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _server(self) -> None:
        tables = list(self.migration.design.filled)
        # As `session` names the sessions of slices.
        ours = f"{APPLICATION}/backfill/{self.migration.name}"[:63]
        async with session(self.database, f"gauges/{self.migration.name}") as conn:
            await conn.execute("SET statement_timeout = '5s'")
            await self._until_asked()
            number = self.reading.blocked[-1].number if self.reading.blocked else 0
            with spans.untraced():
                while True:
                    await self._server_now(conn, tables)
                    for _ in range(LOOKS):
                        found = await _one(conn, "blocked", {"ours": ours})
                        number += 1
                        self.reading.blocked.append(Blocked(number, found["clients"], found["longest_ms"]))
                        await asyncio.sleep(BLOCKED_EVERY_S)

    async def _clients(self) -> None:
        """Count what clients run, often enough to tell what the batches do to them."""
        given, clients = Pace.of(self.migration.policy), self.reading.clients
        async with session(self.database, f"clients/{self.migration.name}") as conn:
            await conn.execute("SET statement_timeout = '5s'")
            with spans.untraced():
                looks = 0
                while True:
                    began = time.monotonic()
                    found = await running(conn)
                    now_s = time.monotonic()
                    clients.note(found, now_s, given.adjusted(self.reading.controls).max_client_slowdown)
                    looks += 1
                    if looks >= FIRST_LOOKS:
                        self._has_answered("clients")
                        await asyncio.sleep(max(clients.look_s, LOOK_SHARE * (now_s - began)))

    def _has_answered(self, who: str) -> None:
        self.unasked.discard(who)
        if not self.unasked:
            self.asked.set()

    async def _until_asked(self) -> None:
        """Have the others answer first, or find that they do not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self.asked.wait()

    async def _server_now(self, conn: Connection, tables: list[str]) -> None:
        found = await _one(conn, "pressure", {"id": self.migration.id, "relations": tables})
        now_s, reading = time.monotonic(), self.reading
        self.trail.mark(found["wal"], now_s)
        reading.at, reading.looked_s = found["now"].astimezone(UTC), now_s
        reading.controls, reading.sees_all = found["controls"] or {}, found["sees_all"]
        ignored = self.database.ignored
        reading.slots = [slot for slot in found["slots"] if slot["name"] not in ignored.get("ignore_slots", ())]
        reading.vacuums = found["vacuums"]
        reading.standbys = [
            Standby(each["name"], self._lag_s(each["replayed"], each["told_s"]))
            for each in found["standbys"]
            if each["name"] not in ignored.get("ignore_standbys", ())
        ]
        reading.standbys += [
            Standby(name, None if replayed is None else self._lag_s(replayed))
            for name, replayed in self.replicas.items()
        ]
        reading.number += 1
        self.first_look.set()

    def _lag_s(self, replayed: int, told_s: float | None = None) -> float:
        age = self.trail.age(replayed, time.monotonic())
        return max(age.seconds, told_s or 0.0) if age.least else age.seconds

    async def _probes(self, probes: tuple[Probe, ...]) -> None:
        def heard(name: str, found: Probed) -> None:
            self.reading.probed[name] = found
            self._has_answered(f"probe {name}")

        await keep_asking(lambda: session(self.database, f"probes/{self.migration.name}"), probes, heard)

    async def _replica(self, name: str, dsn: str) -> None:
        """Ask a replica how far it is; whatever keeps it from answering, it is not known how far."""
        while True:
            self.replicas.setdefault(name, None)
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(
                    dsn,
                    autocommit=True,
                    row_factory=dict_row,
                    application_name=f"{APPLICATION}/gauges/{self.migration.name}"[:63],
                    connect_timeout=CONNECT_S,
                ) as conn:
                    await conn.execute("SET statement_timeout = '3s'")
                    while True:
                        found = await _one(conn, "replayed", {})
                        self.replicas[name] = found["replayed"]
                        self._has_answered(f"replica {name}")
                        await asyncio.sleep(ASK_EVERY_S)
            self.replicas[name] = None
            self._has_answered(f"replica {name}")
            await asyncio.sleep(ASK_EVERY_S)


class GaugeRoom:
    """All gauges of a process."""

    def __init__(self) -> None:
        """Begin with none."""
        self.known: dict[tuple[str, int], Gauges] = {}

    @asynccontextmanager
    async def of(self, database: Database, migration: store.Migration) -> AsyncIterator[Gauges]:
        """Give the gauges of a migration, looking for as long as somebody is here."""
        gauges = self._found(database, migration)
        gauges.users += 1
        try:
            await gauges.begin()
            yield gauges
        finally:
            gauges.users -= 1
            if not gauges.users:
                await gauges.end()

    def _found(self, database: Database, migration: store.Migration) -> Gauges:
        key = database.name, migration.id
        gauges = self.known.pop(key, None)
        if gauges is None or not gauges.users:
            before = gauges if gauges and gauges.database.dsn == database.dsn else None
            gauges = Gauges(database, migration)
            if before:
                gauges.trail, gauges.reading.clients = before.trail, before.reading.clients
        self.known[key] = gauges  # the last used is the last
        for old in [each for each, kept in self.known.items() if not kept.users][:-KEPT]:
            del self.known[old]
        return gauges


async def _one(conn: Connection, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    row = await (await conn.execute(block("pressure", name), parameters)).fetchone()
    assert row is not None  # noqa: S101  (each of these has one row)
    return row
