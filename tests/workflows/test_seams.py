"""What is easily lost at a seam: a word said twice, a range that is held when another one fails, a pause whose workflow is lost."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.plans import create_reviews
from temporalio.client import WorkflowUpdateFailedError

from pgduet import barriers
from pgduet.messages import Abort, Status
from pgduet.phases import Phase, State
from pgduet.plan.policy import Policy
from pgduet.workflows.desk import Desk

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 2_000)
    # Many pages, so that there are two ranges of several batches each.
    await conn.execute("ALTER TABLE reviews SET (fillfactor = 10)")
    await conn.execute("VACUUM FULL reviews")


SLOW = {"pause_ms": 700, "parallelism": 2, "batch_target_ms": 1}


@pytest.mark.usefixtures("reviews")
async def test_a_pause_that_is_said_twice_is_answered_twice(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        assert (await stage.act("pause")).message == "paused"
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await stage.act("pause", reason="once more")
        assert "it is paused already" in str(caught.value.cause)
        assert (await stage.act("resume")).message == "resumed"
        await stage.waits("gate", Phase.DUAL_WRITE)


@pytest.mark.usefixtures("reviews")
async def test_a_held_range_goes_on_when_the_one_before_it_fails(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(backfill=SLOW, gates={"verify": "manual"}))
        await stage.until(lambda status: status.backfill.parallelism == 2)
        await stage.act("throttle", parallelism=1)
        await stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/0").cancel()
        await stage.act("throttle", pause_ms=0)
        await stage.waits("error", Phase.BACKFILL)
        await stage.act("advance")
        await stage.waits("gate", Phase.BACKFILL)


@pytest.mark.usefixtures("reviews")
async def test_a_fault_of_ours_waits_for_somebody_and_says_where_without_its_text(
    stage: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise KeyError("a row's value")

    monkeypatch.setitem(barriers.HOOKS, "expand.before_commit", fail)
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        status = await stage.waits("error", Phase.EXPAND)
        assert status.failure is not None
        assert "a fault in pgduet: KeyError in fail (test_seams.py:" in status.failure
        assert "a row's value" not in status.model_dump_json()
        monkeypatch.delitem(barriers.HOOKS, "expand.before_commit")
        await stage.act("advance")
        await stage.waits("gate", Phase.DUAL_WRITE)


@pytest.mark.usefixtures("reviews")
async def test_a_pause_outlives_the_workflow_that_was_lost_and_says_so(stage: Harness) -> None:
    wanted = stage.plan(backfill=SLOW, gates={"verify": "manual"})
    async with stage.worker():
        await stage.start(wanted)
        await stage.until(Phase.BACKFILL)
        await stage.act("pause")
        await stage.handle.terminate("lost")
        await stage.start(wanted)
        await stage.until(lambda status: status.state is State.PAUSED)
        await stage.act("throttle", pause_ms=0)
        assert (await stage.act("resume")).message == "resumed"
        await stage.waits("gate", Phase.BACKFILL)


@pytest.mark.usefixtures("reviews")
async def test_a_backfill_that_is_adopted_waits_for_the_children_of_the_lost_workflow(stage: Harness) -> None:
    wanted = stage.plan(backfill=SLOW, gates={"verify": "manual"})
    async with stage.worker():
        await stage.start(wanted)
        await stage.until(lambda status: status.backfill.parallelism == 2)
        child = stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/1")
        while "fill_slice" not in str((await child.describe()).raw_description.pending_activities):
            await stage.status()
        await stage.handle.terminate("lost")
        await stage.start(wanted)
        await stage.until(lambda status: status.backfill.parallelism == 2)
        await stage.act("throttle", pause_ms=0)
        status = await stage.until(
            lambda status: bool(status.waiting_for and status.waiting_for.kind in {"gate", "error"}), timeout_s=60
        )
        assert (status.waiting_for and status.waiting_for.kind, status.failure) == ("gate", None)


def opened() -> Desk:
    status = Status(
        name="a",
        database="b",
        workflow_id="c",
        phase=Phase.SOAK,
        state=State.RUNNING,
        from_version="1",
        to_version="2",
        plan_checksum="d",
    )
    return Desk(status, Policy(), lambda: datetime.now(UTC))


def test_force_that_is_asked_for_later_forgets_no_cascade() -> None:
    desk = opened()
    desk.take("abort", Abort(actor="ann", cascade=True))
    desk.take("abort", Abort(actor="bob", force=True))
    assert desk.abort == Abort(actor="bob", force=True, cascade=True)


def test_what_is_met_while_it_is_paused_is_still_waited_for_after_resume() -> None:
    desk = opened()
    desk.take("pause", None)
    desk.wait_for("drift", "3 rows differ", "pgduet advance a")
    desk.take("resume", None)
    assert desk.status.waiting_for is not None
    assert desk.status.waiting_for.kind == "drift"
    desk.take("advance", None)
    assert desk.advanced is not None


async def test_a_value_that_the_type_does_not_take_is_no_obstacle(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 200, trigger=False)
    operation = {
        "add_column": {
            "table": "public.reviews",
            "column": {"name": "short", "type": "varchar(3)", "up": "CASE WHEN id > 5 THEN 'too long' ELSE 'ok' END"},
        }
    }
    async with stage.worker():
        await stage.start(stage.plan(operation))
        status = await stage.waits("error", Phase.BACKFILL)
        assert "`up` cannot map" in (status.failure or "")
