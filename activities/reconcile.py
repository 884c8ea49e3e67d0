"""The schedule of comparisons, and whether there is something to compare.

A migration has one schedule, by an id of its name, so that to make it twice is to find it. Its memo says which attempt it is for:
one that an earlier attempt left is replaced. A pause of ours has a note of ours; what somebody has paused in the Temporal UI stays
paused. A schedule without a migration takes itself away: each of its workflows looks first, and `setup` sweeps.
"""

import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from pgduet.activities.engine import Engine, beating, translated
from pgduet.barriers import reach
from pgduet.messages import Parity, Reference
from pgduet.postgres import store
from pgduet.postgres.session import Connection
from pgduet.reconciling import (
    BY_US,
    MAKES_SAFE,
    PREFIX,
    LastComparison,
    MayReconcile,
    ReconcileInput,
    Tend,
    Tended,
    Want,
    schedule_id,
)
from pgduet.texts import shown

MIGRATION = "migration_id"
SHORTEST_CATCHUP_S = 60
_NOT_FOUND = RPCStatusCode.NOT_FOUND
_FOR_GOOD = {
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
    RPCStatusCode.INVALID_ARGUMENT,
}
"""How a namespace says that there are no schedules, or none for this worker."""


class Reconciling:
    """Tends schedules."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="tend_reconciliation")
    async def tend_reconciliation(self, request: Tend) -> Tended:
        """Bring a migration's schedule into a state; safe to run again. Does not fail where there can be none."""
        async with translated(), beating():
            handle = _handle(activity.client(), request.reference)
            try:
                await _WAYS[request.want](activity.client(), handle, request)
            except RPCError as wrong:
                if wrong.status not in _FOR_GOOD:
                    told = f"Temporal does not take it: {shown(wrong.message) or wrong.status.name}"
                    raise ApplicationError(told, type="RPCError") from None
                return Tended(why_not=f"{wrong.status.name.lower().replace('_', ' ')}: {shown(wrong.message)}")
            await reach("schedule.after_change")
        return Tended()

    @activity.defn(name="may_reconcile")
    async def may_reconcile(self, task: ReconcileInput) -> MayReconcile:
        """Tell whether both versions live; where they do not any more, or nobody knows the migration, end the schedule."""
        reference = task.reference
        async with self.engine.connection(reference.database, f"reconcile/{reference.name}") as conn, beating():
            found = await store.run(conn, "may_reconcile", {"id": reference.migration_id, "undos": sorted(MAKES_SAFE)})
            if not found or not found[0]["overlaps"]:
                with suppress(RPCError):  # the next workflow that it starts tries again
                    await _remove_orphan(activity.client(), reference)
                return MayReconcile(why_not="there are no two versions any more: the schedule has been taken away")
            if found[0]["makes_safe"]:
                return MayReconcile(why_not="it is rolling back")
            return MayReconcile(why_not="it is paused" if found[0]["paused"] else None)

    @activity.defn(name="last_comparison")
    async def last_comparison(self, reference: Reference) -> LastComparison:
        """Read the comparison that the database keeps."""
        async with self.engine.work(reference, "parity") as work:
            kept = work.migration.parity
            return LastComparison(parity=Parity.model_validate(kept) if kept else None)


async def sweep(client: Client, conn: Connection, database: str) -> list[str]:
    """Take schedules away whose migration has ended, or is not in the database; gives their names."""
    swept = []
    with suppress(RPCError):  # a namespace without schedules
        async for listed in await client.list_schedules():
            of, _, name = listed.id.removeprefix(PREFIX).partition("/")
            if not listed.id.startswith(PREFIX) or of != database:
                continue
            found = await store.latest(conn, name)
            if found is None or found.ended:
                await _delete(client.get_schedule_handle(listed.id))
                swept.append(listed.id)
    return swept


def _handle(client: Client, reference: Reference) -> ScheduleHandle:
    return client.get_schedule_handle(schedule_id(reference.database, reference.name))


async def _on(client: Client, handle: ScheduleHandle, request: Tend) -> None:
    """Have it there and at work, unless somebody else has paused it."""
    migration_id = request.reference.migration_id
    try:
        await client.create_schedule(handle.id, _schedule(request), memo={MIGRATION: migration_id})
    except ScheduleAlreadyRunningError:
        found = await handle.describe()
        if not await _is_for(found, migration_id) or _when_and_where(found) != (request.every_s, _queue()):
            await _delete(handle)
            await client.create_schedule(handle.id, _schedule(request), memo={MIGRATION: migration_id})
        elif found.schedule.state.paused and (found.schedule.state.note or "").startswith(BY_US):
            await handle.unpause(note=f"{BY_US}resumed")


async def _held(client: Client, handle: ScheduleHandle, request: Tend) -> None:
    """Pause it, and end the comparison that is under way."""
    try:
        if not (await handle.describe()).schedule.state.paused:
            by = request.reference
            await handle.pause(note=f"{BY_US}held, by {by.actor}" + (f": {by.reason}" if by.reason else ""))
        await _cancel(client, (await handle.describe()))
    except RPCError as wrong:
        if wrong.status is not _NOT_FOUND:
            raise


async def _gone(client: Client, handle: ScheduleHandle, request: Tend) -> None:
    """Take it away, and end the comparison that is under way."""
    await _held(client, handle, request)
    await _delete(handle)


_WAYS: dict[Want, Callable[[Client, ScheduleHandle, Tend], Coroutine[Any, Any, None]]] = {
    "on": _on,
    "held": _held,
    "gone": _gone,
}


async def _delete(handle: ScheduleHandle) -> None:
    try:
        await handle.delete()
    except RPCError as wrong:
        if wrong.status is not _NOT_FOUND:
            raise


async def _cancel(client: Client, found: ScheduleDescription) -> None:
    for running in found.info.running_actions:
        if isinstance(running, ScheduleActionExecutionStartWorkflow):
            try:
                await client.get_workflow_handle(running.workflow_id).cancel()
            except RPCError as wrong:
                if wrong.status is not _NOT_FOUND:  # it has just ended
                    raise


async def _remove_orphan(client: Client, reference: Reference) -> None:
    """Take the schedule away that started this, but not that of a later attempt."""
    handle = _handle(client, reference)
    if await _is_for(await handle.describe(), reference.migration_id):
        await handle.delete()


async def _is_for(found: ScheduleDescription, migration_id: int) -> bool:
    return bool(await found.memo_value(MIGRATION, None) == migration_id)


def _when_and_where(found: ScheduleDescription) -> tuple[float, str]:
    """Tell how often it starts a workflow, and on which task queue: a migration that was adopted may have moved."""
    intervals, action = found.schedule.spec.intervals, found.schedule.action
    every_s = intervals[0].every.total_seconds() if intervals else 0.0
    return every_s, action.task_queue if isinstance(action, ScheduleActionStartWorkflow) else ""


def _queue() -> str:
    return activity.info().task_queue


def _schedule(request: Tend) -> Schedule:
    """Write it: the first comparison an interval from now, so that not all migrations compare at the full hour."""
    every_s = int(request.every_s)
    reference = request.reference.model_copy(update={"actor": "pgduet", "reason": None})
    action = ScheduleActionStartWorkflow(
        "Reconcile",
        ReconcileInput(reference=reference, workflow_id=request.workflow_id),
        id=schedule_id(reference.database, reference.name),
        task_queue=_queue(),
        static_summary="compare both versions, once",
    )
    every = ScheduleIntervalSpec(timedelta(seconds=every_s), timedelta(seconds=int(time.time()) % every_s))
    # What an outage has missed is made up for once, if at all.
    catchup = timedelta(seconds=max(SHORTEST_CATCHUP_S, every_s))
    return Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[every]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=catchup),
        state=ScheduleState(
            note=f"Compares both versions of {reference.name}, which {request.workflow_id} looks after."
        ),
    )
