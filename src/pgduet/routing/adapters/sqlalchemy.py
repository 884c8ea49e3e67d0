"""SQLAlchemy 2: each transaction of an engine, or of a session, reads the version that it is told to; sync and async.

The version is picked by `SET LOCAL` when a transaction begins, so it holds behind any pooler. Prepared statements are
put off on such connections, since they would outlive the transaction: psycopg's by its threshold, the asyncpg
dialect's by the size of its cache.

An engine that is pinned to one version (a role) keeps them; what a phase of a migration may still make stale there,
`transact` runs once more.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pgduet.routing.adapters.extras import missing
from pgduet.routing.adapters.statements import in_autocommit, is_stale, set_local
from pgduet.routing.model import NotRoutable, Path

try:
    from sqlalchemy import Connection, Engine, event
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction, sessionmaker
except ImportError as error:
    raise missing("sqlalchemy", error) from error

_T = TypeVar("_T")

Sessions = sessionmaker[Any] | type[Session] | Session | AsyncSession


def follow(engine: Engine | AsyncEngine, decide: Callable[[], Path]) -> None:
    """Have each transaction of an engine read the version of the path that is decided when it begins.

    Call it before the engine's first connection. `decide` does no I/O: a router's `path`, with a key from a context variable.
    A transaction in autocommit mode, or in two phases, raises `NotRoutable`.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine

    def begin(conn: Connection) -> None:
        _set_local(conn, decide())

    def begin_twophase(_conn: Connection, _xid: Any) -> None:
        if set_local(decide()) is not None:  # said now, it would begin another transaction
            raise NotRoutable(
                "A transaction in two phases that begins on a connection follows no path.",
                hint="Use sessions, and follow_sessions.",
            )

    event.listen(sync, "do_connect", _without_cache)
    event.listen(sync, "begin", begin)
    event.listen(sync, "begin_twophase", begin_twophase)


def follow_sessions(sessions: Sessions, decide: Callable[[Session], Path]) -> None:
    """Have each transaction of sessions read the version of the path that is decided for the session (by its `info`, say).

    For async sessions make a subclass of `Session`, and an `async_sessionmaker(sync_session_class=…)` with it. An engine
    with asyncpg needs `?prepared_statement_cache_size=0`; without it a transaction raises `NotRoutable`.
    """

    def after_begin(session: Session, transaction: SessionTransaction, conn: Connection) -> None:
        if not transaction.nested:
            _set_local(conn, decide(session))

    event.listen(sessions.sync_session if isinstance(sessions, AsyncSession) else sessions, "after_begin", after_begin)


def transact(sessions: Callable[[], Session], work: Callable[[Session], _T]) -> _T:
    """Do some work in a session's transaction, and once more in a new one if a plan was stale.

    What `work` does outside of the database it may do twice.
    """
    try:
        with sessions() as session, session.begin():
            return work(session)
    except DBAPIError as error:
        if not is_stale(error):
            raise
    with sessions() as session, session.begin():
        return work(session)


async def transact_async(sessions: Callable[[], AsyncSession], work: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
    """Do as `transact`, for asyncio."""
    try:
        async with sessions() as session, session.begin():
            return await work(session)
    except DBAPIError as error:
        if not is_stale(error):
            raise
    async with sessions() as session, session.begin():
        return await work(session)


def _set_local(conn: Connection, path: Path) -> None:
    statement = set_local(path)
    if statement is None:
        return
    raw = conn.connection.dbapi_connection
    if conn.dialect.detect_autocommit_setting(raw):  # type: ignore[arg-type]
        raise in_autocommit()
    driver: Any = conn.connection.driver_connection
    if hasattr(driver, "prepare_threshold"):
        driver.prepare_threshold = None
    if getattr(raw, "_prepared_statement_cache", None) is not None:
        raise NotRoutable(
            "The connection keeps prepared statements from one transaction to the next.",
            hint="Make the engine with ?prepared_statement_cache_size=0.",
        )
    conn.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _without_cache(dialect: Any, record: Any, arguments: list[Any], settings: dict[str, Any]) -> None:
    """Put off the cache of the asyncpg dialect, before it connects."""
    if dialect.driver == "asyncpg":
        settings["prepared_statement_cache_size"] = 0
