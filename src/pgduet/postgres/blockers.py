"""Who stands in the way of a table lock, and what can be done about it.

Asked right after a try gave way: those that hold a conflicting lock on a table or on one of its partitions, and those that wait for
one longer than we did. Where one of them waits itself, whoever is at the end of that queue is named too, as the one to be ended.
A statement that waits outside the lock budget is asked about by a second session. What a session runs is shown without its values
(`pgduet.postgres.literals`). To see other roles' sessions takes `pg_read_all_stats` (in `pg_monitor`); without it they are named by
pid alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pgduet.operations.statement import Lock
from pgduet.postgres.literals import without_literals
from pgduet.postgres.session import Connection
from pgduet.sql import block
from pgduet.texts import shown

_ALL = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
CONFLICTS: Mapping[Lock, tuple[str, ...]] = {
    Lock.NONE: (),
    Lock.ROW_EXCLUSIVE: _ALL[4:],
    Lock.SHARE_UPDATE_EXCLUSIVE: _ALL[3:],
    Lock.SHARE_ROW_EXCLUSIVE: _ALL[2:],
    Lock.ACCESS_EXCLUSIVE: _ALL,
}
"""Which locks of others a lock conflicts with, as `pg_locks` calls them."""

MINUTE_S = 60
HOUR_S = 3600
NAME_CHARS = 63
LONGEST_QUEUE = 8


@dataclass(frozen=True, slots=True)
class Blockers:
    """Who is in the way, in words, and the statements with which a person ends them."""

    text: str = ""
    ending: tuple[str, ...] = ()


async def blockers(conn: Connection, wanted: Mapping[str, Lock], waited_s: float = 0) -> Blockers:
    """Name up to three sessions, the oldest transaction first; `wanted` maps quoted names of tables to our locks."""
    pairs = [(relation, mode) for relation, lock in wanted.items() for mode in CONFLICTS[lock]]
    if not pairs:
        return Blockers()
    relations, modes = zip(*pairs, strict=True)
    asked = {"relations": list(relations), "modes": list(modes), "waited_s": waited_s}
    return await _named(conn, "blockers", asked)


async def blocking(conn: Connection, pid: int) -> Blockers:
    """Name up to three sessions that keep another session waiting."""
    return await _named(conn, "blocking", {"pid": pid})


async def row_holders(conn: Connection, heap: sql.Composable, chosen: sql.Composable) -> Blockers:
    """Name up to three sessions that hold some rows of a heap, which the condition calls `t`."""
    return await _told_of(
        conn, await (await conn.execute(block("locks", "row_holders").format(heap=heap, chosen=chosen))).fetchall()
    )


async def _named(conn: Connection, query: str, asked: dict[str, Any]) -> Blockers:
    return await _told_of(conn, await (await conn.execute(block("locks", query), asked)).fetchall())


async def _told_of(conn: Connection, found: list[dict[str, Any]]) -> Blockers:
    behind = await _held_up(conn, found)
    told = [_told(row) + _told_behind(behind.get(row["pid"])) for row in found]
    if more := (found[0]["total"] - len(found) if found else 0):
        told.append(f"and {more} more")
    return Blockers("; ".join(told), tuple(dict.fromkeys(_ending(behind.get(row["pid"], row)) for row in found)))


async def _held_up(conn: Connection, found: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Find, for sessions that wait themselves, who is at the end of their queue: to end that one is what helps."""
    active = [row["pid"] for row in found if row["pid"] and row["state"] == "active" and not row["autovacuum"]]
    if not active:
        return {}
    asked = {"pids": active, "most": LONGEST_QUEUE}
    return {row["first"]: row for row in await (await conn.execute(block("locks", "held_up"), asked)).fetchall()}


def _told_behind(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f", which waits itself, {_told(row)}"


def _told(row: Mapping[str, Any]) -> str:
    if row["gid"] is not None:
        who = f"prepared transaction {sql.Literal(row['gid']).as_string(None)}"
        return f"held by {shown(who)} (role {row['role']}, for {_span(row['age_s'])}, {row['modes']})"
    if row["pid"] is None:
        return f"held by a prepared transaction ({row['modes']})"
    doing = "held by" if row["granted"] else "queued behind"
    if row["autovacuum"]:
        query = without_literals(row["query"] or "")
        return f"{doing} autovacuum, pid {row['pid']} (for {_span(row['age_s'])}, {row['modes']}): {query}"
    if row["state"] is None:
        return f"{doing} pid {row['pid']} ({row['modes']}; to see more, the worker's role needs pg_read_all_stats)"
    parts = [f"role {row['role']}", shown(row["app"], NAME_CHARS), f"{row['state']} for {_span(row['age_s'])}"]
    query = without_literals(row["query"] or "")
    return f"{doing} pid {row['pid']} ({', '.join(filter(None, [*parts, row['modes']]))})" + (
        f": {query}" if query else ""
    )


def _ending(row: Mapping[str, Any]) -> str:
    if row["gid"] is not None:
        return f"ROLLBACK PREPARED {sql.Literal(row['gid']).as_string(None)}"
    if row["pid"] is None:
        return "SELECT * FROM pg_prepared_xacts"
    return f"SELECT {'pg_cancel_backend' if row['autovacuum'] else 'pg_terminate_backend'}({row['pid']})"


def _span(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.1f} h"
