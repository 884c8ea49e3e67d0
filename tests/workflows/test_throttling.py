"""Throttling through the workflow: windows that close for long, an operator's word while it runs, clients who wait."""

import asyncio
import json
import time
from typing import Any

import psycopg
import pytest
from support.harness import Harness, pgduet
from support.plans import NAME, create_reviews
from support.throttled import HOUR_S, filling, window
from temporalio.client import WorkflowUpdateFailedError

from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]


async def events(stage: Harness, number: int = 0) -> int:
    history = await stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/{number}").fetch_history()
    return len(history.events)


async def test_outside_its_window_it_waits_by_one_timer_until_somebody_opens_it(
    stage: Harness, conn: Connection
) -> None:
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    closed = window(row[0], 2 * HOUR_S, 3 * HOUR_S)
    async with filling(stage, conn, window=closed) as run:
        held = await run.held("window")
        assert held.reason.startswith(f"outside its window: {closed['from']}-{closed['to']} UTC (opens ")
        assert held.since is not None
        assert held.until is not None
        assert 0 < (await run.now() - held.since).total_seconds() < 60
        assert 0 < (held.until - await run.now()).total_seconds() <= 2 * HOUR_S + 60
        assert (await stage.until(lambda status: status.backfill.throttle is not None)).backfill.throttle == held, (
            "the workflow itself knows it too, for whoever asks by tctl"
        )
        # Nothing happens while it waits: no activity, no event.
        child = stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/0")
        assert not (await child.describe()).raw_description.pending_activities
        before = await events(stage)
        await asyncio.sleep(2)
        assert await events(stage) == before < 20
        code, said = await pgduet(stage, "status", NAME, "--database", stage.database)
        assert code == 0
        assert "waits for outside its window" in " ".join(said.split())
        began = await run.now()
        code, said = await pgduet(
            stage, "throttle", NAME, "--database", stage.database, "--window", "none", "--reason", "tonight it may"
        )
        assert (code, said.splitlines()[0]) == (0, "window = none")
        await run.works()
        assert (await run.now() - began).total_seconds() < 60
        # Closed by the plan again, and by an operator in another way.
        assert (await stage.act("throttle", reset=True)).message == "the pace is the plan's again"
        await run.held("window")
        opened = window(await run.now(), -HOUR_S, HOUR_S)
        assert (await stage.act("throttle", window=opened)).message.startswith("window = ")
        await run.works()
        assert (await run.ends())["closed window"] > 1


async def test_slices_that_fail_again_and_again_are_what_it_waits_for(stage: Harness, conn: Connection) -> None:
    async with filling(stage, conn, pause_ms=600_000) as run:
        ends = time.monotonic() + 60
        while True:
            # As where the role may open no more sessions: the gauges cannot look, so no slice goes on.
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'pgduet/gauges/%'"
            )
            waiting = (await run.migrations.look(NAME, stage.database)).status.waiting_for
            if waiting and "57P01" in waiting.detail:  # a session that is ended while it is made says less
                break
            assert time.monotonic() < ends, f"it does not say what it waits for: {waiting}"
        assert (waiting.kind, waiting.detail.startswith("fill_slice to succeed, try ")) == ("retry", True)


async def test_a_backfill_can_be_rolled_back_while_its_window_is_closed(stage: Harness, conn: Connection) -> None:
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    async with filling(stage, conn, window=window(row[0], HOUR_S, 2 * HOUR_S)) as run:
        await run.held("window")
        await stage.act("abort")
        assert (await stage.result()).state == "rolled_back"


async def test_what_an_operator_sets_is_obeyed_shown_recorded_and_taken_back(stage: Harness, conn: Connection) -> None:
    async with filling(stage, conn, pause_ms=600_000) as run:
        # It rests for ten minutes after its first batch: nobody waits for that.
        while not any(await run.cursors()):
            await asyncio.sleep(0.05)
        before = await run.cursors()
        began = await run.now()
        words = [
            "--pause-ms",
            "300",
            "--max-wal-retained-mb",
            "999",
            "--batch-target-ms",
            "2",
            "--max-replica-lag-s",
            "7",
        ]
        code, said = await pgduet(
            stage, "throttle", NAME, "--database", stage.database, *words, "--actor", "dba", "--reason", "peak"
        )
        assert code == 0, said
        assert said.splitlines()[0] == (
            "batch_target_ms = 2, pause_ms = 300, max_replica_lag_s = 7, max_wal_retained_mb = 999"
        )
        acted = await run.now()
        while await run.cursors() == before:
            await asyncio.sleep(0.05)
        assert (await run.now() - acted).total_seconds() < 2, f"asked at {began}"
        code, said = await pgduet(stage, "status", NAME, "--database", stage.database)
        assert "limits      batch_target_ms = 2, pause_ms = 300," in said
        code, said = await pgduet(stage, "status", NAME, "--database", stage.database, "--json")
        assert json.loads(said)["backfill"]["limits"] == {
            "batch_target_ms": 2, "pause_ms": 300, "max_replica_lag_s": 7, "max_wal_retained_mb": 999,
        }  # fmt: skip
        code, said = await pgduet(stage, "throttle", NAME, "--database", stage.database, "--reset", "--pause-ms", "20")
        assert (code, said.splitlines()[0]) == (0, "the pace is the plan's again, pause_ms = 20")
        assert (await run.look()).limits == {"pause_ms": 20}
        recorded = await conn.execute(
            "SELECT actor, reason, evidence FROM pgduet.audit WHERE action = 'controls' ORDER BY seq"
        )
        first, second = await recorded.fetchall()
        assert first[:2] == ("dba", "peak")
        assert first[2]["max_wal_retained_mb"] == 999
        assert second[2]["max_wal_retained_mb"] == "as planned"
        await run.ends()


async def test_a_pace_that_comes_after_the_backfill_says_what_it_is_for(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        answer = await stage.act("throttle", pause_ms=5)
        assert answer.message == "pause_ms = 5 (the backfill is over: this is for comparisons)"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"window": {"from": "22:00"}}, "to: Field required"),
        ({"window": "always"}, "window"),
        ({"window": {"from": "22:00", "to": "05:00", "timezone": "Mars"}}, "there is no time zone"),
        ({"max_wal_retained_mb": 0}, "max_wal_retained_mb"),
        ({"reset": "perhaps"}, "reset"),
        ({}, "it says no pace"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    stage: Harness, conn: Connection, given: dict[str, Any], why: str
) -> None:
    async with filling(stage, conn):
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await stage.act("throttle", **given)
        assert why in str(caught.value.cause)
        await stage.act("abort")
        await stage.result()


async def test_by_signal_it_is_the_same_act(stage: Harness, conn: Connection) -> None:
    async with filling(stage, conn, max_replica_lag_s=3) as run:
        await stage.handle.signal("throttle", {"actor": "ann", "window": "none", "max_wal_retained_mb": 77})
        await stage.until(lambda status: status.backfill.limits == {"max_wal_retained_mb": 77, "window": "none"})
        await stage.handle.signal("throttle", {"actor": "ann", "reset": True})
        await stage.until(lambda status: status.backfill.limits == {})
        await run.ends()


async def test_a_probe_of_the_plan_holds_it_until_it_is_below_its_limit(stage: Harness, conn: Connection) -> None:
    await conn.execute("CREATE TABLE queue AS SELECT 5 AS job")
    probe = {"name": "queue-length", "sql": "SELECT count(*) FROM public.queue", "max": 3}
    async with filling(stage, conn, probes=[probe]) as run:
        await run.works()
        began = await run.now()
        await conn.execute("INSERT INTO queue SELECT generate_series(1, 9)")
        held = await run.held("probe")
        assert held.reason == "probe queue-length 10 (limit 3)"
        assert held.since is not None
        assert (held.since - began).total_seconds() < 3
        await conn.execute("TRUNCATE queue")
        await run.works()
        assert (await run.ends())["probe"] > 0


async def test_clients_who_wait_for_its_rows_make_it_careful(stage: Harness, conn: Connection, dsn: str) -> None:
    """A single page whose rows take long: the client waits for as long as the batch takes, and the batches after it shrink."""
    async with filling(stage, conn, prepare=_slow_rows, user_triggers="fire", batch_target_ms=250, pause_ms=0) as run:
        stop = asyncio.Event()

        async def client(first: int) -> None:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
                while not stop.is_set():
                    for row in range(first, 4000, 40):
                        # An update would fill the row, and the backfill would have nothing to do with it any more.
                        await session.execute("SELECT FROM reviews WHERE id = %s FOR UPDATE", [row])

        clients = [asyncio.create_task(client(number)) for number in (1, 7, 13, 29)]
        try:
            slowed = await run.slowed("blocked_clients")
            assert "for rows of a batch" in slowed.reason
            assert "(limit 250 ms)" in slowed.reason
        finally:
            stop.set()
            await asyncio.gather(*clients)
        await run.until(lambda seen: seen.throttle is None)
        await run.ends()


async def test_clients_whose_statements_take_longer_leave_it_a_share_of_its_time(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    """Clients that send at their own rate, and whose statements take five times as long while a batch runs."""
    slower = (
        "SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
        " AND application_name LIKE 'pgduet/backfill/%') THEN 0.1 ELSE 0.02 END)"
    )
    stop = asyncio.Event()

    async def client() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session:
            due = time.monotonic()
            while not stop.is_set():
                await session.execute(slower)
                due = max(due + 0.04, time.monotonic() - 0.2)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    clients = [asyncio.create_task(client()) for _ in range(6)]
    try:
        async with filling(
            stage, conn, prepare=_slow_rows, user_triggers="fire", batch_target_ms=25, pause_ms=0
        ) as run:
            slowed = await run.slowed("clients")
            assert slowed.rate <= 0.1
            assert "statements at a time" in slowed.reason
            assert slowed.reason.endswith("(limit 1.25 x)")
            said = (await run.stage.act("throttle", max_client_slowdown=1000.0)).message
            assert said == "max_client_slowdown = 1000"
            await run.until(lambda seen: seen.throttle is None or "limit 1000 x" in seen.throttle.reason)
            stop.set()
            await run.ends()
    finally:
        stop.set()
        await asyncio.gather(*clients)


async def _slow_rows(conn: Connection) -> None:
    """Have each row take a while to be written by the backfill: its statement holds its rows until it ends."""
    await conn.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF current_setting('application_name') LIKE 'pgduet/backfill/%' THEN PERFORM pg_sleep(0.002); END IF;"
        " RETURN NEW; END $$"
    )
    await conn.execute("CREATE TRIGGER slowly BEFORE UPDATE ON reviews FOR EACH ROW EXECUTE FUNCTION slowly()")
