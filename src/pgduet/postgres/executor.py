"""The one place that executes statements on tables that clients use.

Each try takes all locks of its transaction first, under a short `lock_timeout`, so that no client queues behind us for longer;
between tries clients have the tables for themselves, and the longer it takes the rarer we try. `lock_timeout` counts for each lock,
so one statement takes them all, and `statement_timeout` bounds their sum (a lock on a parent is one on each partition, too). With
the right to do so, `deadlock_timeout` is lowered as well: an autovacuum that holds the table yields only after it, and if there is
ever a deadlock, we are the one to notice and give way.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from pgduet.errors import LockDeadline
from pgduet.operations.statement import Lock, Query, Statement, lock_table, trusted
from pgduet.postgres.blockers import Blockers, blockers
from pgduet.postgres.session import Connection, rights, schema_change
from pgduet.sql import block

_GIVES_WAY = (errors.LockNotAvailable, errors.DeadlockDetected)
_STRENGTH = tuple(Lock)
IDLE_MS = 1000
DEADLOCK_MS = 10
SLACK_MS = 25
"""What taking the locks may take besides one wait; more where it was work alone that took longer."""
MOST_SLACK_MS = 800
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 1.0
"""Between two tries, give or take half: clients have the table for most of the time, and a lock that comes free is had soon."""

Step = Callable[[Connection], Awaitable[None]]
OnWait = Callable[[Blockers], None]
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

    `also` runs last in the same transaction (records, audit). `on_wait` hears who is in the way after each failed try,
    `on_held` that all locks are held.

    Raises:
        LockDeadline: when the deadline passes; nothing of the transaction remains.
    """
    tries = _Tries(statements, budget, lower=(await rights(conn)).short_deadlock_timeout)
    while True:
        prologue = tries.next()
        try:
            async with conn.transaction():
                await conn.execute(prologue)
                tries.held = True
                if on_held:
                    on_held()
                if statements:
                    # One round trip while the lock is held, however many statements and however far the server.
                    with nullcontext() if any(statement.theirs for statement in statements) else schema_change():
                        await conn.execute(sql.SQL(";\n").join(statement.sql for statement in statements))
                if also:
                    await also(conn)
        except (*_GIVES_WAY, errors.QueryCanceled) as error:
            if tries.held and isinstance(error, errors.QueryCanceled):
                raise
            found = await tries.gave_way(conn, error)
            if on_wait:
                on_wait(found)
            await tries.pause()
        else:
            return tries.count


class _Tries:
    """The tries for one transaction's locks."""

    def __init__(self, statements: Sequence[Statement], budget: LockBudget, *, lower: bool) -> None:
        self.statements = statements
        self.budget = budget
        self.lower = lower
        self.what = _what(statements)
        self.deadline = time.monotonic() + budget.deadline_s
        self.count = 0
        self.slack_ms = SLACK_MS
        self.held = False

    def next(self) -> Query:
        """Begin another try: give what takes the locks."""
        self.count += 1
        self.held = False
        return _prologue(self.statements, self.budget.timeout_ms, self.slack_ms, lower=self.lower)

    async def gave_way(self, conn: Connection, error: psycopg.Error) -> Blockers:
        """Tell who is in the way.

        Raises:
            LockDeadline: this was the last try.
        """
        found = await blockers(conn, locks_of(self.statements), self.budget.timeout_ms / 1000)
        if isinstance(error, errors.QueryCanceled) and not found.text:
            self.slack_ms = min(MOST_SLACK_MS, 2 * self.slack_ms)
        who = found.text or "held by a session that has ended"
        if time.monotonic() > self.deadline:
            ending = f" ({'; '.join(found.ending)})" if found.ending else ""
            raise LockDeadline(
                f"no lock for {self.what} after {self.count} tries in {self.budget.deadline_s:g} s: {who}",
                hint=f"End what holds it{ending}, or wait until it ends; then pgduet advance. Or roll back.",
            ) from error
        return Blockers(f"{self.what}, {self.count} tries · {who}", found.ending)

    async def pause(self) -> None:
        """Leave the tables to clients, but not beyond the deadline."""
        await asyncio.sleep(min(_pause_s(self.count), max(0.0, self.deadline - time.monotonic())))


def _pause_s(tries: int) -> float:
    """Wait longer from try to try, and never twice the same: two of us must not meet again and again."""
    return random.uniform(0.5, 1.5) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 1.2 ** (tries - 1))  # noqa: S311  (jitter)


async def execute_alone(conn: Connection, statement: Statement) -> None:
    """Run a statement that may take long but locks out nobody (VALIDATE), outside the lock budget.

    The role's own limits are lifted: one that cuts a concurrent build short leaves an index that is invalid.
    """
    await conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
    await conn.execute(statement.sql)


def locks_of(statements: Sequence[Statement]) -> dict[str, Lock]:
    """Give the strongest lock that statements take on each table, in the order in which they are to be taken.

    The strongest come first, which are the hardest to get; those of a kind as the statements name them (a view before what it
    reads, as clients take them).
    """
    strongest: dict[str, Lock] = {}
    for statement in statements:
        if statement.relation and statement.lock is not Lock.NONE:
            known = strongest.get(statement.relation, Lock.NONE)
            strongest[statement.relation] = max(known, statement.lock, key=_STRENGTH.index)
    return dict(sorted(strongest.items(), key=lambda pair: -_STRENGTH.index(pair[1])))


def _prologue(statements: Sequence[Statement], timeout_ms: int, slack_ms: int, *, lower: bool) -> Query:
    """Set the limits, then take each table's strongest lock first: the rest of the transaction finds it held.

    A worker that stops with locks in its hands loses them by `idle_in_transaction_session_timeout`.
    """
    parts: list[Query] = [
        _limit("lock_timeout", timeout_ms),
        _limit("idle_in_transaction_session_timeout", IDLE_MS),
        _limit("statement_timeout", timeout_ms + slack_ms),
    ]
    if lower:
        parts.append(_limit("deadlock_timeout", DEADLOCK_MS))
    taking = {statement.relation: statement.taking for statement in statements if statement.taking}
    locks: list[sql.Composable] = [
        taking.get(relation) or lock_table(trusted(relation), mode) for relation, mode in locks_of(statements).items()
    ]
    if locks:
        body = sql.SQL("BEGIN {}; END").format(sql.SQL("; ").join(locks)).as_string(None)
        parts.append(block("locks", "all_at_once").format(body=sql.Literal(body)))
    return sql.SQL(";\n").join([*parts, _limit("statement_timeout", 0)])


def _limit(name: str, milliseconds: int) -> Query:
    return sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), sql.Literal(f"{milliseconds}ms"))


def _what(statements: Sequence[Statement]) -> str:
    locks = [f"{s.lock} on {s.relation}" for s in statements if s.relation]
    return locks[0] if locks else "what it changes"


def is_transient(error: psycopg.Error) -> bool:
    """Tell whether trying the same again can succeed: PostgreSQL asks for it, or the connection went, as after a standstill."""
    again = (psycopg.OperationalError, errors.SerializationFailure, errors.IdleInTransactionSessionTimeout)
    return isinstance(error, (*again, *_GIVES_WAY))
