"""Shadow reads and paired writes for threads.

Limits: a thread cannot be stopped from outside. A read off the caller's path that takes longer than its time is counted
and its answer thrown away, but its worker is busy until it ends; while all are, sampled reads are dropped and counted. So
have the reads set a statement timeout. Workers are started when first needed and end with the process.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgduet import sql
from pgduet.routing import pairing
from pgduet.routing.decision import Side
from pgduet.routing.migrating import Answer, Job, Limits, MigratorCore
from pgduet.routing.pairing import KEEP_S, Pair, Value, Written

WRITE_ONCE = sql.block("routing", "write_once")


class Threads:
    """A queue that never makes its caller wait, and the few threads that empty it."""

    def __init__(self, name: str, limits: Limits, run: Callable[[Job], None]) -> None:
        self._name = name
        self._limits = limits
        self._run = run
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._threads = 0
        self._closed = False

    def offer(self, job: Job) -> bool:
        """Take a job if there is room."""
        with self._changed:
            if self._closed or len(self._waiting) >= self._limits.waiting:
                return False
            if self._threads < min(self._limits.workers, len(self._waiting) + len(self._running) + 1):
                threading.Thread(target=self._work, name=f"pgduet-shadow/{self._name}", daemon=True).start()
                self._threads += 1
            self._waiting.append(job)
            self._changed.notify()
        return True

    def running(self) -> list[Job]:
        """Give the jobs that are under way."""
        with self._changed:
            return list(self._running)

    def settle(self, timeout_s: float) -> bool:
        """Wait until there is nothing to do."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, timeout_s)

    def close(self) -> int:
        """Take no more, and forget what waits; gives how many did."""
        with self._changed:
            self._closed = True
            left = len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        return left

    def _work(self) -> None:
        try:
            while job := self._next():
                try:
                    self._run(job)
                finally:
                    with self._changed:
                        self._running.remove(job)
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._threads -= 1

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            self._running.append(job)
            return job


class Migrator(MigratorCore[Answer]):
    """Reads by the stage, compares off the caller's path, and writes in pairs. Made by `Router.migrator`."""

    def begin(self) -> None:
        """Have workers of this process's own, which are started when first needed."""
        super().begin()
        self._pool = Threads(self.name, self.limits, self._repeat)

    def read(self, key: object, *args: Any, **kwargs: Any) -> Answer:
        """Read by the key's path; raises what that read raises, and nothing else."""
        path = self._router.path(self.name, key)
        began = time.perf_counter()
        try:
            answer = self._reader(is_new=path.is_new)(path, key, *args, **kwargs)
        except Exception:
            self._router.record(self.name, path, time.perf_counter() - began, error=True)
            raise
        self._router.record(self.name, path, time.perf_counter() - began, error=False)
        if job := self._drawn(path, key, args, kwargs, answer):
            self._offer(job)
        return answer

    def write(
        self,
        key: object,
        write_old: Callable[..., Value],
        write_new: Callable[..., Value],
        *,
        connection: psycopg.Connection[Any] | None = None,
        idempotency_key: str | None = None,
        keep_s: float = KEEP_S,
    ) -> Written[Value]:
        """Write to the sides that the stage names.

        With a connection both are one transaction on it: `write_old(path, connection)` and `write_new(path, connection)`,
        both or none, whichever raises. Unless the connection is in autocommit, that is a savepoint of the caller's
        transaction, for the caller to commit. With an idempotency key as well, a retry or a race of the same key and
        idempotency key writes nothing and says so, for `keep_s` seconds.

        Without one, `write_old(path)` and `write_new(path)` are called in the stage's order. What the second raises is
        raised too, unless nobody reads the new side yet: then it is counted, and `missed`.

        Raises:
            ValueError: an idempotency key without a connection.
            IdempotencyUnavailable: the database was not set up by this release.
            RouteUnavailable: the service knows one version only, and that is not published yet, or has gone.
        """
        writers: dict[Side, Callable[..., Value]] = {"old": write_old, "new": write_new}
        if connection is None:
            return self._apart(self._pair_apart(key, idempotency_key), writers)
        values = pairing.claims(self._router, self.name, key, idempotency_key, keep_s)
        if pairing.begins(connection):
            connection.execute("SELECT")
        with connection.transaction():
            pair = self._pair(connection, key, values)
            if pair is None:
                return Written(None, repeated=True)
            answers = {side: writers[side](path, connection) for side, path in pair.together}
        return Written(answers[pair.leads])

    def settle(self, timeout_s: float) -> bool:
        """Wait until every read off the caller's path has ended: before a report, or in a test."""
        return self._pool.settle(timeout_s)

    def close(self) -> None:
        """Repeat no more reads; those that wait are dropped."""
        for _ in range(self._pool.close()):
            self._dropped()

    def sweep(self) -> None:
        """Give up reads that take too long."""
        now = self._settings.clock()
        for job in self._pool.running():
            if job.began_at and now - job.began_at > self.limits.timeout_s:
                self._give_up(job)

    def _offer(self, job: Job) -> None:
        try:
            taken = self._pool.offer(job)
        except RuntimeError:  # no thread can be started
            taken = False
        if not taken:
            self._dropped()

    def _repeat(self, job: Job) -> None:
        """Read a side for the comparison's sake; on a worker."""
        path = self._admitted(job)
        if path is None:
            return
        try:
            answer = self._reader(is_new=job.is_new)(path, job.key, *job.args, **job.kwargs)
        except Exception as error:  # noqa: BLE001  whatever the service's own code raises
            self._failed(job, error)
        else:
            self._judge(job, answer)

    def _pair(self, connection: psycopg.Connection[Any], key: object, values: dict[str, Any]) -> Pair | None:
        if not self._router.knows_pairs:
            return pairing.heard(self._router, self.name, key)
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(WRITE_ONCE, values, prepare=False).fetchone()
        return pairing.told(self._router, self.name, key, row or (True, None))

    def _apart(self, pair: Pair, writers: dict[Side, Callable[..., Value]]) -> Written[Value]:
        (side, path), *second = pair.turns
        answer = writers[side](path)
        for side, path in second:
            try:
                writers[side](path)
            except Exception as error:
                if not pair.may_miss:
                    raise
                self._missed(error)
                return Written(answer, missed=True)
        return Written(answer)
