"""A plan's probes put to the database: each in a transaction that can only read, for a second at most, and its answer one number.

A probe is wrapped as a subquery and sent by the extended protocol, which takes one statement only: it can be nothing but a query.
Names are given with their schema, since the engine's sessions have no search path. Limit: it runs with the rights of the
worker's role, and a function that it calls can do what that role may: a plan's author is trusted, as with `up`.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from decimal import Decimal
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from pgduet.errors import ExpressionInvalid
from pgduet.operations.answers import place
from pgduet.operations.statement import trusted
from pgduet.plan.models import Plan
from pgduet.plan.probes import Probe
from pgduet.postgres.session import Connection, condition

LIMIT_MS = 1000
ASK_EVERY_S = 1.0
PROBE_SHARE = 10
"""A probe rests so many times as long as it took: it may not itself become a load."""
_HEAD = "SELECT * FROM (\n"
_HINT = "One query that gives one number, such as SELECT count(*) FROM jobs.queue; tables are named with their schema."


class Probed(NamedTuple):
    """What a probe answered: a number, nothing (neither number nor error), or an error."""

    value: float | None
    error: str | None = None


class _NotOneNumberError(Exception):
    """The query gives something else."""


async def answer(conn: Connection, probe: Probe) -> Probed:
    """Ask a probe: its number, or in words why it gave none; no word of its data, nor of its SQL."""
    try:
        return Probed(await _asked(conn, probe))
    except _NotOneNumberError as error:
        return Probed(None, str(error))
    except psycopg.Error as error:
        return Probed(None, condition(error.sqlstate) if error.sqlstate else "the connection was lost")


async def keep_asking(
    connect: Callable[[], AbstractAsyncContextManager[Connection]],
    probes: Iterable[Probe],
    heard: Callable[[str, Probed], object],
) -> None:
    """Ask probes again and again, one after the other: an error is an answer too."""
    while True:
        with suppress(psycopg.Error):
            async with connect() as conn:
                while not conn.closed:
                    began = time.monotonic()
                    for probe in probes:
                        heard(probe.name, await answer(conn, probe))
                    await asyncio.sleep(max(ASK_EVERY_S, PROBE_SHARE * (time.monotonic() - began)))
        await asyncio.sleep(ASK_EVERY_S)


async def check_probes(conn: Connection, plan: Plan) -> None:
    """Ask each probe of a plan once.

    Raises:
        ExpressionInvalid: it cannot be asked, or does not give one number.
    """
    for number, probe in enumerate(plan.policy.backfill.probes):
        where = place(("policy", "backfill", "probes", number, "sql"))
        try:
            await _asked(conn, probe)
        except _NotOneNumberError as error:
            raise ExpressionInvalid(f"probe {probe.name}: {error}", place=where, hint=_HINT) from error
        except psycopg.errors.QueryCanceled as error:
            told = f"probe {probe.name} takes longer than {LIMIT_MS} ms"
            raise ExpressionInvalid(
                told, place=where, hint="It is asked about once a second: make it cheap."
            ) from error
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            # A message about values would show them, and what a function raises can be about anything.
            about_values = isinstance(error, psycopg.DataError | psycopg.errors.RaiseException)
            why = None if about_values else error.diag.message_primary
            told = f"probe {probe.name}: {why or condition(error.sqlstate)}"
            raise ExpressionInvalid(told, place=where, hint=_HINT) from error


async def _asked(conn: Connection, probe: Probe) -> float | None:
    query = sql.Composed(
        [sql.SQL(_HEAD), trusted(probe.sql.rstrip().removesuffix(";")), sql.SQL("\n) AS probe LIMIT 2")]
    )
    async with conn.transaction():
        await conn.execute("SET TRANSACTION READ ONLY")
        await conn.execute(
            sql.SQL("SELECT set_config('search_path', '', true), set_config('statement_timeout', {}, true)").format(
                sql.Literal(str(LIMIT_MS))
            )
        )
        cursor = await conn.execute(query, binary=True)
        rows = await _rows(cursor)
    columns = len(cursor.description or [])
    if len(rows) != 1 or columns != 1:
        message = f"expected one row of one column, got {('none', 'one', 'more')[len(rows)]} of {columns}"
        raise _NotOneNumberError(message)
    (value,) = rows[0].values()
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        message = f"expected a number, got a {type(value).__name__}"
        raise _NotOneNumberError(message)
    if math.isnan(value):
        message = "expected a number, got NaN"
        raise _NotOneNumberError(message)
    return float(value)


async def _rows(cursor: psycopg.AsyncCursor[DictRow]) -> list[DictRow]:
    try:
        return await cursor.fetchall()
    except psycopg.DataError as error:  # a date that Python does not have, say
        message = "expected a number, got what cannot be read"
        raise _NotOneNumberError(message) from error
