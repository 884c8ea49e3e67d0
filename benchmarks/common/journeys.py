"""Whole migrations under clients: forward to done, to soak and back, none at all (the control); and pgroll's, both ways.

Gates hold pgduet in each phase until enough was done there. At first old clients alone are at work: long ones by the table
itself, short ones by the old version's schema. From publication on new ones, long again, replace the short ones. So there are
always eight.

Temporal, the worker and pgroll's program have machines of their own in production. Here they share the server's, at a lower
priority than the server and its clients.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import pgbench, users
from benchmarks.common.benchmark import Run
from benchmarks.common.crowd import Broken, Crowd, crowd
from benchmarks.common.duet import Duet, duet
from benchmarks.common.measures import Span, Taken
from benchmarks.common.peer_runs import Pgroll
from benchmarks.common.programs import aside
from benchmarks.common.programs import run as ran
from pgduet.messages import Abort
from pgduet.phases import Phase

CLIENTS = 4
"""In each of the two groups that are at work at a time."""
BASE, OLD, NEW, MOVED = "base", "old", "new", "moved"
"""Who names the table, who the old version's schema, who the new one's, and old clients that were deployed anew as new ones."""
ONE, TWO = "one version", "two versions"
"""The two stretches of a control."""
ROLLBACK = "rollback"
ENOUGH = 1000
"""Transactions that each phase should see through each live version."""
LEAST_S = 12.0
"""A p99 of four seconds would be decided by 40 ms, that is by the one stall, which is judged by itself."""
CEILING_S = 10.0
GATED = (Phase.EXPAND, Phase.DUAL_WRITE, Phase.BACKFILL, Phase.VERIFY, Phase.SHADOW, Phase.SHIFT, Phase.CUTOVER)
POLICY: dict[str, Any] = {
    "gates": {phase.value: "manual" for phase in (*GATED[1:], Phase.SOAK, Phase.CONTRACT)},
    "approvals": {"cutover": 0, "contract": 0},
    "shift": {"steps": [50, 100], "bake_s": 1.0, "max_latency_ratio": 1000.0},
    "soak": {"window_s": 1.0, "legacy_idle_s": 1.0},
    "rollback": {"automatic_on": []},
}
"""Held before each phase but the first; latency is what is measured here, and must not stop it."""


@dataclass(frozen=True, slots=True)
class Load:
    """How the clients work: a table of so many rows, transactions a second of each group, and how long each phase is held."""

    rows: int
    rate: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Passage:
    """What clients did and met on a journey."""

    taken: list[Taken]
    phases: list[Span]
    ours: list[Span]
    broken: list[Broken]
    lost: int
    writes: int


def load_for(rows: int, tps: float) -> Load:
    """Halve the ceiling, share it between two groups, and hold phases for as long as each needs for its transactions."""
    rate = tps / 4
    return Load(rows, rate, max(LEAST_S, 1.5 * ENOUGH / rate))


async def ceiling(run: Run, rows: int) -> float:
    """Measure what eight clients do at most."""
    async with run.ground.database() as dsn:
        await users.create(dsn, visits=True)
        await users.fill(dsn, rows, distinct=True)
        command = pgbench.command(
            run.ground.postgres.bin_dir / "pgbench",
            pgbench.written(run.ground.scratch, rows),
            dsn,
            clients=8,
            seconds=CEILING_S,
            seed=run.seed,
        )
        return pgbench.reported_tps((await ran(command, limit_s=10 * CEILING_S)).said)


async def control(run: Run, load: Load) -> Passage:
    """Have the clients work beside an idle worker: first as before publication, then as after it."""
    async with _crowded(run, load) as (dsn, clients), _duet(run, dsn):
        await _come(clients, ONE, "public")
        await asyncio.sleep(len(GATED) * load.hold_s / 2)
        await clients.stay_away()
        await clients.come(NEW, "public")
        clients.mark(TWO)
        await asyncio.sleep(len(GATED) * load.hold_s / 2)
        await clients.leave(BASE, NEW)
        return await _passed(clients)


async def forward(run: Run, load: Load, operation: dict[str, Any] | None = None) -> Passage:
    """Go from start to done, by the scenario's plan or by one with another operation."""
    async with _crowded(run, load) as (dsn, clients), _duet(run, dsn) as pgduet:
        await _to_soak(pgduet, clients, load, operation)
        await clients.leave(BASE)
        await clients.come_and_go(MOVED, users.V2)
        await pgduet.held(Phase.SOAK)
        await pgduet.advance()
        clients.mark(Phase.CONTRACT)
        await pgduet.until(lambda status: status.phase is Phase.DONE, "done")
        await asyncio.sleep(load.hold_s)
        clients.mark(Phase.DONE)
        await asyncio.sleep(load.hold_s)
        return await _ended(clients, NEW)


async def back(run: Run, load: Load, operation: dict[str, Any] | None = None) -> Passage:
    """Go as far as soak, and roll back; the new clients leave once the old version is in charge again."""
    async with _crowded(run, load) as (dsn, clients), _duet(run, dsn) as pgduet:
        await _to_soak(pgduet, clients, load, operation)
        clients.mark(ROLLBACK)
        await pgduet.migrations.rollback(users.NAME, Abort(actor="benchmark"), database=pgduet.database)
        await pgduet.migrations.wait_safe(users.NAME, database=pgduet.database, timeout_s=60)
        await asyncio.sleep(load.hold_s)
        await clients.leave(NEW)
        await clients.come_and_go(OLD, users.V1)
        await pgduet.until(lambda status: status.phase is Phase.ROLLED_BACK, "rolled back")
        await asyncio.sleep(load.hold_s)
        clients.mark(Phase.ROLLED_BACK)
        await asyncio.sleep(load.hold_s)
        return await _ended(clients, BASE)


async def pgroll_forward(run: Run, load: Load, program: Path) -> Passage:
    """Have pgroll start and complete, the clients as with us."""
    async with _crowded(run, load, program) as (dsn, clients):
        await _pgroll_start(run, clients, load, program, dsn)
        await clients.leave(BASE)
        await clients.come_and_go(MOVED, users.PGROLL_SCHEMAS[1])
        clients.mark("complete")
        await _pgroll(run, program, dsn)("complete")
        await asyncio.sleep(load.hold_s)
        return await _ended(clients, NEW)


async def pgroll_back(run: Run, load: Load, program: Path) -> Passage:
    """Have pgroll start and roll back; it drops the new version's schema at once, so the new clients leave before."""
    async with _crowded(run, load, program) as (dsn, clients):
        await _pgroll_start(run, clients, load, program, dsn)
        await clients.leave(NEW)
        await clients.come_and_go(OLD, users.PGROLL_SCHEMAS[0])
        clients.mark(ROLLBACK)
        await _pgroll(run, program, dsn)("rollback")
        await asyncio.sleep(load.hold_s)
        return await _ended(clients, BASE)


async def _to_soak(pgduet: Duet, clients: Crowd, load: Load, operation: dict[str, Any] | None) -> None:
    """Hold in each phase; who has the old schema comes with it, and who has the new one when it is published."""
    await _come(clients, "before", "public")
    await asyncio.sleep(load.hold_s)
    for phase in GATED:
        clients.mark(phase)
        await (pgduet.start(operation=operation, **POLICY) if phase is Phase.EXPAND else pgduet.advance())
        await pgduet.held(phase)
        if phase is Phase.EXPAND:
            await clients.stay_away()
            await clients.come_and_go(OLD, users.V1)
        if phase is Phase.VERIFY:
            await clients.stay_away()
            await clients.come(NEW, users.V2)
        await asyncio.sleep(load.hold_s)
    clients.mark(Phase.SOAK)
    await pgduet.advance()
    await pgduet.until(lambda status: status.phase is Phase.SOAK, "in soak")
    await asyncio.sleep(load.hold_s)


async def _pgroll_start(run: Run, clients: Crowd, load: Load, program: Path, dsn: str) -> None:
    await _come(clients, "before", users.PGROLL_SCHEMAS[0])
    await asyncio.sleep(load.hold_s)
    clients.mark("start")
    await _pgroll(run, program, dsn).start()
    await asyncio.sleep(load.hold_s)
    await clients.stay_away()
    await clients.come(NEW, users.PGROLL_SCHEMAS[1])
    clients.mark("started")
    await asyncio.sleep(load.hold_s)


def _pgroll(run: Run, program: Path, dsn: str) -> Pgroll:
    return Pgroll(program, dsn, users.pgroll_files(run.ground.scratch, visits=True), aside=True)


async def _come(clients: Crowd, stretch: str, schema: str) -> None:
    await clients.come(BASE, "public")
    await clients.come_and_go(OLD, schema)
    clients.mark(stretch)


async def _ended(clients: Crowd, last: str) -> Passage:
    await clients.stay_away()
    await clients.leave(last)
    return await _passed(clients)


async def _passed(clients: Crowd) -> Passage:
    lost = await clients.lost()
    return Passage(clients.taken, clients.phases, clients.ours, clients.broken, lost, clients.writes)


@asynccontextmanager
async def _duet(run: Run, dsn: str) -> AsyncIterator[Duet]:
    async with duet(run.ground, dsn) as pgduet:
        aside(run.ground.temporal.pid)
        aside(pgduet.worker.pid if pgduet.worker else None)
        yield pgduet


@asynccontextmanager
async def _crowded(run: Run, load: Load, pgroll: Path | None = None) -> AsyncIterator[tuple[str, Crowd]]:
    """Give a filled table, made by pgroll where it is pgroll's journey, and a crowd that has not come yet."""
    async with run.ground.database() as dsn:
        if pgroll:
            await Pgroll.prepared(pgroll, dsn, run.ground.scratch, visits=True)
        else:
            await users.create(dsn, visits=True)
        await users.fill(dsn, load.rows, distinct=True)
        async with crowd(run.ground, dsn, load.rows, rate=load.rate, clients=CLIENTS, seed=run.seed) as clients:
            await clients.invite(BASE, OLD, NEW, MOVED, schemas=users.PGROLL_SCHEMAS[:1] if pgroll else ())
            yield dsn, clients
