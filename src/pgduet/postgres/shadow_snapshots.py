"""Waits until nobody's snapshot is older than what was written into a shadow.

A REPEATABLE READ client that began before rows were copied does not see them in the shadow. While the trigger notes such clients'
keys that is no matter; once it writes the shadow itself, PostgreSQL would refuse the client's write (40001). So between the last
drain and that form of the trigger we wait for the transactions that hold a snapshot from before, and for no others: those that
begin meanwhile see the rows. Nobody waits for us, and the set of those we wait for only gets smaller.
Keys that clients note while we wait are drained in that form; a client with a snapshot from before that drain sees their notes, and
notes what it writes there, too (`behind` in `sql/shadow.sql`). So behind the drain we wait once more, until nobody sees a note.
Limits: whoever has only read is waited for as well, and a SELECT that takes long. Where the worker's role may not see snapshots
(pg_read_all_stats), every transaction counts.
"""

from dataclasses import dataclass

from pgduet.postgres.session import Connection
from pgduet.sql import block


@dataclass(frozen=True, slots=True)
class Older:
    """Transactions with a snapshot from before a horizon, and their processes."""

    horizon: str
    holders: frozenset[tuple[str, int]]

    @property
    def pids(self) -> tuple[int, ...]:
        """Name the processes that we wait for."""
        return tuple(sorted(pid for _, pid in self.holders))


async def older(conn: Connection) -> Older:
    """Find who holds a snapshot from before now: behind the last drain's commit."""
    (found,) = await (await conn.execute(block("shadow_carry", "horizon"))).fetchall()
    return Older(found["horizon"], await _holders(conn, found["horizon"]))


async def still(conn: Connection, before: Older) -> Older:
    """Find who of them still does."""
    return Older(before.horizon, before.holders & await _holders(conn, before.horizon))


async def _holders(conn: Connection, horizon: str) -> frozenset[tuple[str, int]]:
    rows = await (await conn.execute(block("shadow_carry", "older_snapshots"), {"horizon": horizon})).fetchall()
    return frozenset((row["id"], row["pid"]) for row in rows)
