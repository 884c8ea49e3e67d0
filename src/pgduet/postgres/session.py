"""Connections of the engine: one for each activity, autocommit, named after what they do.

Transactions are explicit. `search_path` is empty but for the analysis of a plan's expressions: everything the engine writes is
qualified. Optional rights (a short deadlock timeout, muting the user's triggers) are used where they are granted.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from pgduet.postgres.databases import Database
from pgduet.postgres.traced import TracedCursor
from pgduet.telemetry import spans

Connection = psycopg.AsyncConnection[DictRow]

APPLICATION = "pgduet"


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
            database.dsn,
            autocommit=True,
            row_factory=dict_row,
            cursor_factory=TracedCursor,
            application_name=f"{APPLICATION}/{purpose}"[:63],
        )
    async with conn:
        with spans.untraced():
            if database.role:
                await conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(database.role)))
            if not bare:
                await conn.execute("SET search_path = ''")
            # A policy must never hide rows from the backfill, from parity or from the archive: refuse instead of filter.
            await conn.execute("SET row_security = off")
            await conn.execute("SET idle_in_transaction_session_timeout = '60s'")
        yield conn


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


async def mutes(conn: Connection, user_triggers: str) -> bool:
    """Tell whether writes of ours keep the user's triggers silent: the plan says so, and the role may."""
    return user_triggers == "suppress" and (await rights(conn)).mute_triggers


def without_values(message: str) -> str:
    """Take the values out of PostgreSQL's message: what it quotes may be a row's, and those stay in the database."""
    return re.sub(r'"[^"]*"', '"…"', message)
