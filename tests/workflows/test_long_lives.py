"""A migration outlives its history, its workflow, and its worker: continue-as-new, adoption, search attributes."""

import asyncio
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from typing import Any

import psycopg
import pytest
from support.aborting import Abort
from support.harness import Harness
from support.holding import begun, locked
from support.plans import create_reviews
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from pgduet.audits import ANCHORS
from pgduet.messages import Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 2_000)


async def test_a_soak_continues_as_new_and_can_still_be_rolled_back(forgetful: Harness, conn: Connection) -> None:
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(soak={"window_s": 3600, "legacy_idle_s": 0, "census_every_s": 0}))
        first_run = forgetful.handle.first_execution_run_id
        handle = forgetful.client.get_workflow_handle(forgetful.handle.id)
        forgetful.handles.append(handle)
        await forgetful.until(Phase.SOAK)
        while (await handle.describe()).run_id == first_run:
            await forgetful.status()
        status = await forgetful.waits("window", Phase.SOAK)
        assert status.timings[0].phase is Phase.EXPAND
        anchors = (await (await handle.describe()).memo())[ANCHORS]
        assert len(anchors) == 1 + Phase.SOAK.position, "the start and each phase, from the run before"
        assert anchors[-1] == status.audit_head
        await forgetful.act("abort")
        await forgetful.until(Phase.ROLLED_BACK)
        assert (await (await handle.describe()).memo())[ANCHORS][: len(anchors)] == anchors
    columns = await conn.execute("SELECT count(*) FROM pg_attribute WHERE attname LIKE '%pgduet%' AND NOT attisdropped")
    assert await columns.fetchone() == (0,)


async def test_without_search_attributes_a_migration_runs_all_the_same(forgetful: Harness) -> None:
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(gates={"verify": "manual"}))
        await forgetful.waits("gate", Phase.BACKFILL)


async def test_search_attributes_show_where_it_stands(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        shown = dict((await stage.handle.describe()).search_attributes)
    assert shown["PgduetPhase"] == ["soak"]
    assert shown["PgduetDatabase"] == [stage.database]
    assert shown["PgduetReadPercent"] == [100]


async def test_the_same_plan_after_done_says_that_it_is_done(stage: Harness, conn: Connection) -> None:
    plan = stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"})
    async with stage.worker():
        await stage.start(plan)
        assert (await stage.result()).state is State.DONE
        await stage.start(plan)
        assert (await stage.result()).state is State.DONE
    audited = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'done'")
    assert await audited.fetchone() == (1,), "nothing was done the second time"


async def test_the_history_stays_small_however_many_rows(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"}))
        await stage.result()
        events = (await stage.handle.fetch_history()).events
    assert len(events) < 400
    told = {event.workflow_task_completed_event_attributes.worker_version.build_id for event in events}
    assert told - {""} == {f"pgduet {metadata.version('pgduet')}"}, "and says who wrote it"


async def filled(stage: Harness, events: int) -> None:
    """Make a run's history long by messages that change nothing."""
    for _ in range(events):
        await stage.handle.signal("throttle", {"pause_ms": "none"})


async def fresh_run(stage: Harness) -> str:
    """Wait until another run goes on; gives its id."""
    handle = stage.client.get_workflow_handle(stage.handle.id)
    async with asyncio.timeout(20):
        while (run := (await handle.describe()).run_id) == stage.handle.first_execution_run_id:
            await asyncio.sleep(0.05)
    stage.handles.append(stage.client.get_workflow_handle(stage.handle.id, result_type=Status))
    assert run is not None
    return run


async def scheduled(stage: Harness) -> list[str]:
    """List the activities of the newest run."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await stage.handle.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


LONG = 150


async def test_a_gate_waits_on_in_a_fresh_run_with_the_approvals_that_it_had(
    forgetful: Harness, conn: Connection
) -> None:
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(gates={"backfill": "manual"}, approvals={"backfill": 2}))
        await forgetful.waits("approval", Phase.DUAL_WRITE)
        await forgetful.act("approve", gate="backfill")
        await filled(forgetful, LONG)
        await fresh_run(forgetful)
        status = await forgetful.waits("approval", Phase.DUAL_WRITE)
        assert status.approvals == {"backfill": ["tester"]}
        assert "dual_write" not in await scheduled(forgetful), "no step is done again for it"
        await forgetful.handle.execute_update("approve", {"actor": "second", "gate": "backfill"})
        await forgetful.waits("window", Phase.SOAK)


async def test_a_step_that_failed_is_not_tried_again_by_a_fresh_run(forgetful: Harness, conn: Connection) -> None:
    async with forgetful.worker():
        async with await psycopg.AsyncConnection.connect(forgetful.dsn) as user:
            await user.execute("SELECT FROM reviews LIMIT 1")
            await forgetful.start(forgetful.plan(lock_timeout_ms=20, lock_deadline_s=0.3))
            failed = await forgetful.waits("error", Phase.EXPAND)
            await filled(forgetful, LONG)
            await fresh_run(forgetful)
            status = await forgetful.waits("error", Phase.EXPAND)
            assert status.waiting_for == failed.waiting_for
            assert await scheduled(forgetful) == []
        await forgetful.act("advance")
        await forgetful.waits("window", Phase.SOAK)


def the_row(dsn: str) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
    """Hold the migration's row, so that an errand that has begun does not end."""
    return locked(dsn, "SELECT FROM pgduet.migration FOR UPDATE")


async def test_what_was_accepted_is_carried_out_before_a_fresh_run_goes_on(
    forgetful: Harness, conn: Connection
) -> None:
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(gates={"backfill": "manual"}))
        await forgetful.waits("gate", Phase.DUAL_WRITE)
        async with the_row(forgetful.dsn):
            paces = [await begun(forgetful, "throttle", pause_ms=pace) for pace in range(1, 6)]
            await filled(forgetful, LONG)
            # The run is over but for these; a decision that comes now must reach the next one.
            assert (await forgetful.act("advance")).message.startswith("advanced past")
        assert [(await pace.result()).message for pace in paces] == [f"pause_ms = {pace}" for pace in range(1, 6)]
        await fresh_run(forgetful)
        await forgetful.waits("window", Phase.SOAK)
    noted = await conn.execute(
        "SELECT evidence ->> 'pause_ms' FROM pgduet.audit WHERE action = 'controls' ORDER BY seq"
    )
    assert [row[0] for row in await noted.fetchall()] == ["1", "2", "3", "4", "5"]
    advanced = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'advance'")
    assert await advanced.fetchone() == (1,)


@pytest.mark.parametrize("kind", ["cancel", "signal", "update"])
async def test_an_abort_that_meets_the_change_of_runs_is_not_lost(
    forgetful: Harness, conn: Connection, kind: str
) -> None:
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(gates={"backfill": "manual"}))
        await forgetful.waits("gate", Phase.DUAL_WRITE)
        async with the_row(forgetful.dsn):
            pace = await begun(forgetful, "throttle", pause_ms=1)
            await filled(forgetful, LONG)
            abort = Abort(forgetful, kind)
            await abort.send(conn)
        await pace.result()
        assert (await abort.answer() is not None) == (kind == "update")
        await fresh_run(forgetful)
        if kind == "cancel":
            with pytest.raises(WorkflowFailureError) as caught:
                await forgetful.result()
            assert isinstance(caught.value.cause, CancelledError)
        else:
            assert (await forgetful.result()).state is State.ROLLED_BACK
        assert (await forgetful.status()).phase is Phase.ROLLED_BACK
    undone = await conn.execute(
        "SELECT action FROM pgduet.audit WHERE action LIKE 'undo%%' OR action = 'abort' ORDER BY seq"
    )
    assert [row[0] for row in await undone.fetchall()] == ["abort", "undo_dual_write", "undo_expand"]
