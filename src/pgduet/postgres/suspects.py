"""Rows that a comparison found to differ: looked at again after a delay, confirmed or cleared, noted, and repaired.

A suspect is confirmed when a later snapshot finds the same two row versions and they still disagree. Where a version has changed
meanwhile, somebody is writing: it is looked at again. A repair locks a row as clients do, the source's first, and decides by what
it then finds, so that it can run twice; its record in the audit log commits with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import DataError, IntegrityError, errors, sql
from psycopg.types.json import Jsonb

from pgduet.barriers import reach
from pgduet.messages import Reference
from pgduet.operations import comparing, mending
from pgduet.operations.comparison import Comparison
from pgduet.operations.statement import Query
from pgduet.phases import Authority
from pgduet.postgres import store
from pgduet.postgres.batches import ROW_LOCK_WAIT
from pgduet.postgres.comparing import run
from pgduet.postgres.session import Connection

AFTER_S = 1.0
"""How long after a row was seen to differ it is looked at again."""
LOOKS = 5
"""How often a row that is written all the time is looked at; then it counts as not settled."""
AT_ONCE = 500
REPAIRED_AT_ONCE = 100
RETRY_S = 0.05


@dataclass
class Settled:
    """What is left of the suspects: confirmed ones by kind, and those that changed at each look."""

    confirmed: dict[str, int] = field(default_factory=dict)
    unsettled: int = 0

    @property
    def clean(self) -> bool:
        """Tell whether nothing differs, and nothing is left open."""
        return not self.confirmed and not self.unsettled


@dataclass
class Repaired:
    """Rows that a repair wrote, and those that stay as they are: for want of a way, or since they were in step already."""

    written: int = 0
    left: int = 0


async def settle(
    conn: Connection, comparison: Comparison, parts: Sequence[int], *, after_s: float = AFTER_S, looks: int = LOOKS
) -> Settled:
    """Look again at each suspect, once it was seen long enough ago, until it is confirmed or cleared."""
    where = {"ids": list(parts), "after_s": after_s, "looks": looks}
    while True:
        found = await run(conn, "due", where | {"limit": AT_ONCE})
        if not found:
            return await settled(conn, parts)
        if due := [suspect for suspect in found if suspect["due"]]:
            await _look(conn, comparison, due)
            continue
        waiting = await run(conn, "waiting", where)
        await asyncio.sleep(min(60.0, waiting[0]["seconds"] + 0.001))


async def begun(conn: Connection, migration_id: int, request: str) -> bool:
    """Tell whether a comparison was begun with a request."""
    return bool(await run(conn, "begun", {"id": migration_id, "request": request}))


async def settled(conn: Connection, parts: Sequence[int]) -> Settled:
    """Count what is left of the suspects."""
    result = Settled()
    for row in await run(conn, "tally", {"ids": list(parts)}):
        if row["confirmed"]:
            result.confirmed[row["kind"]] = row["rows"]
        else:
            result.unsettled += row["rows"]
    return result


async def note(
    conn: Connection,
    comparison: Comparison,
    migration_id: int,
    parts: Sequence[int],
    before: datetime | None,
    *,
    looks: bool = True,
) -> None:
    """Note confirmed drift in `pgduet.drift`, with both rows; what a comparison begun at `before` did not find is resolved.

    Unless it `looks`, what was seen is what it tells.
    """
    relation = {"migration": migration_id, "relation": comparison.label}
    if before is not None:
        await run(conn, "resolved", relation | {"before": before})
    async for suspects in _confirmed(conn, parts, AT_ONCE):
        now = (
            await seen(conn, comparison, suspects)
            if looks
            else {each["id"]: {"detail": each["seen"]} for each in suspects}
        )
        found = [
            {
                "key": each["key"],
                "kind": each["kind"],
                "detail": (now.get(each["id"]) or {}).get("detail") or each["kind"],
            }
            for each in suspects
        ]
        await run(conn, "note", relation | {"found": Jsonb(found)})


Suspects = Sequence[dict[str, Any]]
Write = Callable[[Connection, Suspects], Awaitable[Suspects]]
"""Locks the rows of suspects and writes what still differs, in the transaction that it is called in; gives those that it wrote."""


async def repair(
    conn: Connection,
    comparison: Comparison,
    reference: Reference,
    parts: Sequence[int],
    authority: Authority,
    *,
    mute: bool = False,
    write: Write | None = None,
) -> Repaired:
    """Give confirmed rows what the side with authority says; each batch of rows and its record are one transaction."""

    async def plainly(conn: Connection, suspects: Suspects) -> Suspects:
        await lock(conn, comparison, suspects)
        return await changed(conn, comparison, suspects, mending.repairs(comparison, suspects, authority))

    repairing = _Repairing(conn, comparison, reference, authority, mute, write or plainly)
    async for suspects in _confirmed(conn, parts, REPAIRED_AT_ONCE):
        mappable = [suspect for suspect in suspects if suspect["kind"] != "unmapped"]
        repairing.result.left += len(suspects) - len(mappable)
        if mappable:
            await repairing.all(mappable)
    return repairing.result


async def lock(conn: Connection, comparison: Comparison, suspects: Sequence[dict[str, Any]]) -> None:
    """Lock the rows of suspects, the source's first."""
    for extra in (False, True):
        if held := [suspect for suspect in suspects if (suspect["kind"] == "extra") is extra]:
            await conn.execute(mending.lock(comparison, held, extra=extra))


async def changed(
    conn: Connection, comparison: Comparison, suspects: Suspects, queries: Iterable[Query]
) -> list[dict[str, Any]]:
    """Write rows that are locked, and give the suspects of which a row is another by then, or gone."""
    before = await seen(conn, comparison, suspects)
    for query in queries:
        await conn.execute(query)
    after = await seen(conn, comparison, suspects)
    return [each for each in suspects if _versions(before, each) != _versions(after, each)]


def _versions(stand: dict[int, dict[str, Any]], suspect: dict[str, Any]) -> Any:
    return (stand.get(suspect["id"]) or {}).get("seen")


async def _look(conn: Connection, comparison: Comparison, suspects: Sequence[dict[str, Any]]) -> None:
    found = await seen(conn, comparison, suspects)
    cleared, confirmed, again = [], [], []
    for suspect in suspects:
        if suspect["kind"] == "unmapped":
            confirmed.append(suspect["id"])
            continue
        now = found.get(suspect["id"])
        if now is None or now["kind"] is None:
            cleared.append(suspect["id"])
        elif (now["kind"], now["seen"]) == (suspect["kind"], suspect["seen"]):
            confirmed.append(suspect["id"])
        else:
            again.append({name: now[name] for name in ("id", "kind", "key", "seen")})
    async with conn.transaction():
        if cleared:
            await run(conn, "cleared", {"ids": cleared})
        if confirmed:
            await run(conn, "confirmed", {"ids": confirmed})
        if again:
            await run(conn, "unsettled", {"found": Jsonb(again)})


async def seen(
    conn: Connection, comparison: Comparison, suspects: Sequence[dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Ask how suspects stand now, by id."""
    stand: dict[int, dict[str, Any]] = {}
    known = [suspect for suspect in suspects if suspect["kind"] != "unmapped"]
    for extra in (False, True):
        if asked := [suspect for suspect in known if (suspect["kind"] == "extra") is extra]:
            rows = await (await conn.execute(comparing.look(comparison, asked, extra=extra))).fetchall()
            stand |= {row["id"]: row for row in rows}
    return stand


async def _confirmed(conn: Connection, parts: Sequence[int], limit: int) -> Any:
    after = 0
    while True:
        found = await run(conn, "drifted", {"ids": list(parts), "after": after, "limit": limit})
        if found:
            yield found
        if len(found) < limit:
            return
        after = found[-1]["id"]


@dataclass
class _Repairing:
    """Repairs batch by batch, never waiting long for a client."""

    conn: Connection
    comparison: Comparison
    reference: Reference
    authority: Authority
    mute: bool
    write: Write
    result: Repaired = field(default_factory=Repaired)

    async def all(self, suspects: Sequence[dict[str, Any]]) -> None:
        """Repair rows at once; where a client holds one of them, or one cannot be written, in halves, down to that one alone."""
        batches = deque([suspects])
        while batches:
            batch = batches.popleft()
            middle = len(batch) // 2
            try:
                written = await self._batch(batch)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                batches += [half for half in (batch[:middle], batch[middle:]) if half]
                if not middle:
                    await asyncio.sleep(RETRY_S)
                continue
            except (DataError, IntegrityError, errors.RaiseException):
                # A map, a constraint or a trigger of the user's refuses one of them.
                if middle:
                    batches += [batch[:middle], batch[middle:]]
                else:
                    self.result.left += 1
                continue
            self.result.written += written
            self.result.left += len(batch) - written

    async def _batch(self, suspects: Suspects) -> int:
        """Lock the rows, the source's first; then, in new snapshots, write what still differs."""
        conn, comparison = self.conn, self.comparison
        async with conn.transaction():
            await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(ROW_LOCK_WAIT)))
            await conn.execute("SET LOCAL pgduet.repair = 'on'")
            if self.mute:
                await conn.execute("SET LOCAL session_replication_role = replica")
            written = await self.write(conn, suspects)
            if written:
                await store.audited(
                    conn,
                    self.reference,
                    "repair",
                    affected={"relation": comparison.label, "shadow": comparison.shadow_label, "rows": len(written)},
                    evidence={
                        "authority": str(self.authority),
                        "repaired": [{"kind": suspect["kind"], "key": suspect["key"]} for suspect in written],
                    },
                )
            await reach("batch.before_commit")
        await reach("batch.after_commit")
        return len(written)
