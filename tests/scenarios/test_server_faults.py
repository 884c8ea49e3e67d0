"""Scenario 14: PostgreSQL crashes and restarts, connections are cut, a worker stops and comes back after it was given up.

The migration goes on by itself, and nothing is lost. Clients lose their connections when the server goes, as they would without us;
in the other tests they must notice nothing.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.load import Load
from support.mutants import Code, must_fail
from support.plans import create_reviews
from support.processes import come_back, seeded, stop_reached
from support.stage import staged
from support.wire_cut import Link, link_to
from support.worlds import VERSIONS, World

from pgduet import audit
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.phases import Authority, Phase, State
from pgduet.postgres.executor import is_transient

ROWS = 20_000
SLOW = {"backfill": {"parallelism": 1, "batch_target_ms": 1, "pause_ms": 30}}
"""Small batches with pauses, so that there is time to break something in between."""
CUTS = 5
PATIENCE_S = 120.0

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Give a server of this test's own, to be crashed."""
    settings = {"fsync": "off", "jit": "off", "shared_buffers": "64MB"}
    with EmbeddedPostgres(version=getattr(request, "param", 18), settings=settings) as own:
        yield own


@pytest.fixture
async def own_stage(
    server: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Give a harness on it."""
    async with staged(temporal, server.dsn(), tmp_path, monkeypatch) as harness:
        yield harness


async def ask(dsn: str, query: str) -> Any:
    """Ask for one value on a connection of its own: others may be cut."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        row = await (await conn.execute(query.encode())).fetchone()
    return row[0] if row else None


async def in_backfill(stage: Harness) -> None:
    """Wait until a batch has been committed, and some are left."""
    await stage.until(Phase.BACKFILL)
    under_way = "SELECT count(*) FROM pgduet.backfill_range WHERE cursor_block > 0 AND cursor_block < block_to"
    async with asyncio.timeout(PATIENCE_S):
        while not await ask(stage.dsn, under_way):
            await asyncio.sleep(0.01)


async def crash(server: EmbeddedPostgres) -> None:
    """Kill a session of ours by SIGKILL: PostgreSQL ends all the others too, and recovers from its log."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgduet/%' LIMIT 1"
    async with asyncio.timeout(PATIENCE_S):
        while not (pid := await ask(server.dsn(), query)):
            await asyncio.sleep(0.005)
    os.kill(pid, signal.SIGKILL)


def crashes(server: EmbeddedPostgres) -> int:
    """Count how often the server has begun anew."""
    return server.log_path.read_text().count("all server processes terminated; reinitializing")


async def cut(dsn: str, chance: random.Random) -> None:
    """Cut the worker's connections, a few times, at random moments; waits until there is one to cut."""
    ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgduet/%'"
    for _ in range(CUTS):
        async with asyncio.timeout(PATIENCE_S):
            while not await ask(dsn, f"SELECT count(pg_terminate_backend(pid)) {ours}"):
                await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0, 0.2))


async def back_at_the_start(stage: Harness, load: Load, bin_dir: Path, before: str) -> None:
    """Roll back, and look at all that must be as it was."""
    await stage.act("abort")
    assert (await stage.result(PATIENCE_S)).state is State.ROLLED_BACK
    assert schema_dump(bin_dir, stage.dsn) == before
    await load.working()
    await load.end()
    async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as conn:
        await load.verify(conn)
        assert (await audit.verify(conn)).intact


async def prepared(stage: Harness, bin_dir: Path) -> str:
    """Create the table; gives the schema as it is before."""
    async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as conn:
        await create_reviews(conn, ROWS)
    return schema_dump(bin_dir, stage.dsn)


async def server_gone(stage: Harness, server: EmbeddedPostgres) -> None:
    """Crash the server in the backfill, and restart it in the soak."""
    before = await prepared(stage, server.bin_dir)
    async with stage.worker(), Load(stage.dsn, survives=True) as load:
        await stage.start(stage.plan(**SLOW))
        await in_backfill(stage)
        await crash(server)
        await in_soak(stage)
        assert crashes(server) == 1
        await load.working(new=10)
        verified = asyncio.create_task(stage.act("verify"))
        await asyncio.to_thread(server.restart)
        assert (await verified).message.startswith("0 of ")
        await load.working(new=10)
        await back_at_the_start(stage, load, server.bin_dir, before)


async def in_soak(stage: Harness) -> None:
    """Wait until it has got there by itself."""
    status = await stage.until(lambda s: s.failure is not None or Phase.SOAK.reached(s.phase), PATIENCE_S)
    assert status.failure is None, "a lost connection stops the migration"
    await stage.waits("window", Phase.SOAK, PATIENCE_S)


@pytest.mark.parametrize("server", VERSIONS, indirect=True, ids=lambda version: f"postgresql-{version}")
async def test_postgresql_crashed_in_backfill_and_restarted_in_soak_and_the_migration_goes_on(
    server: EmbeddedPostgres, own_stage: Harness
) -> None:
    await server_gone(own_stage, server)


async def test_where_a_lost_connection_counts_as_an_error_the_migration_stops(
    server: EmbeddedPostgres, own_stage: Harness
) -> None:
    stubborn = Code(
        "the connection among what is tried again",
        is_transient,
        "(psycopg.OperationalError, ",
        "(errors.LockNotAvailable, ",
    )
    await must_fail(server_gone(own_stage, server), stubborn, says="a lost connection stops the migration")


async def test_a_tcp_connection_that_is_cut_is_opened_again_and_no_client_notices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await prepared(world.stage, world.server.bin_dir)
    async with link_to(world.server.port) as (link, port), Load(world.stage.dsn) as load:
        monkeypatch.setenv(world.stage.variable, world.stage.dsn.replace(f":{world.server.port}/", f":{port}/"))
        async with world.stage.worker():
            await world.stage.start(world.stage.plan(**SLOW))
            await in_backfill(world.stage)
            await cut_link(link)
            await in_soak(world.stage)
            await load.working(new=10)
            verified = asyncio.create_task(world.stage.act("verify"))
            await cut_link(link)
            assert (await verified).message.startswith("0 of ")
            await back_at_the_start(world.stage, load, world.server.bin_dir, before)


async def cut_link(link: Link) -> None:
    """Cut the worker's connections a few times; each time there is one."""
    for _ in range(CUTS):
        async with asyncio.timeout(PATIENCE_S):
            while not link.cut():
                await asyncio.sleep(0.002)


async def test_connections_cut_in_backfill_and_in_soak_are_opened_again_and_no_client_notices(
    postgres: EmbeddedPostgres, stage: Harness
) -> None:
    chance = seeded()
    before = await prepared(stage, postgres.bin_dir)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(**SLOW))
        await in_backfill(stage)
        await cut(stage.dsn, chance)
        await stage.waits("window", Phase.SOAK, PATIENCE_S)
        await load.working(new=10)
        verified = asyncio.create_task(stage.act("verify"))
        await cut(stage.dsn, chance)
        assert (await verified).message.startswith("0 of ")
        await back_at_the_start(stage, load, postgres.bin_dir, before)


@pytest.mark.early
@pytest.mark.parametrize("barrier", ["publish.before_commit", "flip.before_commit"])
async def test_a_worker_that_stopped_and_comes_back_after_it_was_given_up_does_no_harm(
    postgres: EmbeddedPostgres, stage: Harness, barrier: str
) -> None:
    before = await prepared(stage, postgres.bin_dir)
    async with Load(stage.dsn) as load:
        with stage.worker_process(f"{barrier}=stop") as late:
            await stage.start(stage.plan(**SLOW))
            await stop_reached(late.log, barrier)
            with stage.worker_process():
                await load.working()
                status = await stage.waits("window", Phase.SOAK, PATIENCE_S)
                assert status.authority is Authority.NEW
                await come_back(late.process.pid, late.log)
                await load.working(new=10)
                assert (await stage.act("verify")).message.startswith("0 of ")
                assert await ask(stage.dsn, "SELECT count(*) FROM pgduet.audit WHERE action = 'cutover'") == 1
                assert await ask(stage.dsn, "SELECT authority FROM pgduet.migration") == Authority.NEW
                await back_at_the_start(stage, load, postgres.bin_dir, before)
