"""The router for asyncio: the same decisions as `Router`, heard by a task instead of a thread.

The task needs a loop that turns: a loop blocked for longer than the lease makes a stale router, never a wrong one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import tuple_row

from pgduet.routing import link
from pgduet.routing.aio_migrator import AsyncMigrator
from pgduet.routing.comparing import Compare
from pgduet.routing.core import OPENED, Heard, RouterCore, Unheard
from pgduet.routing.decision import Choice
from pgduet.routing.migrating import Answer, Limits, settings_of
from pgduet.routing.model import RouteUnavailable
from pgduet.routing.overrides import Overrides

_log = logging.getLogger("pgduet.routing")

CLOSE_TIMEOUT_S = 5.0


def _refused() -> Mapping[str, Choice]:
    message = "An AsyncRouter does not survive fork."
    raise RouteUnavailable(message, hint="Open it in the worker process.")


class AsyncRouter(RouterCore):
    """Answers which version a read goes to; `path` and `record` stay plain calls. Made by `open`; close it."""

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        service: str,
        version: str | None = None,
        lease_s: float = 10.0,
        overrides: Overrides | None = None,
        open_timeout_s: float = 30.0,
    ) -> Self:
        """Start a router, and return once it has heard the routes and told the database that it is there.

        Raises:
            RouteUnavailable: that did not happen in time. There is no safe guess: before contract the base tables are
                the old version, after it the new one.
        """
        router = cls(service=service, version=version, lease_s=lease_s, overrides=overrides)
        router._start(link.settings(dsn, service, lease_s))
        OPENED.add(router)
        try:
            heard = await router._wait(lambda: router._rounds > 0, open_timeout_s)
        except asyncio.CancelledError:
            await router.close()
            raise
        if not heard:
            reason = router._failure
            await router.close()
            message = f"The routes could not be read in {open_timeout_s:g} s ({reason})."
            raise RouteUnavailable(message)
        return router

    def _start(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._changed = asyncio.Condition()
        self._migrators: list[AsyncMigrator[Any]] = []
        self._acknowledged: dict[str, int] = {}
        self._rounds = 0
        self._failure = "no answer"
        self._task = asyncio.create_task(self._run(), name=f"pgduet-router/{self.service}")

    def begin_anew(self) -> None:
        """In a child of `fork`, which has no loop that turns: answer nothing."""
        super().begin_anew()
        self._heard = Heard(Unheard(_refused), self._clock())

    async def close(self) -> None:
        """Report the last counts, and stop. Later answers are those of a router that hears nothing."""
        for migrator in self._migrators:
            await migrator.close()
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)

    async def __aenter__(self) -> Self:
        """Give the open router."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def wait_for(self, migration: str, epoch: int, timeout_s: float) -> bool:
        """Wait until this router follows that epoch of a route, or a later one, and the database has been told so."""
        return await self._wait(lambda: self._acknowledged.get(migration, 0) >= epoch, timeout_s)

    def migrator(
        self,
        name: str,
        *,
        read_old: Callable[..., Awaitable[Answer]],
        read_new: Callable[..., Awaitable[Answer]],
        compare: Compare | None = None,
        limits: Limits | None = None,
        redact: Callable[[Any], str] | None = None,
        show: Callable[[Any, Any], str] | None = None,
        label: str = "",
    ) -> AsyncMigrator[Answer]:
        """Make what reads by the stage and compares off the caller's path: as `Router.migrator`, of coroutines."""
        migrator = AsyncMigrator(self, settings_of(name, read_old, read_new, compare, limits, redact, show, label))
        self._migrators.append(migrator)
        return migrator

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        """Follow the database until cancelled, from one connection to the next."""
        failures = 0
        while True:
            rounds = self._rounds
            try:
                conn = await psycopg.AsyncConnection.connect(**self._settings, row_factory=tuple_row)
                async with conn:
                    await self._follow(conn)
            except Exception as error:  # noqa: BLE001  whatever it is, a router that gave up would be stale for ever
                self._failure = link.described(error)
                _log.warning("router %s lost the database: %s", self.service, self._failure)
                failures = 0 if self._rounds > rounds else failures + 1
                await asyncio.sleep(link.pause_s(failures, self.lease_s))

    async def _follow(self, conn: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Hear and report at every notification and at every poll; cancelled while idle, report the last counts."""
        await conn.execute(link.LISTEN)
        notified = False
        while True:
            await self._hear(conn, polls=not notified)
            if notified:
                await self._hear_others(conn)
            await self._acknowledge(conn)
            notified = await self._woken(conn, self.poll_s)

    async def _hear_others(self, conn: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        """Let other routers hear what this one has just heard, before it is acknowledged; what changes meanwhile is heard."""
        ends = time.monotonic() + link.acknowledge_in_s(self.lease_s)
        while (left_s := ends - time.monotonic()) > 0:
            if await self._woken(conn, left_s):
                await self._hear(conn, polls=False)

    async def _woken(self, conn: psycopg.AsyncConnection[tuple[Any, ...]], limit_s: float) -> bool:
        """Wait for a notification, and tell whether there was one; cancelled meanwhile, report the last counts."""
        try:
            return bool([notification async for notification in conn.notifies(timeout=limit_s, stop_after=1)])
        except asyncio.CancelledError:
            with contextlib.suppress(psycopg.Error, OSError):
                await self._tell(conn)
            raise

    async def _hear(self, conn: psycopg.AsyncConnection[tuple[Any, ...]], *, polls: bool) -> None:
        """Read the routes; a database that pgduet was never set up in has none. Only a poll asks whether that has changed."""
        asked_at = self._clock()
        if polls or not self._has_routes:
            found = await (await conn.execute(link.HAS_ROUTES)).fetchone()
            self._has_routes, self.knows_pairs = found or (False, False)
        rows = await (await conn.execute(link.READ_ROUTES)).fetchall() if self._has_routes else []
        self.hear(link.routes(rows), asked_at)

    async def _acknowledge(self, conn: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        acknowledged = await self._tell(conn)
        async with self._changed:
            self._acknowledged = acknowledged
            self._rounds += 1
            self._changed.notify_all()

    async def _tell(self, conn: psycopg.AsyncConnection[tuple[Any, ...]]) -> dict[str, int]:
        """Tell the database where this service stands; gives the epochs told."""
        reports = self.reports()
        async with conn.cursor() as cursor:
            for statement, parameters in link.statements(reports, knows_pairs=self.knows_pairs):
                await cursor.executemany(statement, parameters)
        self.delivered(reports)
        return self.acknowledged(reports)
