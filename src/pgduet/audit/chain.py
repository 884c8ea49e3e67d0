"""The audit log: a hash chain in `pgduet.audit`, written in the transaction of the act that it records.

Appending takes one advisory lock to the end of the transaction, so numbers have no gaps and no two entries share a
predecessor: a lock on the tail row alone let 50 of 120 concurrent appends fork. Every writer therefore waits for the
one before it to commit: append last, and commit at once.

Triggers refuse UPDATE, DELETE and TRUNCATE even to the owner, and other roles have no rights at all. Limit: an owner
can drop the triggers and a superuser can write the whole log anew, hashes and head included. That shows only against a
head kept elsewhere (workflows keep theirs in their memo, and an export has one): give it to `verify`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pgduet import sql
from pgduet.audit import canonical
from pgduet.audit.checker import Checker
from pgduet.audit.exported import FIELDS
from pgduet.audit.records import Anchor, Entry, Receipt, Verification
from pgduet.errors import ActRefused, AuditBroken

PAGE_ROWS = 1000
_BY_HAND = "Somebody has changed it by hand: compare it with an export or with a head that was kept elsewhere."

_BEFORE_ALL = {"seq": -(2**63), "hash": ""}


async def append(conn: AsyncConnection[Any], entry: Entry) -> Receipt:
    """Add an entry as part of the caller's open transaction, late in it; it is there if and when that commits.

    Raises:
        ActRefused: the connection is in autocommit mode outside a transaction, or the transaction is not READ COMMITTED
            (an older snapshot cannot see the entry to follow).
        AuditBroken: the head is missing, or the log holds entries beyond it.
    """
    if conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        raise ActRefused("An audit entry belongs to the transaction of its act.", hint="Open a transaction first.")
    lock = await _one(conn, "lock")
    if lock is None or lock["isolation"] not in {"read committed", "read uncommitted"}:
        raise ActRefused("An audit entry is appended at READ COMMITTED only.")
    tail = await _one(conn, "tail")
    if tail is None:
        raise AuditBroken(
            "The audit log has no head.",
            hint=_BY_HAND,
        )
    fields = _fields(entry, seq=tail["seq"] + 1, at=tail["at"], prev_hash=tail["hash"])
    await _write(conn, fields)
    return Receipt(fields["seq"], fields["hash"])


def _fields(entry: Entry, *, seq: int, at: str, prev_hash: str) -> dict[str, Any]:
    """Give the whole row: the entry's values as JSON holds them, its place, and its hash."""
    fields: dict[str, Any] = {
        "seq": seq,
        "at": at,
        "actor": canonical.plain(entry.actor),
        "action": canonical.plain(entry.action),
        "migration": canonical.plain(entry.migration),
        "affected": canonical.plain(entry.affected),
        "reason": canonical.plain(entry.reason),
        "evidence": canonical.plain(entry.evidence),
        "prev_hash": prev_hash,
    }
    return fields | {"hash": canonical.digest(fields)}


async def _write(conn: AsyncConnection[Any], fields: Mapping[str, Any]) -> None:
    row = {**fields, "affected": canonical.dumps(fields["affected"]), "evidence": canonical.dumps(fields["evidence"])}
    try:
        await conn.execute(sql.block("audit", "insert_entry"), row)
    except UniqueViolation as error:
        raise AuditBroken(
            "The audit log holds entries beyond its head.",
            hint=_BY_HAND,
        ) from error
    await conn.execute(sql.block("audit", "move_head"), {"seq": row["seq"], "hash": row["hash"]})


async def head(conn: AsyncConnection[Any]) -> Receipt:
    """Give the last entry's number and hash, to be kept outside; 0 and zeros for an empty log."""
    row = await _one(conn, "head")
    if row is None:
        raise AuditBroken(
            "The audit log has no head.",
            hint=_BY_HAND,
        )
    return Receipt(row["seq"], row["hash"])


async def verify(
    conn: AsyncConnection[Any], head: tuple[int, str] | None = None, anchors: Iterable[Anchor] = ()
) -> Verification:
    """Check the whole chain against itself, against the head row, and against heads that were kept outside.

    Reads in pages, each a statement of its own; appends go on meanwhile. Memory does not grow with the log. Hashing is
    left to a thread, so that whoever shares the event loop is not held up.
    """
    checker = Checker(head, anchors)
    named: tuple[int, str] | None = None
    async for rows in _pages(conn):
        named = None if rows[0]["head_seq"] is None else (rows[0]["head_seq"], rows[0]["head_hash"])
        await asyncio.to_thread(_take, checker, _entries(rows))
    return checker.finish(named)


def _take(checker: Checker, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        checker.take(row)


async def export(conn: AsyncConnection[Any]) -> AsyncIterator[dict[str, Any]]:
    """Give the entries in order; `exported.line` writes one, `exported.check` checks them without the database."""
    async for rows in _pages(conn):
        for row in _entries(rows):
            yield _entry(row)


async def page(conn: AsyncConnection[Any], after: Receipt | None, rows: int) -> list[dict[str, Any]]:
    """Give the entries that follow a place, at most so many; without a place, the first ones."""
    place = {"seq": after.seq, "hash": after.hash} if after else _BEFORE_ALL
    return [_entry(row) for row in _entries(await _page(conn, place, rows))]


async def exists(conn: AsyncConnection[Any]) -> bool:
    """Tell whether the database has a log at all."""
    found = await _one(conn, "exists")
    return found is not None and found["found"]


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    """Give an entry with its JSON read."""
    fields = {name: row[name] for name in FIELDS}
    return fields | {name: json.loads(row[name]) for name in ("affected", "evidence")}


async def _pages(conn: AsyncConnection[Any]) -> AsyncIterator[list[dict[str, Any]]]:
    """Read the log in pages, the last one short; each row has the head as its page's snapshot saw it."""
    place = _BEFORE_ALL
    while True:
        rows = await _page(conn, place, PAGE_ROWS)
        yield rows
        if len(_entries(rows)) < PAGE_ROWS:
            return
        place = {"seq": rows[-1]["seq"], "hash": rows[-1]["hash"]}


async def _page(conn: AsyncConnection[Any], place: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.block("audit", "page"), {**place, "rows": rows})
        return await cursor.fetchall()


def _entries(page: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the row that only carries the head of an empty page."""
    return [row for row in page if row["seq"] is not None]


async def _one(conn: AsyncConnection[Any], name: LiteralString) -> dict[str, Any] | None:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.block("audit", name))
        return await cursor.fetchone()
