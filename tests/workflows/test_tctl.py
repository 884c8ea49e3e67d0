"""tctl and the temporal CLI, really run: every command of their how-to page does to a migration what the page says."""

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from support.harness import ROOT, Harness
from support.page import Page, commands
from support.plans import create_reviews
from support.tctl import BUILD_LIMIT_S, TctlMissing, find_tctl
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from pgduet.local import find_temporal
from pgduet.messages import Status
from pgduet.phases import Phase, State

PAGE = ROOT / "docs" / "how-to" / "tctl-and-temporal-cli.md"
PROGRAMS = ("temporal", "tctl")

Connection = psycopg.AsyncConnection[Any]

pytestmark = pytest.mark.timeout(BUILD_LIMIT_S + 300)


@pytest.fixture
async def migration(stage: Harness, conn: Connection, tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """Give a worker, and a plan that stops at gates, as plan.yaml."""
    await create_reviews(conn, 2_000)
    gates = {"backfill": "manual", "shadow": "manual", "cutover": "manual"}
    plan = stage.plan(gates=gates, approvals={"cutover": 1, "contract": 2})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    async with stage.worker():
        yield plan


def page(stage: Harness, program: str, *directories: Path) -> Page:
    names = {
        r"migration/shop/": f"migration/{stage.database}/",
        r"(--task-queue|--taskqueue) pgduet\b": rf"\1 {stage.queue}",
    }
    path = os.pathsep.join([*map(str, directories), str(Path(sys.executable).parent), os.environ["PATH"]])
    return Page(
        PAGE,
        program,
        names,
        stage.scratch,
        PATH=path,
        TEMPORAL_ADDRESS=stage.address,
        TEMPORAL_CLI_ADDRESS=stage.address,
    )


@pytest.fixture
async def temporal_page(stage: Harness, migration: dict[str, Any]) -> Page:
    await page(stage, "python").run("start.json")
    return page(stage, "temporal", find_temporal().parent)


@pytest.fixture
async def tctl_page(stage: Harness, migration: dict[str, Any]) -> Page:
    await page(stage, "python").run("start.json")
    return page(stage, "tctl", find_tctl().parent)


def watched(stage: Harness, name: str = "review-stars") -> None:
    """Have the harness look at what a command started."""
    stage.handles.append(stage.client.get_workflow_handle(f"migration/{stage.database}/{name}", result_type=Status))


async def paused(stage: Harness) -> Status:
    return await stage.until(lambda status: status.state is State.PAUSED)


async def decided(stage: Harness, line: str) -> Status:
    return await stage.until(lambda status: any(line in said for said in status.decisions))


async def reads(stage: Harness, percent: int) -> Status:
    return await stage.until(lambda status: status.read_percent == percent)


async def failed(stage: Harness, reason: str) -> None:
    """Wait until the workflow has failed with its reason, and can still be asked for it."""
    status = await stage.until(lambda status: status.state is State.FAILED)
    assert status.failure is not None
    assert reason in status.failure


async def ended(stage: Harness, how: WorkflowExecutionStatus) -> None:
    with pytest.raises(WorkflowFailureError):
        await stage.result()
    assert (await stage.handle.describe()).status is how


def test_the_page_has_commands_of_both_programs_and_the_one_that_writes_the_input() -> None:
    assert {command.split()[0] for command in commands(PAGE)} == {"python", *PROGRAMS}


async def test_the_temporal_cli_leads_a_migration_to_cutover_and_back(
    stage: Harness, temporal_page: Page, migration: dict[str, Any]
) -> None:
    say = temporal_page.run
    assert "RunId" in await say("start")
    watched(stage)
    await stage.waits("gate", Phase.DUAL_WRITE)
    assert '"phase":"dual_write"' in (await say("--type status")).replace(" ", "")
    assert "rating::int" in await say("--type plan")
    assert "pgduet advance review-stars" in await say("--type next_commands")
    assert "somebody to open the gate before backfill" in await say("metadata")
    assert "PgduetPhase" in await say("describe")
    await temporal_page.until("list", f"migration/{stage.database}/review-stars")
    assert "advanced past: somebody to open the gate before backfill" in await say("advance")
    await stage.waits("gate", Phase.VERIFY)
    assert "paused" in await say("pause")
    assert (await paused(stage)).decisions[-1].endswith("pause by ann: release")
    assert "resumed" in await say("resume")
    assert "pause_ms = 10" in await say("throttle")
    await stage.act("advance")
    await stage.waits("approval", Phase.SHIFT)
    approve = temporal_page.left[0]
    assert "1 of 1 approvals for cutover" in await say("approve")
    await stage.waits("window", Phase.SOAK)
    assert "cutover has begun already" in await temporal_page.again(approve, code=1)
    assert "50 %" in await say("route")
    assert "0 of 2000 rows differ" in await say("verify")
    await say("signal")
    await reads(stage, 100)
    await say("abort")
    assert (await stage.result()).state is State.ROLLED_BACK
    assert "rolled_back" in await say("result")
    await say("--input '[1, 2]'")
    watched(stage, "wrong")
    await failed(stage, "the input is no Start")
    assert "the input is no Start" in await say("describe")
    await stage.start(migration)
    await stage.waits("gate", Phase.DUAL_WRITE)
    await say("cancel")
    await ended(stage, WorkflowExecutionStatus.CANCELED)
    assert (await stage.status()).state is State.ROLLED_BACK
    await stage.start(migration)
    await stage.waits("gate", Phase.DUAL_WRITE)
    await say("terminate")
    await ended(stage, WorkflowExecutionStatus.TERMINATED)
    assert not temporal_page.left


async def test_tctl_leads_a_migration_to_cutover_and_back(
    stage: Harness, tctl_page: Page, migration: dict[str, Any]
) -> None:
    say = tctl_page.run
    await say("start")
    watched(stage)
    await stage.waits("gate", Phase.DUAL_WRITE)
    assert '"phase":"dual_write"' in await say("status")
    assert "rating::int" in await say("plan")
    assert "pgduet advance review-stars" in await say("next_commands")
    assert "PgduetPhase" in await say("describe")
    await say("advance")
    await stage.waits("gate", Phase.VERIFY)
    assert any("advance by unknown" in line for line in (await stage.status()).decisions)
    await say("pause")
    await paused(stage)
    await say("resume")
    await stage.waits("gate", Phase.VERIFY)
    await say("throttle")
    await decided(stage, "throttle by ann")
    await say("advance")
    status = await stage.waits("approval", Phase.SHIFT)
    assert any("advance by ann: reviewed" in line for line in status.decisions)
    await say("approve")
    status = await stage.waits("window", Phase.SOAK)
    assert status.approvals == {"cutover": ["ann"]}
    await say("route")
    await reads(stage, 50)
    await say("abort")
    assert (await stage.result()).state is State.ROLLED_BACK
    assert "COMPLETED" in await say("observe")
    await say("wrong")
    watched(stage, "wrong")
    await failed(stage, "operations")
    assert '"state":"failed"' in await say("status")
    await stage.start(migration)
    await stage.waits("gate", Phase.DUAL_WRITE)
    await say("cancel")
    await ended(stage, WorkflowExecutionStatus.CANCELED)
    assert (await stage.status()).state is State.ROLLED_BACK
    await stage.start(migration)
    await stage.waits("gate", Phase.DUAL_WRITE)
    await say("terminate")
    await ended(stage, WorkflowExecutionStatus.TERMINATED)
    assert not tctl_page.left


async def test_a_malformed_signal_of_tctl_is_noted_and_ignored(
    stage: Harness, tctl_page: Page, migration: dict[str, Any]
) -> None:
    await stage.start(migration)
    await stage.waits("gate", Phase.DUAL_WRITE)
    signal = f"tctl workflow signal --workflow_id {stage.handle.id} --name approve"
    for raw in ("5", '"x"', "[1]", "null", json.dumps({"gate": {"deep": []}})):
        await tctl_page.again(f"{signal} --input '{raw}'")
    await tctl_page.again(signal)
    status = await stage.until(lambda status: len(status.decisions) >= 6)
    assert all("ignored" in line for line in status.decisions)


def test_without_go_the_missing_tctl_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDUET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TctlMissing, match="no Go on PATH"):
        find_tctl()


def test_a_build_that_fails_says_what_go_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDUET_CACHE", str(tmp_path / "cache"))
    go = tmp_path / "go"
    go.write_text(f"#!{shutil.which('sh')}\necho 'no such module' >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TctlMissing, match="no such module"):
        find_tctl()
