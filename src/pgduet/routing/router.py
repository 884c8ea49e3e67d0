"""The router for threads: one daemon thread with one connection hears routes and reports presence; `path` asks neither.

The thread listens on `pgduet_route` and reads the whole table on any notification (the payload is only a wake-up), and
every third of the lease without one. After each reading it reports this service's side, version and epoch, and what was
counted: after a notification a moment later, since all routers of a database get it at once.

A thread does not survive `fork`. A child that asks the router it inherited waits, once, until a thread of its own has heard
and told, under another name: the lease of the parent's is not the child's.

Limits: a router takes one connection.
"""

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import tuple_row

from pgduet.routing import link
from pgduet.routing.comparing import Compare
from pgduet.routing.core import OPENED, Heard, RouterCore, Unheard
from pgduet.routing.decision import Choice
from pgduet.routing.migrating import Answer, Limits, settings_of
from pgduet.routing.migrator import Migrator
from pgduet.routing.model import RouteUnavailable
from pgduet.routing.overrides import Overrides

_log = logging.getLogger("pgduet.routing")

CLOSE_TIMEOUT_S = 5.0


class Router(RouterCore):
    """Answers which version a read goes to. Made by `open`; close it, or use it in a `with`."""

    @classmethod
    def open(
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
        router._start(link.settings(dsn, service, lease_s), open_timeout_s)
        try:
            router._choices()
        except BaseException:
            router.close()
            raise
        OPENED.add(router)
        return router

    def _start(self, settings: dict[str, Any], open_timeout_s: float) -> None:
        self._settings = settings
        self._open_timeout_s = open_timeout_s
        self._migrators: list[Migrator[Any]] = []
        self._prepare()

    def _prepare(self) -> None:
        """Have all that a thread needs, and start none."""
        self._changed = threading.Condition()
        self._acknowledged: dict[str, int] = {}
        self._rounds = 0
        self._failure = "no answer"
        self._stopping = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread: threading.Thread | None = None

    def _choices(self) -> Mapping[str, Choice]:
        """Give what was heard, by a thread that is started if need be: waits until it has heard, and has told."""
        with self._changed:
            if self._stopping.is_set():
                message = "The router is closed."
                raise RouteUnavailable(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"pgduet-router/{self.service}", daemon=True)
                self._thread.start()
        if not self._wait(lambda: self._rounds > 0, self._open_timeout_s):
            message = f"The routes could not be read in {self._open_timeout_s:g} s ({self._failure})."
            raise RouteUnavailable(message)
        return self._heard.choices

    def begin_anew(self) -> None:
        """In a child of `fork`: begin when first asked."""
        for ours in (self._wake_in, self._wake_out):
            ours.close()
        closed = self._stopping.is_set()
        super().begin_anew()
        self._prepare()
        for migrator in self._migrators:
            migrator.begin()
        self._heard = Heard(Unheard(self._choices), self._clock())
        if closed:
            self.close()

    def close(self) -> None:
        """Report the last counts, and stop. Later answers are those of a router that hears nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for migrator in self._migrators:
            migrator.close()
        if self._thread is None:
            self._wake_in.close()
        else:
            with contextlib.suppress(OSError):
                self._wake_out.send(b"\0")
            self._thread.join(CLOSE_TIMEOUT_S)
        self._wake_out.close()

    def __enter__(self) -> Self:
        """Give the open router."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def wait_for(self, migration: str, epoch: int, timeout_s: float) -> bool:
        """Wait until this router follows that epoch of a route, or a later one, and the database has been told so."""
        return self._wait(lambda: self._acknowledged.get(migration, 0) >= epoch, timeout_s)

    def migrator(
        self,
        name: str,
        *,
        read_old: Callable[..., Answer],
        read_new: Callable[..., Answer],
        compare: Compare | None = None,
        limits: Limits | None = None,
        redact: Callable[[Any], str] | None = None,
        show: Callable[[Any, Any], str] | None = None,
        label: str = "",
    ) -> Migrator[Answer]:
        """Make what reads by the stage and compares off the caller's path: see `Migrator`.

        Args:
            name: the migration's name.
            read_old: called with the `Path` and what `read` was called with: the key and the rest. It runs on workers
                too, so it takes a connection of its own, and sets a statement timeout.
            read_new: the same for the new version.
            compare: `Rules`, or a function of the old and the new answer that tells whether they say the same.
            limits: how much is repeated.
            redact: gives what is reported in place of a mismatch's key; else it is hashed.
            show: gives what is reported of a mismatch's answers, old and new; else nothing is.
            label: which of the service's reads this is, in reported mismatches.
        """
        settings = settings_of(name, read_old, read_new, compare, limits, redact, show, label)
        migrator = Migrator(self, settings)
        self._migrators.append(migrator)
        self._sweeping.append(migrator)
        return migrator

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _run(self) -> None:
        """Follow the database for as long as the router is open, from one connection to the next."""
        failures = 0
        while not self._stopping.is_set():
            rounds = self._rounds
            try:
                with psycopg.connect(**self._settings, row_factory=tuple_row) as conn:
                    self._follow(conn)
            except Exception as error:  # noqa: BLE001  whatever it is, a router that gave up would be stale for ever
                self._failure = link.described(error)
                _log.warning("router %s lost the database: %s", self.service, self._failure)
                failures = 0 if self._rounds > rounds else failures + 1
                self._stopping.wait(link.pause_s(failures, self.lease_s))
        self._wake_in.close()

    def _follow(self, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Hear and report at every notification and every poll, and once more when told to stop: the last counts."""
        conn.execute(link.LISTEN)
        with selectors.DefaultSelector() as selector:
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            notified = False
            while True:
                stopping = self._stopping.is_set()
                self._hear(conn, polls=not notified)
                if notified:
                    self._hear_others(conn, selector)
                self._tell(conn)
                if stopping:
                    return
                notified = self._woken(conn, selector, self.poll_s)

    def _hear_others(self, conn: psycopg.Connection[tuple[Any, ...]], selector: selectors.BaseSelector) -> None:
        """Let other routers hear what this one has just heard, before it is acknowledged; what changes meanwhile is heard."""
        ends = time.monotonic() + link.acknowledge_in_s(self.lease_s)
        while (left_s := ends - time.monotonic()) > 0 and not self._stopping.is_set():
            if self._woken(conn, selector, left_s):
                self._hear(conn, polls=False)

    def _woken(
        self, conn: psycopg.Connection[tuple[Any, ...]], selector: selectors.BaseSelector, limit_s: float
    ) -> bool:
        """Wait for a notification, or until this router is to stop; tell whether there was one."""
        if _notified(conn):
            return True
        selector.select(limit_s)
        return _notified(conn)

    def _hear(self, conn: psycopg.Connection[tuple[Any, ...]], *, polls: bool) -> None:
        """Read the routes; a database that pgduet was never set up in has none. Only a poll asks whether that has changed."""
        asked_at = self._clock()
        if polls or not self._has_routes:
            self._has_routes, self.knows_pairs = conn.execute(link.HAS_ROUTES).fetchone() or (False, False)
        rows = conn.execute(link.READ_ROUTES).fetchall() if self._has_routes else []
        self.hear(link.routes(rows), asked_at)

    def _tell(self, conn: psycopg.Connection[tuple[Any, ...]]) -> None:
        reports = self.reports()
        with conn.cursor() as cursor:
            for statement, parameters in link.statements(reports, knows_pairs=self.knows_pairs):
                cursor.executemany(statement, parameters)
        self.delivered(reports)
        with self._changed:
            self._acknowledged = self.acknowledged(reports)
            self._rounds += 1
            self._changed.notify_all()


def _notified(conn: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Take what has come in meanwhile, without waiting; tell whether there was any."""
    return bool(list(conn.notifies(timeout=0)))
