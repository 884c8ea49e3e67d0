"""Rows per second of a backfill, on pgroll's own scenario, without load; and again with distinct names.

In pgroll's scenario all rows get the same value, with which they can begin (ADR 25). With distinct names each row must be written.

Compared: pgduet from `start` to the end of its phase `backfill` (below 1 M rows that phase alone, with its start-up beside
it), what `pgroll start` takes at its default batch and at its best, what `reshape migration start` takes, and one plain
UPDATE. All begin with the tool set up, the table filled, vacuumed, and a checkpoint behind it. Afterwards no row may be left
unfilled.

Takes about 15 minutes with two sizes; 10 M rows (`--rows 300000,1000000,10000000`) an hour more.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import duet, peers, users
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect
from benchmarks.common.options import Sizes
from benchmarks.common.peer_runs import Pgroll, Reshape
from pgduet.phases import Phase

LARGE = 1_000_000
"""From here on pgduet is timed with its start-up."""
BATCHES = (5_000, 20_000, 100_000)
"""Among which pgroll's best batch is looked for, besides its default of 1,000 rows."""
DUET, PGROLL, BEST, RESHAPE, UPDATE = "pgduet", "pgroll", "pgroll, best batch", "reshape", "plain UPDATE"


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds that filling took; for pgduet also those of its phase alone, and the worker's memory."""

    whole_s: float
    phase_s: float = 0.0
    start_mb: float = 0.0
    peak_mb: float = 0.0


Data = tuple[int, bool]
"""How many rows, and whether nearly all of them have names of their own."""
Subject = Callable[[], Awaitable[Took]]


class Unfilled(Exception):
    """A subject left rows unfilled: it has not done the work that is timed."""


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes."""
    programs = {peer.name: run.find(peer) for peer in (peers.pgroll(), peers.reshape())}
    best = await _best_batch(run, programs[PGROLL], min(run.sizes.rows))
    figures: list[Figure] = []
    for distinct in (False, True):
        metric = partial(_named, run, distinct)
        rates: dict[int, float | None] = {}
        for rows in run.sizes.rows:
            took = await alternating(_subjects(run, programs, best, (rows, distinct)), run.sizes.repeats)
            figures += figures_of(metric, rows, took)
            rates[rows] = _rate(rows, [each.whole_s for each in took[DUET]])
        figures += scale(metric, rates)
    return figures


def _named(run: Run, distinct: bool, words: str, rows: int | None = None) -> str:  # noqa: FBT001
    return run.metric(f"{words}, distinct names" if distinct else words, rows)


def figures_of(metric: Callable[..., str], rows: int, took: Mapping[str, list[Took]]) -> list[Figure]:
    """Make the figures of one size; pure."""
    large = rows >= LARGE
    found = took[DUET]
    value = _rate(rows, [each.whole_s if large else each.phase_s for each in found])
    what = metric("backfill, start to end" if large else "backfill, the phase alone", rows)
    others = {name: _rate(rows, [each.whole_s for each in taken]) for name, taken in took.items() if name != DUET}
    goals = {
        PGROLL: Goal("ratio", "≥", 5 if large else 8),
        RESHAPE: Goal("ratio", "≥", 3.5),
        UPDATE: Goal("ratio", "≥", 1.2) if large else None,
    }
    figures = [
        Figure.of(what, DUET, value, "rows/s", against=Against(name, others.get(name)), goal=goals.get(name))
        for name in dict.fromkeys([*goals, *others])
    ]
    figures += [
        Figure.of(metric("backfill, start to end", rows), name, rate, "rows/s") for name, rate in others.items()
    ]
    return figures + _beside(metric, rows, found, large=large)


def _beside(metric: Callable[..., str], rows: int, found: list[Took], *, large: bool) -> list[Figure]:
    whole, phase = [each.whole_s for each in found], [each.phase_s for each in found]
    startup = median([each.whole_s - each.phase_s for each in found])
    other = (
        Figure.of(metric("backfill, the phase alone", rows), DUET, _rate(rows, phase), "rows/s")
        if large
        else Figure.of(metric("backfill, start to end", rows), DUET, _rate(rows, whole), "rows/s")
    )
    start_mb = median([each.start_mb for each in found])
    return [
        other,
        Figure.of(metric("from `start` to the first batch", rows), DUET, startup, "s"),
        Figure.of(metric("worker's memory at start", rows), DUET, start_mb, "MB"),
        Figure.of(
            metric("worker's memory at most", rows),
            DUET,
            median([each.peak_mb for each in found]),
            "MB",
            against=Against("start", start_mb),
        ),
    ]


def scale(metric: Callable[..., str], rates: Mapping[int, float | None]) -> list[Figure]:
    """Compare rates of large tables with that of one that is ten times smaller; pure."""
    base = rates.get(LARGE)
    return [
        Figure.of(
            metric("backfill, start to end", rows),
            DUET,
            rate,
            "rows/s",
            against=Against(f"{LARGE:,} rows", base),
            goal=Goal("ratio", "≥", 0.8),
        )
        for rows, rate in rates.items()
        if rows >= 10 * LARGE and base
    ]


def _rate(rows: int, seconds: list[float]) -> float | None:
    middle = median(seconds)
    return rows / middle if middle else None


async def _best_batch(run: Run, program: Path | None, rows: int) -> int | None:
    """Try batches, each once, at the smallest size."""
    if program is None:
        return None
    tried = {size: (await _pgroll(run, (rows, False), program, size)).whole_s for size in BATCHES}
    best = min(tried, key=lambda size: tried[size])
    told = ", ".join(f"{size:,}: {seconds:.1f} s" for size, seconds in tried.items())
    run.say(f"pgroll's batch sizes at {rows:,} rows: {told}")
    run.peers["pgroll, best batch"] = f"--backfill-batch-size {best}"
    return best


def _subjects(run: Run, programs: Mapping[str, Path | None], best: int | None, data: Data) -> dict[str, Subject]:
    subjects: dict[str, Subject] = {DUET: partial(_pgduet, run, data), UPDATE: partial(_update, run, data)}
    if pgroll := programs[PGROLL]:
        subjects[PGROLL] = partial(_pgroll, run, data, pgroll, None)
        subjects[BEST] = partial(_pgroll, run, data, pgroll, best)
    if reshape := programs[RESHAPE]:
        subjects[RESHAPE] = partial(_reshape, run, data, reshape)
    return {name: partial(_told, run, name, data[0], subject) for name, subject in subjects.items()}


async def _told(run: Run, name: str, rows: int, subject: Subject) -> Took:
    took = await subject()
    run.say(
        f"{name}: {rows:,} rows in {took.whole_s:.2f} s" + (f", the phase {took.phase_s:.2f} s" if took.phase_s else "")
    )
    return took


async def _pgduet(run: Run, data: Data) -> Took:
    async with run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet:
        await users.create(dsn)
        await users.fill(dsn, data[0], distinct=data[1])
        await pgduet.start(gates={"verify": "manual"})
        status = await pgduet.held(Phase.BACKFILL)
        await _require_filled(dsn, await users.new_column(dsn), data[0], DUET)
        whole_s = duet.took_since_start(pgduet, status, Phase.BACKFILL)
        return Took(whole_s, duet.took(status, Phase.BACKFILL), pgduet.memory.start_mb, pgduet.memory.peak_mb)


async def _pgroll(run: Run, data: Data, program: Path, batch_rows: int | None) -> Took:
    async with run.ground.database() as dsn:
        pgroll = await Pgroll.prepared(program, dsn, run.ground.scratch)
        await users.fill(dsn, data[0], distinct=data[1])
        ran = await pgroll.start(batch_rows)
        await _require_filled(dsn, await users.new_column(dsn), data[0], PGROLL)
        return Took(ran.seconds)


async def _reshape(run: Run, data: Data, program: Path) -> Took:
    async with run.ground.database() as dsn:
        reshape = await Reshape.prepared(program, dsn, run.ground.scratch)
        await users.fill(dsn, data[0], distinct=data[1])
        ran = await reshape.start()
        await _require_filled(dsn, await users.new_column(dsn), data[0], RESHAPE)
        return Took(ran.seconds)


async def _update(run: Run, data: Data) -> Took:
    async with run.ground.database() as dsn:
        await users.create(dsn)
        await users.fill(dsn, data[0], distinct=data[1])
        async with await connect(dsn) as conn:
            took_s = await users.update_all(conn)
        await _require_filled(dsn, "name", data[0], UPDATE)
        return Took(took_s)


async def _require_filled(dsn: str, column: str, rows: int, subject: str) -> None:
    counted, left = await users.filled(dsn, column)
    if left or counted != rows:
        message = f"{subject} left {left} of {counted} rows unfilled, and there should be {rows}"
        raise Unfilled(message)


BENCHMARK = Benchmark(
    name="backfill",
    measure=measure,
    usual=Sizes(rows=(300_000, 1_000_000), repeats=3),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3 * 3600,
)
