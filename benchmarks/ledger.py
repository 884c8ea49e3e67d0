"""Nothing is lost while both versions write: acknowledged increments against what is stored, for each shape of a table.

Sixteen clients of pgbench count rows up, as fast as they can, for a minute: four by the table itself, four by the old version's
schema, eight by the new one's; on five rows, which everybody wants, and on 4,096. They never try anything again. The migration is
in soak, where both versions write and the new one's rules are in force.

Reported: what was acknowledged and is not stored (and the other way round), rows that the two versions see differently, deadlocks
as PostgreSQL counts them, client errors, and transactions a second beside those of the same clients without a migration.
`--rows` is the number of rows; a shape is left out by `--without`, as `--without attach,merge_rows`.

Takes about 35 minutes on one PostgreSQL.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, LiteralString

from psycopg import sql

from benchmarks.common import pgbench
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.duet import duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect, one
from benchmarks.common.options import Sizes
from benchmarks.common.programs import Ran
from benchmarks.common.programs import run as ran
from benchmarks.common.shapes import SHAPES, Shape
from benchmarks.common.users import V1, V2
from pgduet.phases import Phase
from pgduet.plan.load import parse_plan

NONE = "no migration"
LONG_S, SHORT_S = 60.0, 1.0
END_S = 30.0
GROUPS = (("base", "public", 4), ("old", V1, 4), ("new", V2, 8))
"""Who, by which schema, and how many of them."""
POLICY: dict[str, Any] = {
    "gates": {"cutover": "auto", "contract": "manual"},
    "approvals": {"cutover": 0, "contract": 0},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0.2, "max_latency_ratio": 1000.0},
    "soak": {"window_s": 3600.0, "legacy_idle_s": 1.0},
    "rollback": {"automatic_on": []},
}
NOTHING = Goal("value", "≤", 0)

_DEADLOCKS: LiteralString = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class Counted:
    """What a minute came to; `lost` is how far the ledger and what is stored are apart."""

    tps: float
    writes: int
    lost: int
    differ: int
    deadlocks: int
    errors: int


async def measure(run: Run) -> list[Figure]:
    """Measure all shapes, each beside no migration."""
    figures: list[Figure] = []
    for keys in run.sizes.rows:
        for shape in _asked(run):
            subjects = {
                NONE: partial(_counted, run, shape, keys, migrated=False),
                shape.name: partial(_counted, run, shape, keys, migrated=True),
            }
            figures += figures_of(run.metric, shape.name, keys, await alternating(subjects, run.sizes.repeats))
    return figures


def _asked(run: Run) -> list[Shape]:
    return [shape for shape in SHAPES if shape.label not in run.options.without]


def figures_of(
    metric: Callable[..., str], name: str, keys: int, found: Mapping[str, Sequence[Counted]]
) -> list[Figure]:
    """Make the figures of one shape and number of rows; pure."""
    counted = found[name]
    alone = median([each.tps for each in found[NONE]])
    figures = [
        Figure.of(metric("transactions of both versions", keys), name, median([each.tps for each in counted]), "1/s",
                  against=Against(NONE, alone)),
        Figure.of(metric("acknowledged writes", keys), name, sum(each.writes for each in counted), ""),
    ]  # fmt: skip
    for what, number in (
        ("acknowledged writes not found", sum(each.lost for each in counted)),
        ("rows that the versions see differently", sum(each.differ for each in counted)),
        ("deadlocks", sum(each.deadlocks for each in counted)),
        ("client errors", sum(each.errors for each in counted)),
    ):
        figures.append(Figure.of(metric(what, keys), name, number, "", goal=NOTHING))
    return figures


async def _counted(run: Run, shape: Shape, keys: int, *, migrated: bool) -> Counted:
    async with run.ground.database() as dsn:
        async with await connect(dsn) as conn:
            await conn.execute(shape.table)
            await conn.execute(sql.SQL(shape.fill).format(keys=sql.Literal(keys)))
            await conn.execute("VACUUM ANALYZE")
            await conn.execute("CHECKPOINT")
        if migrated:
            async with duet(run.ground, dsn) as pgduet:
                await pgduet.begin(parse_plan(shape.plan(pgduet.database, **POLICY)))
                await pgduet.until(lambda status: status.phase is Phase.SOAK, "in soak")
                counted = await _worked(run, shape, keys, dsn, migrated=True)
        else:
            counted = await _worked(run, shape, keys, dsn, migrated=False)
        run.say(f"{shape.name}, {keys:,} rows, {'in soak' if migrated else NONE}: {counted}")
        return counted


async def _worked(run: Run, shape: Shape, keys: int, dsn: str, *, migrated: bool) -> Counted:
    """Let all groups work at once; then compare what they were told with what is stored."""
    before = await _deadlocks(dsn)
    said = await asyncio.gather(
        *(_group(run, dsn, name, schema if migrated else "public", clients, _statement(shape, name, migrated), keys)
          for name, schema, clients in GROUPS)
    )  # fmt: skip
    done = {name: pgbench.processed(each.said) for (name, _, _), each in zip(GROUPS, said, strict=True)}
    refused = [each.why for one in said for each in pgbench.aborted(one.said, ended=False)]
    for why in set(refused):
        run.say(f"  {why}")
    writes = sum(done.values())
    stored, differ = await _stored(dsn, shape, migrated=migrated)
    return Counted(
        tps=sum(pgbench.reported_tps(each.said) for each in said),
        writes=writes,
        lost=abs(writes - stored),
        differ=differ,
        deadlocks=await _deadlocks(dsn) - before,
        errors=len(refused) + sum(each.code != 0 and not refused for each in said),
    )


def _statement(shape: Shape, group: str, migrated: bool) -> str:  # noqa: FBT001  (a fact, no switch)
    if group != "new":
        return shape.old.more
    return shape.new.more if migrated else shape.alone or shape.old.more


async def _group(run: Run, dsn: str, name: str, schema: str, clients: int, statement: str, keys: int) -> Ran:
    seconds = SHORT_S if run.options.quick else LONG_S
    scripts = pgbench.written(run.ground.scratch, keys, {name: (1, statement.format(id=":id") + ";")})
    program = run.ground.postgres.bin_dir / "pgbench"
    command = pgbench.command(program, scripts, dsn, clients=clients, seconds=seconds, seed=run.seed)
    path = {"PGOPTIONS": f"-c search_path={schema}", "PGAPPNAME": name}
    return await ran(command, limit_s=seconds + END_S, environment=path, may_fail=True)


async def _stored(dsn: str, shape: Shape, *, migrated: bool) -> tuple[int, int]:
    """Sum up what is stored, as old clients see it, and count rows that new ones see differently."""
    schema = V1 if migrated else "public"
    seen = sql.SQL(shape.old.rows).format(schema=sql.Identifier(schema))
    stored = sql.SQL("SELECT coalesce(sum(number), 0) FROM ({}) AS seen (key, number)").format(seen)
    compared = sql.SQL("SELECT count(*) FROM ({}) AS differing").format(shape.compared(V1, V2))
    async with await connect(dsn) as conn:
        found = [await (await conn.execute(query)).fetchone() for query in (stored, *([compared] if migrated else ()))]
    total, differ = [int(row[0]) for row in found if row] + [0] * (not migrated)
    return total, differ


async def _deadlocks(dsn: str) -> int:
    """Ask the server, whose sessions report when they end."""
    (number,) = await one(dsn, _DEADLOCKS)
    return int(number)


BENCHMARK = Benchmark(
    name="ledger",
    measure=measure,
    usual=Sizes(rows=(5, 4096), repeats=1),
    quick=Sizes(rows=(5,), repeats=1),
    limit_s=3 * 3600,
)
