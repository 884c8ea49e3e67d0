"""Through the overlap a Temporal Schedule compares both versions: from publication to contract, or to the end of a rollback."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import POLL_S, TIMEOUT_S, Harness, pgduet
from support.plans import NAME, create_reviews
from support.stage import staged
from temporalio.client import Schedule, ScheduleDescription
from temporalio.service import RPCError, RPCStatusCode

from pgduet.client import Migrations
from pgduet.local import LocalTemporal
from pgduet.measured import Parity
from pgduet.messages import Abort, SetupInput, SetupResult, Status
from pgduet.phases import Phase, State
from pgduet.reconciling import Reconciled

Connection = psycopg.AsyncConnection[Any]
ROWS = 200
OFTEN = {"reconcile_every_s": 1}
SOON: dict[str, Any] = {"shadow": {"mode": "skip"}, "shift": {"steps": [100], "bake_s": 0}}
REPAIR = f"pgduet verify {NAME} --repair"
READING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgduet/parity/%' AND wait_event_type = 'Lock'"
)


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


async def drift(conn: Connection, rows: int = 1) -> None:
    """Have both versions of some rows disagree, as when somebody has gone past the triggers."""
    ours = await conn.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.reviews'::regclass AND tgenabled = 'A'"
    )
    names = [sql.Identifier(row[0]) for row in await ours.fetchall()]
    async with conn.transaction():
        for name in names:
            await conn.execute(sql.SQL("ALTER TABLE public.reviews DISABLE TRIGGER {}").format(name))
        await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id <= %s", (rows,))
        for name in names:
            await conn.execute(sql.SQL("ALTER TABLE public.reviews ENABLE ALWAYS TRIGGER {}").format(name))


async def scheduled(stage: Harness) -> ScheduleDescription | None:
    """Describe the schedule; None where there is none."""
    try:
        return await stage.schedule().describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    ends = time.monotonic() + 2 * TIMEOUT_S
    while not await condition():
        assert time.monotonic() < ends, "it did not come to pass"
        await asyncio.sleep(POLL_S)


async def gone(stage: Harness) -> bool:
    return await scheduled(stage) is None


async def one(conn: Connection, query: str) -> Any:
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def comparisons(conn: Connection) -> int:
    """Count what the schedule has compared, by the audit log."""
    return int(await one(conn, "SELECT count(*) FROM pgduet.audit WHERE action = 'parity' AND evidence ? 'scheduled'"))


async def compared(conn: Connection, more: int = 1) -> None:
    """Wait until it has compared so often again."""
    wanted = await comparisons(conn) + more

    async def enough() -> bool:
        return await comparisons(conn) >= wanted

    await eventually(enough)


async def page(stage: Harness) -> str:
    code, said = await pgduet(stage, "status", NAME, "--database", stage.database)
    assert code == 0, said
    return " ".join(said.split())


@asynccontextmanager
async def locked(stage: Harness) -> AsyncIterator[None]:
    """Keep everybody from reading the table."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as other:
        await other.execute("LOCK public.reviews IN ACCESS EXCLUSIVE MODE")
        yield


async def test_it_is_there_from_publication_to_contract(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN, gates={"verify": "manual"}))
        await stage.waits("gate", Phase.BACKFILL)
        assert await gone(stage)
        await stage.act("advance")
        status = await stage.waits("window", Phase.SOAK)
        assert status.reconciliation is not None
        assert status.reconciliation.schedule_id == f"reconcile/{stage.database}/{NAME}"
        await compared(conn, 2)
        seen = await Migrations(stage.client, task_queue=stage.queue).status(NAME, stage.database)
        assert seen.reconciliation is not None
        assert seen.reconciliation.last_at is not None
        assert seen.reconciliation.next_at is not None
        assert seen.parity is not None
        assert status.parity is not None
        assert seen.parity.checked_at > status.parity.checked_at, "the migration heard of it"
        said = await page(stage)
        assert "every 1 s · last " in said
        assert " · next " in said
        await stage.act("advance")
        await stage.waits("approval", Phase.SOAK)
        for who in ("one", "two"):
            await stage.handle.execute_update("approve", {"gate": "contract", "actor": who})
        assert (await stage.result()).state is State.DONE
        assert await gone(stage)


async def test_drift_is_told_at_a_gate_and_holds_the_cutover_until_it_is_repaired(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN | {"max_drift_rows": 2}, gates={"cutover": "manual"}))
        await stage.waits("approval", Phase.SHIFT)
        await drift(conn, 2)
        await stage.until(lambda status: bool(status.parity and status.parity.mismatches == 2))
        assert (await stage.status()).drift is None, "the plan bears two rows"
        await drift(conn, 3)
        status = await stage.until(lambda status: status.drift is not None)
        assert status.waiting_for is not None
        assert status.waiting_for.kind == "approval", "the gate stays what it waits for"
        assert await stage.handle.query("next_commands") == [REPAIR, *status.waiting_for.next_commands]
        said = await page(stage)
        assert f"3 of {ROWS} rows differ" in said
        assert "beyond what the plan bears" in said
        assert REPAIR in said
        await stage.act("approve", gate="cutover")
        status = await stage.waits("drift", Phase.SHIFT)
        assert status.waiting_for is not None
        assert status.waiting_for.detail.startswith(f"3 of {ROWS} rows differ")
        assert status.waiting_for.next_commands[0] == REPAIR
        await compared(conn, 2)
        assert await one(conn, "SELECT count(*) FROM pgduet.audit WHERE action = 'drift'") == 1
        evidence = await one(conn, "SELECT evidence FROM pgduet.audit WHERE action = 'drift'")
        assert (evidence["mismatches"], evidence["max_drift_rows"], evidence["then"]) == (3, 2, "wait")
        await stage.act("verify", repair=True)
        status = await stage.waits("window", Phase.SOAK)
        assert status.drift is None, "it went on by itself"


async def test_somebody_may_advance_past_drift_until_the_next_comparison(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(shadow={"mode": "skip"}, shift={"steps": [100], "bake_s": 600}, verify=OFTEN))
        await stage.waits("bake", Phase.SHIFT)
        await drift(conn)
        await stage.waits("drift", Phase.SHIFT)
        await stage.schedule().pause(note="let me look")
        await eventually(lambda: heard_all(stage, conn))
        await stage.act("advance")
        await stage.waits("bake", Phase.SHIFT)
        assert (await stage.status()).drift is not None
        await stage.schedule().unpause()
        await stage.waits("drift", Phase.SHIFT)


async def test_drift_rolls_back_by_itself_where_the_plan_says_so(stage: Harness, conn: Connection) -> None:
    policy: dict[str, Any] = {"verify": OFTEN, "rollback": {"automatic_on": ["drift"]}, "gates": {"cutover": "manual"}}
    async with stage.worker():
        await stage.start(stage.plan(**SOON, **policy))
        await stage.waits("approval", Phase.SHIFT)
        await drift(conn)
        status = await stage.result()
        assert status.state is State.ROLLED_BACK
        assert (status.rollback or "").startswith(f"pgduet: 1 of {ROWS} rows differ")
        assert await gone(stage)
        code, report = await pgduet(stage, "report", NAME, "--database", stage.database)
        assert code == 0
        assert "found 1 rows that differ (0 are borne): roll back" in report
    assert await one(conn, "SELECT evidence ->> 'then' FROM pgduet.audit WHERE action = 'drift'") == "roll back"


async def test_a_forged_result_decides_nothing(stage: Harness, conn: Connection) -> None:
    forged = Parity(checked_at=datetime.now(UTC) + timedelta(days=1), rows=9, mismatches=9)
    policy: dict[str, Any] = {"rollback": {"automatic_on": ["drift"]}, "gates": {"cutover": "manual"}}
    async with stage.worker():
        await stage.start(stage.plan(**SOON, **policy))
        before = await stage.waits("approval", Phase.SHIFT)
        await stage.handle.signal("reconciled", Reconciled(parity=forged))
        await stage.handle.signal("reconciled", Reconciled(parity=forged.model_copy(update={"mismatches": 0})))
        naive = {"checked_at": "2026-01-01T00:00:00", "rows": 1, "mismatches": 0}
        for raw in ({"parity": naive}, {"parity": {"rows": "many"}}, 5, None):
            await stage.handle.signal("reconciled", raw)
        status = await stage.until(lambda status: "cannot be read" in status.decisions[-1])
        assert (status.phase, status.parity, status.drift) == (Phase.SHIFT, before.parity, None)
        await stage.act("approve", gate="cutover")
        await stage.waits("window", Phase.SOAK)


async def test_a_pause_of_the_migration_holds_it_and_a_pause_in_temporal_stays(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN))
        await stage.waits("window", Phase.SOAK)
        async with locked(stage):
            await eventually(lambda: reading(conn))
            await stage.act("pause", reason="it is busy")
            await eventually(lambda: not_reading(conn))
        found = await scheduled(stage)
        assert found is not None
        assert found.schedule.state.paused
        assert "not now: held, by tester: it is busy" in await page(stage)
        before = await comparisons(conn)
        await stage.schedule().trigger()
        await eventually(lambda: ended(stage, found.info.num_actions))
        assert await comparisons(conn) == before, "who starts one by hand is told that it is paused"
        await stage.act("resume")
        await compared(conn)
        await stage.schedule().pause(note="the DBA looks into it")
        await stage.act("pause")
        await stage.act("resume")
        assert "not now: the DBA looks into it" in await page(stage)
        await stage.schedule().unpause()
        await compared(conn)


async def reading(conn: Connection) -> bool:
    return bool(await one(conn, READING) == 1)


async def not_reading(conn: Connection) -> bool:
    return bool(await one(conn, READING) == 0)


async def heard_all(stage: Harness, conn: Connection) -> bool:
    """Tell whether the pause has taken hold, nothing compares any more, and the migration knows of the last comparison."""
    found = await scheduled(stage)
    if found is None or not found.schedule.state.paused or found.info.running_actions:
        return False
    known = (await stage.status()).parity
    kept = Parity.model_validate(await one(conn, "SELECT parity FROM pgduet.migration"))
    return known is not None and known.checked_at == kept.checked_at


async def ended(stage: Harness, before: int) -> bool:
    """Tell whether another run than those before was started and has ended."""
    found = await scheduled(stage)
    return found is not None and found.info.num_actions > before and not found.info.running_actions


async def test_there_are_never_two_comparisons_at_once(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN))
        await stage.waits("window", Phase.SOAK)
        async with locked(stage):
            await eventually(lambda: reading(conn))
            found = await scheduled(stage)
            assert found is not None
            asked = asyncio.create_task(stage.act("verify"))
            async with asyncio.timeout(TIMEOUT_S):
                while (now := await scheduled(stage)) and now.info.num_actions_skipped_overlap < 3:
                    assert await one(conn, READING) == 1
                    await asyncio.sleep(POLL_S)
            assert not asked.done()
        assert "0 of 200 rows differ" in (await asked).message


async def test_a_lost_workflow_is_still_compared_and_leaves_nothing_when_it_is_adopted(
    stage: Harness, conn: Connection
) -> None:
    migrations = Migrations(stage.client, task_queue=stage.queue)
    plan = stage.plan(**SOON, verify=OFTEN)
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await stage.handle.terminate("lost")
        await compared(conn, 2)
        found = await scheduled(stage)
        assert found is not None
        await stage.start(plan)
        status = await stage.waits("window", Phase.SOAK)
        assert any("adopted in soak" in line for line in status.decisions)
        again = await scheduled(stage)
        assert again is not None
        assert again.info.created_at == found.info.created_at, "it found its schedule"
        await stage.handle.terminate("lost again")
        await migrations.rollback(NAME, Abort(actor="dba"), database=stage.database)
        await migrations.wait(NAME, Phase.ROLLED_BACK, 60, database=stage.database)
        assert await gone(stage)


async def test_a_worker_that_is_killed_while_it_makes_the_schedule_makes_one(stage: Harness) -> None:
    with stage.worker_process("schedule.after_change=kill") as first:
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await first.killed()
        found = await scheduled(stage)
        assert found is not None
    async with stage.worker():
        await stage.waits("gate", Phase.VERIFY)
        again = await scheduled(stage)
        assert again is not None
        assert again.info.created_at == found.info.created_at
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
        assert await gone(stage)


async def test_a_schedule_without_a_migration_takes_itself_away_or_is_swept_by_setup(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        found = await scheduled(stage)
        assert found is not None
        await stage.act("abort")
        await stage.result()
        await leave_behind(stage, found.schedule)
        await stage.schedule().trigger()
        await eventually(lambda: gone(stage))
        await leave_behind(stage, found.schedule)
        given = SetupInput(database=stage.database)
        id_ = f"setup/{stage.database}"

        async def swept() -> bool:  # Temporal's list of schedules is a moment late
            done = await stage.client.execute_workflow(
                "Setup", given, id=id_, task_queue=stage.queue, result_type=SetupResult
            )
            return any("removed schedules" in line for line in done.done)

        await eventually(swept)
        assert await gone(stage)


async def leave_behind(stage: Harness, schedule: Schedule) -> None:
    """Have a schedule of the first attempt there again."""
    await stage.client.create_schedule(stage.schedule().id, schedule, memo={"migration_id": 1})


async def test_a_later_attempt_replaces_what_an_earlier_one_has_left(stage: Harness, conn: Connection) -> None:
    plan = stage.plan(**SOON, verify=OFTEN, gates={"shadow": "manual"})
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("gate", Phase.VERIFY)
        found = await scheduled(stage)
        assert found is not None
        await stage.act("abort")
        await stage.result()
        await leave_behind(stage, found.schedule)
        await stage.schedule().pause(note="so that it does not take itself away")
        await stage.start(plan)
        await stage.waits("gate", Phase.VERIFY)
        await compared(conn)


async def test_a_rollback_that_waits_for_clients_goes_on_comparing(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN, gates={"cutover": "manual"}))
        await stage.waits("approval", Phase.SHIFT)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT stars FROM public_v2.reviews LIMIT 1")
            await stage.act("abort")
            await stage.until(lambda status: bool(status.waiting_for and status.waiting_for.kind == "clients"))
            await compared(conn, 2)
        assert (await stage.result()).state is State.ROLLED_BACK
        assert await gone(stage)


@pytest.fixture(scope="module")
def without_schedules() -> Iterator[LocalTemporal]:
    with LocalTemporal(ui=False, dynamic_config={"frontend.enableSchedules": "false"}) as server:
        yield server


@pytest.fixture
async def unscheduled(
    without_schedules: LocalTemporal, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    async with staged(without_schedules, dsn, tmp_path, monkeypatch) as harness:
        yield harness


async def test_where_there_are_no_schedules_it_says_so_and_soak_compares_by_itself(
    unscheduled: Harness, conn: Connection
) -> None:
    stage = unscheduled
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN))
        status = await stage.waits("window", Phase.SOAK)
        assert status.reconciliation is not None
        assert status.reconciliation.why_not is not None
        assert any("no scheduled comparisons: " in line for line in status.decisions)
        assert "in soak only" in await page(stage)
        await drift(conn)
        await stage.waits("drift", Phase.SOAK)
        await stage.act("verify", repair=True)
        await stage.waits("window", Phase.SOAK)
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK


async def test_a_comparison_costs_the_migration_a_few_events(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify=OFTEN, gates={"cutover": "manual"}))
        await stage.waits("approval", Phase.SHIFT)
        before, made = (await stage.handle.describe()).history_length, await comparisons(conn)
        await compared(conn, 4)
        grown = (await stage.handle.describe()).history_length - before
        assert 0 < grown <= 5 * (await comparisons(conn) - made)


async def test_a_history_is_bounded_however_long_a_gate_is_closed(forgetful: Harness, conn: Connection) -> None:
    stage = forgetful
    async with stage.worker():
        await stage.start(stage.plan(**SOON, gates={"cutover": "manual"}))
        parity = (await stage.waits("approval", Phase.SHIFT)).parity
        assert parity is not None
        latest = stage.client.get_workflow_handle(stage.handle.id)
        runs = {(await latest.describe()).run_id}
        number = 0
        while len(runs) < 4:  # as weeks of comparisons would: each is news
            number += 1
            later = parity.model_copy(update={"checked_at": parity.checked_at + timedelta(microseconds=number)})
            await latest.signal("reconciled", Reconciled(parity=later))
            runs.add((await latest.describe()).run_id)
        assert (await latest.describe()).history_length < 300
        await drift(conn)
        await stage.schedule().trigger()
        status = await stage.until(lambda status: status.drift is not None)
        assert (status.phase, status.state) == (Phase.SHIFT, State.WAITING)


async def test_a_cutover_does_not_rest_on_a_comparison_that_has_gone_stale(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**SOON, verify={"fresh_for_s": 0}))
        await stage.waits("window", Phase.SOAK)
    order = await conn.execute(
        "SELECT action FROM pgduet.audit WHERE action IN ('parity', 'enter cutover', 'prepare_cutover', 'cutover') ORDER BY seq"
    )
    told = [row[0] for row in await order.fetchall()]
    assert told[told.index("enter cutover") :] == ["enter cutover", "parity", "prepare_cutover", "parity", "cutover"]


async def test_status_tells_the_same_as_json(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        code, said = await pgduet(stage, "status", NAME, "--database", stage.database, "--json")
        assert code == 0
        told = Status.model_validate(json.loads(said)).reconciliation
        assert told is not None
        assert (told.every_s, told.paused, told.why_not, told.last_at) == (3600, None, None, None)
        assert told.next_at is not None
        assert timedelta(0) < told.next_at - datetime.now(UTC) <= timedelta(hours=1)
        await stage.schedule().delete()
        assert "somebody has deleted the schedule" in await page(stage)
        await stage.act("pause")
        await stage.act("resume")
        assert "next " in await page(stage)
