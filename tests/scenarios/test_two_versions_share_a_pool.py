"""Scenario 5: old and new clients share a PgBouncer pool of transactions.

Two server sessions for all clients: services of the old version, services that have both and follow the route, and one that
knows nothing of versions, on psycopg, SQLAlchemy and Django. Each transaction checks that it wrote and read its own version:
columns that the other has not, and what the client has just written.
"""

import asyncio
import contextlib
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
        self._pools = AsyncVersionPools(dsn, max_size=1, kwargs=settings)

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
    """One service instance with one row of its own."""

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
                await asyncio.sleep(0.01)
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


class Services:
    """All that share the pool: of each framework one with the old version's code, and one with both."""

    def __init__(self, both: list[Client], old: list[Client], router_of_old: AsyncRouter) -> None:
        self.both = both
        self.old = old
        self._router_of_old = router_of_old

    async def retire(self) -> None:
        """Have the services of the old version leave for good."""
        for client in self.old:
            client.leave.set()
        await self._router_of_old.close()

    async def go_on(self, *, is_new: bool, old: bool = True) -> None:
        """Wait until all have worked: those with both on a side, the others on the old one."""
        await asyncio.gather(
            *(client.works(is_new=is_new) for client in self.both),
            *(client.works(is_new=False) for client in (self.old if old else [])),
        )


async def ways(dsn: str, pooled: str, name: str) -> list[Way]:
    return [
        await ByPsycopg.open(pooled, f"{name}-psycopg"),
        BySqlAlchemy(pooled, f"{name}-sqlalchemy"),
        ByDjango(name),
        ByPools(dsn, f"{name}-pools"),
    ]


@contextlib.asynccontextmanager
async def at_work(dsn: str, pooled: str) -> AsyncIterator[Services]:
    """Have the services work until the block ends; the first error of one of them ends it."""
    async with contextlib.AsyncExitStack() as until:
        named = {name: database(pooled, application_name=name) for name in ("old", "both")}
        until.enter_context(databases({"default": database(pooled), **named}))
        old_router, both_router = [
            await until.enter_async_context(
                await AsyncRouter.open(dsn, service=f"{name}-service", version=version, lease_s=LEASE_S)
            )
            for name, version in (("old", "1"), ("both", None))
        ]
        both = [Client(1 + n, way, both_router) for n, way in enumerate(await ways(dsn, pooled, "both"))]
        old = [Client(11 + n, way, old_router) for n, way in enumerate(await ways(dsn, pooled, "old"))]
        old.append(Client(21, await ByPsycopg.open(pooled, "legacy"), None))
        async with asyncio.TaskGroup() as group:
            for client in (*both, *old):
                group.create_task(client.run())
            yield Services(both, old, old_router)
            for client in (*both, *old):
                client.leave.set()


async def scenario(world: World, act: str) -> None:
    stage = world.stage
    await create_reviews(world.conn, 200)
    with PgBouncer(world.server, pool_size=2) as pooler:
        async with stage.worker(), at_work(stage.dsn, pooler.dsn(world.conn.info.dbname)) as services:
            await services.go_on(is_new=False)
            await stage.start(stage.plan(soak={"legacy_idle_s": 1}, gates={"contract": "auto"}))
            await stage.waits("window", Phase.SOAK)
            await services.go_on(is_new=True)
            assert await one(world.conn, SESSIONS) in {1, 2}, "they have sessions of their own"
            await (rolled_back if act == "abort" else contracted)(stage, services)
        source = "rating" if act == "abort" else "stars::text"
        stored = dict(await world.rows(f"SELECT id, ({source}, note)::text FROM reviews WHERE id < 22"))
        for client in (*services.both, *services.old):
            stars = (sum(client.turns.values()) - 1) % 5 + 1
            assert stored[client.key] == f'({stars},"{client.last}")'


SESSIONS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name IN
       ('old', 'both', 'legacy', 'old-psycopg', 'both-psycopg', 'old-sqlalchemy', 'both-sqlalchemy')
"""


async def rolled_back(stage: Harness, services: Services) -> None:
    await stage.act("abort", reason="a bad release")
    assert (await stage.result()).state is State.ROLLED_BACK
    await services.go_on(is_new=False)


async def contracted(stage: Harness, services: Services) -> None:
    await services.retire()
    await stage.act("advance")
    assert (await stage.result()).state is State.DONE
    await services.go_on(is_new=True, old=False)


@pytest.mark.parametrize("act", ["advance", "abort"])
@on_newest
async def test_nobody_reads_or_writes_the_other_s_version(world: World, act: str) -> None:
    await scenario(world, act)


@on_newest
async def test_a_setting_of_the_session_would_lead_others_astray(world: World) -> None:
    mutant = Code("the setting is the transaction's own", statements.set_local, '"SET LOCAL', '"SET')
    await must_fail(scenario(world, "abort"), mutant, says=MISROUTED)
