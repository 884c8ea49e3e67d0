"""Scenario 5: old and new clients share a PgBouncer pool of transactions.

Two server sessions for all clients, through a migration that is rolled back and then made to the end: services of the old
version, of the new one, and of both by the route, each on psycopg, SQLAlchemy and Django, and one client that knows nothing of
versions. Each transaction checks that it wrote and read its own version: columns that the other has not, and what the client
has just written.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Protocol

import psycopg
import pytest
from django.db import connections, transaction
from psycopg.rows import dict_row
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.asking import one
from support.djangos import database, databases
from support.harness import Harness
from support.mutants import Code, must_fail
from support.pgbouncer import PgBouncer
from support.plans import NAME, create_reviews
from support.worlds import World, on_newest

from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.routing import BASE_TABLES, AsyncRouter, Path
from pgduet.routing.adapters import statements
from pgduet.routing.adapters.django import following
from pgduet.routing.adapters.psycopg import routed_async
from pgduet.routing.adapters.psycopg_pool import AsyncVersionPools
from pgduet.routing.adapters.sqlalchemy import follow

MISROUTED = "somebody is on the other's version"
COLUMNS = {False: "id, rating, note", True: "id, stars, mood, note"}
LEASE_S = 1.0

Row = dict[str, Any]


class Way(Protocol):
    """How a framework runs a transaction of two statements on a path; gives the row that the second reads."""

    async def turn(self, path: Path, write: str, read: str) -> Row: ...

    async def close(self) -> None: ...


class ByPsycopg:
    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn

    @classmethod
    async def open(cls, dsn: str, name: str) -> "ByPsycopg":
        settings: dict[str, Any] = {"application_name": name, "autocommit": True, "prepare_threshold": None}
        return cls(await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row, **settings))

    async def turn(self, path: Path, write: str, read: str) -> Row:
        async with routed_async(self._conn, path) as conn:
            await conn.execute(write.encode())
            row: Row | None = await (await conn.execute(read.encode())).fetchone()
        assert row is not None
        return row

    async def close(self) -> None:
        await self._conn.close()


class BySqlAlchemy:
    def __init__(self, dsn: str, name: str) -> None:
        self._path: ContextVar[Path] = ContextVar("path", default=BASE_TABLES)
        self._engine = create_async_engine(
            make_url(dsn).set(drivername="postgresql+psycopg"),
            pool_size=1,
            connect_args={"application_name": name, "prepare_threshold": None},
        )
        follow(self._engine, self._path.get)

    async def turn(self, path: Path, write: str, read: str) -> Row:
        self._path.set(path)
        async with self._engine.begin() as conn:
            await conn.execute(text(write))
            return dict((await conn.execute(text(read))).mappings().one())

    async def close(self) -> None:
        await self._engine.dispose()


class ByDjango:
    """On one thread of its own, as a web server's worker."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._thread = ThreadPoolExecutor(1)

    async def turn(self, path: Path, write: str, read: str) -> Row:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._turn, path, write, read)

    def _turn(self, path: Path, write: str, read: str) -> Row:
        with following(path), transaction.atomic(using=self._alias), connections[self._alias].cursor() as cursor:
            cursor.execute(write)
            cursor.execute(read)
            names = [column.name for column in cursor.description]
            return dict(zip(names, cursor.fetchone(), strict=True))

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        connections[self._alias].close()


class ByPools:
    """Beside the pooler: a pool for each version, whose connections run what they have prepared (scenario 16)."""

    def __init__(self, dsn: str, name: str) -> None:
        settings = {"application_name": name, "autocommit": True, "row_factory": dict_row}
        self._pools = AsyncVersionPools(dsn, max_size=1, max_idle=1.0, kwargs=settings)

    async def turn(self, path: Path, write: str, read: str) -> Row:
        async with self._pools.connection(path) as conn, conn.transaction():
            await conn.execute(write.encode(), prepare=False)
            row: Row | None = await (await conn.execute(read.encode(), prepare=True)).fetchone()
            known = await (await conn.execute(PREPARED, [read], prepare=False)).fetchone()
        assert known == {"count": 1}, "it was not prepared"
        assert row is not None
        return row

    async def close(self) -> None:
        await self._pools.close()


PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement = %s"


class Client:
    """One instance of a service, with one row of its own."""

    def __init__(self, key: int, way: Way, router: AsyncRouter | None) -> None:
        self.key = key
        self.way = way
        self.router = router
        self.turns = {False: 0, True: 0}
        self.last = ""
        self.leave = asyncio.Event()

    async def run(self) -> None:
        """Work until told to leave; what goes wrong is raised."""
        try:
            while not self.leave.is_set():
                await self.turn(self.router.path(NAME, self.key) if self.router else BASE_TABLES)
                await asyncio.sleep(0.03)
        finally:
            await self.way.close()

    async def turn(self, path: Path) -> None:
        stars, self.last = sum(self.turns.values()) % 5 + 1, f"{self.key} {sum(self.turns.values())}"
        value = f"stars = {stars}, mood = 'glad'" if path.is_new else f"rating = '{stars}'"
        write = f"UPDATE reviews SET {value}, note = '{self.last}' WHERE id = {self.key}"
        try:
            row = await self.way.turn(path, write, f"SELECT {COLUMNS[path.is_new]} FROM reviews WHERE id = {self.key}")
        except Exception as error:
            raise AssertionError(f"{MISROUTED}: {path} {error}") from error
        wanted = {"stars": stars, "mood": "glad"} if path.is_new else {"rating": str(stars)}
        assert row == {"id": self.key, "note": self.last, **wanted}, f"{MISROUTED}: {path} {row}"
        self.turns[path.is_new] += 1

    async def works(self, *, is_new: bool) -> None:
        """Wait until it has done more on a side."""
        wanted = self.turns[is_new] + 3
        async with asyncio.timeout(60):
            while self.turns[is_new] < wanted:
                await asyncio.sleep(0.01)


class Service:
    """What a deployment is: a router, and an instance on each framework, each with a row of its own."""

    def __init__(self, name: str, router: AsyncRouter, clients: list[Client]) -> None:
        self.name = name
        self.router = router
        self.clients = clients
        self.tasks: list[asyncio.Task[None]] = []

    async def leave(self) -> None:
        """Have all instances end for good, and the router."""
        for client in self.clients:
            client.leave.set()
        await asyncio.gather(*self.tasks)
        await self.router.close()

    async def works(self, *, is_new: bool) -> None:
        """Wait until each has done more on a side."""
        await asyncio.gather(*(client.works(is_new=is_new) for client in self.clients))


class Fleet:
    """All that share the pool; the first error of one of them ends the block that it works in."""

    def __init__(self, dsn: str, pooled: str, group: asyncio.TaskGroup) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self.group = group
        self.services: list[Service] = []
        self.next_key = 1

    async def deploy(self, name: str, version: str | None) -> Service:
        """Deploy a service; `version` is the one that it has code for, None if it has both and follows the route."""
        router = await AsyncRouter.open(self.dsn, service=f"{name}-service", version=version, lease_s=LEASE_S)
        clients = [self.client(way, router) for way in await self.ways(name)]
        if name == "old":
            clients.append(self.client(await ByPsycopg.open(self.pooled, "legacy"), None))
        service = Service(name, router, clients)
        service.tasks = [self.group.create_task(client.run()) for client in clients]
        self.services.append(service)
        return service

    def client(self, way: Way, router: AsyncRouter | None) -> Client:
        """Make an instance with a row of its own."""
        self.next_key += 1
        return Client(self.next_key, way, router)

    async def ways(self, name: str) -> list[Way]:
        """Open what an instance on each framework works by."""
        return [
            await ByPsycopg.open(self.pooled, f"{name}-psycopg"),
            BySqlAlchemy(self.pooled, f"{name}-sqlalchemy"),
            ByDjango(name),
            ByPools(self.dsn, f"{name}-pools"),
        ]

    async def notices(self, router: AsyncRouter) -> None:
        """See that an instance of any framework tells when its transaction is on the other's version, either way round."""
        choice = router.choice(NAME)
        assert choice is not None
        for path, other in ((choice.old, choice.new), (choice.new, choice.old)):
            for way in await self.ways("astray"):
                client = self.client(way, None)
                await client.turn(path)
                with pytest.raises(AssertionError, match=MISROUTED):
                    await client.turn(dataclasses.replace(path, search_path=other.search_path))
                await way.close()


@contextlib.asynccontextmanager
async def at_work(dsn: str, pooled: str) -> AsyncIterator[Fleet]:
    """Have what is deployed within work until the block ends."""
    named = {name: database(pooled, application_name=name) for name in ("old", "both", "new", "again", "astray")}
    with databases({"default": database(pooled), **named}):
        async with asyncio.TaskGroup() as group:
            fleet = Fleet(dsn, pooled, group)
            yield fleet
            for service in fleet.services:
                await service.leave()


async def scenario(world: World, *, whole: bool) -> None:
    """Migrate and roll back, and if it is to be the whole of it migrate once more, to the end."""
    stage = world.stage
    await create_reviews(world.conn, 200)
    with PgBouncer(world.server, pool_size=2) as pooler:
        async with stage.worker(), at_work(stage.dsn, pooler.dsn(world.conn.info.dbname)) as fleet:
            old, both = await fleet.deploy("old", "1"), await fleet.deploy("both", None)
            await both.works(is_new=False)
            new = await forward(stage, fleet, "new")
            await both.works(is_new=True)
            await old.works(is_new=False)
            assert await one(world.conn, SESSIONS) in {1, 2}, "they have sessions of their own"
            if whole:
                await fleet.notices(both.router)
            await back(stage, new)
            await both.works(is_new=False)
            if whole:
                await old.works(is_new=False)
                new = await forward(stage, fleet, "again")
                await old.leave()
                await stage.act("advance")
                assert (await stage.result()).state is State.DONE
                await asyncio.gather(both.works(is_new=True), new.works(is_new=True))
        await nothing_is_lost(world, fleet, "stars::text" if whole else "rating")


async def forward(stage: Harness, fleet: Fleet, name: str) -> Service:
    """Migrate up to the deprecation window; once the new version is published, deploy what has code for nothing else."""
    gates = {"shift": "manual", "contract": "auto"}
    await stage.start(stage.plan(soak={"legacy_idle_s": 1}, gates=gates))
    await stage.waits("gate", Phase.SHADOW)
    new = await fleet.deploy(name, "2")
    await new.works(is_new=True)
    await stage.act("advance")
    await stage.waits("window", Phase.SOAK)
    await new.works(is_new=True)
    return new


async def back(stage: Harness, new: Service) -> None:
    """Roll back: those with both versions are sent back, and those with the new one alone are waited for."""

    def waits_for_them(status: Status) -> bool:
        waiting = status.waiting_for
        return bool(waiting and waiting.kind == "clients" and f"{new.name}-service" in waiting.detail)

    await stage.act("abort", reason="a bad release")
    await stage.until(waits_for_them)
    await new.works(is_new=True)
    await new.leave()
    assert (await stage.result()).state is State.ROLLED_BACK


async def nothing_is_lost(world: World, fleet: Fleet, source: str) -> None:
    """Compare what is stored with what each instance wrote last."""
    stored = dict(await world.rows(f"SELECT id, ({source}, note)::text FROM reviews"))
    for client in (client for service in fleet.services for client in service.clients):
        stars = (sum(client.turns.values()) - 1) % 5 + 1
        assert stored[client.key] == f'({stars},"{client.last}")'


SESSIONS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name !~ '^pgduet' AND application_name !~ '-pools$'
"""


async def test_nobody_reads_or_writes_the_other_s_version(world: World) -> None:
    await scenario(world, whole=True)


@on_newest
async def test_a_setting_of_the_session_would_lead_others_astray(world: World) -> None:
    mutant = Code("the setting is the transaction's own", statements.set_local, '"SET LOCAL', '"SET')
    await must_fail(scenario(world, whole=False), mutant, says=MISROUTED)
