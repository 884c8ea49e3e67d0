"""pgduet as it is measured: whole, through its workflow, with a worker that is a process of its own, and all checkpoints.

A duet is one fresh worker for one fresh database. The worker's memory is sampled while it lives. Gates hold a migration where
a benchmark wants it; `advance` opens them.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from temporalio.service import RPCError

from benchmarks.common import users
from benchmarks.common.ground import Ground
from pgduet.client import Migrations
from pgduet.local.servers import LocalWorker, database_variable
from pgduet.messages import Status, Timing, workflow_id
from pgduet.phases import Phase
from pgduet.plan.models import Plan

ACTOR = "benchmark"
PHASE_LIMIT_S = 1800.0
_POLL_S = 0.25
"""A look at the status costs the worker a little time, which would be missing elsewhere."""
_SAMPLE_S = 0.2
_STOPPED = {"error", "drift", "shadow", "criteria", "samples"}


@dataclass
class Memory:
    """A process's resident memory in MB: when first seen, and the most that was ever seen."""

    start_mb: float = 0.0
    peak_mb: float = 0.0

    def sample(self, pid: int | None) -> None:
        """Look once; a process that has just gone is not missed."""
        with suppress(OSError, ValueError, IndexError):
            now_mb = _resident_kb(pid) / 1024
            self.start_mb = self.start_mb or now_mb
            self.peak_mb = max(self.peak_mb, now_mb)


@dataclass
class Duet:
    """One migration of one database."""

    ground: Ground
    migrations: Migrations
    database: str
    queue: str
    dsn: str
    memory: Memory = field(default_factory=Memory)
    worker: LocalWorker | None = None
    started_at: datetime | None = None

    async def begin_work(self) -> None:
        """Start a worker; it polls on return."""
        environment = {"TEMPORAL_ADDRESS": self.ground.temporal.address, database_variable(self.database): self.dsn}
        log = self.ground.scratch / f"{self.database}.log"
        worker = LocalWorker(environment, queue=self.queue, log_path=log)
        await asyncio.to_thread(worker.__enter__)
        self.worker = worker

    async def kill_worker(self) -> None:
        """End the worker by SIGKILL."""
        if self.worker:
            await asyncio.to_thread(self.worker.kill)
            self.worker = None

    async def start(
        self, change: dict[str, Any] | None = None, operation: dict[str, Any] | None = None, **policy: Any
    ) -> None:
        """Start the migration, by default that of the scenario, and note when."""
        await self.begin(users.plan(self.database, change, operation, **policy))

    async def begin(self, wanted: Plan) -> None:
        """Start a plan, which is called as all plans here are, and note when."""
        self.started_at = datetime.now(UTC)
        await self.migrations.start(wanted, actor=ACTOR, reason="measured")

    async def status(self) -> Status:
        """Ask where it stands."""
        return await self.migrations.status(users.NAME, self.database)

    async def held(self, phase: Phase, limit_s: float = PHASE_LIMIT_S) -> Status:
        """Wait until all of a phase is done and the gate behind it holds.

        Raises:
            RuntimeError: it waits for something else, or not in time.
        """

        def holds(status: Status) -> bool:
            waiting = status.waiting_for
            return status.phase is phase and waiting is not None and waiting.kind == "gate"

        return await self.until(holds, f"held behind {phase}", limit_s)

    async def until(self, there: Callable[[Status], bool], awaited: str, limit_s: float = PHASE_LIMIT_S) -> Status:
        """Wait for something that a status shows.

        Raises:
            RuntimeError: it waits for a person to decide about an error or drift, or does not get there in time.
        """
        deadline = time.monotonic() + limit_s
        while True:
            status = await self.status()
            if there(status):
                return status
            waiting = status.waiting_for
            if (waiting and waiting.kind in _STOPPED) or time.monotonic() > deadline:
                what = waiting.detail if waiting else status.state
                message = f"the migration is not {awaited}: it is in {status.phase}, {what}"
                raise RuntimeError(message)
            await asyncio.sleep(_POLL_S)

    async def advance(self) -> None:
        """Open the gate."""
        await self.migrations.update(users.NAME, "advance", database=self.database)

    async def forget(self) -> None:
        """Leave no run behind that would ask for a worker."""
        handle = self.migrations.client.get_workflow_handle(workflow_id(self.database, users.NAME))
        with suppress(RPCError):
            await handle.terminate("measured")


@asynccontextmanager
async def duet(ground: Ground, dsn: str) -> AsyncIterator[Duet]:
    """Make one: pgduet's schema is set up, its worker polls, as in a database that is in use."""
    name = f"bench-{secrets.token_hex(4)}"
    migrations = await Migrations.connect(ground.temporal.address, task_queue=name)
    made = Duet(ground, migrations, name, name, dsn)
    await made.begin_work()
    watching = asyncio.create_task(_watch(made))
    try:
        await migrations.setup(name, actor=ACTOR)
        yield made
    finally:
        watching.cancel()
        await made.forget()
        if made.worker:
            await asyncio.to_thread(made.worker.stop)


def took(status: Status, phase: Phase) -> float:
    """Give how long a phase's own work took, from its status; the wait at the next gate is not in it."""
    timing = timing_of(status, phase)
    if timing.ended_at is None:
        message = f"{phase} has not ended"
        raise LookupError(message)
    return (timing.ended_at - timing.started_at).total_seconds()


def took_since_start(duet: Duet, status: Status, phase: Phase) -> float:
    """Give how long it took from the start to a phase's end; when that was seen here is not in it."""
    ended = timing_of(status, phase).ended_at
    if duet.started_at is None or ended is None:
        message = f"{phase} has not ended, or nothing was started"
        raise LookupError(message)
    return (ended - duet.started_at).total_seconds()


def timing_of(status: Status, phase: Phase) -> Timing:
    """Find a phase's times in the status.

    Raises:
        LookupError: it has not begun.
    """
    for timing in reversed(status.timings):
        if timing.phase is phase:
            return timing
    message = f"{phase} has not begun"
    raise LookupError(message)


async def _watch(duet: Duet) -> None:
    while True:
        if duet.worker:
            duet.memory.sample(duet.worker.pid)
        await asyncio.sleep(_SAMPLE_S)


def _resident_kb(pid: int | None) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError(pid)
