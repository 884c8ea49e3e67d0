"""One Backfill child fills one range of a table's pages, slice by slice, for as long as it takes.

A slice is an activity of seconds to a minute; between two of them the child can be paused, waits while the window is closed, and
continues as new before its history grows long. What counts as done is the cursor in the database: a child that starts again finds
its place there.
"""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.describe import plain
    from pgduet.messages import BackfillInput, BackfillReport, SliceResult
    from pgduet.workflows.calls import call, read

LONGEST_SLICE_S = 60.0
SHORTEST_WAIT_S = 1.0


@workflow.defn(name="Backfill")
class Backfill:
    """Fills one range."""

    def __init__(self) -> None:
        """Begin unpaused."""
        self.paused = False
        self.reported = 0.0
        self.closed = False
        self.throttled = False

    @workflow.run
    async def run(self, raw: object = None) -> SliceResult:
        """Fill the range; returns the last slice's result, with the rows of the whole range in `rows_total`."""
        task = read(BackfillInput, raw)
        self.paused = self.paused or task.paused
        while True:
            if workflow.cancellation_reason() is not None:
                # A slice that ended well although it was cancelled has swallowed the cancellation.
                raise asyncio.CancelledError
            await workflow.wait_condition(lambda: not self.paused)
            self.throttled = False
            result = await call("fill_slice", task, SliceResult, _summary(task))
            await self.report(task, result)
            if result.finished:
                return result
            task.held_since = result.held_since
            if result.closed_until:
                since = result.throttle.since if result.throttle else None
                task.closed_since = task.closed_since or since or workflow.now()
                await self.until_open(result.closed_until)
            else:
                task.closed_since = None
            if result.paused and not self.paused:
                # The operator's word is in the database already, the signal is on its way (or the other way round).
                await workflow.sleep(timedelta(seconds=1))
            task.slice_s = min(LONGEST_SLICE_S, task.slice_s * 2)
            if workflow.info().is_continue_as_new_suggested():
                task.paused = self.paused
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(task)

    async def until_open(self, opens: datetime) -> None:
        """Wait for the window, or for somebody to change it: days are one timer."""
        left_s = max(SHORTEST_WAIT_S, (opens - workflow.now()).total_seconds())
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self.throttled, timeout=timedelta(seconds=left_s))

    @workflow.signal(name="throttle")
    def throttle(self, raw: object = None) -> None:
        """Look at the window again: it may have been changed."""
        del raw
        self.throttled = True

    @workflow.signal(name="pause")
    def pause(self, raw: object = None) -> None:
        """Hold before the next slice."""
        del raw
        self.paused = True

    @workflow.signal(name="resume")
    def resume(self, raw: object = None) -> None:
        """Go on."""
        del raw
        self.paused = False

    async def report(self, task: BackfillInput, result: SliceResult) -> None:
        """Tell the parent at every tenth of the range or less often: its history must not grow with rows."""
        workflow.set_current_details(f"{result.percent:.0f} % of pages · {result.rows_total:,} rows")
        closed, self.closed = self.closed, result.closed_until is not None
        news = result.finished or closed != self.closed or result.percent >= self.reported + task.report_percent
        if task.parent_id is None or not news:
            return
        self.reported = result.percent
        report = BackfillReport(
            relation=task.part.relation,
            part=task.part.part,
            blocks=task.part.block_to - task.part.block_from,
            blocks_done=result.blocks_done,
            rows=result.rows_total,
            batches=result.batches,
            throttled_by=result.throttled_by,
            throttle=result.throttle,
        )
        await workflow.get_external_workflow_handle(task.parent_id).signal("backfill_report", report)


def _summary(task: BackfillInput) -> str:
    return f"fill {plain(task.part.relation)}, pages {task.part.block_from} to {task.part.block_to}"
