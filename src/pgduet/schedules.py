"""What Temporal knows about a migration's comparisons: what holds one, when the schedule compared last, when it will, who paused.

Asked by whoever looks, not by the migration: its history does not grow, and what is told is as it is now.
"""

from pydantic import ValidationError
from temporalio.api.common.v1 import Payloads
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, ScheduleInfo, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from pgduet.measured import Reconciliation, Throttled
from pgduet.messages import Status
from pgduet.reconciling import BY_US
from pgduet.texts import shown

MISSING = "somebody has deleted the schedule"
COMPARES = "parity"
"""The activity that compares."""


async def comparison_held(client: Client, found: WorkflowExecutionDescription) -> Throttled | None:
    """Read from the heartbeats of a comparison under way what holds it, or slows it down."""
    for activity in found.raw_description.pending_activities:
        if activity.activity_type.name == COMPARES and activity.heartbeat_details.payloads:
            return await _throttled(client, activity.heartbeat_details)
    return None


async def _throttled(client: Client, beat: Payloads) -> Throttled | None:
    try:
        [said] = await client.data_converter.decode_wrapper(beat)
        return Throttled.model_validate(said)
    except (ValidationError, ValueError, TypeError, RuntimeError):
        return None  # it says how far it is


async def with_schedule(client: Client, status: Status, known: Reconciliation) -> Status:
    """Add what the schedule tells, and what holds its comparison; where it cannot be asked, nothing."""
    try:
        found = await client.get_schedule_handle(known.schedule_id).describe()
    except RPCError as wrong:
        missing = wrong.status is RPCStatusCode.NOT_FOUND
        paused = known.model_copy(update={"paused": MISSING})
        return status.model_copy(update={"reconciliation": paused}) if missing else status
    state, info = found.schedule.state, found.info
    note = state.note or "no reason given"
    told = known.model_copy(
        update={
            "paused": shown(note.removeprefix(BY_US)) if state.paused else None,
            "running": bool(info.running_actions),
            "last_at": info.recent_actions[-1].started_at if info.recent_actions else None,
            "next_at": info.next_action_times[0] if info.next_action_times and not state.paused else None,
        }
    )
    held = status.comparison or await _scheduled_held(client, info)
    return status.model_copy(update={"reconciliation": told, "comparison": held})


async def _scheduled_held(client: Client, info: ScheduleInfo) -> Throttled | None:
    for action in info.running_actions:
        if isinstance(action, ScheduleActionExecutionStartWorkflow):
            try:
                found = await client.get_workflow_handle(action.workflow_id).describe()
            except RPCError:
                continue  # it has ended
            return await comparison_held(client, found)
    return None
