"""Shadow reads and paired writes for asyncio: a read off the caller's path is a task, and is cancelled when its time is over.

Its task does not run in the caller's context: context variables, such as a request's connection, are not the caller's.
"""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgduet.routing import pairing
from pgduet.routing.core import RouterCore
from pgduet.routing.decision import Side
from pgduet.routing.migrating import Answer, Job, Limits, MigratorCore, Settings
from pgduet.routing.migrator import WRITE_ONCE
from pgduet.routing.pairing import KEEP_S, Pair, Value, Written


class Tasks:
    """A queue that never makes its caller wait, and the few tasks that empty it."""

    def __init__(self, name: str, limits: Limits, run: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._limits = limits
        self._run = run
        self._waiting: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def offer(self, job: Job) -> bool:
        """Take a job if there is room."""
        if self._closed or len(self._waiting) >= self._limits.waiting:
            return False
        self._waiting.append(job)
        self._fill()
        return True

    async def settle(self, timeout_s: float) -> bool:
        """Wait until there is nothing to do."""
        ends = time.monotonic() + timeout_s
        while self._running and (left := ends - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left)
        return not self._running

    async def close(self) -> int:
        """Take no more, forget what waits and cancel what runs; gives how many waited."""
        self._closed = True
        left = len(self._waiting)
        self._waiting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return left

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._limits.workers:
            name = f"pgduet-shadow/{self._name}"
            coroutine = self._run(self._waiting.popleft())
            task = asyncio.get_running_loop().create_task(coroutine, name=name, context=contextvars.Context())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._fill()


class AsyncMigrator(MigratorCore[Awaitable[Answer]]):
    """Reads by the stage, compares off the caller's path, and writes in pairs. Made by `AsyncRouter.migrator`."""

    def __init__(self, router: RouterCore, settings: Settings[Awaitable[Answer]]) -> None:
        super().__init__(router, settings)
        self._pool = Tasks(self.name, self.limits, self._repeat)

    async def read(self, key: object, *args: Any, **kwargs: Any) -> Answer:
        """Read by the key's path; raises what that read raises, and nothing else."""
        path = self._router.path(self.name, key)
        began = time.perf_counter()
        try:
            answer = await self._reader(is_new=path.is_new)(path, key, *args, **kwargs)
        except Exception:
            self._router.record(self.name, path, time.perf_counter() - began, error=True)
            raise
        self._router.record(self.name, path, time.perf_counter() - began, error=False)
        job = self._drawn(path, key, args, kwargs, answer)
        if job and not self._pool.offer(job):
            self._dropped()
        return answer

    async def write(
        self,
        key: object,
        write_old: Callable[..., Awaitable[Value]],
        write_new: Callable[..., Awaitable[Value]],
        *,
        connection: psycopg.AsyncConnection[Any] | None = None,
        idempotency_key: str | None = None,
        keep_s: float = KEEP_S,
    ) -> Written[Value]:
        """Write to the sides that the stage names: as `Migrator.write`, of coroutines."""
        writers: dict[Side, Callable[..., Awaitable[Value]]] = {"old": write_old, "new": write_new}
        if connection is None:
            return await self._apart(self._pair_apart(key, idempotency_key), writers)
        values = pairing.claims(self._router, self.name, key, idempotency_key, keep_s)
        if pairing.begins(connection):
            await connection.execute("SELECT")
        async with connection.transaction():
            pair = await self._pair(connection, key, values)
            if pair is None:
                return Written(None, repeated=True)
            answers = {side: await writers[side](path, connection) for side, path in pair.together}
        return Written(answers[pair.leads])

    async def settle(self, timeout_s: float) -> bool:
        """Wait until every read off the caller's path has ended: before a report, or in a test."""
        return await self._pool.settle(timeout_s)

    async def close(self) -> None:
        """Repeat no more reads: those that wait are dropped, those that run cancelled."""
        for _ in range(await self._pool.close()):
            self._dropped()

    async def _repeat(self, job: Job) -> None:
        """Read a side for the comparison's sake; in a task of its own."""
        path = self._admitted(job)
        if path is None:
            return
        deadline = asyncio.timeout(self.limits.timeout_s)
        try:
            async with deadline:
                answer = await self._reader(is_new=job.is_new)(path, job.key, *job.args, **job.kwargs)
        except Exception as error:  # noqa: BLE001  whatever the service's own code raises
            if deadline.expired():
                self._give_up(job)
            else:
                self._failed(job, error)
        else:
            self._judge(job, answer)

    async def _pair(self, connection: psycopg.AsyncConnection[Any], key: object, values: dict[str, Any]) -> Pair | None:
        if not self._router.knows_pairs:
            return pairing.heard(self._router, self.name, key)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            row = await (await cursor.execute(WRITE_ONCE, values, prepare=False)).fetchone()
        return pairing.told(self._router, self.name, key, row or (True, None))

    async def _apart(self, pair: Pair, writers: dict[Side, Callable[..., Awaitable[Value]]]) -> Written[Value]:
        (side, path), *second = pair.turns
        answer = await writers[side](path)
        for side, path in second:
            try:
                await writers[side](path)
            except Exception as error:
                if not pair.may_miss:
                    raise
                self._missed(error)
                return Written(answer, missed=True)
        return Written(answer)
