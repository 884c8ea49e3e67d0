"""How long short queries wait, 50 a second, while a schema changes beside something that holds the table for 20 seconds.

What holds is a SELECT on the table, a SELECT on the parent of its foreign key, or an autovacuum on the table. What changes is
the type of the column that refers to the parent: pgduet's expand and dual_write, and its cutover; pgroll's start and
complete; the plain ALTER TABLE, which queues up behind the reader, and everybody behind it. The holder comes first, the
change a second later; the longest wait of a short query, by pgbench, from when it was sent, must stay below the lock budget
(50 ms a try) and 50 ms more.

Takes about 12 minutes.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

from benchmarks.common import peers, pgbench, users
from benchmarks.common.benchmark import Benchmark, Run
from benchmarks.common.duet import duet
from benchmarks.common.figures import Against, Figure, Goal
from benchmarks.common.ground import connect, one, settle
from benchmarks.common.measures import waits
from benchmarks.common.options import Sizes
from benchmarks.common.peer_runs import Pgroll
from benchmarks.common.programs import run as ran
from pgduet.phases import Phase

LOCK_TIMEOUT_MS = 50
DUET, PGROLL, PLAIN, NOTHING = "pgduet", "pgroll", "plain ALTER TABLE", "nothing"
HOLD_S = {False: 20.0, True: 3.0}
AFTER_S = 8.0
"""How long short queries go on when the holder has gone: what waited for it happens now."""
RATE, CLIENTS = 50.0, 10
CHANGE: dict[str, Any] = {"table": "public.posts", "column": "author", "type": "bigint"}
POLICY: dict[str, Any] = {
    "lock_timeout_ms": LOCK_TIMEOUT_MS,
    "gates": {"backfill": "manual", "cutover": "manual", "contract": "manual"},
    "approvals": {"cutover": 0, "contract": 0},
    "shift": {"steps": [100], "bake_s": 0.2, "max_latency_ratio": 1000.0},
    "rollback": {"automatic_on": []},
}
_POSTS: LiteralString = """
CREATE TABLE posts (id serial PRIMARY KEY, author integer NOT NULL REFERENCES users, title text NOT NULL)
"""
_FILL: LiteralString = "INSERT INTO posts (author, title) SELECT i, 'title ' || i FROM generate_series(1, %s) i"
_PLAIN: LiteralString = "ALTER TABLE posts ALTER COLUMN author TYPE bigint"
_SLOW: LiteralString = """
ALTER TABLE posts SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
                       autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
"""
_QUICK: LiteralString = """
ALTER TABLE posts RESET (autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor,
                         autovacuum_vacuum_cost_delay, autovacuum_vacuum_cost_limit)
"""
_VACUUMING: LiteralString = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'autovacuum worker' AND query LIKE 'autovacuum: VACUUM%public.posts%'
"""
_QUERIES = {
    "read": "SELECT title FROM posts WHERE id = :id;",
    "read parent": "SELECT name FROM users WHERE id = :id;",
    "write": "UPDATE posts SET title = 'title' WHERE id = :id;",
    "write parent": "UPDATE users SET name = 'name' WHERE id = :id;",
}


@dataclass(frozen=True, slots=True)
class Met:
    """What short queries met: the longest wait in milliseconds, and errors."""

    longest_ms: float = 0.0
    errors: int = 0

    def and_(self, other: "Met") -> "Met":
        """Join two rounds."""
        return Met(max(self.longest_ms, other.longest_ms), self.errors + other.errors)


Change = Callable[[], Awaitable[None]]


async def measure(run: Run) -> list[Figure]:
    """Measure every holder, and beside it everybody's change."""
    program = run.find(peers.pgroll())
    rows = run.sizes.rows[0]
    found: dict[str, dict[str, Met]] = {}
    async with _eager_autovacuum(run):
        for holder, hold in {
            "SELECT on the table": "posts",
            "SELECT on the parent": "users",
            "autovacuum": None,
        }.items():
            beside = found.setdefault(holder, {})
            for _ in range(run.sizes.repeats):
                for what, met in (await _round(run, rows, program, hold)).items():
                    run.say(f"{holder}, {what}: longest wait {met.longest_ms:.0f} ms, {met.errors} errors")
                    beside[what] = met.and_(beside.get(what, Met()))
    return figures_of(run.metric, found)


def figures_of(metric: Callable[[str], str], found: Mapping[str, Mapping[str, Met]]) -> list[Figure]:
    """Make the figures; pure."""
    wait, errors = Goal("value", "≤", LOCK_TIMEOUT_MS + 50), Goal("value", "≤", 0)
    figures: list[Figure] = []
    for holder, beside in found.items():
        for what, met in beside.items():
            ours = what.startswith(DUET)
            plain = None if what == PLAIN else Against(PLAIN, beside[PLAIN].longest_ms)
            longest = metric(f"longest wait of a short query, {holder}")
            figures += [
                Figure.of(longest, what, met.longest_ms, "ms", against=plain, goal=wait if ours else None),
                Figure.of(metric(f"client errors, {holder}"), what, met.errors, "", goal=errors if ours else None),
            ]
    return figures


async def _round(run: Run, rows: int, program: Path | None, hold: str | None) -> dict[str, Met]:
    found = await _plain(run, rows, hold) | await _pgduet(run, rows, hold)
    return found | await _pgroll(run, rows, program, hold) if program else found


async def _plain(run: Run, rows: int, hold: str | None) -> dict[str, Met]:
    async with _tables(run, rows) as dsn:

        async def alter() -> None:
            async with await connect(dsn) as conn:
                await conn.execute(_PLAIN)

        return {
            NOTHING: await _longest(run, dsn, rows, hold, partial(asyncio.sleep, 0)),
            PLAIN: await _longest(run, dsn, rows, hold, alter),
        }


async def _pgduet(run: Run, rows: int, hold: str | None) -> dict[str, Met]:
    async with _tables(run, rows) as dsn, duet(run.ground, dsn) as pgduet:

        async def expand() -> None:
            await pgduet.start(CHANGE, **POLICY)
            await pgduet.held(Phase.DUAL_WRITE)

        async def cutover() -> None:
            await pgduet.advance()
            await pgduet.until(lambda status: status.phase is Phase.SOAK, "in soak")

        expanded = await _longest(run, dsn, rows, hold, expand)
        await pgduet.advance()
        await pgduet.held(Phase.SHIFT)
        return {
            f"{DUET}, expand and dual_write": expanded,
            f"{DUET}, cutover": await _longest(run, dsn, rows, hold, cutover),
        }


async def _pgroll(run: Run, rows: int, program: Path, hold: str | None) -> dict[str, Met]:
    change = {"table": "posts", "column": "author", "type": "bigint", "up": "author", "down": "author"}
    async with _tables(run, rows) as dsn:
        pgroll = Pgroll(program, dsn, users.pgroll_files(run.ground.scratch, change=change))
        await pgroll("init")
        await pgroll("baseline", "00_baseline", str(run.ground.scratch), "--yes")

        async def start() -> None:
            await pgroll.start()

        async def complete() -> None:
            await pgroll("complete")

        return {
            f"{PGROLL}, start": await _longest(run, dsn, rows, hold, start),
            f"{PGROLL}, complete": await _longest(run, dsn, rows, hold, complete),
        }


async def _longest(run: Run, dsn: str, rows: int, hold: str | None, change: Change) -> Met:
    """Have short queries run, something hold, and the change happen; gives what they met.

    Raises:
        TimeoutError: the change has not happened when the short queries have ended.
        LookupError: there were no short queries.
    """
    hold_s = HOLD_S[run.options.quick]
    log = run.ground.scratch / f"waits-{time.monotonic_ns()}"
    command = pgbench.command(
        run.ground.postgres.bin_dir / "pgbench",
        pgbench.written(run.ground.scratch, rows, scripts={name: (1, query) for name, query in _QUERIES.items()}),
        dsn,
        clients=CLIENTS,
        seconds=hold_s + AFTER_S,
        rate=RATE,
        log=log,
        seed=run.seed,
    )
    queries = asyncio.create_task(ran(command, limit_s=hold_s + AFTER_S + 120, may_fail=True))
    holding = asyncio.create_task(_hold(dsn, hold, hold_s))
    try:
        await asyncio.sleep(1.0)
        async with asyncio.timeout(hold_s + AFTER_S + 60):
            await change()
        await holding
        said = (await queries).said
    finally:
        for task in (queries, holding):
            task.cancel()
        await asyncio.gather(queries, holding, return_exceptions=True)
    every = waits(pgbench.logged(log, "short", tuple(_QUERIES)))
    if not every.count:
        raise LookupError(said[-500:])
    return Met(every.longest_ms, every.failed + len(pgbench.aborted(said, ended=False)))


async def _hold(dsn: str, table: str | None, hold_s: float) -> None:
    """Hold a table by a reader's lock, or have an autovacuum work on it."""
    async with await connect(dsn) as conn:
        if table is not None:
            async with conn.transaction():
                await conn.execute("SELECT FROM posts LIMIT 1" if table == "posts" else "SELECT FROM users LIMIT 1")
                await conn.execute("SELECT pg_sleep(%s)", [hold_s])
            return
        await conn.execute(_SLOW)
        await conn.execute("UPDATE posts SET title = title || '.'")
        seen, ends = False, time.monotonic() + hold_s
        while time.monotonic() < ends or not seen:
            seen = seen or bool((await one(dsn, _VACUUMING))[0])
            if time.monotonic() > ends + 60:
                message = "no autovacuum came"
                raise TimeoutError(message)
            await asyncio.sleep(0.1)
        await conn.execute(_QUICK)


@asynccontextmanager
async def _tables(run: Run, rows: int) -> AsyncIterator[str]:
    async with run.ground.database() as dsn:
        await users.create(dsn)
        await users.fill(dsn, rows)
        async with await connect(dsn) as conn:
            await conn.execute(_POSTS)
            await conn.execute(_FILL, [rows])
        await settle(dsn, "posts")
        yield dsn


@asynccontextmanager
async def _eager_autovacuum(run: Run) -> AsyncIterator[None]:
    """Have autovacuum look every second."""
    await _system(run, "ALTER SYSTEM SET autovacuum_naptime = '1s'")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            await _system(run, "ALTER SYSTEM RESET autovacuum_naptime")


async def _system(run: Run, statement: LiteralString) -> None:
    async with await connect(run.ground.postgres.dsn()) as conn:
        await conn.execute(statement)
        await conn.execute("SELECT pg_reload_conf()")


BENCHMARK = Benchmark(
    name="ddl_lock",
    measure=measure,
    usual=Sizes(rows=(20_000,), repeats=1),
    quick=Sizes(rows=(5_000,), repeats=1),
    limit_s=2 * 3600,
)
