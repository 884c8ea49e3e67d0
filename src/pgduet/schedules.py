"""What Temporal knows about a migration's schedule of comparisons: when it compared last, when it will, who has paused it.

Asked by whoever looks, not by the migration: its history does not grow, and what is told is as it is now.
"""

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from pgduet.measured import Reconciliation
from pgduet.reconciling import BY_US
from pgduet.texts import shown

MISSING = "somebody has deleted the schedule"


async def with_schedule(client: Client, known: Reconciliation) -> Reconciliation:
    """Add what the schedule tells; where it cannot be asked, nothing."""
    try:
        found = await client.get_schedule_handle(known.schedule_id).describe()
    except RPCError as wrong:
        missing = wrong.status is RPCStatusCode.NOT_FOUND
        return known.model_copy(update={"paused": MISSING}) if missing else known
    state, info = found.schedule.state, found.info
    note = state.note or "no reason given"
    return known.model_copy(
        update={
            "paused": shown(note.removeprefix(BY_US)) if state.paused else None,
            "running": bool(info.running_actions),
            "last_at": info.recent_actions[-1].started_at if info.recent_actions else None,
            "next_at": info.next_action_times[0] if info.next_action_times and not state.paused else None,
        }
    )
