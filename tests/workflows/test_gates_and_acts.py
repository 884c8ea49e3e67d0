"""Gates, approvals, pauses: each act is accepted or refused by the same rules, as signal and as update."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.plans import create_reviews
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from pgduet.messages import Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ROWS = 2_000


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


async def refused(stage: Harness, update: str, **fields: Any) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await stage.act(update, **fields)
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "ActRefused"
    return cause.message


async def test_contract_waits_for_two_distinct_actors(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(soak={"window_s": 0.5, "legacy_idle_s": 0.5}))
        status = await stage.waits("approval", Phase.SOAK)
        assert status.waiting_for is not None
        assert status.waiting_for.detail == "approval of contract: 0 of 2"
        assert status.waiting_for.next_commands[0] == "pgduet approve review-stars --gate contract"
        assert "approvals are missing" in await refused(stage, "advance")
        assert (await stage.act("approve", gate="contract")).message == "1 of 2 approvals for contract"
        assert "has approved contract already" in await refused(stage, "approve", gate="contract")
        await stage.handle.execute_update("approve", {"actor": "second", "gate": "contract"})
        status = await stage.result()
    assert status.state is State.DONE
    assert status.approvals == {"contract": ["tester", "second"]}


async def test_a_manual_gate_without_approvals_opens_by_advance(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await stage.handle.signal("advance")
        await stage.until(Phase.SOAK)


async def test_acts_that_make_no_sense_are_refused_with_the_reason(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        assert "from shift on" in await refused(stage, "route", read_percent=10)
        assert "nothing to compare yet" in await refused(stage, "verify")
        assert "it is not paused" in await refused(stage, "resume")
        assert "asks for no approval" in await refused(stage, "approve", gate="backfill")
        assert "read_percent" in await refused(stage, "route", read_percent=101)
        assert "gate" in await refused(stage, "approve", gate="nowhere")
        assert "Extra inputs" in await refused(stage, "advance", surprise=1)


async def test_malformed_signals_are_noted_and_ignored(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        for argument in (5, "x", [1], {"gate": {"deep": []}}, {"actor": ""}, None):
            await stage.handle.signal("approve", argument)
        await stage.handle.signal("approve")
        await stage.handle.signal("backfill_report", {"relation": 5})
        status = await stage.until(lambda status: len(status.decisions) >= 8)
        assert all("ignored" in line for line in status.decisions)
        await stage.handle.signal("advance", {"actor": "operator", "reason": "go"})
        await stage.until(Phase.SOAK)


async def test_a_pause_holds_the_backfill_and_resume_lets_it_finish(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(backfill={"pause_ms": 5_000, "parallelism": 1}, gates={"verify": "manual"}))
        await stage.until(Phase.BACKFILL)
        await stage.act("pause", reason="lunch")
        status = await stage.until(lambda status: status.state is State.PAUSED)
        assert status.waiting_for is not None
        assert status.waiting_for.next_commands == ["pgduet resume review-stars"]
        assert "it is paused already" in await refused(stage, "pause")
        assert "pgduet resume review-stars" in await refused(stage, "advance")
        await stage.act("throttle", pause_ms=0)
        assert (await stage.act("resume")).message == "resumed"
        await stage.waits("gate", Phase.BACKFILL)
    left = await (
        await conn.execute('SELECT count(*) FROM reviews WHERE "_pgduet_review-stars_stars" IS NULL')
    ).fetchone()
    assert left == (0,)


async def test_parallelism_is_lowered_and_raised_while_ranges_are_filled(stage: Harness, conn: Connection) -> None:
    slow = {"pause_ms": 700, "parallelism": 2, "batch_target_ms": 1}
    # Many pages, so that there are two ranges of several batches each.
    await conn.execute("ALTER TABLE reviews SET (fillfactor = 10)")
    await conn.execute("VACUUM FULL reviews")

    async def cursors() -> list[int]:
        found = await conn.execute("SELECT cursor_block - block_from FROM pgduet.backfill_range ORDER BY part")
        return [row[0] for row in await found.fetchall()]

    async with stage.worker():
        await stage.start(stage.plan(backfill=slow, gates={"verify": "manual"}))
        status = await stage.until(lambda status: status.backfill.parallelism == 2)
        while min([*await cursors(), *[0] * 2][:2]) == 0:
            await stage.status()
        answer = await stage.act("throttle", parallelism=1)
        assert answer.message == "parallelism = 1"
        held = await (await conn.execute("SELECT controls -> 'held' FROM pgduet.migration")).fetchone()
        assert held is not None
        [label] = held[0]
        number = int(label.rpartition("/")[2])
        child = stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/{number}")
        while "SIGNALED" not in str((await child.fetch_history()).events):
            await stage.status()
        while "fill_slice" in str((await child.describe()).raw_description.pending_activities):
            await stage.status()
        before = await cursors()
        while (now := await cursors())[1 - number] == before[1 - number]:
            await stage.status()
        assert now[number] == before[number], "the range that began last holds"
        assert (await stage.act("throttle", parallelism=2, pause_ms=0)).message == "pause_ms = 0, parallelism = 2"
        status = await stage.waits("gate", Phase.BACKFILL)
        assert status.backfill.parallelism == 2
    left = await (
        await conn.execute('SELECT count(*) FROM reviews WHERE "_pgduet_review-stars_stars" IS NULL')
    ).fetchone()
    assert left == (0,)


async def test_reads_are_moved_by_hand_in_soak(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await stage.act("route", read_percent=25)
        status = await stage.status()
    assert status.read_percent == 25
    assert await (await conn.execute("SELECT read_percent FROM pgduet.route")).fetchone() == (25,)


async def test_drift_is_named_by_verify_and_repaired_on_request(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await conn.execute("ALTER TABLE reviews DISABLE TRIGGER ALL")
        await conn.execute("UPDATE reviews SET rating = '9' WHERE id = 42")
        await conn.execute('ALTER TABLE reviews ENABLE ALWAYS TRIGGER "~pgduet_insert_review-stars"')
        await conn.execute('ALTER TABLE reviews ENABLE ALWAYS TRIGGER "~pgduet_update_review-stars"')
        assert (await stage.act("verify")).message.startswith("1 of 2000 rows differ")
        status: Status = await stage.status()
        assert status.parity is not None
        assert [row["key"] for row in status.parity.examples] == [{"id": 42}]
        assert (await stage.act("verify", repair=True)).message == "0 of 2000 rows differ, 1 repaired"
    rating = await (await conn.execute("SELECT rating FROM reviews WHERE id = 42")).fetchone()
    assert rating == ("3",), "authority is with the new version: the old side follows it"


async def test_a_contract_is_blocked_while_an_old_session_lives(stage: Harness, conn: Connection, dsn: str) -> None:
    async with stage.worker():
        await stage.start(stage.plan(soak={"window_s": 0.5, "legacy_idle_s": 0.5}, approvals={"contract": 1}))
        await stage.waits("approval", Phase.SOAK)
        async with await psycopg.AsyncConnection.connect(dsn, application_name="nightly-export") as old:
            await old.execute("SELECT rating FROM public_v1.reviews LIMIT 1")
            await stage.act("approve", gate="contract")
            status = await stage.until(lambda s: s.waiting_for is not None and s.waiting_for.kind == "census")
            assert status.waiting_for is not None
            assert "nightly-export" in status.waiting_for.detail
            assert "still use it" in await refused(stage, "advance")
        assert (await stage.result()).state is State.DONE
    row = await (await conn.execute("SELECT stars FROM reviews WHERE id = 1")).fetchone()
    assert row == (2,)


async def test_after_contract_has_begun_there_is_no_abort(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"}))
        status = await stage.result()
        assert status.state is State.DONE
        with pytest.raises(Exception, match="completed"):
            await stage.act("abort")


@pytest.mark.parametrize("raw", [None, 5, "x", {}, {"plan": {}}, {"plan": {"name": "a"}, "extra": 1}])
async def test_a_bad_start_fails_at_once_with_its_reason_and_can_be_asked(stage: Harness, raw: object) -> None:
    async with stage.worker():
        handle = await stage.client.start_workflow(
            "Migration", args=[] if raw is None else [raw], id=f"bad/{stage.queue}", task_queue=stage.queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type in {"InvalidInput", "PlanErrors"}
        status = await handle.query("status", result_type=Status)
        assert status.state is State.FAILED
        assert status.failure == caught.value.cause.message


_NAMED = {"name": "name", "type": "varchar(20)", "nullable": False}
_NOBODY = "CASE WHEN name IS NULL THEN 'nobody' ELSE name END"


@pytest.mark.parametrize(
    "operation",
    [
        {
            "alter_column": {
                "table": "public.people",
                "column": "name",
                "nullable": False,
                "up": _NOBODY,
                "down": "name",
            }
        },
        {"shadow_table": {"table": "public.people", "columns": [_NAMED | {"up": _NOBODY}], "down": {"name": "name"}}},
    ],
    ids=["in place", "shadow"],
)
async def test_a_type_that_was_changed_since_preflight_is_refused_before_a_client_can_meet_it(
    stage: Harness, conn: Connection, operation: dict[str, Any]
) -> None:
    await conn.execute("CREATE TABLE public.people (id integer PRIMARY KEY, name varchar(20))")
    await conn.execute("INSERT INTO public.people VALUES (1, 'Ada')")
    async with stage.worker():
        await stage.start(stage.plan(operation, gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        await conn.execute("ALTER TABLE public.people ALTER name TYPE text")
        await stage.act("advance")
        status = await stage.waits("error", Phase.DUAL_WRITE)
        assert status.waiting_for is not None
        assert 'column "name"' in (status.waiting_for.detail or "")
        assert "character varying(20) at preflight, and is text now" in (status.waiting_for.detail or "")
        await conn.execute("UPDATE public.people SET name = repeat('x', 30)")
        await stage.act("abort", reason="test")
        assert (await stage.result()).state is State.ROLLED_BACK
