"""Rows per second of a full comparison of a table and its shadow, with the key of each row that differs.

The shadow is one that a migration has made and published: a wider key, wider numbers, the same texts and times. Nothing differs, or
100 rows do, past its policies and triggers: changed, missing and extra ones. Compared: pgduet whole, from `verify` asked of the
workflow until it has answered, with one session and with two; its engine alone, for what the workflow adds; reladiff as it comes,
with what makes it fastest, and by hashes; `EXCEPT` both ways; and the bare full outer join that names the keys. Every subject
must name exactly the keys that differ.

Takes about 12 minutes with 1 M and 10 M rows, most of them reladiff's.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

from psycopg import sql

from benchmarks.common import peers
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.duet import ACTOR, Duet, duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect, one, settle
from benchmarks.common.options import Sizes
from benchmarks.common.programs import run as run_program
from benchmarks.common.users import NAME
from pgduet.messages import Throttle, VerifyNow
from pgduet.operations.comparison import Comparison, between
from pgduet.phases import Phase
from pgduet.plan.load import parse_plan
from pgduet.postgres import comparing, suspects
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.traits import traits

ONE, TWO, ENGINE = "pgduet, one session", "pgduet, two sessions", "pgduet's engine alone, two sessions"
RELADIFF, EXCEPT, JOIN = "reladiff", "EXCEPT both ways", "bare full join"
WAYS = {RELADIFF: (), "reladiff, keys trusted": ("--assume-unique-key",), "reladiff, by hashes": ("-a", "hashdiff")}
"""In one database reladiff joins the tables as we do, after it has seen that keys are unique; by hashes it is as between two."""
GOALS = {RELADIFF: Goal("ratio", "≥", 8), EXCEPT: Goal("ratio", "≥", 1.5), JOIN: Goal("ratio", "≥", 0.9)}
DIFFERENT = 100
_RELADIFF_LIMIT_S = 1800.0
_ELSEWHERE = 0
"""A migration that there is not: the engine alone keeps nothing beside the real one."""

_TABLE: LiteralString = """
CREATE TABLE source (id int PRIMARY KEY, customer int NOT NULL, amount numeric(10,2) NOT NULL, note text, at timestamptz NOT NULL)
"""
SHAPE: dict[str, Any] = {
    "table": "public.source",
    "columns": [
        {"name": "id", "type": "bigint"},
        {"name": "customer", "type": "bigint", "nullable": False},
        {"name": "amount", "type": "numeric(12,2)", "nullable": False},
    ],
}
POLICY: dict[str, Any] = {"gates": {"shadow": "manual"}, "rollback": {"automatic_on": []}}
_FILL: LiteralString = """
INSERT INTO source
SELECT i, i % 10007, (i % 100000) / 100.0, 'note number ' || i, '2026-01-01 UTC'::timestamptz + i * interval '1 s'
  FROM generate_series(1, {}) AS i
"""
_DRIFT: tuple[LiteralString, ...] = (
    "UPDATE {shadow} SET note = 'changed' WHERE id % {step} = 1 AND id / {step} < 50",
    "DELETE FROM {shadow} WHERE id % {step} = 2 AND id / {step} < 25",
    "INSERT INTO {shadow} SELECT -i, 0, 0, 'extra', '2026-01-01 UTC' FROM generate_series(1, 25) AS i",
)
_EXCEPT: LiteralString = """
SELECT DISTINCT id FROM (
  (SELECT id::bigint, customer::bigint, amount::numeric(12,2), note, at FROM source EXCEPT SELECT * FROM {shadow})
  UNION ALL
  (SELECT * FROM {shadow} EXCEPT SELECT id::bigint, customer::bigint, amount::numeric(12,2), note, at FROM source)) AS differing
"""
_JOIN: LiteralString = """
SELECT coalesce(s.id, f.id) FROM source s FULL JOIN {shadow} f ON s.id = f.id
 WHERE s.id IS NULL OR f.id IS NULL OR s.customer IS DISTINCT FROM f.customer OR s.amount IS DISTINCT FROM f.amount
    OR s.note IS DISTINCT FROM f.note OR s.at IS DISTINCT FROM f.at
"""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds, the keys that were named, and the longest chunk, which is the oldest that a snapshot became."""

    seconds: float
    keys: frozenset[int]
    longest_ms: float = 0.0


Subject = Callable[[], Awaitable[Took]]


class Misjudged(Exception):
    """A subject did not name exactly the rows that differ."""


async def measure(run: Run) -> list[Figure]:
    """Measure all sizes, without and with rows that differ."""
    reladiff = run.find(peers.reladiff())
    figures: list[Figure] = []
    rates: dict[int, float | None] = {}
    for rows in run.sizes.rows:
        for different in (0, DIFFERENT):
            async with _shadowed(run, rows, different) as (twins, expected):
                took = await alternating(_subjects(run, twins, reladiff, expected), run.sizes.repeats)
            figures += figures_of(partial(run.metric, f"full comparison, {different} rows differ"), rows, took)
            rates[rows] = median([rows / each.seconds for each in took[TWO]])
    return figures + scale(run, rates)


def figures_of(metric: Callable[[int], str], rows: int, took: Mapping[str, list[Took]]) -> list[Figure]:
    """Make the figures of one size; pure."""
    rates = {name: median([rows / each.seconds for each in taken]) for name, taken in took.items()}
    figures = [
        Figure.of(metric(rows), TWO, rates[TWO], "rows/s", against=Against(name, rates.get(name)), goal=goal)
        for name, goal in GOALS.items()
    ]
    figures += [
        Figure.of(metric(rows), ONE, rates[ONE], "rows/s", against=Against(name, rates.get(name))) for name in GOALS
    ]
    others = [name for name in rates if name not in {ONE, TWO, ENGINE}]
    figures += [
        Figure.of(metric(rows), TWO, rates[TWO], "rows/s", against=Against(name, rates[name]))
        for name in others
        if name not in GOALS
    ]
    figures += [Figure.of(metric(rows), name, rates[name], "rows/s") for name in others]
    whole = Against(TWO, rates[TWO])
    figures.append(Figure.of(metric(rows), ENGINE, rates[ENGINE], "rows/s", against=whole))
    longest = max(each.longest_ms for each in took[ENGINE])
    return [*figures, Figure.of(f"{metric(rows)}: oldest snapshot", "pgduet", longest, "ms")]


def scale(run: Run, rates: Mapping[int, float | None]) -> list[Figure]:
    """Compare the rates of sizes; pure."""
    smallest = min(rates)
    return [
        Figure.of(
            run.metric("full comparison", rows),
            TWO,
            rate,
            "rows/s",
            against=Against(f"{smallest:,} rows", rates[smallest]),
        )
        for rows, rate in rates.items()
        if rows > smallest
    ]


@dataclass(frozen=True, slots=True)
class Twins:
    """A migration whose shadow is published, and the shadow's name."""

    duet: Duet
    shadow: str

    def over(self, query: LiteralString) -> sql.Composed:
        """Put the shadow's name into a statement."""
        return sql.SQL(query).format(shadow=sql.Identifier(self.shadow))


@asynccontextmanager
async def _shadowed(run: Run, rows: int, different: int) -> AsyncIterator[tuple[Twins, frozenset[int]]]:
    async with run.ground.database() as dsn, duet(run.ground, dsn) as pgduet:
        async with await connect(dsn) as conn:
            await conn.execute(_TABLE)
            await conn.execute(sql.SQL(_FILL).format(sql.Literal(rows)))
        await settle(dsn, "source")
        plan = {"name": NAME, "database": pgduet.database, "version": {"from": "1", "to": "2"}}
        wanted = parse_plan(plan | {"operations": [{"shadow_table": SHAPE}], "policy": POLICY})
        await pgduet.migrations.start(wanted, actor=ACTOR, reason="measured")
        await pgduet.held(Phase.VERIFY)
        (name,) = await one(dsn, "SELECT design #>> '{shadows,0,physical}' FROM pgduet.migration")
        twins = Twins(pgduet, name)
        await _break(twins, rows, different)
        for table in ("source", name):
            await settle(dsn, table)
        found = await _asked(twins, _JOIN)
        if len(found.keys) != different:
            message = f"{len(found.keys)} rows differ, and there should be {different}"
            raise Misjudged(message)
        yield twins, found.keys


async def _break(twins: Twins, rows: int, different: int) -> None:
    """Have rows differ, as whoever breaks a shadow must: by saying that it is the engine who writes."""
    async with await connect(twins.duet.dsn) as conn, conn.transaction():
        label = sql.Identifier("public", twins.shadow).as_string(conn)
        await conn.execute("SELECT set_config('pgduet.engine', %s, true)", (label,))
        for statement in _DRIFT if different else ():
            step, shadow = sql.Literal(rows // 60), sql.Identifier(twins.shadow)
            await conn.execute(sql.SQL(statement).format(step=step, shadow=shadow))


def _subjects(run: Run, twins: Twins, reladiff: Path | None, expected: frozenset[int]) -> dict[str, Subject]:
    subjects: dict[str, Subject] = {
        ONE: partial(_verified, twins, 1),
        TWO: partial(_verified, twins, 2),
        ENGINE: partial(_engine, twins, 2),
        JOIN: partial(_asked, twins, _JOIN),
        EXCEPT: partial(_asked, twins, _EXCEPT),
    }
    if reladiff:
        subjects |= {name: partial(_reladiff, twins, reladiff, words) for name, words in WAYS.items()}
    return {name: partial(_judged, run, name, subject, expected) for name, subject in subjects.items()}


async def _judged(run: Run, name: str, subject: Subject, expected: frozenset[int]) -> Took:
    took = await subject()
    run.say(f"{name}: {took.seconds:.2f} s, {len(took.keys)} keys")
    if took.keys != expected:
        message = f"{name} named {len(took.keys)} keys, {len(took.keys & expected)} of {len(expected)} rightly"
        raise Misjudged(message)
    return took


async def _asked(twins: Twins, query: LiteralString) -> Took:
    async with await connect(twins.duet.dsn) as conn:
        began = time.perf_counter()
        found = await (await conn.execute(twins.over(query))).fetchall()
        return Took(time.perf_counter() - began, frozenset(row[0] for row in found))


async def _verified(twins: Twins, parts: int) -> Took:
    """Ask the workflow, as `pgduet verify` does; the keys are where people find them."""
    pgduet = twins.duet
    await pgduet.migrations.update(NAME, "throttle", Throttle(parallelism=parts, actor=ACTOR), database=pgduet.database)
    began = time.perf_counter()
    await pgduet.migrations.update(NAME, "verify", VerifyNow(actor=ACTOR), database=pgduet.database)
    seconds = time.perf_counter() - began
    async with await connect(pgduet.dsn) as conn:
        found = await (
            await conn.execute("SELECT (key ->> 'id')::bigint FROM pgduet.drift WHERE resolved_at IS NULL")
        ).fetchall()
    return Took(seconds, frozenset(row[0] for row in found))


async def _engine(twins: Twins, parts: int) -> Took:
    database = Database("bench", twins.duet.dsn)
    async with session(database, "parity") as conn, session(database, "parity") as other:
        sessions = (conn, other)
        for each in sessions:
            await each.execute("SET row_security = on")
        where = ("public", twins.shadow)
        columns = await traits(conn, "public.source"), await traits(conn, sql.Identifier(*where).as_string(conn))
        comparison = between(columns[0], columns[1], ("id",), source=("public", "source"), shadow=where)
        began = time.perf_counter()
        ids = await comparing.begin(conn, comparison, _ELSEWHERE, parts, anew=True)
        longest = await asyncio.gather(*(_part(sessions[n], comparison, part_id) for n, part_id in enumerate(ids)))
        settled = await suspects.settle(conn, comparison, ids, after_s=0.0)
        seconds = time.perf_counter() - began
        cursor = await conn.execute(
            "SELECT key ->> 'id' AS id FROM pgduet.suspect WHERE confirmed_at IS NOT NULL AND comparison_id = ANY (%s)",
            (ids,),
        )
        keys = frozenset(int(row["id"]) for row in await cursor.fetchall())
        if settled.unsettled:
            message = f"{settled.unsettled} suspects are not settled, and nobody writes"
            raise Misjudged(message)
    return Took(seconds, keys, max(longest))


async def _part(conn: Connection, comparison: Comparison, part_id: int) -> float:
    async with comparing.opened(conn, comparison, part_id) as part:
        while not part.finished:
            await part.next()
        return part.longest_ms


async def _reladiff(twins: Twins, program: Path, words: Sequence[str]) -> Took:
    columns = [word for name in ("customer", "amount", "note", "at") for word in ("-c", name)]
    command: list[str | Path] = [
        program,
        twins.duet.dsn,
        "source",
        twins.shadow,
        "-k",
        "id",
        *columns,
        *words,
        "--json",
    ]
    ran = await run_program(command, limit_s=_RELADIFF_LIMIT_S, environment={"COLUMNS": "1000"})
    return Took(
        ran.seconds, frozenset(int(key) for key in re.findall(r'^\["[-+]", \["(-?\d+)"', ran.said, re.MULTILINE))
    )


BENCHMARK = Benchmark(
    name="parity",
    measure=measure,
    usual=Sizes(rows=(1_000_000, 10_000_000), repeats=3),
    quick=Sizes(rows=(20_000,), repeats=1),
    limit_s=3 * 3600,
)
