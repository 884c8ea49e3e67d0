"""psycopg_pool: a pool for each version, whose connections have their version for life and may prepare statements.

A connection is pinned by the role that it logs in as (a mapping of versions to addresses), which any pooler between
lets through, or by the startup parameter `options` (one address), which PgBouncer refuses unless told otherwise.

A pool is opened when a path first leads to its version. Without reads its sessions end, one each `max_idle` seconds,
so a version that nobody is sent to any more is soon without sessions that contract would have to wait for.
"""

import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo

from pgduet.routing import link
from pgduet.routing.adapters.extras import missing
from pgduet.routing.model import NotRoutable, Path

try:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed
except ImportError as error:
    raise missing("psycopg-pool", error) from error

Dsn = str | Mapping[str | None, str]
"""One address for all versions, or an address for each; None stands for the base tables."""

_DEFAULTS: Mapping[str, Any] = {"min_size": 0, "max_size": 10, "max_idle": 5.0}


class VersionPools:
    """Gives connections by path. `settings` are `ConnectionPool`'s. Close it, or use it in a `with`."""

    def __init__(self, dsn: Dsn, **settings: Any) -> None:
        self._dsn = dsn
        self._settings = {**_DEFAULTS, **settings}
        self._pools: dict[str | None, ConnectionPool[Connection[Any]]] = {}
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def connection(self, path: Path, timeout: float | None = None) -> Iterator[Connection[Any]]:
        """Give a connection that reads the path's version, as `ConnectionPool.connection` does."""
        with self._pool(path).connection(timeout) as conn:
            yield conn

    def close(self) -> None:
        """Close all pools."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    def __enter__(self) -> Self:
        """Give the pools."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        self.close()

    def _pool(self, path: Path) -> ConnectionPool[Connection[Any]]:
        with self._lock:
            _refuse(closed=self._closed)
            pool = self._pools.get(path.search_path)
            if pool is None:
                pool = ConnectionPool(pinned(self._dsn, path), open=True, **self._settings)
                self._pools[path.search_path] = pool
            return pool


class AsyncVersionPools:
    """Do as `VersionPools`, for asyncio."""

    def __init__(self, dsn: Dsn, **settings: Any) -> None:
        self._dsn = dsn
        self._settings = {**_DEFAULTS, **settings}
        self._pools: dict[str | None, AsyncConnectionPool[AsyncConnection[Any]]] = {}
        self._closed = False

    @asynccontextmanager
    async def connection(self, path: Path, timeout: float | None = None) -> AsyncIterator[AsyncConnection[Any]]:
        """Give a connection that reads the path's version."""
        _refuse(closed=self._closed)
        pool = self._pools.get(path.search_path)
        if pool is None:
            pool = AsyncConnectionPool(pinned(self._dsn, path), open=False, **self._settings)
            self._pools[path.search_path] = pool
        await pool.open()  # does nothing where it is open
        async with pool.connection(timeout) as conn:
            yield conn

    async def close(self) -> None:
        """Close all pools."""
        self._closed = True
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.close()

    async def __aenter__(self) -> Self:
        """Give the pools."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        await self.close()


def pinned(dsn: Dsn, path: Path) -> str:
    """Give the address of sessions that have a path's version for life.

    Raises:
        NotRoutable: there is an address for each version, but none for this one.
        RouteUnavailable: it cannot be read. A pool would log libpq's message, which quotes it, and try again for ever.
    """
    if not isinstance(dsn, str):
        if path.version not in dsn:
            message = f"There is no address for the version {path.version or 'of the base tables'}."
            raise NotRoutable(message)
        link.parts(dsn[path.version])
        return dsn[path.version]
    given = link.parts(dsn).get("options")
    if path.search_path is None:
        return dsn
    setting = "-c search_path=" + re.sub(r"([\\ ])", r"\\\1", path.search_path)
    return make_conninfo(dsn, options=f"{given} {setting}" if given else setting)


def _refuse(*, closed: bool) -> None:
    """Refuse what comes after the end: a pool that is opened then is nobody's to close."""
    if closed:
        message = "the pools of all versions are closed"
        raise PoolClosed(message)
