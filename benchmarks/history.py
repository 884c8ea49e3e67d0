"""Events in the histories of a migration's workflows, at 1 M, 10 M and 1 G rows: they must not grow with the rows.

A whole migration is taken to its end, and the events of each run of each of its workflows are counted, parent and children.
One activity for each batch is reckoned beside it: six events each, those of the workflow task that sees its result included.
1 G rows are simulated, and the figures say so: the real workflows run on a real server and a real worker, but the table is
cut into ranges of made-up pages, and a slice only moves its range's cursor, as far as a real one has come in its time at the
rate that was measured before.

Takes about 6 minutes.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.common import duet, users
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.duet import Duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import one
from benchmarks.common.options import Sizes
from pgduet import runtime
from pgduet.activities import build
from pgduet.activities.ranges import MOST_RANGES
from pgduet.local.servers import database_variable, environment
from pgduet.messages import BackfillInput, Part, PartList, Reference, SliceResult, Status, workflow_id
from pgduet.phases import Phase
from pgduet.postgres.databases import Databases

DUET, PER_BATCH, SIMULATED = "pgduet", "one activity a batch, reckoned", "pgduet, simulated cursor"
GIGA = 1_000_000_000
MOST = Goal("value", "≤", 1999)
EVENTS_A_BATCH = 6
ROWS_A_PAGE = 200
_LISTED_S = 60.0
POLICY: dict[str, Any] = {
    "gates": {"cutover": "auto", "contract": "auto"},
    "approvals": {"cutover": 0, "contract": 0},
    "shift": {"steps": [1, 10, 50, 100], "bake_s": 0.2, "max_latency_ratio": 1000.0},
    "soak": {"window_s": 1.0, "legacy_idle_s": 1.0},
    "rollback": {"automatic_on": []},
}


@dataclass(frozen=True, slots=True)
class Events:
    """Events of the longest run of a kind of workflow, how many runs there were, and what was filled."""

    parent: int
    child: int
    runs: int
    batches: int
    rate: float


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes, and simulate the last."""
    found: dict[int, Events] = {}
    for rows in run.sizes.rows:
        found[rows] = await _whole(run, rows)
        run.say(f"{rows:,} rows: {found[rows]}")
    largest = max(found)
    simulated = await _simulated(run, found[largest].rate)
    run.say(f"{GIGA:,} rows, simulated at {found[largest].rate:,.0f} rows/s: {simulated}")
    return figures_of(run.metric, found, simulated)


def figures_of(metric: Callable[..., str], found: Mapping[int, Events], simulated: Events) -> list[Figure]:
    """Make the figures; pure. Batches of the simulated size follow those of the largest real one."""
    largest = max(found)
    batches_of_giga = round(found[largest].batches * GIGA / largest)
    figures: list[Figure] = []
    for rows, subject, events, batches in (
        *((rows, DUET, events, events.batches) for rows, events in found.items()),
        (GIGA, SIMULATED, simulated, batches_of_giga),
    ):
        reckoned = EVENTS_A_BATCH * batches
        against = Against(PER_BATCH, reckoned)
        figures += [
            Figure.of(metric("events of the parent", rows), subject, events.parent, "", against=against, goal=MOST),
            Figure.of(metric("events of a child, the longest run", rows), subject, events.child, "", goal=MOST),
            Figure.of(metric("runs of children", rows), subject, events.runs, ""),
            Figure.of(metric("events", rows), PER_BATCH, reckoned, ""),
        ]
    return figures


async def _whole(run: Run, rows: int) -> Events:
    async with run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet:
        await users.create(dsn)
        await users.fill(dsn, rows, distinct=True)
        await pgduet.start(**POLICY)
        status = await pgduet.until(lambda status: status.phase is Phase.DONE, "done")
        (ranges,) = await one(dsn, "SELECT count(*) FROM pgduet.backfill_range")
        return await _events(pgduet, status, ranges)


async def _events(pgduet: Duet, status: Status, ranges: int) -> Events:
    """Count events, once the server lists every child with its length; a parent that still runs is asked itself."""
    parent = workflow_id(pgduet.database, users.NAME)
    query = f'WorkflowId STARTS_WITH "{parent}"'
    async with asyncio.timeout(_LISTED_S):
        while True:
            lengths = [
                (each.id, each.history_length or 0) async for each in pgduet.migrations.client.list_workflows(query)
            ]
            children = [length for name, length in lengths if name != parent]
            listed = [length for name, length in lengths if name == parent]
            if len(children) >= ranges and all(children):
                break
            await asyncio.sleep(0.2)
    longest = (await pgduet.migrations.client.get_workflow_handle(parent).describe()).history_length
    backfill = status.backfill
    return Events(max(longest, *listed), max(children), len(children), backfill.batches, backfill.rows_per_second)


@dataclass
class Cursor:
    """Activities that stand in for those of the backfill: ranges of made-up pages, and cursors that only move."""

    rows: int
    rate: float
    parallelism: int = 2
    moved: dict[int, int] = field(default_factory=dict)

    @activity.defn(name="plan_backfill")
    async def plan_backfill(self, reference: Reference) -> PartList:
        """Cut so many pages into as many ranges as a large table has."""
        del reference
        pages = math.ceil(self.rows / ROWS_A_PAGE)
        bounds = [pages * number // MOST_RANGES for number in range(MOST_RANGES + 1)]
        parts = [
            Part(relation="public.users", part=number, block_from=bounds[number], block_to=bounds[number + 1])
            for number in range(MOST_RANGES)
        ]
        return PartList(parts=parts, parallelism=self.parallelism)

    @activity.defn(name="fill_slice")
    async def fill_slice(self, task: BackfillInput) -> SliceResult:
        """Move as far as a slice of this length comes, shared among the ranges that are filled at once."""
        part, span = task.part, task.part.block_to - task.part.block_from
        pages = max(1, round(self.rate / self.parallelism * task.slice_s / ROWS_A_PAGE))
        done = self.moved[part.part] = min(span, self.moved.get(part.part, 0) + pages)
        return SliceResult(
            cursor_block=part.block_from + done,
            finished=done >= span,
            rows=pages * ROWS_A_PAGE,
            rows_total=done * ROWS_A_PAGE,
            batches=pages,
            blocks_done=done,
            percent=100.0 * done / span,
        )


async def _simulated(run: Run, rate: float) -> Events:
    """Go through the backfill of a table whose rows are not there; the worker, with its stand-ins, is in this process."""
    async with run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet:
        await users.create(dsn)
        await users.fill(dsn, 1000, distinct=True)
        if pgduet.worker:  # the real one has set the database up
            await asyncio.to_thread(pgduet.worker.stop)
            pgduet.worker = None
        cursor = Cursor(GIGA, rate)
        worker = _worker(pgduet.migrations.client, pgduet, [cursor.plan_backfill, cursor.fill_slice])
        with environment({database_variable(pgduet.database): dsn}):
            async with worker:
                await pgduet.start(gates={"verify": "manual"})
                return await _events(pgduet, await pgduet.held(Phase.BACKFILL), MOST_RANGES)


def _worker(client: Client, pgduet: Duet, instead: Sequence[Callable[..., Any]]) -> Worker:
    """Make a worker like `runtime.worker`'s, some of whose activities are others."""
    names = {each.__name__ for each in instead}
    real = build(Databases())
    kept = [each for each in real if each.__name__ not in names]
    if len(kept) + len(names) != len(real):
        message = f"not all of {names} are among the activities"
        raise LookupError(message)
    return Worker(client, task_queue=pgduet.queue, activities=[*kept, *instead], **runtime.settings())


BENCHMARK = Benchmark(
    name="history",
    measure=measure,
    usual=Sizes(rows=(1_000_000, 10_000_000), repeats=1),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3600,
)
