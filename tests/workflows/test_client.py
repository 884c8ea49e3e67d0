"""The Python client: start, status, wait, signal, update; what it refuses; and the page in the docs, run as it stands."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from support.harness import ROOT, Harness
from support.plans import FAST, create_reviews, overlaid

from pgduet.client import Migrations, StillWaiting
from pgduet.errors import ActRefused, PlanChanged, UnknownColumn, UnknownDatabase, UnknownMigration
from pgduet.messages import Abort, Act, Approve, Route, Throttle, VerifyNow
from pgduet.phases import Phase, State
from pgduet.plan.load import parse_plan
from pgduet.plan.models import Plan

Connection = psycopg.AsyncConnection[Any]
PAGE = ROOT / "docs" / "how-to" / "python-client.md"


@pytest.fixture
async def migrations(stage: Harness, conn: Connection) -> AsyncIterator[Migrations]:
    """Give a client, with a table and a worker."""
    await create_reviews(conn, 500)
    async with stage.worker():
        yield Migrations(stage.client, task_queue=stage.queue)


def planned(stage: Harness, *operations: dict[str, Any], **policy: Any) -> Plan:
    return parse_plan(stage.plan(*operations, **policy))


async def test_a_migration_is_started_watched_acted_on_and_carried_to_done(
    stage: Harness, migrations: Migrations
) -> None:
    plan = planned(stage, gates={"cutover": "manual"}, soak={"window_s": 3600, "legacy_idle_s": 0})
    set_up = await migrations.setup(stage.database)
    assert set_up.database == stage.database
    assert (await migrations.check(plan)).checksum
    started = await migrations.start(plan, actor="bot", reason="release 42")
    assert (started.joined, started.workflow_id) == (False, f"migration/{stage.database}/{plan.name}")
    again = await migrations.start(plan, actor="bot")
    assert (again.joined, again.run_id) == (True, started.run_id)
    status = await migrations.begun(plan.name, stage.database)
    assert status.plan_checksum == started.checksum
    await migrations.wait(plan.name, "shift", timeout_s=30, database=stage.database)
    await migrations.signal(plan.name, "pause", Act(actor="bot"), database=stage.database)
    await migrations.signal(plan.name, "resume", database=stage.database)
    answer = await migrations.update(
        plan.name, "approve", Approve(gate=Phase.CUTOVER, actor="dba"), database=stage.database
    )
    assert answer.message == "1 of 1 approvals for cutover"
    seen: list[Phase] = []
    await migrations.wait(
        plan.name, Phase.SOAK, timeout_s=30, database=stage.database, on_look=lambda status: seen.append(status.phase)
    )
    assert seen[-1] is Phase.SOAK
    moved = await migrations.update(plan.name, "route", Route(read_percent=30, actor="bot"), database=stage.database)
    assert moved.phase is Phase.SOAK
    assert (await migrations.status(plan.name, stage.database)).read_percent == 30
    answer, status = await migrations.verify(plan.name, VerifyNow(actor="bot"), database=stage.database)
    assert answer.message == "0 of 500 rows differ, 0 repaired"
    assert status.parity is not None
    assert [each.name for each in await migrations.statuses(stage.database)] == [plan.name]
    for actor in ("one", "two"):
        await migrations.update(
            plan.name, "approve", Approve(gate=Phase.CONTRACT, actor=actor), database=stage.database
        )
    # The window may be ended only once it is waited for.
    await stage_waits(migrations, stage, plan, "window")
    await migrations.update(plan.name, "advance", Act(actor="bot"), database=stage.database)
    status = await migrations.wait(plan.name, "done", timeout_s=30, database=stage.database)
    assert status.state is State.DONE
    with pytest.raises(ActRefused, match="ended as done"):
        await migrations.update(plan.name, "pause", database=stage.database)
    with pytest.raises(ActRefused, match="point of no return"):
        await migrations.rollback(plan.name, Abort(actor="bot"), database=stage.database)


async def stage_waits(migrations: Migrations, stage: Harness, plan: Plan, kind: str) -> None:
    """Wait until it waits for something, as the client sees it."""
    async with asyncio.timeout(30):
        while True:
            waiting = (await migrations.status(plan.name, stage.database)).waiting_for
            if waiting and waiting.kind == kind:
                return


async def test_a_rollback_is_safe_first_and_complete_then(stage: Harness, migrations: Migrations) -> None:
    plan = planned(stage)
    await migrations.start(plan, actor="bot")
    await migrations.wait(plan.name, "soak", timeout_s=30, database=stage.database)
    with pytest.raises(PlanChanged, match="runs with another plan"):
        await migrations.start(
            planned(stage, {"drop_column": {"table": "public.reviews", "column": "note"}}), actor="bot"
        )
    answer = await migrations.rollback(plan.name, Abort(actor="bot", reason="try again"), database=stage.database)
    assert answer.message == "rolling back"
    status = await migrations.wait_safe(plan.name, database=stage.database, timeout_s=30)
    assert (status.safe, status.authority) == (True, "old")
    status = await migrations.wait(plan.name, "rolled_back", timeout_s=30, database=stage.database)
    assert status.state is State.ROLLED_BACK
    with pytest.raises(ActRefused, match="will not reach soak"):
        await migrations.wait(plan.name, "soak", timeout_s=30, database=stage.database)
    edited = planned(stage, {"drop_column": {"table": "public.reviews", "column": "note"}})
    assert not (await migrations.start(edited, actor="bot")).joined, (
        "after a rollback the name is free for an edited plan"
    )
    await migrations.wait(plan.name, "soak", timeout_s=30, database=stage.database)


async def test_what_cannot_be_is_refused_by_an_error_of_its_own_class(stage: Harness, migrations: Migrations) -> None:
    plan = planned(stage, gates={"expand": "manual"})
    wrong = planned(stage, {"drop_column": {"table": "public.reviews", "column": "nothing"}})
    with pytest.raises(UnknownColumn) as caught:
        await migrations.check(wrong)
    assert caught.value.place is not None
    assert caught.value.place.path == "operations[0].drop_column.column"
    await migrations.start(wrong, actor="bot")
    with pytest.raises(UnknownColumn):
        await migrations.begun(plan.name, stage.database)
    with pytest.raises(UnknownMigration, match="nowhere"):
        await migrations.status("nowhere", stage.database)
    with pytest.raises(UnknownDatabase) as unknown:
        await migrations.setup("nowhere")
    assert f"(known: {stage.database.replace('-', '_')})" in str(unknown.value)
    await migrations.start(plan, actor="bot")
    with pytest.raises(StillWaiting) as late:
        await migrations.wait(plan.name, "soak", timeout_s=1.0, database=stage.database)
    assert "waits for somebody to open the gate before expand" in str(late.value)
    assert isinstance(late.value, TimeoutError)
    with pytest.raises(ActRefused, match="from shift on"):
        await migrations.update(plan.name, "route", Route(read_percent=1), database=stage.database)
    answer = await migrations.update(plan.name, "throttle", Throttle(pause_ms=5, actor="bot"), database=stage.database)
    assert answer.message == "pause_ms = 5"


async def test_the_page_in_the_docs_runs_as_it_stands(stage: Harness, migrations: Migrations, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "page.py").write_text(found[1], encoding="utf-8")
    # The page names the migration alone: its name must be unique on the server that the tests share.
    plan = stage.plan(name=f"page-{stage.database}", **overlaid(FAST, {"gates": {"cutover": "manual"}}))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    environment = os.environ | {"TEMPORAL_ADDRESS": stage.address, "PGDUET_TASK_QUEUE": stage.queue}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "page.py",
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    assert out.decode().startswith("soak "), out.decode()
    assert (await migrations.status(plan["name"], stage.database)).phase is Phase.SOAK
    await migrations.rollback(plan["name"], Abort(), database=stage.database)
    await migrations.wait(plan["name"], "rolled_back", timeout_s=30, database=stage.database)


async def test_the_list_of_migrations_says_that_no_worker_answers(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with stage.worker():
        await stage.start(stage.plan(gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        listed = await stage.command("status", "--database", stage.database, "--json")
        assert json.loads(listed.stdout)["worker_answers"] is True
    await stage.start(stage.plan(gates={"expand": "manual"}, name="another"))
    listed = await stage.command("status", "--database", stage.database)
    assert listed.returncode == 0, listed.stderr
    assert f"no worker answers on task queue `{stage.queue}`" in listed.stdout
    assert listed.stdout.endswith("next  pgduet worker\n")
