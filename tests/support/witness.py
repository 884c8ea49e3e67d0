"""A witness of table locks: sees whether a transaction of ours locks more than it took first.

What is not declared is not taken first: it would be waited for with other locks in hand, and its waits would add up.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import sql

from pgduet.operations.statement import Statement
from pgduet.postgres import executor
from pgduet.postgres.session import Connection

FIRST = """
CREATE TEMPORARY TABLE _witness ON COMMIT DROP AS
SELECT c.oid, c.oid::regclass::text AS name,
       (SELECT max(array_position({order}, l.mode)) FROM pg_locks l
         WHERE l.locktype = 'relation' AND l.relation = c.oid AND l.pid = pg_backend_pid()) AS strength
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^(pg_|information_schema$|pgduet$)'
"""
AFTER = """
SELECT w.name, l.mode FROM pg_locks l JOIN pg_temp._witness w ON w.oid = l.relation
 WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid()
   AND array_position({order}, l.mode) > greatest(coalesce(w.strength, 0), 2)
"""
ORDER = sql.Literal(
    [
        *("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"),
        *("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
    ]
)


class Witness:
    """Stands in for the executor, and runs it: `seen` counts transactions, `undeclared` tells what was locked besides."""

    def __init__(self) -> None:
        self.seen = 0
        self.undeclared: set[tuple[str, str, str]] = set()

    @classmethod
    def watch(cls, monkeypatch: pytest.MonkeyPatch) -> "Witness":
        """Watch all activities of this process."""
        witness = cls()
        monkeypatch.setattr("pgduet.activities.engine.execute_locked", witness)
        return witness

    async def __call__(
        self, conn: Connection, statements: Sequence[Statement], budget: executor.LockBudget, **hooks: Any
    ) -> int:
        """Execute statements, and compare the locks at the end with those at the beginning."""
        if any(statement.summary.startswith("sql, operation") for statement in statements):
            return await executor.execute_locked(conn, statements, budget, **hooks)
        also = hooks.pop("also", None)

        async def compared(conn: Connection) -> None:
            rows = await (await conn.execute(sql.SQL(AFTER).format(order=ORDER))).fetchall()
            self.seen += 1
            self.undeclared |= {(row["name"], row["mode"], statements[-1].summary) for row in rows}
            if also:
                await also(conn)

        first = Statement(sql.SQL(FIRST).format(order=ORDER), "witness")
        return await executor.execute_locked(conn, [first, *statements], budget, also=compared, **hooks)
