"""A workflow that was terminated, or a Temporal that forgot everything: what lies in the database is taken up, on or back."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.chained import TABLES, begin, leftovers, link, version_schemas
from support.harness import Harness, pgduet, schema_dump
from support.stage import staged

from pgduet.barriers import HOOKS
from pgduet.client import Migrations
from pgduet.errors import ActRefused, BuiltUpon
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import Abort
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ABORT = Abort(actor="dba", reason="lost")


@pytest.fixture(autouse=True)
async def tables(conn: Connection) -> None:
    await conn.execute(TABLES.encode())


@pytest.fixture
def migrations(stage: Harness) -> Migrations:
    return Migrations(stage.client, task_queue=stage.queue)


@pytest.fixture(scope="module")
def fresh_temporal() -> Iterator[LocalTemporal]:
    """Start a server that knows nothing of what was begun under another one."""
    with LocalTemporal(ui=False, search_attributes=False) as server:
        yield server


@pytest.fixture
async def after_all_was_lost(
    fresh_temporal: LocalTemporal, stage: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Give a harness for the same database on that server."""
    async with staged(fresh_temporal, stage.dsn, tmp_path, monkeypatch) as harness:
        harness.database = stage.database
        yield harness


HOLD = {Phase.EXPAND: "dual_write", Phase.CUTOVER: "soak"}
"""Where a workflow is lost, and the gate that holds it there; more in `tests/scenarios/test_terminated_workflow.py`."""


@pytest.mark.parametrize("phase", list(HOLD), ids=str)
async def test_a_terminated_workflow_is_taken_up_by_start_and_by_rollback(
    stage: Harness, conn: Connection, migrations: Migrations, postgres: EmbeddedPostgres, phase: Phase
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    wanted = link(stage, "reviews", gates={HOLD[phase]: "manual"})
    async with stage.worker():
        run = await begin(stage, wanted)
        await run.waits("gate", phase)
        await run.handle.terminate("lost")
        again = await begin(stage, wanted)
        status = await again.waits("gate", phase)
        assert any(f"adopted in {phase}" in line for line in status.decisions)
        await again.handle.terminate("lost again")
        await migrations.rollback("reviews-plan", ABORT, database=stage.database)
        status = await migrations.wait("reviews-plan", Phase.ROLLED_BACK, 30, database=stage.database)
        assert status.rollback == "dba: lost"
    assert await leftovers(conn) == []
    assert schema_dump(postgres.bin_dir, stage.dsn) == before


@pytest.mark.parametrize("command", ["start", "rollback"])
async def test_temporal_lost_everything(
    stage: Harness, after_all_was_lost: Harness, conn: Connection, tmp_path: Path, command: str
) -> None:
    wanted = link(stage, "reviews", gates={"shift": "manual"})
    file = tmp_path / "plan.yaml"
    file.write_text(json.dumps(wanted))
    async with stage.worker():
        run = await begin(stage, wanted)
        await run.waits("gate", Phase.SHADOW)
    fresh = after_all_was_lost
    async with fresh.worker():
        if command == "rollback":
            code, said = await pgduet(fresh, "rollback", "reviews-plan", "--plan", str(file), "--wait", "--json")
            assert code == 0, said
            assert json.loads(said)["state"] == "rolled_back"
            assert await version_schemas(conn) == ["public_v1"]
        else:
            code, said = await pgduet(fresh, "start", str(file), "--until", "shadow", "--json")
            assert code == 0, said
            assert json.loads(said)["phase"] == "shadow"
            fresh.handles.append(fresh.client.get_workflow_handle(run.handle.id))
            await fresh.waits("gate", Phase.SHADOW)
            await fresh.act("advance")
            await fresh.waits("window", Phase.SOAK)


async def test_a_rollback_that_was_under_way_goes_on(stage: Harness, conn: Connection, migrations: Migrations) -> None:
    async with stage.worker():
        run = await begin(stage, link(stage, "reviews", gates={"shift": "manual"}))
        await run.waits("gate", Phase.SHADOW)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT stars FROM public_v2.reviews LIMIT 1")
            await run.act("abort", reason="a bad release")
            await run.until(lambda s: bool(s.waiting_for and s.waiting_for.kind == "clients"))
            await run.handle.terminate("lost")
            again = await begin(stage, link(stage, "reviews"))
            status = await again.until(lambda s: bool(s.waiting_for and s.waiting_for.kind == "clients"))
            assert status.state is State.ROLLING_BACK
            assert status.rollback == "tester: a bad release"
            await again.handle.terminate("lost again")
        await migrations.rollback("reviews-plan", ABORT, database=stage.database)
        status = await migrations.wait("reviews-plan", Phase.ROLLED_BACK, 30, database=stage.database)
        assert status.rollback == "tester: a bad release", "it is the same rollback"
    aborts = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'abort'")
    assert await aborts.fetchone() == (1,)


async def test_a_contract_that_was_under_way_can_only_go_on(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    wanted = link(stage, "reviews", soak={"window_s": 0, "legacy_idle_s": 0})
    begun, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        begun.set()
        await release.wait()

    HOOKS["contract.after_commit"] = hold
    try:
        async with stage.worker():
            run = await begin(stage, wanted)
            await asyncio.wait_for(begun.wait(), 25)
            await run.handle.terminate("lost")
            release.set()
            await migrations.rollback("reviews-plan", ABORT, database=stage.database)
            with pytest.raises(ActRefused, match="contract of reviews-plan has begun"):
                await migrations.wait_safe("reviews-plan", database=stage.database, timeout_s=25)
            again = await begin(stage, wanted)
            assert (await again.result()).state is State.DONE
    finally:
        del HOOKS["contract.after_commit"]
    assert await leftovers(conn) == []
    assert await version_schemas(conn) == ["public_v2"]


async def test_a_lost_migration_on_which_another_builds_is_taken_up_on_or_back_with_cascade(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    wanted = link(stage, "reviews", gates={"shift": "manual"})
    where = {"database": stage.database}
    async with stage.worker():
        first = await begin(stage, wanted)
        await first.waits("gate", Phase.SHADOW)
        second = await begin(stage, link(stage, "authors", gates={"shift": "manual"}))
        await second.waits("gate", Phase.SHADOW)
        await first.handle.terminate("lost")
        await migrations.rollback("reviews-plan", ABORT, **where)
        with pytest.raises(BuiltUpon, match="on version 2 builds authors-plan"):
            await migrations.wait_safe("reviews-plan", timeout_s=25, **where)
        await begin(stage, wanted)
        await stage.waits("gate", Phase.SHADOW)
        await stage.handle.terminate("lost again")
        await migrations.rollback("reviews-plan", ABORT.model_copy(update={"cascade": True}), **where)
        await migrations.wait("reviews-plan", Phase.ROLLED_BACK, 30, **where)
        assert (await second.status()).state is State.ROLLED_BACK
    assert await version_schemas(conn) == ["public_v1"]
