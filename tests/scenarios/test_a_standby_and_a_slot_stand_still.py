"""Scenario 15: a standby's replay is paused, a slot stands still; the backfill holds, says why, and goes on by itself."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.mutants import Clause, must_fail
from support.stage import staged
from support.standby import Standby
from support.throttled import Filling, filling
from support.worlds import FAST, NEWEST, VERSIONS

from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.postgres.pressure import TRICKLE

Connection = psycopg.AsyncConnection[Any]

LIMIT_S = 1.0
PATIENCE_S = 10.0
"""The status is asked on a busy machine; when it was held, it says itself."""

SEES_STANDBYS = Clause(
    "standbys that have not replayed are looked at", "pressure", "pressure", "r.replay_lsn IS NOT NULL", "false"
)
SEES_SLOTS = Clause(
    "slots that keep WAL are looked at",
    "pressure",
    "pressure",
    "restart_lsn IS NOT NULL AND wal_status",
    "false AND wal_status",
)
OUTRUNS = "the backfill outruns a standby that does not replay"
FILLS = "the backfill goes on while a slot keeps more and more WAL"

on_newest = pytest.mark.parametrize("primary", [NEWEST], indirect=True)


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def primary(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Start a server of our own: its standbys and slots are seen by everything on it."""
    with EmbeddedPostgres(version=request.param, settings=FAST) as server:
        yield server


@pytest.fixture
async def stage(
    primary: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS throttled WITH (FORCE)")
        admin.execute("CREATE DATABASE throttled")
    async with staged(temporal, primary.dsn("throttled"), tmp_path, monkeypatch) as harness:
        yield harness


@pytest.fixture
async def conn(stage: Harness) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as connection:
        yield connection


async def replay_is_paused(run: Filling, standby: Standby, for_s: float) -> None:
    """Tell the story of a standby whose replay is paused for a while."""
    await run.works()
    paused_at = await run.now()
    standby.pause()
    held = await run.held("replica_lag", PATIENCE_S, OUTRUNS)
    assert "(limit 1 s): paris" in held.reason
    assert held.since is not None
    assert held.until == held.since + timedelta(seconds=3600), "it says when its patience ends"
    assert (held.since - paused_at).total_seconds() <= LIMIT_S + 2
    before = await run.cursors()
    while (await run.now() - paused_at).total_seconds() < for_s:
        assert (await run.look()).throttled_by, "the whole time"
    assert await run.cursors() == before
    standby.resume()
    await run.works()
    assert (await run.ends())["replica lag"] >= for_s - LIMIT_S - 2


async def a_standby_is_paused(stage: Harness, conn: Connection, primary: EmbeddedPostgres, for_s: float) -> None:
    with Standby(primary) as standby:
        async with filling(stage, conn, max_replica_lag_s=LIMIT_S) as run:
            await replay_is_paused(run, standby, for_s)


@pytest.mark.parametrize("for_s", [5, pytest.param(30, marks=pytest.mark.long)])
async def test_while_a_standby_does_not_replay_the_backfill_waits(
    stage: Harness, conn: Connection, primary: EmbeddedPostgres, for_s: float
) -> None:
    await a_standby_is_paused(stage, conn, primary, for_s)


@on_newest
async def test_without_a_look_at_it_the_standby_is_outrun(
    stage: Harness, conn: Connection, primary: EmbeddedPostgres
) -> None:
    await must_fail(a_standby_is_paused(stage, conn, primary, 5), SEES_STANDBYS, says=OUTRUNS)


@on_newest
async def test_a_standby_that_leaves_is_waited_for_only_where_it_is_named(
    stage: Harness, conn: Connection, primary: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pgduet.toml"
    monkeypatch.setenv("PGDUET_CONFIG", str(config))
    with Standby(primary) as standby:
        config.write_text(f'[databases.{stage.database}.replicas.rome]\ndsn = "{standby.dsn()}"\n')
        async with filling(stage, conn, max_replica_lag_s=LIMIT_S, max_hold_s=6) as run:
            await run.works()
            standby.pause()
            assert "(limit 1 s)" in (await run.held("replica_lag")).reason
            standby.stop()
            await run.until(lambda seen: "rome does not answer" in (seen.throttled_by or ""))
            slow = await run.slowed("replica_lag")
            assert slow.rate == TRICKLE
            assert slow.since is not None
            await run.works()
            standby.start()
            standby.resume()
            await run.until(lambda seen: seen.throttle is None)
            await run.ends()


@on_newest
async def test_a_standby_that_leaves_and_is_not_named_holds_nothing(
    stage: Harness, conn: Connection, primary: EmbeddedPostgres
) -> None:
    with Standby(primary) as standby:
        async with filling(stage, conn, max_replica_lag_s=LIMIT_S) as run:
            await run.works()
            standby.pause()
            await run.held("replica_lag")
            standby.stop()
            await run.works()
            await run.ends()


async def a_slot_stands_still(stage: Harness, conn: Connection) -> None:
    """Tell the story of a slot that nobody reads, until somebody moves it on."""
    async with filling(stage, conn, max_wal_retained_mb=5) as run:
        await run.works()
        await conn.execute("SELECT pg_create_physical_replication_slot('etl', true)")
        try:
            await conn.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 8000000))")
            held = await run.held("wal_retained", PATIENCE_S, FILLS)
            assert 'MB (limit 5 MB): "etl", inactive' in held.reason
            await conn.execute("SELECT pg_replication_slot_advance('etl', pg_current_wal_lsn())")
            await run.works()
        finally:
            await conn.execute("SELECT pg_drop_replication_slot('etl')")
        assert (await run.ends())["WAL retained by slots"] >= 1


@pytest.mark.usefixtures("primary")
async def test_while_a_slot_keeps_too_much_wal_the_backfill_waits(stage: Harness, conn: Connection) -> None:
    await a_slot_stands_still(stage, conn)


@on_newest
@pytest.mark.usefixtures("primary")
async def test_without_a_look_at_it_the_slot_keeps_ever_more(stage: Harness, conn: Connection) -> None:
    await must_fail(a_slot_stands_still(stage, conn), SEES_SLOTS, says=FILLS)


@on_newest
async def test_a_slot_that_is_about_to_be_lost_is_waited_for_without_end(
    stage: Harness, conn: Connection, primary: EmbeddedPostgres
) -> None:
    async with filling(stage, conn, max_hold_s=0.5) as run:
        await run.works()
        await conn.execute("SELECT pg_create_physical_replication_slot('etl', true)")
        await conn.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'")
        await conn.execute("SELECT pg_reload_conf()")
        for _ in range(4):
            await conn.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 16000000))")
        held = await run.held("slot_at_risk")
        assert 'slot "etl" (inactive) is about to be lost' in held.reason
        assert held.until is None, "no patience ends it"
        await conn.execute("SELECT pg_drop_replication_slot('etl')")
        await run.works()
        await conn.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        await conn.execute("SELECT pg_reload_conf()")
        await run.ends()
