"""Rows per second of a full comparison of a table and its shadow, with the key of each row that differs.

The shadow has a wider key, wider numbers and the same texts and times. Nothing differs, or 100 rows do: changed, missing and extra
ones. Compared: pgduet with one session and with two, each with its cursor written after each chunk, suspects kept and looked at
again; reladiff as it comes, with what makes it fastest, and by hashes; `EXCEPT` both ways; and the bare full outer join that names
the keys. Every subject must name exactly the keys that differ.

Limits: pgduet is measured by its engine, not through a workflow: no operation has a shadow yet. It looks at suspects again at once,
as suits triggers, which write both rows in one transaction; where something else fills the shadow, a delay comes on top.

Takes about 10 minutes with 1 M and 10 M rows, most of them reladiff's.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import LiteralString

from psycopg import sql

from benchmarks.common import peers
from benchmarks.common.alternate import alternating, median
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect, settle
from benchmarks.common.options import Sizes
from benchmarks.common.programs import run as run_program
from pgduet.operations.comparison import Comparison, between
from pgduet.postgres import comparing, store, suspects
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.traits import traits

ONE, TWO = "pgduet, one session", "pgduet, two sessions"
RELADIFF, EXCEPT, JOIN = "reladiff", "EXCEPT both ways", "bare full join"
WAYS = {RELADIFF: (), "reladiff, keys trusted": ("--assume-unique-key",), "reladiff, by hashes": ("-a", "hashdiff")}
"""In one database reladiff joins the tables as we do, after it has seen that keys are unique; by hashes it is as between two."""
GOALS = {RELADIFF: Goal("ratio", "≥", 8), EXCEPT: Goal("ratio", "≥", 1.5), JOIN: Goal("ratio", "≥", 0.9)}
DIFFERENT = 100
_RELADIFF_LIMIT_S = 1800.0

_TABLES: LiteralString = """
CREATE TABLE source (id int PRIMARY KEY, customer int NOT NULL, amount numeric(10,2) NOT NULL, note text, at timestamptz NOT NULL);
CREATE TABLE shadow (id bigint PRIMARY KEY, customer bigint NOT NULL, amount numeric(12,2) NOT NULL, note text,
                     at timestamptz NOT NULL)
"""
_FILL: LiteralString = """
INSERT INTO source
SELECT i, i % 10007, (i % 100000) / 100.0, 'note number ' || i, '2026-01-01 UTC'::timestamptz + i * interval '1 s'
  FROM generate_series(1, {}) AS i
"""
_DRIFT: tuple[LiteralString, ...] = (
    "UPDATE shadow SET note = 'changed' WHERE id % {step} = 1 AND id / {step} < 50",
    "DELETE FROM shadow WHERE id % {step} = 2 AND id / {step} < 25",
    "INSERT INTO shadow SELECT -i, 0, 0, 'extra', '2026-01-01 UTC' FROM generate_series(1, 25) AS i",
)
_EXCEPT: LiteralString = """
SELECT DISTINCT id FROM (
  (SELECT id::bigint, customer::bigint, amount::numeric(12,2), note, at FROM source EXCEPT SELECT * FROM shadow)
  UNION ALL
  (SELECT * FROM shadow EXCEPT SELECT id::bigint, customer::bigint, amount::numeric(12,2), note, at FROM source)) AS differing
"""
_JOIN: LiteralString = """
SELECT coalesce(s.id, f.id) FROM source s FULL JOIN shadow f ON s.id = f.id
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
            async with _filled(run, rows, different) as (dsn, expected):
                took = await alternating(_subjects(run, dsn, reladiff, expected), run.sizes.repeats)
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
    others = [name for name in rates if name not in {ONE, TWO}]
    figures += [
        Figure.of(metric(rows), TWO, rates[TWO], "rows/s", against=Against(name, rates[name]))
        for name in others
        if name not in GOALS
    ]
    figures += [Figure.of(metric(rows), name, rates[name], "rows/s") for name in others]
    longest = max(each.longest_ms for name in (ONE, TWO) for each in took[name])
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


@asynccontextmanager
async def _filled(run: Run, rows: int, different: int) -> AsyncIterator[tuple[str, frozenset[int]]]:
    async with run.ground.database() as dsn:
        async with await connect(dsn) as conn:
            await conn.execute(_TABLES)
            await conn.execute(sql.SQL(_FILL).format(sql.Literal(rows)))
            await conn.execute("INSERT INTO shadow SELECT * FROM source")
            if different:
                for statement in _DRIFT:
                    await conn.execute(sql.SQL(statement).format(step=sql.Literal(rows // 60)))
            await settle(dsn, "source")
            await settle(dsn, "shadow")
        keys = await _asked(dsn, _JOIN)
        if len(keys.keys) != different:
            message = f"{len(keys.keys)} rows differ, and there should be {different}"
            raise Misjudged(message)
        yield dsn, keys.keys


def _subjects(run: Run, dsn: str, reladiff: Path | None, expected: frozenset[int]) -> dict[str, Subject]:
    subjects: dict[str, Subject] = {
        ONE: partial(_pgduet, dsn, 1),
        TWO: partial(_pgduet, dsn, 2),
        JOIN: partial(_asked, dsn, _JOIN),
        EXCEPT: partial(_asked, dsn, _EXCEPT),
    }
    if reladiff:
        subjects |= {name: partial(_reladiff, dsn, reladiff, words) for name, words in WAYS.items()}
    return {name: partial(_judged, run, name, subject, expected) for name, subject in subjects.items()}


async def _judged(run: Run, name: str, subject: Subject, expected: frozenset[int]) -> Took:
    took = await subject()
    run.say(f"{name}: {took.seconds:.2f} s, {len(took.keys)} keys")
    if took.keys != expected:
        message = f"{name} named {len(took.keys)} keys, {len(took.keys & expected)} of {len(expected)} rightly"
        raise Misjudged(message)
    return took


async def _asked(dsn: str, query: LiteralString) -> Took:
    async with await connect(dsn) as conn:
        began = time.perf_counter()
        found = await (await conn.execute(query)).fetchall()
        return Took(time.perf_counter() - began, frozenset(row[0] for row in found))


async def _pgduet(dsn: str, parts: int) -> Took:
    database = Database("bench", dsn)
    async with session(database, "parity") as conn, session(database, "parity") as other:
        await store.set_up(conn)
        comparison = between(
            await traits(conn, "public.source"),
            await traits(conn, "public.shadow"),
            ("id",),
            source=("public", "source"),
            shadow=("public", "shadow"),
        )
        began = time.perf_counter()
        ids = await comparing.begin(conn, comparison, 1, parts, anew=True)
        sessions = (conn, other)
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


async def _reladiff(dsn: str, program: Path, words: Sequence[str]) -> Took:
    columns = [word for name in ("customer", "amount", "note", "at") for word in ("-c", name)]
    command: list[str | Path] = [
        program,
        dsn,
        "source",
        "shadow",
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
