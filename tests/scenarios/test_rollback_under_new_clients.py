"""Scenario 23: a rollback while new clients are connected and writing.

Nobody sees an error. The migration is safe at once, then it waits, names who is still there, and withdraws when they have left. New
clients come in three ways: by a role whose search_path names the version, in transactions that begin with `SET LOCAL`, and by the
router, which follows by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.asking import one
from support.harness import Harness, schema_dump
from support.load import Load
from support.mutants import Clause, Code, Mutant, must_fail
from support.plans import create_reviews
from support.worlds import World, on_newest

from pgduet.activities.shift import Shift
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Status
from pgduet.phases import Authority, Phase, State
from pgduet.postgres import census

Connection = psycopg.AsyncConnection[Any]
ROWS = 1_000
UNDER_FEET = "it withdraws under its clients' feet"
FIRST_KEY = 501
"""From here on the rows are the deployed clients' own."""


class Deployed:
    """A new client that asks no router: it writes and reads back through its version until it is told to leave."""

    def __init__(self, dsn: str, key: int, *, by_setting: bool) -> None:
        self.dsn = dsn
        self.key = key
        self.by_setting = by_setting
        self.leave = asyncio.Event()
        self.acts = 0

    async def run(self) -> None:
        """Work; what goes wrong is raised."""
        name = f"deployed-{self.key}"
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, application_name=name) as conn:
            while not self.leave.is_set():
                try:
                    await (self.in_transaction(conn) if self.by_setting else self.write(conn))
                except psycopg.Error as error:
                    raise AssertionError(f"{UNDER_FEET}: {error}") from error
                self.acts += 1
                await asyncio.sleep(0.005 if self.by_setting else 0.2)

    async def in_transaction(self, conn: Connection) -> None:
        """Write and read in a transaction that says which version it is of."""
        async with conn.transaction():
            await conn.execute("SET LOCAL search_path = public_v2")
            await self.write(conn)
            await asyncio.sleep(0.02)

    async def write(self, conn: Connection) -> None:
        """Write, and read it back."""
        await conn.execute("UPDATE reviews SET mood = %s WHERE id = %s", (f"mood {self.acts}", self.key))
        assert await one(conn, f"SELECT mood FROM reviews WHERE id = {self.key}") == f"mood {self.acts}"

    async def works(self) -> None:
        """Wait until it has done more."""
        wanted = self.acts + 2
        async with asyncio.timeout(30):
            while self.acts < wanted and not self.leave.is_set():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def at_work(*clients: Deployed) -> AsyncIterator[None]:
    """Have clients work until the block ends; the first error of one of them ends it."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run())
        yield
        for client in clients:
            client.leave.set()


async def scenario(stage: Harness, conn: Connection, postgres: EmbeddedPostgres) -> None:
    await create_reviews(conn, ROWS, trigger=False)
    before = schema_dump(postgres.bin_dir, stage.dsn)
    role = stage.queue.replace("test-", "web_")
    await conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    await conn.execute(sql.SQL("GRANT SELECT, UPDATE ON reviews TO {}").format(sql.Identifier(role)))
    granted = schema_dump(postgres.bin_dir, stage.dsn)
    # In this database alone: other scenarios' roles have a search_path, too.
    here = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = public_v2")
    await conn.execute(here.format(sql.Identifier(role), sql.Identifier(conn.info.dbname)))
    by_role = Deployed(stage.dsn.replace("postgres@", f"{role}@"), FIRST_KEY, by_setting=False)
    by_setting = Deployed(stage.dsn, FIRST_KEY + 1, by_setting=True)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        async with at_work(by_role, by_setting):
            await by_role.works()
            await load.working(new=10)
            await stage.act("abort", reason="a bad release")
            status = await stage.until(over_or_waiting)
            assert status.state is not State.ROLLED_BACK, UNDER_FEET
            assert (status.safe, status.authority, status.read_percent) == (True, Authority.OLD, 0)
            await by_role.works()
            await by_setting.works()
            await load.working()
            by_setting.leave.set()
            await stage.until(lambda s: over_or_waiting(s) and "deployed-502" not in named(s))
            await by_role.works()
            status = await stage.status()
            assert "deployed-501" in named(status), UNDER_FEET
        status = await stage.result()
        assert status.state is State.ROLLED_BACK
        told = f"on version 2, which is to go: `{role}` (ALTER ROLE … RESET search_path)"
        assert len([decision for decision in status.decisions if decision.endswith(told)]) == 1
        await load.working()
        await load.end()
    await load.verify(conn)
    kept = "SELECT kept ->> 'mood' FROM pgduet_archive.value WHERE key = %s::jsonb"
    for client in (by_role, by_setting):
        assert await one(conn, kept, (f'{{"id": {client.key}}}',)) == f"mood {client.acts - 1}"
    assert schema_dump(postgres.bin_dir, stage.dsn) == granted != before


def over_or_waiting(status: Status) -> bool:
    """Tell that it waits for clients, or for nobody any more."""
    return status.state is State.ROLLED_BACK or bool(status.waiting_for and status.waiting_for.kind == "clients")


def named(status: Status) -> str:
    """Give the names of those for whom it waits."""
    return status.waiting_for.detail if status.waiting_for else ""


async def test_nobody_sees_an_error_and_it_withdraws_when_the_new_clients_have_left(world: World) -> None:
    await scenario(world.stage, world.conn, world.server)


MUTANTS: list[list[Mutant]] = [
    [
        Code(
            "the census of those on the new version",
            census.take,
            'if row["side"] == "new" or behind or acting:',
            "if acting:",
        ),
        Clause(
            "sessions that began with it", "census", "lingering", "(s.side = 'old' OR s.via = 'role')", "s.side = 'old'"
        ),
    ],
    [Clause("the census of roles", "census", "sample_sessions", "AND setting LIKE 'search_path=%%'", "AND false")],
]


@pytest.mark.parametrize("mutants", MUTANTS, ids=[mutants[0].name for mutants in MUTANTS])
async def test_the_scenario_sees_what_is_missing(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, mutants: list[Mutant]
) -> None:
    await must_fail(scenario(stage, conn, postgres), *mutants, says=UNDER_FEET)


BETWEEN_TWO_LOOKS = """
SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgduet/census/%' AND state = 'idle'
   AND clock_timestamp() - state_change > interval '100 ms'
"""


async def a_client_comes_between_two_looks(world: World, act: str) -> None:
    """Have a client, whom the first look at who uses a version cannot have seen, begin a transaction right after it."""
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    version, end = ("public_v2", State.ROLLED_BACK) if act == "abort" else ("public_v1", State.DONE)
    read = f"SELECT note FROM {version}.reviews LIMIT 1"
    async with stage.worker(), world.client(application_name="rare") as rare:
        await stage.start(stage.plan(soak={"legacy_idle_s": 2}, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await stage.act(act)
        async with asyncio.timeout(30):
            while not await world.rows(BETWEEN_TWO_LOOKS):
                assert (await stage.status()).state is not end, UNDER_FEET
                await asyncio.sleep(0.01)
        await rare.execute(read.encode())
        status = await stage.until(lambda status: status.state is end or "rare" in named(status))
        assert status.state is not end, UNDER_FEET
        await rare.execute(read.encode())
        await rare.commit()
        await rare.close()  # a session that was seen at the old version counts until it ends
        assert (await stage.result()).state is end


@pytest.mark.parametrize("act", ["abort", "advance"])
@on_newest
async def test_nobody_is_gone_by_one_look(world: World, act: str) -> None:
    await a_client_comes_between_two_looks(world, act)


@on_newest
async def test_by_one_look_alone_a_version_would_go_from_under_a_client(world: World) -> None:
    mutant = Code("several looks", Shift.census, "while request.leaving and", "while False and")
    await must_fail(a_client_comes_between_two_looks(world, "abort"), mutant, says=UNDER_FEET)
