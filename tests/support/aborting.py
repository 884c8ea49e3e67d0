"""Aborting a migration by each way there is, and seeing afterwards that everything is as it was."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from pgduet.local import EmbeddedPostgres
from pgduet.messages import Answer, Status
from pgduet.phases import Phase, State
from support.harness import ROOT, Harness, schema_dump
from support.plans import NAME
from support.raw import failed_tasks

Connection = psycopg.AsyncConnection[Any]

KINDS = ("signal", "update", "cancel", "cli")
ALL = ("undo_cutover", "undo_shift", "undo_verify", "undo_backfill", "undo_dual_write", "undo_expand")
ARRIVALS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
}
AUDITED = {"undo_verify": "withdraw"}
"""What the audit log calls an undo, where it has another name."""


_BEFORE: list[str] = []


def schema_before(bin_dir: Path, dsn: str) -> str:
    """Dump the schema of the table that all these tests begin with, once for all of them."""
    if not _BEFORE:
        _BEFORE.append(schema_dump(bin_dir, dsn))
    return _BEFORE[0]


@dataclass
class Abort:
    """An abort of one kind; where it is answered, the answer comes when it has been decided."""

    stage: Harness
    kind: str
    force: bool = False
    process: asyncio.subprocess.Process | None = None
    update: "asyncio.Task[Answer] | None" = None

    async def begin(self) -> None:
        """Send it, and wait for nothing."""
        fields: dict[str, Any] = {"actor": f"by-{self.kind}"} | ({"force": True} if self.force else {})
        if self.kind == "signal":
            await self.stage.handle.signal("abort", fields)
        elif self.kind == "update":
            call = self.stage.handle.execute_update("abort", fields, result_type=Answer)
            self.update = asyncio.ensure_future(call)
        elif self.kind == "cancel":
            await self.stage.handle.cancel()
        else:
            self.process = await cli(self.stage, *(("--force",) if self.force else ()))

    async def send(self, conn: Connection) -> None:
        """Send it, and wait until it has been decided, or has to wait for a step's transaction to end."""
        known = await self.stage.status()
        await self.begin()
        async with asyncio.timeout(30):
            while not (self.is_answered() or heard(await self.stage.status()) > heard(known) or await waits(conn)):
                await asyncio.sleep(0.02)

    async def has_arrived(self) -> bool:
        """Tell whether the workflow has it, decided or not."""
        kinds = {event.event_type for event in (await self.stage.handle.fetch_history()).events}
        return bool(kinds & ARRIVALS)

    def is_answered(self) -> bool:
        """Tell whether it has been answered: refused, or by a command line that saw that there was nothing to do."""
        ended = self.process is not None and self.process.returncode is not None
        return ended or (self.update is not None and self.update.done())

    async def answer(self) -> Answer | None:
        """Give the update's answer, if it is one and was not refused."""
        if self.update is None:
            return None
        with suppress(WorkflowUpdateFailedError):
            return await asyncio.wait_for(self.update, 30)
        return None

    async def exit_code(self) -> int | None:
        """Wait for the command line to return."""
        if self.process is None:
            return None
        async with asyncio.timeout(40):
            return await self.process.wait()


async def waits(conn: Connection) -> bool:
    """Tell whether the decision waits for a transaction of a step."""
    query = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgduet/claim/%' AND wait_event_type = 'Lock'"
    return bool((await conn.execute(query)).rowcount)


async def cli(stage: Harness, *options: str) -> asyncio.subprocess.Process:
    """Run `pgduet rollback` as people do."""
    command = ["rollback", NAME, "--database", stage.database, "--actor", "by-cli", "--json", *options]
    environment = os.environ | {"TEMPORAL_ADDRESS": stage.address, "PGDUET_TASK_QUEUE": stage.queue}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pgduet.cli.main", *command),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def heard(status: Status) -> int:
    """Count the aborts that the workflow has noted, taken or ignored."""
    words = ("abort by", "rolling back already", "contract has begun")
    return sum(any(word in line for word in words) for line in status.decisions)


async def closed(stage: Harness) -> Status:
    """Wait for the end, however it ends."""
    try:
        return await stage.result()
    except WorkflowFailureError as error:
        if not isinstance(error.cause, CancelledError):
            raise
    return await stage.status()


async def put_back(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, undone: list[str], *, cancelled: bool
) -> None:
    """See that everything is as it was: undone once and in order, written down, closed, answered."""
    status = await closed(stage)
    assert (status.phase, status.state, status.safe) == (Phase.ROLLED_BACK, State.ROLLED_BACK, True)
    assert status.waiting_for is None
    described = await stage.handle.describe()
    wanted = WorkflowExecutionStatus.CANCELED if cancelled else WorkflowExecutionStatus.COMPLETED
    assert described.status is wanted
    found = await scheduled(stage)
    assert found == undone, found
    names = [AUDITED.get(name, name) for name in ALL]
    cursor = await conn.execute("SELECT action FROM pgduet.audit WHERE action = ANY (%s) ORDER BY seq", (names,))
    assert [row[0] for row in await cursor.fetchall()] == [AUDITED.get(name, name) for name in undone]
    cursor = await conn.execute("SELECT phase, state, compensations FROM pgduet.migration ORDER BY id DESC LIMIT 1")
    assert await cursor.fetchone() == ("rolled_back", "rolled_back", [])
    assert schema_dump(postgres.bin_dir, stage.dsn) == before
    assert await failed_tasks(stage.client, stage.handle.id) == []
    await all_answered(stage)


async def scheduled(stage: Harness) -> list[str]:
    """List the undos that the history has, in order; a retry of Temporal's is not one more."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in (await stage.handle.fetch_history()).events
        if event.activity_task_scheduled_event_attributes.activity_type.name in ALL
    ]


async def all_answered(stage: Harness) -> None:
    """See that no update was accepted and left without an answer."""
    kinds = [event.event_type for event in (await stage.handle.fetch_history()).events]
    accepted = kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
    assert accepted == kinds.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)


def undos_from(phase: Phase) -> list[str]:
    """Tell what a rollback from a phase undoes, in order."""
    owners = (Phase.CUTOVER, Phase.SHIFT, Phase.VERIFY, Phase.BACKFILL, Phase.DUAL_WRITE, Phase.EXPAND)
    return [undo for owner, undo in zip(owners, ALL, strict=True) if owner.reached(phase)]


def waits_for(kind: str) -> Callable[[Status], bool]:
    return lambda status: status.waiting_for is not None and status.waiting_for.kind == kind


async def refusal(call: Awaitable[Any]) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await call
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "ActRefused"
    return caught.value.cause.message


async def blocked(conn: Connection, purpose: str) -> None:
    """Wait until a session of the engine waits for a lock."""
    query = "SELECT FROM pg_stat_activity WHERE application_name LIKE %s AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not (await conn.execute(query, (f"pgduet/{purpose}/%",))).rowcount:
            await asyncio.sleep(0.02)
