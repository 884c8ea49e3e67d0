"""A migration outlives its history, its workflow, and its worker: continue-as-new, adoption, search attributes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.plans import create_reviews
from support.stage import staged

from pgduet.audits import ANCHORS
from pgduet.local import LocalTemporal
from pgduet.messages import Start
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 2_000)


@pytest.fixture(scope="module")
def short_memory() -> Iterator[LocalTemporal]:
    """Start a server that suggests to continue as new very early."""
    config = {"limit.historyCount.suggestContinueAsNew": 150}
    with LocalTemporal(ui=False, search_attributes=False, dynamic_config=config) as server:
        yield server


@pytest.fixture
async def forgetful(
    short_memory: LocalTemporal, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    async with staged(short_memory, dsn, tmp_path, monkeypatch) as harness:
        yield harness


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


@pytest.mark.parametrize("phase", [Phase.BACKFILL, Phase.SOAK])
async def test_rollback_adopts_what_a_terminated_workflow_left(stage: Harness, conn: Connection, phase: Phase) -> None:
    plan = stage.plan(gates={"verify": "manual"} if phase is Phase.BACKFILL else {})
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("gate" if phase is Phase.BACKFILL else "window", phase)
        await stage.handle.terminate("lost")
        handle = await stage.client.start_workflow(
            "Migration", Start(plan=plan, actor="dba", mode="rollback"), id=stage.handle.id, task_queue=stage.queue
        )
        stage.handles.append(handle)
        await stage.until(Phase.ROLLED_BACK)
    found = await (await conn.execute("SELECT rating FROM reviews WHERE id = 4")).fetchone()
    assert found == ("5",)
    state = await (await conn.execute("SELECT state FROM pgduet.migration")).fetchone()
    assert state == ("rolled_back",)


async def test_start_adopts_what_a_terminated_workflow_left_and_goes_on(stage: Harness) -> None:
    plan = stage.plan(gates={"verify": "manual"})
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("gate", Phase.BACKFILL)
        await stage.handle.terminate("lost")
        await stage.start(plan)
        await stage.waits("gate", Phase.BACKFILL)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)


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
