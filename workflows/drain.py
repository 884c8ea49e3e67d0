"""One Drain brings merged rows up to date for as long as both versions are in use, beside whatever its migration waits for.

It is no child: it has to go on while the migration waits at a gate for days, continues as new, or is lost. It begins with the
publication and ends by itself, by what it finds in the database. What it does makes reads cheap, never right (ADR 32).
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.describe import plain
    from pgduet.draining import DrainInput, DrainResult
    from pgduet.workflows.calls import call, read

PAUSE_S = 1.0
"""Between two slices: a worker that leaves ends its slice, and another one should have the next."""


@workflow.defn(name="Drain")
class Drain:
    """Empties the journals of a migration's merges."""

    @workflow.run
    async def run(self, raw: object = None) -> DrainResult:
        """Drain, slice by slice, until nothing is left to be drained."""
        task = read(DrainInput, raw)
        name = task.reference.name
        while True:
            result = await call("drain_slice", task, DrainResult, f"keep merged rows of {plain(name)} up to date")
            workflow.set_current_details(f"{result.notes:,} notes in the last slice")
            if result.finished:
                return result
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(task)
            await workflow.sleep(timedelta(seconds=PAUSE_S))
