"""Many routers that follow one route, spread over processes: half are threads' `Router`s, half `AsyncRouter`s.

Each has its own connection, hears its own notification and reports itself, as in a service. It notes the moment at which `path`
first answers by a route's new epoch: right when it has heard, from the thread or task that heard, by this machine's clock, which is
PostgreSQL's too. A process tells what it noted when it is ended. The database has one route.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.programs import running
from pgduet.routing import AsyncRouter, Router
from pgduet.routing.core import RouterCore
from pgduet.routing.model import Route

THREADS, TASKS = "threads", "tasks"
PROCESSES_A_KIND = 4
_DSN = "PGDUET_BENCHMARK_DSN"
_READY = b"ready\n"
_OPEN_LIMIT_S = 120.0
_END_LIMIT_S = 60.0
_LOOK_S = 1.0

Noted = list[tuple[int, float]]
"""Epochs, and when `path` first answered by each."""


class FollowersFailed(Exception):
    """A process of routers did not come up, or said nothing."""


class _Noting(RouterCore):
    """Notes by which epoch `path` answers, and since when."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.noted: Noted = []

    def hear(self, routes: Iterable[Route], asked_at: float) -> None:
        """Hear, and look at once what `path` makes of it."""
        heard = list(routes)
        super().hear(heard, asked_at)
        for route in heard:
            epoch = self.path(route.migration, 1).epoch
            if not self.noted or self.noted[-1][0] != epoch:
                self.noted.append((epoch, time.time()))


class _Thread(_Noting, Router):
    """A thread's."""


class _Task(_Noting, AsyncRouter):
    """A task's."""


@dataclass
class Followers:
    """Routers at work; what each noted is there once they have left."""

    count: int
    noted: dict[str, list[Noted]] = field(default_factory=lambda: {THREADS: [], TASKS: []})


@asynccontextmanager
async def followers(dsn: str, count: int) -> AsyncIterator[Followers]:
    """Have so many follow while the block runs.

    Raises:
        FollowersFailed: a process of them ended by an error.
    """
    made = Followers(count)
    async with AsyncExitStack() as stack:
        processes = []
        for kind, share in _shares(count):
            command = [sys.executable, "-m", "benchmarks.common.followers", kind, str(share)]
            process = await stack.enter_async_context(running(command, environment={_DSN: dsn}))
            processes.append((kind, process))
        for _, process in processes:
            await _ready(process)
        yield made
        for _, process in processes:
            process.terminate()
        for kind, process in processes:
            said, _ = await asyncio.wait_for(process.communicate(), _END_LIMIT_S)
            if process.returncode:
                raise FollowersFailed(said.decode(errors="replace"))
            made.noted[kind] += json.loads(said.splitlines()[-1])


def _shares(count: int) -> list[tuple[str, int]]:
    """Deal so many out to processes of both kinds."""
    processes = [THREADS, TASKS] * PROCESSES_A_KIND
    return [
        (kind, share)
        for number, kind in enumerate(processes)
        if (share := (count + len(processes) - 1 - number) // len(processes))
    ]


async def _ready(process: asyncio.subprocess.Process) -> None:
    said = await asyncio.wait_for(process.stdout.readline(), _OPEN_LIMIT_S) if process.stdout else b""
    if said != _READY:
        rest = await process.stdout.read() if process.stdout else b""
        raise FollowersFailed((said + rest).decode(errors="replace"))


def _stay(parent: int) -> None:
    """Say that all are open, and stay until this process is told to end, or is left alone."""
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    while signal.sigtimedwait({signal.SIGTERM}, _LOOK_S) is None and os.getppid() == parent:
        pass


def _told(noted: Sequence[Noted]) -> None:
    print(json.dumps(noted))


def _threads(dsn: str, count: int, parent: int) -> None:
    with ExitStack() as stack:
        routers = [stack.enter_context(_Thread.open(dsn, service=f"thread-{number}")) for number in range(count)]
        _stay(parent)
        _told([router.noted for router in routers])


async def _tasks(dsn: str, count: int, parent: int) -> None:
    async with AsyncExitStack() as stack:
        routers = [
            await stack.enter_async_context(await _Task.open(dsn, service=f"task-{number}")) for number in range(count)
        ]
        await asyncio.to_thread(_stay, parent)
        _told([router.noted for router in routers])


def main(kind: str, count: str) -> None:
    """Be one of the processes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    dsn, parent = os.environ[_DSN], os.getppid()
    if kind == THREADS:
        _threads(dsn, int(count), parent)
    else:
        asyncio.run(_tasks(dsn, int(count), parent))


if __name__ == "__main__":
    main(*sys.argv[1:])
