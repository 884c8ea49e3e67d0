"""The report says what the database's own records and the workflow say, for all attempts, wherever a migration stands."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import POLL_S, TIMEOUT_S, Harness
from support.plans import NAME, create_reviews

from pgduet.client import Migrations
from pgduet.errors import UnknownMigration
from pgduet.messages import Abort
from pgduet.phases import Authority, Phase, State
from pgduet.report.facts import Attempt, Report

Connection = psycopg.AsyncConnection[Any]
ROWS = 2_000
QUICK = {"soak": {"window_s": 0.5, "legacy_idle_s": 0.5}, "approvals": {"contract": 1}}


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


def migrations(stage: Harness) -> Migrations:
    return Migrations(stage.client, task_queue=stage.queue)


async def entries(conn: Connection, action: str) -> list[dict[str, Any]]:
    """Read the audit log itself, past everything that the report is made of."""
    cursor = await conn.execute(
        "SELECT seq, at, actor, affected, evidence FROM pgduet.audit WHERE action = %s ORDER BY seq", (action,)
    )
    names = ("seq", "at", "actor", "affected", "evidence")
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def test_start_rollback_start_done_shows_both_attempts_as_they_were_measured(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(), actor="ann")
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE public_v2.reviews SET mood = 'new only' WHERE id <= 7")
        await stage.act("verify")
        await stage.act("abort", reason="to show it")
        gone = await stage.result()
        await stage.start(stage.plan(**QUICK), actor="bob")
        await stage.waits("approval", Phase.SOAK)
        await stage.act("approve", gate="contract", reason="all is well")
        done = await stage.result()
        report = await migrations(stage).report(NAME, database=stage.database)
    assert (gone.state, done.state) == (State.ROLLED_BACK, State.DONE)
    first, second = report.facts.attempts
    assert report.status == done
    newest = await (await conn.execute("SELECT seq || ':' || encode(hash, 'hex') FROM pgduet.audit_head")).fetchone()
    assert (report.facts.audit_head,) == newest
    assert (first.actor, second.actor) == ("ann", "bob")
    assert (first.state, second.state) == ("rolled_back", "done")
    assert first.turn is not None
    assert (first.turn.actor, first.turn.reason, first.turn.phase) == ("tester", "to show it", Phase.SOAK)
    assert first.turn.safe_s is not None
    assert first.turn.withdrawn_s is not None
    assert 0 < first.turn.safe_s < first.turn.withdrawn_s
    assert (first.archived, second.restored) == (gone.archived, done.restored) == (7, 7)
    assert [(kept.attempt, kept.side, kept.saved, kept.restored) for kept in report.facts.kept] == [(1, "new", 7, 7)]
    await _measured_as_the_audit_log_says(conn, first, second)
    _timed_as_the_workflow_says(report, second)
    assert [decision.what for decision in second.decisions] == ["started", "approved contract"]
    assert second.decisions[1].reason == "all is well"
    assert second.authority is Authority.NEW
    assert report.facts.schemas == ["public_v2"]
    [table] = report.facts.tables
    assert (table.label, table.leftovers, table.invalid_indexes) == ('"public"."reviews"', [], [])


async def _measured_as_the_audit_log_says(conn: Connection, first: Attempt, second: Attempt) -> None:
    [_, last_start] = await entries(conn, "start")
    assert second.estimate == last_start["evidence"]["estimate"]
    assert second.estimate["rows"] == ROWS
    filled = await entries(conn, "backfill")
    assert [attempt.filled and attempt.filled.rows for attempt in (first, second)] == [ROWS, ROWS]
    assert [attempt.filled and attempt.filled.batches for attempt in (first, second)] == [
        entry["evidence"]["batches"] for entry in filled
    ]
    assert second.filled is not None
    assert second.filled.pages == second.filled.pages_done > 0
    assert second.filled.server_wal_mb is not None
    assert second.filled.server_wal_mb > 0
    compared = await entries(conn, "parity")
    assert [one.at for attempt in (first, second) for one in attempt.comparisons] == [entry["at"] for entry in compared]
    assert [one.rows for one in second.comparisons] == [ROWS] * second.comparisons_total
    locked = await entries(conn, "lock")
    assert len(locked) == first.locks_total + second.locks_total > 0
    assert [lock.held_ms for lock in first.locks + second.locks] == [entry["evidence"]["held_ms"] for entry in locked]
    assert {lock.step for lock in first.locks} >= {"expand", "dual_write", "cutover", "undo_dual_write", "undo_expand"}
    assert "contract" in {lock.step for lock in second.locks}
    assert [probe.step for probe in second.probes] == ["dual_write", "verify", "cutover"]
    assert [bake.read_percent for bake in second.baked] == [50, 100]
    assert sum(sample.samples for sample in second.sampled) >= 50


def _timed_as_the_workflow_says(report: Report, second: Attempt) -> None:
    assert report.status is not None
    told = {timing.phase: timing for timing in report.status.timings if timing.phase is not Phase.DONE}
    assert [phase.phase for phase in second.phases] == list(told)
    for phase in second.phases[:-1]:
        assert phase.left_at == told[phase.phase].ended_at
        # The database writes a moment after the workflow decides.
        assert timedelta(0) <= phase.entered_at - told[phase.phase].started_at < timedelta(seconds=5)


async def test_a_migration_that_temporal_has_forgotten_is_told_from_the_database_alone(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        known = await migrations(stage).report(NAME, database=stage.database)
        assert known.status is not None
        assert known.status.waiting_for is not None
        assert known.status.waiting_for.kind == "window"
        await stage.handle.terminate("lost")
        await stage.forget()
        report = await migrations(stage).report(NAME, database=stage.database)
    assert report.status is None
    [attempt] = report.facts.attempts
    assert (attempt.phase, attempt.ended) == (Phase.SOAK, False)
    assert attempt.phases == known.facts.attempts[0].phases
    assert report.facts.schemas == ["public_v1", "public_v2"]


async def test_a_plan_that_preflight_refused_has_a_report_and_an_unknown_name_has_none(stage: Harness) -> None:
    wanted = stage.plan({"drop_column": {"table": "public.reviews", "column": "nothing", "down": "1"}})
    async with stage.worker():
        await stage.start(wanted)
        await stage.until(lambda status: status.state is State.FAILED)
        report = await migrations(stage).report(NAME, database=stage.database)
        with pytest.raises(UnknownMigration):
            await migrations(stage).report("nobody", database=stage.database)
    assert report.status is not None
    assert report.status.state is State.FAILED
    assert report.facts.attempts == []


async def test_a_lock_that_was_waited_for_says_how_often_it_was_tried(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    async with stage.worker(), await psycopg.AsyncConnection.connect(dsn) as blocker:
        await stage.start(stage.plan(gates={"dual_write": "manual", "expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        await blocker.execute(sql.SQL("LOCK TABLE public.reviews IN ACCESS SHARE MODE"))
        await stage.act("advance")
        client = migrations(stage)
        await _waits_for_lock(client, stage.database)
        await blocker.rollback()
        await stage.waits("gate", Phase.EXPAND)
        report = await client.report(NAME, database=stage.database)
    [lock] = report.facts.attempts[0].locks
    assert lock.step == "expand"
    assert lock.locks == {'"public"."reviews"': "ACCESS EXCLUSIVE"}
    assert lock.tries > 1
    assert lock.waited_ms >= 50


async def _waits_for_lock(client: Migrations, database: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            waiting = (await client.status(NAME, database)).waiting_for
            if waiting and waiting.kind == "lock":
                return
            await asyncio.sleep(POLL_S)


async def test_a_rollback_under_way_says_what_it_waits_for_and_is_not_safe_before_it_is(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    client = migrations(stage)
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        async with await psycopg.AsyncConnection.connect(dsn, application_name="shop-web") as holder:
            await holder.execute("SELECT stars FROM public_v2.reviews LIMIT 1")
            await client.rollback(NAME, Abort(actor="ann"), database=stage.database)
            await _waits_for_lock(client, stage.database)
            under_way = await client.report(NAME, database=stage.database)
        await stage.result()
        ended = await client.report(NAME, database=stage.database)
    assert under_way.status is not None
    assert under_way.status.waiting_for is not None
    assert "shop-web" in under_way.status.waiting_for.detail
    [turn] = [attempt.turn for attempt in under_way.facts.attempts]
    assert turn is not None
    assert (turn.actor, turn.safe_s, turn.withdrawn_s) == ("ann", None, None)
    [turn] = [attempt.turn for attempt in ended.facts.attempts]
    assert turn is not None
    assert turn.safe_s is not None
    assert turn.withdrawn_s is not None
    assert turn.safe_s <= turn.withdrawn_s


async def test_how_long_the_backfill_held_back_and_why_is_added_up(stage: Harness, conn: Connection) -> None:
    await conn.execute("SELECT pg_create_physical_replication_slot('lazy_standby', true)")
    try:
        await conn.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
        async with stage.worker():
            await stage.start(stage.plan(backfill={"max_wal_retained_mb": 1}, gates={"verify": "manual"}))
            client = migrations(stage)
            async with asyncio.timeout(TIMEOUT_S):
                while not (await client.status(NAME, stage.database)).backfill.throttled_by:
                    await asyncio.sleep(POLL_S)
            await conn.execute("SELECT pg_drop_replication_slot('lazy_standby')")
            await stage.waits("gate", Phase.BACKFILL)
            report = await client.report(NAME, stage.database)
    finally:
        await conn.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'lazy_standby'"
        )
    [attempt] = report.facts.attempts
    assert attempt.filled is not None
    assert list(attempt.filled.held_s) == ["WAL retained by slots"]
    assert attempt.filled.held_s["WAL retained by slots"] > 0.5


async def test_the_command_prints_or_writes_the_page_or_its_facts(stage: Harness, tmp_path: Path) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"dual_write": "manual"}))
        await stage.waits("gate", Phase.EXPAND)
        printed = await _command(stage, "report", NAME)
        written = await _command(stage, "report", NAME, "--html", "--output", str(tmp_path / "page.html"))
        told = json.loads((await _command(stage, "report", NAME, "--json")).stdout)
        nowhere = await _command(stage, "report", NAME, "--output", str(tmp_path / "none" / "page.md"))
    assert printed.stdout.startswith(f"# {NAME}\n\n{told['answer']}\n")
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert told["facts"]["attempts"][0]["phases"][0]["phase"] == "expand"
    assert [each["kind"] for each in told["fallbacks"]] == ["rollback", "schemas"]
    hazards = told["facts"]["attempts"][0]["hazards"]
    assert [each["kind"] for each in told["follow_ups"]] == ["waits", *("hazard" for _ in hazards)]
    assert nowhere.returncode == 1
    assert "cannot write" in nowhere.stderr
    assert stage.dsn not in printed.stdout + json.dumps(told)


async def _command(stage: Harness, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TEMPORAL_ADDRESS": stage.address, "PGDUET_TASK_QUEUE": stage.queue}
    command = [sys.executable, "-m", "pgduet.cli.main", *arguments, "--database", stage.database]
    return await asyncio.to_thread(
        subprocess.run, command, check=False, capture_output=True, text=True, env=environment, timeout=60
    )
