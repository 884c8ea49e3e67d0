"""asyncpg: a transaction that reads one version, on any connection.

asyncpg prepares every query and keeps the statements, also from one version to the next: make the pool with
`statement_cache_size=0`, which a pooler in transaction mode asks for anyway. With a cache a plan can be stale in the
first transaction after a change of versions: `transact` runs that once more, since asyncpg has dropped its caches by
then.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from pgduet.routing.adapters.extras import missing
from pgduet.routing.adapters.statements import in_transaction, is_stale, set_local
from pgduet.routing.model import BASE_TABLES, Path

try:
    from asyncpg import Connection, FeatureNotSupportedError
    from asyncpg.pool import PoolConnectionProxy
except ImportError as error:
    raise missing("asyncpg", error) from error

_T = TypeVar("_T")
_Conn = TypeVar("_Conn", Connection, PoolConnectionProxy)


@asynccontextmanager
async def routed(conn: _Conn, path: Path) -> AsyncIterator[_Conn]:
    """Open a transaction that reads and writes the version of a path.

    Raises:
        NotRoutable: the connection is in a transaction already.
    """
    if conn.is_in_transaction():
        raise in_transaction()
    async with conn.transaction():
        statement = set_local(path)
        if statement is not None:
            await conn.execute(statement)
        yield conn


async def transact(conn: _Conn, work: Callable[[_Conn], Awaitable[_T]], path: Path = BASE_TABLES) -> _T:
    """Do some work in a transaction, and once more from its start if a plan was stale.

    What `work` does outside of the database it may do twice.
    """
    try:
        async with routed(conn, path):
            return await work(conn)
    except FeatureNotSupportedError as error:
        if not is_stale(error):
            raise
    async with routed(conn, path):
        return await work(conn)
