"""psycopg 3: a transaction that reads one version, on any connection, behind any pooler.

Within `routed` nothing runs as a prepared statement, neither a new one nor one that the connection has: so no plan
can be stale, however often a connection changes between versions. A connection that is pinned to a version (a role,
or `psycopg_pool.VersionPools`) prepares as ever; what a phase of a migration may still make stale there, `transact`
runs once more.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection
from psycopg.errors import FeatureNotSupported
from psycopg.pq import TransactionStatus

from pgduet.routing.adapters.statements import in_transaction, is_stale, set_local
from pgduet.routing.model import BASE_TABLES, Path

_Row = TypeVar("_Row")
_T = TypeVar("_T")


@contextmanager
def routed(conn: Connection[_Row], path: Path) -> Iterator[Connection[_Row]]:
    """Open a transaction that reads and writes the version of a path.

    Raises:
        NotRoutable: the connection is in a transaction already.
    """
    _refuse_begun(conn)
    statement, threshold = set_local(path), conn.prepare_threshold
    if statement is not None:
        conn.prepare_threshold = None
    try:
        with conn.transaction():
            if statement is not None:
                conn.execute(statement)
            yield conn
    finally:
        conn.prepare_threshold = threshold


@asynccontextmanager
async def routed_async(conn: AsyncConnection[_Row], path: Path) -> AsyncIterator[AsyncConnection[_Row]]:
    """Do as `routed`, for asyncio."""
    _refuse_begun(conn)
    statement, threshold = set_local(path), conn.prepare_threshold
    if statement is not None:
        conn.prepare_threshold = None
    try:
        async with conn.transaction():
            if statement is not None:
                await conn.execute(statement)
            yield conn
    finally:
        conn.prepare_threshold = threshold


def transact(conn: Connection[_Row], work: Callable[[Connection[_Row]], _T], path: Path = BASE_TABLES) -> _T:
    """Do some work in a transaction, and once more from its start if a plan was stale.

    The first try was rolled back by then, which makes psycopg forget and deallocate what it had prepared. What `work` does
    outside of the database it may do twice. Statements that were prepared by SQL's own PREPARE are the caller's matter.
    """
    try:
        with routed(conn, path):
            return work(conn)
    except FeatureNotSupported as error:
        if not is_stale(error):
            raise
    with routed(conn, path):
        return work(conn)


async def transact_async(
    conn: AsyncConnection[_Row], work: Callable[[AsyncConnection[_Row]], Awaitable[_T]], path: Path = BASE_TABLES
) -> _T:
    """Do as `transact`, for asyncio."""
    try:
        async with routed_async(conn, path):
            return await work(conn)
    except FeatureNotSupported as error:
        if not is_stale(error):
            raise
    async with routed_async(conn, path):
        return await work(conn)


def _refuse_begun(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    if conn.info.transaction_status not in {TransactionStatus.IDLE, TransactionStatus.UNKNOWN}:  # unknown: it is lost
        raise in_transaction()
