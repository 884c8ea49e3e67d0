"""Looking at one migration from outside: what its workflow answers, else what Temporal itself knows about it.

Mechanism: the workflow is described (is it open, how did it end), then asked by its query `status`, which works on
closed workflows too while a worker is there. During backfill the heartbeats of the running slices are added, so that
the figures are seconds old. Where no worker answers, a migration that has ended is told from its result, its search
attributes and its failure. Limits: a running migration without a worker cannot be told about: `WorkerMissing`.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from pgduet.errors import PgduetError, ServerMissing, UnknownMigration
from pgduet.failures import error_from
from pgduet.finding import parts
from pgduet.messages import LockWait, Start, Status, WaitingFor
from pgduet.phases import Phase, State
from pgduet.schedules import comparison_held, with_schedule
from pgduet.slices import running_slices, with_slices
from pgduet.texts import shown

QUERY_LIMIT_S = 5.0
FEW_TRIES = 3
"""A try or two more is nothing that anybody waits for."""
_NO_WORKER = {
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.RESOURCE_EXHAUSTED,  # unanswered queries have filled the workflow's buffer
}
_ENDED = {State.DONE, State.ROLLED_BACK}
_PHASE = SearchAttributeKey.for_keyword("PgduetPhase")
_STATE = SearchAttributeKey.for_keyword("PgduetState")
_Word = TypeVar("_Word", Phase, State)


class WorkerMissing(ServerMissing):
    """No worker answers."""

    def __init__(self, task_queue: str) -> None:
        """Take the task queue on which nobody answers."""
        super().__init__(
            f"no worker answers on task queue `{task_queue}`",
            hint="Start one with `pgduet worker`, on the same namespace and PGDUET_TASK_QUEUE.",
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen: the status, whether the run has ended, and the error it ended with."""

    status: Status
    closed: bool = False
    error: PgduetError | None = None


async def look(client: Client, workflow: str, *, heartbeats: bool = True, limit_s: float = QUERY_LIMIT_S) -> Look:
    """Look at the newest run of a migration's workflow.

    Raises:
        UnknownMigration: Temporal knows no such workflow.
        WorkerMissing: it runs, but no worker answers.
    """
    found = await describe(client, workflow)
    handle = client.get_workflow_handle(workflow, run_id=found.run_id)
    if found.close_time is not None:
        return await _ended(handle, found)
    status = await ask(handle, found.task_queue, limit_s=limit_s)
    if heartbeats and status.waiting_for is None:
        status = status.model_copy(update={"waiting_for": await _lock_wait(client, found, status.name)})
    if heartbeats and Phase.VERIFY.reached(status.phase):
        status = status.model_copy(update={"comparison": await comparison_held(client, found)})
    if heartbeats and (failing := _retry(found, status)):
        # Whatever else it waits for: where the database cannot be reached, no act of anybody's has any effect.
        status = status.model_copy(update={"waiting_for": failing})
    if heartbeats and status.reconciliation and not status.reconciliation.why_not:
        status = await with_schedule(client, status, status.reconciliation)
    if heartbeats and status.phase is Phase.BACKFILL:
        ranges = await running_slices(client, found)
        status = with_slices(status, [each.said for each in ranges if each.said], now=datetime.now(UTC))
        if status.waiting_for is None:
            failing = next(filter(None, (_retry(each.child, status) for each in ranges)), None)
            status = status.model_copy(update={"waiting_for": failing})
    return Look(status)


async def _lock_wait(client: Client, found: WorkflowExecutionDescription, name: str) -> WaitingFor | None:
    """Read from heartbeats whether an activity waits for a table lock, and who holds it."""
    for activity in found.raw_description.pending_activities:
        if not activity.heartbeat_details.payloads:
            continue
        try:
            [beat] = await client.data_converter.decode(activity.heartbeat_details.payloads, [LockWait])
        except (ValidationError, ValueError, TypeError, RuntimeError):
            continue  # another kind of heartbeat
        if isinstance(beat, LockWait):
            commands = [f"{each};  # in psql: ends who holds it" for each in beat.ending]
            commands += [f"pgduet pause {name}", f"pgduet rollback {name}"]
            return WaitingFor(kind=beat.kind, detail=beat.waits_for_lock, since=beat.since, next_commands=commands)
    return None


def _retry(found: WorkflowExecutionDescription, status: Status) -> WaitingFor | None:
    """Tell which activity fails and is tried again by Temporal, as while the database cannot be reached, and why."""
    for activity in found.raw_description.pending_activities:
        reason = activity.last_failure.message
        if activity.attempt <= FEW_TRIES or not reason:
            continue
        commands = [f"pgduet status {status.name} --watch"]
        if status.state is not State.ROLLING_BACK:
            commands.append(f"pgduet rollback {status.name}")
        detail = f"{activity.activity_type.name} to succeed, try {activity.attempt}: {shown(reason)}"
        since = activity.scheduled_time.ToDatetime(UTC)
        return WaitingFor(kind="retry", detail=detail, since=since, next_commands=commands)
    return None


async def describe(client: Client, workflow: str) -> WorkflowExecutionDescription:
    """Describe the newest run; `UnknownMigration` where there is none."""
    try:
        return await client.get_workflow_handle(workflow).describe()
    except RPCError as wrong:
        if wrong.status is not RPCStatusCode.NOT_FOUND or "namespace" in wrong.message.lower():
            raise
    database, name = parts(workflow)
    msg = f"there is no migration `{name}` on database `{database}`"
    raise UnknownMigration(msg)


async def ask(handle: WorkflowHandle[Any, Any], task_queue: str, *, limit_s: float = QUERY_LIMIT_S) -> Status:
    """Ask a workflow for its status."""
    limit = timedelta(seconds=limit_s)
    try:
        # The SDK tries again when its own limit has passed; the outer limit bounds all tries together.
        answer = await asyncio.wait_for(handle.query("status", result_type=Status, rpc_timeout=limit), limit_s)
    except TimeoutError:
        raise WorkerMissing(task_queue) from None
    except WorkflowQueryFailedError as wrong:
        msg = f"the workflow cannot answer: {wrong.message}"
        raise PgduetError(msg) from wrong
    except RPCError as wrong:
        if wrong.status in _NO_WORKER:
            raise WorkerMissing(task_queue) from wrong
        if wrong.status is RPCStatusCode.INVALID_ARGUMENT:
            msg = f"the workflow cannot answer: {wrong.message}"
            raise PgduetError(msg) from wrong
        raise
    return Status.model_validate(answer)


async def started_with(client: Client, workflow: str) -> Start:
    """Read the input of the newest run from its history; no worker is needed."""
    found = await describe(client, workflow)
    handle = client.get_workflow_handle(workflow, run_id=found.run_id)
    async for event in handle.fetch_history_events(page_size=1):
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            payloads = event.workflow_execution_started_event_attributes.input
            try:
                [start] = await client.data_converter.decode_wrapper(payloads, [Start])
                return Start.model_validate(start)
            except Exception as wrong:
                msg = "the run was started with something that is no plan"
                raise PgduetError(msg, hint="Give the plan: `--plan FILE`.") from wrong
        break
    raise PgduetError("the workflow's history does not begin with its start")


def listed(execution: WorkflowExecution) -> Status:
    """Tell what a listing shows: phase and state by search attributes where they are registered."""
    database, name = parts(execution.id)
    attributes = execution.typed_search_attributes
    ended = execution.status is WorkflowExecutionStatus.COMPLETED
    phase = _value(Phase, attributes.get(_PHASE)) or (Phase.DONE if ended else Phase.PREFLIGHT)
    state = _value(State, attributes.get(_STATE)) or (State.DONE if ended else State.RUNNING)
    if execution.close_time is not None and not ended and state not in _ENDED:
        state = State.FAILED
    return Status(name=name, database=database, workflow_id=execution.id, phase=phase, state=state)


async def _ended(handle: WorkflowHandle[Any, Any], found: WorkflowExecutionDescription) -> Look:
    error, result = await _outcome(handle)
    try:
        status = result or await ask(handle, found.task_queue)
    except PgduetError:
        status = listed(found)
    # A cancelled migration rolls back and then ends as cancelled: that is no failure.
    if error is None or status.state in _ENDED:
        return Look(status, closed=True)
    update = {"state": State.FAILED, "failure": status.failure or _told(error), "waiting_for": None}
    return Look(status.model_copy(update=update), closed=True, error=error)


async def _outcome(handle: WorkflowHandle[Any, Any]) -> tuple[PgduetError | None, Status | None]:
    """Read how a run ended: its error, or its result where that is a status."""
    try:
        result = await handle.result(follow_runs=False)
    except WorkflowFailureError as failed:
        return error_from(failed), None
    try:
        return None, Status.model_validate(result)
    except ValidationError:
        return None, None


def _told(error: PgduetError) -> str:
    return error.message if type(error) is PgduetError else error.render()


def _value(kind: type[_Word], text: str | None) -> _Word | None:
    return kind(text) if text in list(kind) else None
