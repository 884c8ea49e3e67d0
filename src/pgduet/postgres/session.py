"""Connections of the engine: one for each activity, autocommit, named after what they do.

Transactions are explicit. `search_path` is empty but for the analysis of a plan's expressions: everything the engine writes is
qualified. Optional rights (a short deadlock timeout, muting the user's triggers) are used where they are granted.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row

from pgduet.postgres.databases import Database
from pgduet.postgres.traced import TracedCursor
from pgduet.telemetry import spans

Connection = psycopg.AsyncConnection[DictRow]

APPLICATION = "pgduet"
_SCHEMA_CHANGED = "while the schema was changed"
_SERVERS_OWN = {"08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "72", "F0", "XX"}
"""Classes of errors whose messages are PostgreSQL's own, about objects and resources."""
HANGING = {
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""A server or a network that is gone without a word is noticed in half a minute, unless the DSN says otherwise."""

_BARE: LiteralString = (
    "SET row_security = off; SET idle_in_transaction_session_timeout = '60s';"
    " SET default_transaction_isolation = 'read committed'"
)
"""A policy must never hide rows from the backfill, from parity or from the archive: refuse instead of filter. And whatever the
database's own default is: statements of one transaction see what was committed before each of them."""
_OURS: LiteralString = "SET search_path = ''; " + _BARE


@dataclass(frozen=True, slots=True)
class Rights:
    """Optional rights of the worker's role."""

    short_deadlock_timeout: bool
    mute_triggers: bool


@asynccontextmanager
async def session(database: Database, purpose: str, *, bare: bool = False) -> AsyncIterator[Connection]:
    """Open a connection for one activity; `bare` keeps the role's own search_path."""
    with spans.span("connect"), spans.untraced():
        conn = await psycopg.AsyncConnection.connect(
            hurried(database.dsn),
            autocommit=True,
            row_factory=dict_row,
            cursor_factory=TracedCursor,
            application_name=f"{APPLICATION}/{purpose}"[:63],
        )
    async with conn:
        with spans.untraced():
            if database.role:
                await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(database.role)))
            await conn.execute(_BARE if bare else _OURS)
        yield conn


def hurried(dsn: str) -> str:
    """Give a DSN that waits for a silent server no longer than half a minute; what it says of that itself stands."""
    said = {key: value for key, value in conninfo_to_dict(dsn).items() if value is not None}
    return make_conninfo("", **{**HANGING, **said})


async def rights(conn: Connection) -> Rights:
    """Find out which optional rights the session has."""
    row = await (
        await conn.execute(
            "SELECT has_parameter_privilege('deadlock_timeout', 'SET') AS short_deadlock_timeout,"
            " has_parameter_privilege('session_replication_role', 'SET') AS mute_triggers"
        )
    ).fetchone()
    assert row is not None  # noqa: S101  (a SELECT without FROM has one row)
    return Rights(**row)


@contextmanager
def schema_change() -> Iterator[None]:
    """Mark errors of statements that are about no rows: what they say may be told, a user's event trigger's words too."""
    try:
        yield
    except psycopg.Error as error:
        error.add_note(_SCHEMA_CHANGED)
        raise


def told(error: psycopg.Error) -> str:
    """Say what went wrong: by the primary message only, since a DETAIL or a CONTEXT could carry a row's values.

    Where the message itself is about values, the name of the condition says it, and the constraint's. A connection's error names
    the DSN's host: it is told as such. What a user's function raises with a message of its own is not ours to repeat either,
    unless it is about a change of the schema: then it is an event trigger's reason.
    """
    if error.sqlstate is None:
        return f"{type(error).__name__} (SQLSTATE none: the connection)"
    repeated = error.sqlstate[:2] in _SERVERS_OWN or _SCHEMA_CHANGED in getattr(error, "__notes__", ())
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError) or not repeated:
        name = error.diag.constraint_name
        return condition(error.sqlstate) + (f": {name}" if name else "")
    return f"{error.diag.message_primary} (SQLSTATE {error.sqlstate})"


def condition(sqlstate: str | None) -> str:
    """Name an error by PostgreSQL's name for its code: its message may hold a row's values, and those stay in the database."""
    try:
        name = errors.lookup(sqlstate or "").__name__
    except KeyError:
        return f"SQLSTATE {sqlstate}"
    return f"{re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name).lower()} ({sqlstate})"
