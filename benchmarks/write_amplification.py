"""What writes cost while a migration is started, against without: one UPDATE of all rows, and single rows by eight clients.

pgduet is measured in each form that its triggers take: after the backfill, where old clients' writes reach the new version;
once it is published, both ways; in soak, where the new contract binds everybody. Beside each database stands a plain one of
the same size, whose rows have been rewritten as often: the two take turns, window by window, and the ratio is of their
medians. Before each UPDATE of all rows the table is vacuumed, and a checkpoint made. Writes go through the table itself, as
old clients'. pgroll is measured once its `start` has returned.

Takes about 15 minutes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

from benchmarks.common import duet, peers, pgbench, users
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect, settle
from benchmarks.common.options import Sizes
from benchmarks.common.peer_runs import Pgroll
from benchmarks.common.programs import run as ran
from pgduet.phases import Phase

DUET, PGROLL, WITHOUT = "pgduet", "pgroll", "without a migration"
FORMS = ("after the backfill", "once published", "in soak")
STARTED = "once started"
BULK, SINGLE = "one UPDATE of all rows", "single-row updates"
VALUES: tuple[LiteralString, LiteralString] = ("'100001'", "'100002'")
CLIENTS = 8
TURNS = 3
"""Windows of each database, for each form."""
SECONDS = {False: 5.0, True: 1.0}
"""How long clients work in a window, usually and where it is to be quick."""
POLICY: dict[str, Any] = {
    "gates": {"verify": "manual", "shadow": "manual", "cutover": "auto"},
    "approvals": {"cutover": 0},
    "shift": {"steps": [100], "bake_s": 0.2, "max_latency_ratio": 1000.0},
    "rollback": {"automatic_on": []},
}


@dataclass
class Pair:
    """What was measured in turn: without a migration, and with it."""

    without: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


Cost = dict[tuple[str, str], Pair]
"""By form, and by what was measured: seconds of one statement, or transactions a second."""


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes."""
    program = run.find(peers.pgroll())
    figures: list[Figure] = []
    for rows in run.sizes.rows:
        subjects: dict[str, Callable[[], Awaitable[Cost]]] = {DUET: partial(_pgduet, run, rows)}
        if program:
            subjects[PGROLL] = partial(_pgroll, run, rows, program)
        figures += figures_of(partial(run.metric, rows=rows), await alternating(subjects, run.sizes.repeats))
    return figures


def figures_of(metric: Callable[[str], str], costs: Mapping[str, Sequence[Cost]]) -> list[Figure]:
    """Make the figures of one size; pure."""
    units = {BULK: ("s", Goal("ratio", "≤", 1.6)), SINGLE: ("1/s", Goal("ratio", "≥", 0.95))}
    figures: list[Figure] = []
    for subject, found in costs.items():
        for form, what in found[0]:
            unit, goal = units[what]
            without = median([value for cost in found for value in cost[form, what].without])
            beside = median([value for cost in found for value in cost[form, what].beside])
            name = metric(f"{what}, {form}")
            figures += [
                Figure.of(name, f"{WITHOUT}, beside {subject}", without, unit),
                Figure.of(
                    name,
                    subject,
                    beside,
                    unit,
                    against=Against(WITHOUT, without),
                    goal=goal if subject == DUET else None,
                ),
            ]
    return figures


async def _pgduet(run: Run, rows: int) -> Cost:
    cost: Cost = {}
    async with _plain(run, rows) as plain, run.ground.database() as dsn, duet.duet(run.ground, dsn) as pgduet:
        await users.create(dsn, visits=True)
        await users.fill(dsn, rows)
        await pgduet.start(**POLICY)
        await pgduet.held(Phase.BACKFILL)
        await _measured(run, plain, dsn, rows, cost, FORMS[0])
        await pgduet.advance()
        await pgduet.held(Phase.VERIFY)
        await _measured(run, plain, dsn, rows, cost, FORMS[1])
        await pgduet.advance()
        await pgduet.until(lambda status: status.phase is Phase.SOAK, "in soak")
        await _measured(run, plain, dsn, rows, cost, FORMS[2])
    return cost


async def _pgroll(run: Run, rows: int, program: Path) -> Cost:
    cost: Cost = {}
    async with _plain(run, rows) as plain, run.ground.database() as dsn:
        pgroll = await Pgroll.prepared(program, dsn, run.ground.scratch, visits=True)
        await users.fill(dsn, rows)
        await pgroll.start()
        await _measured(run, plain, dsn, rows, cost, STARTED)
    return cost


@asynccontextmanager
async def _plain(run: Run, rows: int) -> AsyncIterator[str]:
    """Give a database without a migration, whose rows have been rewritten once, as by a backfill."""
    async with run.ground.database() as dsn:
        await users.create(dsn, visits=True)
        await users.fill(dsn, rows)
        async with await connect(dsn) as conn:
            await users.update_all(conn)
        yield dsn


async def _measured(run: Run, plain: str, dsn: str, rows: int, cost: Cost, form: str) -> None:
    """Have both databases take turns."""
    bulk, single = cost.setdefault((form, BULK), Pair()), cost.setdefault((form, SINGLE), Pair())
    for turn in range(TURNS):
        bulk.without.append(await _bulk(plain, VALUES[turn % 2]))
        bulk.beside.append(await _bulk(dsn, VALUES[turn % 2]))
    for _ in range(TURNS):
        single.without.append(await _single(run, plain, rows))
        single.beside.append(await _single(run, dsn, rows))
    for what, pair in ((BULK, bulk), (SINGLE, single)):
        told = [", ".join(f"{value:,.3g}" for value in values) for values in (pair.without, pair.beside)]
        run.say(f"{what}, {form}: {told[1]}; without: {told[0]}")


async def _bulk(dsn: str, value: LiteralString) -> float:
    await settle(dsn)
    async with await connect(dsn) as conn:
        return await users.update_all(conn, value)


async def _single(run: Run, dsn: str, rows: int) -> float:
    command = pgbench.command(
        run.ground.postgres.bin_dir / "pgbench",
        pgbench.written(run.ground.scratch, rows, {"name": pgbench.SCRIPTS["name"]}),
        dsn,
        clients=CLIENTS,
        seconds=SECONDS[run.options.quick],
        seed=run.seed,
    )
    return pgbench.reported_tps((await ran(command, limit_s=120)).said)


BENCHMARK = Benchmark(
    name="write_amplification",
    measure=measure,
    usual=Sizes(rows=(1_000_000,), repeats=2),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=2 * 3600,
)
