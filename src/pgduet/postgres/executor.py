"""The one place that executes statements on tables that clients use.

Each try takes its locks under a short `lock_timeout`, so that no client queues behind us for longer; between tries clients
have the table for themselves. `lock_timeout` counts for each lock: the strongest one is taken first, and the rest of the
transaction finds it held. With the right to do so, `deadlock_timeout` is lowered as well: an autovacuum that holds the table
yields only after it, and if there is ever a deadlock, we are the one to notice and give way.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from pgduet.errors import LockDeadline
from pgduet.operations.statement import Lock, Query, Statement, trusted
from pgduet.postgres.session import Connection, rights
from pgduet.sql import block

_GIVES_WAY = (errors.LockNotAvailable, errors.DeadlockDetected)
_STRENGTH = tuple(Lock)
IDLE_MS = 1000

Step = Callable[[Connection], Awaitable[None]]
OnWait = Callable[[str], None]
OnHeld = Callable[[], None]


@dataclass(frozen=True, slots=True)
class LockBudget:
    """How long one try may hold up clients (milliseconds), and when to give up (seconds)."""

    timeout_ms: int = 50
    deadline_s: float = 3600.0


async def execute_locked(
    conn: Connection,
    statements: Sequence[Statement],
    budget: LockBudget,
    *,
    also: Step | None = None,
    on_wait: OnWait | None = None,
    on_held: OnHeld | None = None,
) -> int:
    """Run statements in one transaction under the lock budget; returns the number of tries.

    `also` runs last in the same transaction (records, audit). `on_wait` hears who holds the lock after each failed try,
    `on_held` that all locks are held.

    Raises:
        LockDeadline: when the deadline passes; nothing of the transaction remains.
    """
    lower = (await rights(conn)).short_deadlock_timeout
    deadline = time.monotonic() + budget.deadline_s
    tries = 0
    while True:
        tries += 1
        try:
            async with conn.transaction():
                await conn.execute(_prologue(statements, budget.timeout_ms, lower=lower))
                if on_held:
                    on_held()
                if statements:
                    # One round trip while the lock is held, however many statements and however far the server.
                    await conn.execute(sql.SQL(";\n").join(statement.sql for statement in statements))
                if also:
                    await also(conn)
        except _GIVES_WAY as error:
            held = await blockers(conn, [s.relation for s in statements if s.relation])
            if on_wait:
                on_wait(f"{_what(statements)}, {tries} tries · {held or 'held by a session that has ended'}")
            if time.monotonic() > deadline:
                raise LockDeadline(
                    f"no lock for {_what(statements)} after {tries} tries in {budget.deadline_s:g} s: {held or error}",
                    hint="End the session that holds it, or try again when the table is less busy (pgduet advance).",
                ) from error
            await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311  (jitter)
        else:
            return tries


async def execute_alone(conn: Connection, statement: Statement) -> None:
    """Run a statement that may take long but locks out nobody (VALIDATE), outside the lock budget."""
    await conn.execute(statement.sql)


async def blockers(conn: Connection, relations: Sequence[str]) -> str:
    """Name the sessions that hold locks on tables, the oldest transaction first. Their queries are not shown: they hold data."""
    if not relations:
        return ""
    cursor = await conn.execute(block("locks", "blockers"), {"relations": list(dict.fromkeys(relations))})
    return "; ".join(
        f"held by pid {row['pid']} (role {row['role']}{_app(row['app'])}, {row['state']} for {row['age_s']:.0f} s,"
        f" {row['mode']})"
        for row in await cursor.fetchall()
    )


def locks_of(statements: Sequence[Statement]) -> dict[str, Lock]:
    """Give the strongest lock that statements take on each table."""
    strongest: dict[str, Lock] = {}
    for statement in statements:
        if statement.relation and statement.lock is not Lock.NONE:
            known = strongest.get(statement.relation, Lock.NONE)
            strongest[statement.relation] = max(known, statement.lock, key=_STRENGTH.index)
    return strongest


def _prologue(statements: Sequence[Statement], timeout_ms: int, *, lower: bool) -> Query:
    """Set the limits, then take each table's strongest lock first: the rest of the transaction finds it held.

    A worker that stops with locks in its hands loses them by `idle_in_transaction_session_timeout`.
    """
    parts: list[Query] = [
        sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{timeout_ms}ms")),
        sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(sql.Literal(f"{IDLE_MS}ms")),
    ]
    if lower:
        parts.append(sql.SQL("SET LOCAL deadlock_timeout = '10ms'"))
    locks = locks_of(statements)
    taking = {statement.relation: statement.taking for statement in statements if statement.taking}
    parts += [
        taking.get(relation) or block("locks", _MODES[mode]).format(relation=trusted(relation))
        for relation, mode in locks.items()
    ]
    return sql.SQL(";\n").join(parts)


_MODES = {
    Lock.ROW_EXCLUSIVE: "row_exclusive",
    Lock.SHARE_UPDATE_EXCLUSIVE: "share_update_exclusive",
    Lock.SHARE_ROW_EXCLUSIVE: "share_row_exclusive",
    Lock.ACCESS_EXCLUSIVE: "access_exclusive",
}


def _what(statements: Sequence[Statement]) -> str:
    locks = [f"{s.lock} on {s.relation}" for s in statements if s.relation]
    return locks[0] if locks else "lock"


def _app(name: str) -> str:
    return f", {name}" if name else ""


def is_transient(error: psycopg.Error) -> bool:
    """Tell whether trying the same again can succeed: PostgreSQL asks for it, or the connection went, as after a standstill."""
    again = (psycopg.OperationalError, errors.SerializationFailure, errors.IdleInTransactionSessionTimeout)
    return isinstance(error, (*again, *_GIVES_WAY))
