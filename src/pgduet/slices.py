"""How far a backfill is, second by second: from the heartbeats of running slices and the results of finished ones.

A Backfill child is `<migration's workflow id>/backfill/<n>`. Each says how many rows its whole range has, so that the sums
are right whatever was reported before. Limits: ranges count alike in `percent`, and a range may say nothing for a
moment; figures that cannot be read are left out.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError

from pgduet.messages import SliceResult, Status
from pgduet.phases import Phase

_AT_ONCE = 8
_LAST_EVENTS = 40
_MOST = 512


class Range(NamedTuple):
    """What a range last said, and its workflow as Temporal knows it."""

    said: SliceResult | None
    child: WorkflowExecutionDescription


async def running_slices(client: Client, migration: WorkflowExecutionDescription) -> list[Range]:
    """Ask every range of a migration's backfill where it is."""
    found: list[Range] = []
    for first in range(0, _MOST, _AT_ONCE):
        numbers = range(first, first + _AT_ONCE)
        ranges = await asyncio.gather(*(_range(client, migration, number) for number in numbers))
        found += [each for each in ranges if each]
        if None in ranges:
            break
    return found


def with_slices(status: Status, slices: Sequence[SliceResult], *, now: datetime) -> Status:
    """Give the status with the backfill's figures as the slices tell them."""
    if not slices:
        return status
    filled = status.backfill
    rows = max(filled.rows_done, sum(part.rows_total for part in slices))
    percent = max(filled.percent, sum(part.percent for part in slices) / len(slices))
    begun = next((timing.started_at for timing in reversed(status.timings) if timing.phase is Phase.BACKFILL), now)
    seconds = max(0.0, (now - begun).total_seconds())
    at_work = sorted((part for part in slices if not part.finished), key=lambda part: part.paused)
    update = {
        "rows_done": rows,
        "rows_total": max(filled.rows_total, rows),
        "batches": max(filled.batches, sum(part.batches for part in slices)),
        "percent": percent,
        "rows_per_second": rows / seconds if seconds else filled.rows_per_second,
        "eta_s": seconds * (100 - percent) / percent if percent > 0 else filled.eta_s,
        "throttled_by": next((part.throttled_by for part in at_work if part.throttled_by), None),
        "throttle": next((part.throttle for part in at_work if part.throttle), None),
        "holds": bool(at_work) and all(map(_holds, at_work)),
        "unmeasured": next((part.unmeasured for part in slices if part.unmeasured), None),
        "seconds": seconds,
    }
    return status.model_copy(update={"backfill": filled.model_copy(update=update)})


def _holds(part: SliceResult) -> bool:
    """Tell whether a range stands still; rows that clients hold locked are told in words alone."""
    return bool(part.throttled_by) and (part.throttle is None or not part.throttle.rate)


async def _range(client: Client, migration: WorkflowExecutionDescription, number: int) -> Range | None:
    """Read what a range last said; None where there is no range of this number."""
    handle = client.get_workflow_handle(f"{migration.id}/backfill/{number}", result_type=SliceResult)
    try:
        found = await handle.describe()
        if found.parent_run_id != migration.run_id:  # a range of an earlier run of the same name
            return None
        if found.status is WorkflowExecutionStatus.COMPLETED:
            return Range(SliceResult.model_validate(await handle.result()), found)
        beats = [activity.heartbeat_details for activity in found.raw_description.pending_activities]
        said = next((beat for beat in beats if beat.payloads), None) or await _last_result(client, found)
        details = await client.data_converter.decode_wrapper(said)
    except RPCError:
        return None
    except (WorkflowFailureError, TemporalError, ValueError):
        return Range(None, found)
    # A slice that waits for a lock says so in words; only figures are of use here.
    figures = next((SliceResult.model_validate(detail) for detail in details if _is_slice(detail)), None)
    return Range(figures, found)


async def _last_result(client: Client, found: WorkflowExecutionDescription) -> Payloads | None:
    """Read what the slice before said: for a range that is paused, or between two slices."""
    run = WorkflowExecution(workflow_id=found.id, run_id=found.run_id)
    ask = GetWorkflowExecutionHistoryReverseRequest(
        namespace=client.namespace, execution=run, maximum_page_size=_LAST_EVENTS
    )
    answer = await client.workflow_service.get_workflow_execution_history_reverse(ask)
    done = (
        event for event in answer.history.events if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    )
    return next((event.activity_task_completed_event_attributes.result for event in done), None)


def _is_slice(detail: object) -> bool:
    return isinstance(detail, dict) and SliceResult.model_fields.keys() >= detail.keys() and "cursor_block" in detail
