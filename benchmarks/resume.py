"""kill -9 of the worker at random moments of a backfill: what is done again, what is lost, and how soon it goes on.

Each of twenty backfills is killed once, at a random moment (the seed is printed) of the time that an undisturbed one took;
one that was done by then is drawn again. A batch that was under way leaves its mark: rows whose newest version was rolled
back have the transaction's number as xmax; one that had ended before the kill, as a batch that took too long does, is not
counted. So the batches that must be done again are counted, by range, before another worker comes, which is right after the
kill. At the end no row may be unfilled. No peer can do it.

Takes about 8 minutes.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import LiteralString

from benchmarks.common import duet, users
from benchmarks.common.alternate import median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.duet import Duet
from benchmarks.common.figures import Figure, Goal
from benchmarks.common.ground import Connection, connect
from benchmarks.common.options import Sizes
from pgduet.phases import Phase

DUET = "pgduet"
_LIMIT_S = 120.0
_LOOK_S = 0.005
_DRAWS = 4
"""For each kill: so often a moment may turn out to be too late."""

_BEGUN: LiteralString = "SELECT count(*) FROM pgduet.backfill_range"
_OPEN: LiteralString = "SELECT count(*) FROM pgduet.backfill_range WHERE cursor_block < block_to"
_DONE: LiteralString = "SELECT sum(cursor_block) FROM pgduet.backfill_range"
_SESSIONS: LiteralString = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgduet/%'
"""
_UNDER_WAY: LiteralString = """
SELECT coalesce(max(batches), 0), coalesce(sum(rows), 0)
  FROM (SELECT r.part, count(DISTINCT u.xmax::text) AS batches, count(*) AS rows
          FROM pgduet.backfill_range r
          JOIN users u ON u.ctid >= format('(%%s,0)', r.cursor_block)::tid AND u.ctid < format('(%%s,0)', r.block_to)::tid
         WHERE u.xmax::text <> '0' AND NOT pg_visible_in_snapshot(u.xmax::text::xid8, %s::pg_snapshot)
         GROUP BY r.part) marked
"""


@dataclass(frozen=True, slots=True)
class Killed:
    """What a kill cost: batches of one range to be done again, rows of all of them, seconds, and rows that were lost."""

    batches: int
    rows: int
    from_back_s: float
    from_kill_s: float
    lost: int


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes."""
    chance = random.Random(run.seed)
    figures: list[Figure] = []
    for rows in run.sizes.rows:
        whole_s = await _undisturbed(run, rows)
        found: list[Killed] = []
        for _ in range(run.sizes.repeats * _DRAWS):
            if len(found) == run.sizes.repeats:
                break
            after_s = chance.uniform(0, whole_s)
            killed = await _killed(run, rows, after_s)
            run.say(f"killed after {after_s:.2f} of {whole_s:.2f} s: {killed or 'too late'}")
            found += [killed] if killed else []
        figures += figures_of(run.metric, rows, found, run.sizes.repeats)
    return figures


def figures_of(metric: Callable[..., str], rows: int, found: Sequence[Killed], asked: int) -> list[Figure]:
    """Make the figures of one size; pure."""

    def most(what: str, values: Sequence[float], unit: str, goal: Goal | None = None) -> Figure:
        return Figure.of(metric(what, rows), DUET, max(values, default=None), unit, goal=goal)

    back_s = [each.from_back_s for each in found]
    return [
        Figure.of(metric("kills", rows), DUET, len(found), "", goal=Goal("value", "≥", asked)),
        most("batches of a range done again, at most", [each.batches for each in found], "", Goal("value", "≤", 1)),
        most("rows done again, at most", [each.rows for each in found], ""),
        most("rows lost", [each.lost for each in found], "", Goal("value", "≤", 0)),
        most("goes on after a worker is back, at most", back_s, "s", Goal("value", "≤", 10)),
        Figure.of(metric("goes on after a worker is back, median", rows), DUET, median(back_s), "s"),
        most("goes on after the kill, at most", [each.from_kill_s for each in found], "s"),
    ]


async def _undisturbed(run: Run, rows: int) -> float:
    async with run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet:
        await _begun(pgduet, rows)
        return duet.took(await pgduet.held(Phase.BACKFILL), Phase.BACKFILL)


async def _killed(run: Run, rows: int, after_s: float) -> Killed | None:
    """Kill it once, and see it through; nothing where it was done before."""
    async with run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet, await connect(dsn) as conn:
        await _begun(pgduet, rows)
        await _until(conn, _BEGUN, bool)
        await asyncio.sleep(after_s)
        snapshot = await (await conn.execute("SELECT pg_current_snapshot()::text")).fetchone()
        await pgduet.kill_worker()
        killed_at = time.perf_counter()
        await _until(conn, _SESSIONS, lambda count: not count)
        if not await _number(conn, _OPEN):
            return None
        marked = await (await conn.execute(_UNDER_WAY, snapshot)).fetchone()
        cursors = await _number(conn, _DONE)
        await pgduet.begin_work()
        back_at = time.perf_counter()
        await _until(conn, _DONE, lambda done: done > cursors)
        on_at = time.perf_counter()
        await pgduet.held(Phase.BACKFILL)
        counted, left = await users.filled(dsn, await users.new_column(dsn))
        batches, again = (int(number) for number in marked or (0, 0))
        # It may have gone on before we have heard that the worker polls.
        return Killed(batches, again, max(0.0, on_at - back_at), on_at - killed_at, left + abs(rows - counted))


async def _begun(pgduet: Duet, rows: int) -> None:
    await users.create(pgduet.dsn)
    await users.fill(pgduet.dsn, rows, distinct=True)
    await pgduet.start(gates={"verify": "manual"})


async def _until(conn: Connection, query: LiteralString, there: Callable[[int], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        while not there(await _number(conn, query)):
            await asyncio.sleep(_LOOK_S)


async def _number(conn: Connection, query: LiteralString) -> int:
    """Ask for a number; 0 where there is none yet."""
    row = await (await conn.execute(query)).fetchone()
    return int(row[0] or 0) if row else 0


BENCHMARK = Benchmark(
    name="resume",
    measure=measure,
    usual=Sizes(rows=(1_000_000,), repeats=20),
    quick=Sizes(rows=(100_000,), repeats=2),
    limit_s=2 * 3600,
)
