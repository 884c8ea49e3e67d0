"""How long a rollback from soak takes under load: until reads are back on the old version, and until all is as it was.

Clients of both versions work at a quarter of what the machine can do. A router like those of services says when reads are
back. New clients leave as soon as the old version is in charge, since nothing is withdrawn under them. Afterwards each
acknowledged write is found again. The time must not depend on the rows. No peer can do it.

Takes about 2 minutes for each of three repeats at 1 M rows, and 4 at 10 M: 18 minutes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.common import journeys, users
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.crowd import crowd
from benchmarks.common.duet import Duet, duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.journeys import BASE, CLIENTS, NEW, Load
from benchmarks.common.options import Sizes
from pgduet.messages import Abort
from pgduet.phases import Phase
from pgduet.routing import AsyncRouter

DUET = "pgduet"
POLICY: dict[str, Any] = {
    "gates": {"cutover": "auto"},
    "approvals": {"cutover": 0},
    "shift": {"steps": [100], "bake_s": 0.2, "max_latency_ratio": 1000.0},
    "soak": {"window_s": 3600.0, "legacy_idle_s": 1.0},
    "rollback": {"automatic_on": []},
}
_LIMIT_S = 60.0
_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class Undone:
    """Seconds from the command until reads, authority and everything were back; what was lost, and whom it broke."""

    reads_s: float
    safe_s: float
    all_s: float
    lost: int
    writes: int
    broken: int


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes, which take turns."""
    tps = await journeys.ceiling(run, min(run.sizes.rows))
    subjects = {str(rows): partial(_undone, run, journeys.load_for(rows, tps / 2)) for rows in run.sizes.rows}
    found = await alternating(subjects, run.sizes.repeats)
    return figures_of(run.metric, {int(rows): undone for rows, undone in found.items()})


def figures_of(metric: Callable[..., str], found: Mapping[int, Sequence[Undone]]) -> list[Figure]:
    """Make the figures; pure."""
    figures: list[Figure] = []
    smallest = min(found)
    first: dict[str, float | None] = {}
    for rows, undone in sorted(found.items()):
        times = {
            "reads back on the old version": ([each.reads_s for each in undone], Goal("value", "≤", 1)),
            "old version in charge": ([each.safe_s for each in undone], None),
            "all as it was": ([each.all_s for each in undone], Goal("value", "≤", 10)),
        }
        for what, (values, goal) in times.items():
            base = first.setdefault(what, median(values))
            against = Against(f"{smallest:,} rows", base) if rows != smallest else None
            figures.append(Figure.of(metric(what, rows), DUET, median(values), "s", against=against, goal=goal))
        for what, number in (
            ("acknowledged writes not found", sum(each.lost for each in undone)),
            ("client errors", sum(each.broken for each in undone)),
        ):
            figures.append(Figure.of(metric(what, rows), DUET, number, "", goal=Goal("value", "≤", 0)))
        writes = sum(each.writes for each in undone)
        figures.append(Figure.of(metric("acknowledged writes", rows), DUET, writes, ""))
    return figures


async def _undone(run: Run, load: Load) -> Undone:
    async with run.ground.database() as dsn, duet(run.ground, dsn) as pgduet:
        await users.create(dsn, visits=True)
        await users.fill(dsn, load.rows, distinct=True)
        async with crowd(run.ground, dsn, load.rows, rate=load.rate, clients=CLIENTS, seed=run.seed) as clients:
            await clients.invite(BASE, NEW)
            await clients.come(BASE, "public")
            await pgduet.start(**POLICY)
            await pgduet.until(lambda status: status.phase is Phase.SOAK, "in soak")
            await clients.come(NEW, users.V2)
            await asyncio.sleep(load.hold_s)
            reads_s, safe_s, began = await _made_safe(pgduet)
            await clients.leave(NEW)
            await pgduet.until(lambda status: status.phase is Phase.ROLLED_BACK, "rolled back")
            all_s = time.perf_counter() - began
            await asyncio.sleep(load.hold_s)
            await clients.leave(BASE)
            undone = Undone(reads_s, safe_s, all_s, await clients.lost(), clients.writes, len(clients.broken))
        run.say(f"{load.rows:,} rows: {undone}")
        return undone


async def _made_safe(pgduet: Duet) -> tuple[float, float, float]:
    """Roll back; gives the seconds until a router sends reads back, until the old version has authority, and when it began."""
    router = await AsyncRouter.open(pgduet.dsn, service="benchmark", lease_s=1.0)
    try:
        async with asyncio.timeout(_LIMIT_S):
            while not router.path(users.NAME, 1).is_new:
                await asyncio.sleep(_LOOK_S)
            began = time.perf_counter()
            watching = asyncio.create_task(_reads_back(router))
            await pgduet.migrations.rollback(users.NAME, Abort(actor="benchmark"), database=pgduet.database)
            await pgduet.migrations.wait_safe(users.NAME, database=pgduet.database)
            safe_s = time.perf_counter() - began
            return await watching - began, safe_s, began
    finally:
        await router.close()


async def _reads_back(router: AsyncRouter) -> float:
    while router.path(users.NAME, 1).is_new:
        await asyncio.sleep(_LOOK_S)
    return time.perf_counter()


BENCHMARK = Benchmark(
    name="rollback",
    measure=measure,
    usual=Sizes(rows=(1_000_000, 10_000_000), repeats=3),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3 * 3600,
)
