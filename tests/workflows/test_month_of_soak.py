"""A soak of a month, in skipped time: many runs, each bounded, with censuses, comparisons and the way back to its last day.

A schedule's time is the server's, and is not skipped: the comparisons of a month come in as many seconds.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.plans import create_reviews
from support.skipping import SkippingRunner
from support.stage import staged
from temporalio.api.enums.v1 import EventType

from pgduet import runtime
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
SUGGESTED = 4_096
"""Events after which a Temporal server suggests to continue as new."""
SUGGESTED_EARLY = 400
CLOSE_S = 30.0
SLACK = 40
"""What a run may still do until it hands over."""

UNDOS = ["undo_cutover", "undo_shift", "withdraw", "undo_backfill", "undo_dual_write", "undo_expand"]

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Run:
    """What the history of one run tells."""

    events: int
    carried_bytes: int
    done: Counter[str]


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 50)


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers of this test skip time."""
    settings = runtime.settings()
    monkeypatch.setattr(runtime, "settings", lambda: {**settings, "workflow_runner": SkippingRunner()})


@pytest.fixture(scope="module")
def short_memory() -> Iterator[LocalTemporal]:
    config = {"limit.historyCount.suggestContinueAsNew": SUGGESTED_EARLY, "frontend.enableSchedules": "false"}
    with LocalTemporal(ui=False, dynamic_config=config) as server:
        yield server


@pytest.fixture
async def forgetful(
    short_memory: LocalTemporal, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    async with staged(short_memory, dsn, tmp_path, monkeypatch) as harness:
        yield harness


async def runs(stage: Harness) -> list[Run]:
    """Read the histories of all runs of the migration, the first one first."""
    found = []
    run_id = stage.handle.first_execution_run_id
    while run_id:
        handle = stage.client.get_workflow_handle(stage.handle.id, run_id=run_id)
        events = (await handle.fetch_history()).events
        scheduled = {
            event.event_id: event.activity_task_scheduled_event_attributes.activity_type.name
            for event in events
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        }
        done = Counter(
            scheduled[event.activity_task_completed_event_attributes.scheduled_event_id]
            for event in events
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
        )
        start = events[0].workflow_execution_started_event_attributes.input.payloads[0]
        found.append(Run(len(events), len(start.data), done))
        run_id = events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


async def soaked(stage: Harness, days: float) -> list[Run]:
    """Wait until the window is over and only the approval of contract is missing; gives the runs."""

    def asked(status: Status) -> bool:
        return status.waiting_for is not None and status.waiting_for.kind == "approval"

    status = await stage.until(asked, 500, poll_s=0.5)
    assert status.phase is Phase.SOAK
    began = next(timing.started_at for timing in status.timings if timing.phase is Phase.SOAK)
    assert status.window_ends_at is not None
    assert status.waiting_for is not None
    assert (status.window_ends_at - began).total_seconds() == pytest.approx(days * DAY_S, abs=60)
    late_s = (status.waiting_for.since - status.window_ends_at).total_seconds()
    assert 0 <= late_s < CLOSE_S, "no pause goes beyond the window's end"
    return await runs(stage)


def bounded(found: list[Run], suggested: int) -> None:
    """Assert that histories end soon after the server has said so, and that what is handed over does not grow."""
    assert [run.events for run in found if run.events > suggested + SLACK] == []
    carried = [run.carried_bytes for run in found[1:]]
    assert max(carried) - min(carried) < 200


def counted(found: list[Run], activity: str) -> int:
    return sum(run.done[activity] for run in found)


@pytest.mark.early
@pytest.mark.parametrize(
    "census_every_s",
    [pytest.param(HOUR_S, id="hourly"), pytest.param(300.0, id="at the pace of the defaults", marks=pytest.mark.long)],
)
async def test_a_month_with_comparisons_by_a_schedule_ends_in_contract(
    stage: Harness, conn: Connection, skipped: None, census_every_s: float
) -> None:
    soak = {"window_s": 30 * DAY_S, "legacy_idle_s": 600, "census_every_s": census_every_s}
    async with stage.worker():
        await stage.start(stage.plan(soak=soak, verify={"reconcile_every_s": 1}, approvals={"contract": 1}))
        found = await soaked(stage, 30)
        assert len(found) >= 3
        bounded(found, SUGGESTED)
        assert counted(found, "parity") == 2, "one of verify, one of cutover; all others are the schedule's"
        scheduled = "SELECT count(*) FROM pgduet.audit WHERE action = 'parity' AND evidence ? 'scheduled'"
        assert await one(conn, scheduled) >= 3
        assert counted(found, "census") >= 30 * DAY_S / census_every_s
        await stage.act("approve", gate="contract")
        assert (await stage.result()).state is State.DONE
    assert await one(conn, "SELECT stars FROM reviews WHERE id = 4") == 5


@pytest.mark.early
async def test_a_month_without_a_schedule_is_compared_every_third_day_in_many_runs_and_can_be_rolled_back(
    forgetful: Harness, conn: Connection, postgres: EmbeddedPostgres, skipped: None
) -> None:
    before = schema_dump(postgres.bin_dir, forgetful.dsn)
    soak = {"window_s": 30 * DAY_S, "legacy_idle_s": 600, "census_every_s": DAY_S}
    async with forgetful.worker():
        await forgetful.start(forgetful.plan(soak=soak, verify={"reconcile_every_s": 3 * DAY_S}))
        found = await soaked(forgetful, 30)
        assert len(found) >= 10
        bounded(found, SUGGESTED_EARLY)
        # No run lives for three days: when the next comparison is due is handed over too.
        assert counted(found, "parity") == pytest.approx(2 + 10, abs=1)
        await conn.execute("UPDATE public_v2.reviews SET stars = 1, mood = 'glad' WHERE id = 4")
        await forgetful.act("abort")
        status = await forgetful.result()
    assert status.state is State.ROLLED_BACK
    assert status.archived == 1
    assert schema_dump(postgres.bin_dir, forgetful.dsn) == before
    assert await one(conn, "SELECT rating FROM reviews WHERE id = 4") == "1"
    done = await conn.execute("SELECT action FROM pgduet.audit WHERE action = ANY (%s) ORDER BY seq", (UNDOS,))
    assert [row[0] for row in await done.fetchall()] == UNDOS


async def test_a_person_does_not_wait_for_a_wide_pause(stage: Harness) -> None:
    async with stage.worker():
        await stage.start(stage.plan(soak={"window_s": 30 * DAY_S, "legacy_idle_s": 0.5}))
        while (asleep_s := await longest_timer_s(stage)) < 8:
            await stage.status()
        began = time.monotonic()
        await stage.act("advance")
        await stage.waits("approval", Phase.SOAK)
        assert time.monotonic() - began < asleep_s / 2


async def longest_timer_s(stage: Harness) -> float:
    timers = [
        event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta().total_seconds()
        for event in (await stage.handle.fetch_history()).events
        if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
    ]
    return max(timers, default=0.0)


async def one(conn: Connection, query: str) -> Any:
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]
