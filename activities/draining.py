"""Keeps merged rows up to date while both versions are in use: the Drain workflow's slices, and what begins that workflow.

Its pace follows what clients write: batch after batch while notes come in, and a look every second while none do. It waits for no
client, and gives a vacuum to the journal once readers step over enough of what was taken. Nobody has to stop it: it ends when
it finds that the journals are gone, or the migration has ended.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from psycopg import errors
from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from pgduet.activities.engine import Engine, Work
from pgduet.draining import DrainInput, DrainResult
from pgduet.messages import Reference, workflow_id
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.postgres import merging, store
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection

SHORTEST_S, LONGEST_S = 0.05, 1.0
"""How long it rests where the last batch was nearly full, and where nothing came for a while."""
LOOK_EVERY_S = 1.0
"""How often it asks whether it is still needed."""


class Drains:
    """Brings merged rows up to date."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="drain_slice")
    async def drain_slice(self, task: DrainInput) -> DrainResult:
        """Drain until the time is up, the worker leaves, or nothing is left to be drained."""
        async with self.engine.work(task.reference, "drain") as work:
            journals, ends = _Journals(work), time.monotonic() + task.slice_s
            while time.monotonic() < ends and not activity.is_worker_shutdown():
                merged = await still_merged(work.conn, work.migration.id)
                if not merged:
                    return DrainResult(finished=True, notes=journals.notes)
                # Contract or an undo may take a journal away under our hands: the next look tells.
                with suppress(errors.UndefinedTable, errors.UndefinedFunction):
                    await journals.drain(merged)
            return DrainResult(finished=False, notes=journals.notes)


async def begin(reference: Reference) -> None:
    """Begin the Drain workflow of a migration's attempt, unless it runs: that of an attempt before may not have ended yet."""
    await activity.client().start_workflow(
        "Drain",
        DrainInput(reference=reference),
        id=f"{workflow_id(reference.database, reference.name)}/drain/{reference.migration_id}",
        task_queue=activity.info().task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        static_summary=f"merged rows of {reference.name}",
    )


async def still_merged(conn: Connection, migration_id: int) -> list[MergeDesign]:
    """Give the merges of a migration that have a journal now."""
    found = next((other for other in await store.run(conn, "by_id", {"id": migration_id})), None)
    if found is None or found["ended_at"] is not None:
        return []
    merged = [MergeDesign.model_validate(each) for each in found["design"].get("merged", [])]
    return [each for each in merged if await merging.has_journal(conn, each)]


class _Journal:
    """One journal, and how long it is left alone."""

    def __init__(self, conn: Connection, design: MergeDesign) -> None:
        self.draining = merging.Draining(conn, design)
        self.rest_s = SHORTEST_S

    async def drain(self, pace: Pace) -> float:
        """Drain a batch; rest shortly while batches are full, and longer from look to look while they are not."""
        wanted = self.draining.most
        taken = await self.draining.next(pace)
        if taken >= wanted:
            self.rest_s = 0.0
        elif taken > wanted // 4 or self.draining.busy:
            self.rest_s = SHORTEST_S
        else:
            self.rest_s = min(LONGEST_S, max(SHORTEST_S, 1.5 * self.rest_s))
        return self.rest_s


class _Journals:
    """The journals of a migration, and what a slice knows of each."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.known: dict[int, _Journal] = {}

    @property
    def notes(self) -> int:
        """How many notes were taken."""
        return sum(each.draining.notes for each in self.known.values())

    async def drain(self, merged: Sequence[MergeDesign]) -> None:
        """Drain for about a second."""
        conn = self.work.conn
        controls = await store.controls(conn, self.work.migration.id)
        pace = Pace.of(self.work.migration.policy).adjusted(controls)
        for design in merged:
            if design.position not in self.known:
                self.known[design.position] = journal = _Journal(conn, design)
                await journal.draining.open()
        journals = [self.known[design.position] for design in merged]
        ends = time.monotonic() + LOOK_EVERY_S
        while time.monotonic() < ends:
            rests = [await each.drain(pace) for each in journals]
            await asyncio.sleep(max(pace.pause_ms / 1000, min(rests)))
