"""Abort while something else is under way: an update, a step or an undo that fails, contract; and the races at a run's seams."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.aborting import (
    KINDS,
    Abort,
    all_answered,
    blocked,
    cli,
    closed,
    put_back,
    refusal,
    scheduled,
    schema_before,
    undos_from,
)
from support.harness import Harness, schema_dump
from support.holding import begun, held_at, locked
from support.plans import NAME, create_reviews
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from pgduet.client import Migrations
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Start, Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ROWS = 300


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


@pytest.fixture
def before(postgres: EmbeddedPostgres, stage: Harness, reviews: None) -> str:
    return schema_before(postgres.bin_dir, stage.dsn)


# During an update that still runs


ROW = f"SELECT FROM pgduet.migration WHERE name = '{NAME}' FOR UPDATE"
TABLE = "LOCK TABLE public.reviews IN ACCESS EXCLUSIVE MODE"
ROUTE = f"SELECT FROM pgduet.route WHERE migration = '{NAME}' FOR UPDATE"


@pytest.mark.parametrize(
    ("update", "fields", "lock", "purpose", "kind"),
    [
        ("verify", {}, TABLE, "parity", "signal"),
        ("verify", {"repair": True}, TABLE, "parity", "cancel"),
        ("throttle", {"pause_ms": 5}, ROW, "controls", "update"),
        ("pause", {}, ROW, "controls", "cli"),
        ("route", {"read_percent": 40}, ROUTE, "route", "cancel"),
    ],
)
async def test_an_abort_stops_an_update_that_still_runs_and_it_is_answered(
    stage: Harness,
    conn: Connection,
    postgres: EmbeddedPostgres,
    before: str,
    update: str,
    fields: dict[str, Any],
    lock: str,
    purpose: str,
    kind: str,
) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        async with locked(stage.dsn, lock) as user:
            running = await begun(stage, update, **fields)
            await blocked(conn, purpose)
            waiting = await begun(stage, "verify")
            abort = Abort(stage, kind)
            await abort.send(conn)
            if lock != ROW:  # in which the rollback itself is decided
                answer = await asyncio.wait_for(running.result(), 20)
                assert "it is rolling back" in answer.message
            await user.rollback()
        assert (await asyncio.wait_for(running.result(), 20)).accepted
        told = (await asyncio.wait_for(waiting.result(), 20)).message
        assert "it is rolling back" in told or lock == ROW
        await put_back(stage, conn, postgres, before, undos_from(Phase.SOAK), cancelled=kind == "cancel")
        assert await abort.exit_code() in {None, 0}
    route = await conn.execute("SELECT read_percent, authority FROM pgduet.route")
    assert await route.fetchone() == (0, "old"), "no read was sent to the new version after it"


async def test_an_update_that_waits_for_preflight_is_answered_when_preflight_refuses(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await conn.execute("SELECT pg_advisory_lock(hashtext('pgduet.setup'))")
        await stage.start(stage.plan())
        paused = await begun(stage, "pause")
        await conn.execute("DROP TABLE public.reviews")
        await conn.execute("SELECT pg_advisory_unlock(hashtext('pgduet.setup'))")
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type == "UnknownTable"
        assert (await paused.result()).message == "not done: preflight refused the plan"
        await all_answered(stage)


# With an activity that keeps failing

IMPATIENT = {"lock_timeout_ms": 20, "lock_deadline_s": 0.5}


@pytest.mark.parametrize("kind", KINDS)
async def test_where_steps_fail_in_both_directions_the_undo_is_tried_until_the_cause_is_gone(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, kind: str
) -> None:
    async with stage.worker():
        async with locked(stage.dsn, "SELECT FROM public.reviews LIMIT 1") as user:
            await stage.start(stage.plan(**IMPATIENT))
            status = await stage.waits("error", Phase.EXPAND)
            assert status.waiting_for is not None
            assert "no lock for" in status.waiting_for.detail
            abort = Abort(stage, kind)
            await abort.send(conn)
            status = await stage.until(undo_fails("undo_expand"))
            assert status.waiting_for is not None
            assert status.waiting_for.next_commands == [f"pgduet advance {NAME}"]
            assert status.failure == status.waiting_for.detail
            assert (await stage.handle.describe()).status is WorkflowExecutionStatus.RUNNING
            await user.rollback()
        status = await closed(stage)
        assert status.failure is None
        undone = await scheduled(stage)
        assert set(undone) == {"undo_expand"}
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        cursor = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'undo_expand'")
        assert await cursor.fetchone() == (1,), "many tries, one undo"
        assert await abort.exit_code() in {None, 0}


def undo_fails(undo: str) -> Callable[[Status], bool]:
    def so(status: Status) -> bool:
        waiting = status.waiting_for
        return status.state is State.ROLLING_BACK and waiting is not None and waiting.detail.startswith(f"{undo}: ")

    return so


REFUSES = """
CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE object_type = 'trigger')
             THEN RAISE EXCEPTION 'nothing is dropped on a Friday'; END IF; END $$;
CREATE EVENT TRIGGER friday ON sql_drop EXECUTE FUNCTION public.no();
"""


async def test_an_undo_that_is_refused_says_so_and_advance_tries_at_once(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await conn.execute(REFUSES)
        await stage.act("abort")
        status = await stage.until(undo_fails("undo_dual_write"))
        assert status.waiting_for is not None
        assert "nothing is dropped on a Friday" in status.waiting_for.detail
        for kind in ("signal", "update", "cancel", "cli"):
            second = Abort(stage, kind)
            await second.send(conn)
            assert await second.exit_code() in {None, 0}
        # Until the pause between two tries is long enough for the next try to be the advance's own.
        while (await tries(stage, "undo_dual_write")) < 4:
            await stage.status()
        told = [line for line in (await stage.status()).decisions if "Friday" in line]
        assert len(told) == 1, "the same failure again is no news"
        await stage.until(undo_fails("undo_dual_write"))
        await conn.execute("DROP EVENT TRIGGER friday; DROP FUNCTION public.no()")
        await stage.act("advance", reason="Saturday")
        await closed(stage)
        kinds = [event.event_type for event in (await stage.handle.fetch_history()).events]
        assert EventType.EVENT_TYPE_TIMER_CANCELED in kinds, "the pause was cut short"
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        undone = await scheduled(stage)
        assert list(dict.fromkeys(undone)) == undos_from(Phase.DUAL_WRITE), "in order, none left out"
        cursor = await conn.execute("SELECT action FROM pgduet.audit WHERE action LIKE 'undo%%' ORDER BY seq")
        assert [row[0] for row in await cursor.fetchall()] == undos_from(Phase.DUAL_WRITE)
        await all_answered(stage)


async def tries(stage: Harness, activity: str) -> int:
    return (await scheduled(stage)).count(activity)


async def test_a_rollback_without_a_database_shows_it_and_ends_by_itself_once_it_is_back(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str
) -> None:
    name = conn.info.dbname
    refuse = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    async with (
        stage.worker(),
        await psycopg.AsyncConnection.connect(postgres.dsn(), autocommit=True) as admin,
    ):
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await admin.execute(refuse.format(sql.Identifier(name), sql.SQL("false")))
        await stage.handle.signal("abort", {"actor": "tester"})
        migrations = Migrations(stage.client, task_queue=stage.queue)
        async with asyncio.timeout(30):
            while (waiting := (await migrations.status(NAME, stage.database)).waiting_for) is None or (
                waiting.kind != "retry"
            ):
                await asyncio.sleep(0.1)
        assert waiting.detail.startswith("claim_rollback to succeed, try ")
        assert "OperationalError" in waiting.detail
        await admin.execute(refuse.format(sql.Identifier(name), sql.SQL("true")))
        await put_back(stage, conn, postgres, before, undos_from(Phase.DUAL_WRITE), cancelled=False)


# Past the point of no return


async def test_in_contract_no_abort_of_any_kind_stops_it_half_way(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        async with held_at("contract.after_commit") as there:
            await stage.start(stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"}))
            await there()
            await Abort(stage, "signal").send(conn)
            await Abort(stage, "cancel").send(conn)
            assert "there is no way back" in await refusal(stage.act("abort", force=True))
            assert await (await cli(stage, "--force")).wait() == 1
            status = await stage.status()
            assert sum("there is no way back" in line for line in status.decisions) == 2, "a signal and a cancellation"
            assert status.phase is Phase.CONTRACT
        status = await stage.result()
        assert status.state is State.DONE
        assert (await stage.handle.describe()).status is WorkflowExecutionStatus.COMPLETED
        assert await scheduled(stage) == []
    row = await conn.execute("SELECT stars, mood FROM public.reviews WHERE id = 1")
    assert await row.fetchone() == (2, None)


async def test_a_lost_contract_is_finished_although_an_abort_came_before_the_fresh_run_knew(
    stage: Harness, conn: Connection
) -> None:
    plan = stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, gates={"contract": "auto"})
    async with stage.worker(), held_at("contract.after_commit") as there:
        await stage.start(plan)
        await there()
        await stage.handle.terminate("lost")
    await stage.start(plan)
    await stage.handle.signal("abort", {"actor": "late"})
    await stage.handle.cancel()
    async with stage.worker():
        status = await stage.result()
    assert status.state is State.DONE
    assert any("contract has begun" in line for line in status.decisions)
    row = await conn.execute("SELECT stars FROM public.reviews WHERE id = 1")
    assert await row.fetchone() == (2,)


# Races


async def test_an_abort_that_meets_an_adopted_run_at_its_start_is_written_down_and_safe_only_when_it_is(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str
) -> None:
    plan = stage.plan()
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await stage.handle.terminate("lost")
    await stage.start(plan)
    await stage.handle.signal("abort", {"actor": "early"})
    async with stage.worker():
        async with held_at("undo_cutover.after_commit") as there:
            await there()
            status = await stage.status()
            assert not status.safe, "enforcement is still on"
            assert status.state is State.ROLLING_BACK
        await put_back(stage, conn, postgres, before, undos_from(Phase.SOAK), cancelled=False)
    cursor = await conn.execute("SELECT actor FROM pgduet.audit WHERE action = 'abort'")
    assert await cursor.fetchall() == [("early",)]


async def test_a_rollback_that_was_lost_is_not_called_safe_before_it_is(stage: Harness, conn: Connection) -> None:
    plan = stage.plan()
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        async with held_at("undo_cutover.before_commit") as there:
            await stage.act("abort")
            await there()
            await stage.handle.terminate("lost")
    await stage.start(plan)
    async with stage.worker():
        async with held_at("undo_cutover.after_commit") as there:
            await there()
            assert not (await stage.status()).safe
        assert (await stage.result()).state is State.ROLLED_BACK
    cursor = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'abort'")
    assert await cursor.fetchone() == (1,), "it goes on; it does not begin again"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_is_not_lost_where_a_comparison_ends_well_in_spite_of_it(
    stage: Harness, conn: Connection, kind: str
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"verify": "manual"}))
        await stage.waits("gate", Phase.BACKFILL)
        await conn.execute("ALTER TABLE reviews DISABLE TRIGGER ALL")
        await conn.execute('UPDATE reviews SET "_pgduet_review-stars_stars" = 99 WHERE id = 7')
        async with locked(stage.dsn, TABLE) as user:
            await stage.act("advance")
            await blocked(conn, "parity")
            abort = Abort(stage, kind)
            await abort.send(conn)
            await user.rollback()
        # A comparison that swallowed the abort would go on to repair, and to publish.
        assert (await closed(stage)).state is State.ROLLED_BACK
        await abort.exit_code()
        cursor = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action IN ('repair', 'publish')")
        assert await cursor.fetchone() == (0,)


async def test_a_backfill_ends_where_a_slice_ends_well_in_spite_of_the_abort(stage: Harness, conn: Connection) -> None:
    await conn.execute("INSERT INTO reviews (rating, note) SELECT '1', repeat('x', 400) FROM generate_series(1, 20000)")
    slice_s = 2.0
    async with stage.worker():
        async with held_at("batch.after_commit") as there:
            await stage.start(stage.plan(backfill={"parallelism": 1, "batch_target_ms": 1, "pause_ms": 0}))
            await there()
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + slice_s:  # until the slice has had its time
                await stage.status()
            await stage.act("abort")
        async with held_at("batch.after_commit", hold=False) as there:
            assert (await closed(stage)).state is State.ROLLED_BACK
            assert not there.seen, "not one batch more"


async def test_a_child_that_somebody_cancels_stops_the_backfill_and_not_the_migration(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str
) -> None:
    async with stage.worker():
        async with held_at("batch.after_commit") as there:
            await stage.start(stage.plan(backfill={"parallelism": 1}))
            await there()
            await stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/0").cancel()
            await stage.waits("error", Phase.BACKFILL)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await stage.act("abort")
        await put_back(stage, conn, postgres, before, undos_from(Phase.SOAK), cancelled=False)


async def test_a_rollback_is_adopted_by_force_from_the_command_line(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str
) -> None:
    async with stage.worker():
        plan = stage.plan(gates={"backfill": "manual"})
        await stage.start(plan)
        await stage.waits("gate", Phase.DUAL_WRITE)
        await stage.handle.terminate("lost")
        assert await (await cli(stage, "--force", "--wait")).wait() == 0
        stage.handles.append(stage.client.get_workflow_handle(stage.handle.id, result_type=Status))
        await put_back(stage, conn, postgres, before, undos_from(Phase.DUAL_WRITE), cancelled=False)


async def test_a_rolled_back_name_is_free_at_once(stage: Harness, conn: Connection) -> None:
    plan = stage.plan(gates={"backfill": "manual"})
    async with stage.worker():
        for _ in range(2):
            await stage.client.start_workflow(
                "Migration",
                Start(plan=plan, actor="tester"),
                id=f"migration/{stage.database}/{NAME}",
                task_queue=stage.queue,
            )
            stage.handles.append(
                stage.client.get_workflow_handle(f"migration/{stage.database}/{NAME}", result_type=Status)
            )
            await stage.waits("gate", Phase.DUAL_WRITE)
            await stage.handle.cancel()
            assert (await closed(stage)).state is State.ROLLED_BACK
    cursor = await conn.execute("SELECT attempt FROM pgduet.migration ORDER BY id")
    assert await cursor.fetchall() == [(1,), (2,)]
