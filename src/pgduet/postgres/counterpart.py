"""A whole comparison of a table with its shadow: all parts on as many sessions as are given, suspects settled, drift noted.

It can be called again after it was stopped, and goes on. `checked_at` is when its first chunk was read: nothing found is newer than
that. Beside clients it works a fifth of the time, on one session. Declared aggregates are compared after the rows, each in a
snapshot of its own.

A merge has no pairs of rows, but groups and what the new version reads of them: `Exactly` says how those are compared.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from pgduet.measured import Aggregated
from pgduet.operations.aggregates import Aggregate
from pgduet.operations.comparing import Span
from pgduet.operations.comparison import Comparison
from pgduet.operations.statement import Query
from pgduet.postgres import comparing, store, suspects
from pgduet.postgres.brakes import UNBRAKED, Unbraked
from pgduet.postgres.comparing import Counts, opened, run
from pgduet.postgres.gently import BESIDE_MS, Turns
from pgduet.postgres.measuring import measure
from pgduet.postgres.session import Connection
from pgduet.postgres.traits import Known, known, require_keys

EXAMPLES = 20
BATCHES_LONG = 2.0
"""A chunk may take so many times what a batch may: it locks no row."""

Progress = Callable[[str], None]
Chunk = Callable[[Comparison, Span, bool], Query]
Settling = Callable[[], Awaitable[None]]


@dataclass
class Compared:
    """What a whole comparison found."""

    parts: list[int]
    checked_at: datetime
    rows: int
    shadow_rows: int
    settled: suspects.Settled
    unnamed: int = 0
    """Rows beyond those that are kept by key; they were seen once to differ."""
    before: int = 0
    """Where it follows a repair, the rows that differed before."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    aggregates: list[Aggregated] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Tell whether both sides are the same, in rows and in aggregates."""
        return self.settled.clean and not self.unnamed and not any(each.differing for each in self.aggregates)

    @property
    def mismatches(self) -> int:
        """Count the rows that differ; what never came to rest is no proof that they agree."""
        return sum(self.settled.confirmed.values()) + self.settled.unsettled + self.unnamed

    @property
    def repaired(self) -> int:
        """Count the rows that a repair before it has brought in step."""
        return max(0, self.before - self.mismatches)


async def compare(
    sessions: Sequence[Connection],
    comparison: Comparison,
    migration_id: int,
    *,
    aggregates: Sequence[Aggregate] = (),
    after_s: float = suspects.AFTER_S,
    anew: bool = False,
    request: str = "",
    before: int = 0,
    settling: Settling | None = None,
    exactly: Chunk | None = None,
    progress: Progress = lambda _: None,
    brakes: Unbraked = UNBRAKED,
) -> Compared:
    """Compare all rows; drift that is confirmed is noted, what is not found again is resolved.

    `exactly` compares a span by another statement than that of pairs; what it finds is not looked at again, and says itself what it
    saw. `before` is how many rows differed before a repair that this follows; `settling` brings to rest what is under way,
    before suspects are looked at again.

    Raises:
        GateRefused: rows cannot be told apart by the key, or too many cannot be mapped.
    """
    await brakes.rest()
    first = sessions[0]

    async def keyed() -> None:
        if exactly is None:
            await require_keys(sessions[-1], comparison)

    of, _ = await asyncio.gather(known(first, comparison), keyed())
    parts = await comparing.begin(
        *(first, comparison, migration_id, len(sessions)),
        anew=anew,
        request=request,
        before=before,
        paired=False,
        of=of,
    )
    total, named = await _all_parts(sessions, comparison, parts, of, exactly, progress, brakes)
    if settling and named:
        await settling()
    if exactly:
        await run(first, "all_confirmed", {"ids": parts})
    settled = await suspects.settle(first, comparison, parts, after_s=after_s) if named else suspects.Settled()
    kept = (await run(first, "began", {"ids": parts}))[0]
    began = kept["at"]
    await suspects.note(first, comparison, migration_id, parts, began, looks=exactly is None)
    compared = await measured(first, migration_id, aggregates)
    examples = await run(first, "examples", {"ids": parts, "limit": EXAMPLES}) if named else []
    return Compared(
        parts=parts,
        checked_at=began,
        rows=total.rows,
        shadow_rows=total.shadow_rows,
        settled=settled,
        unnamed=total.mismatches + total.missing + total.extra + total.unmapped - named,
        before=kept["before"],
        examples=[{"relation": comparison.label, **row} for row in examples],
        aggregates=compared,
    )


async def _all_parts(
    sessions: Sequence[Connection],
    comparison: Comparison,
    parts: Sequence[int],
    of: Known,
    exactly: Chunk | None,
    progress: Progress,
    brakes: Unbraked,
) -> tuple[Counts, int]:
    """Compare part after part, as many at once as there are sessions; tells what was counted, and how many rows were named."""
    left, total, named = list(parts), Counts(), 0
    about = f" of about {of.rows:,.0f}" if math.isfinite(of.rows) else ""
    turns = Turns(brakes)

    async def work(conn: Connection) -> None:
        nonlocal total, named
        while left:
            async with opened(conn, comparison, left.pop(0), render=exactly, of=of) as part:
                aim_ms = part.chunk_ms
                while not part.finished:
                    given_ms = min(aim_ms, BATCHES_LONG * brakes.target_ms)
                    part.chunk_ms = min(given_ms, BESIDE_MS) if turns.beside else given_ms
                    await turns.step(conn, part.next, part.over)
                    progress(f"{comparison.label}: {total.rows + part.counts.rows:,}{about} rows compared")
                total += part.counts
                named += part.named

    try:
        async with asyncio.TaskGroup() as group:
            for conn in sessions:
                group.create_task(work(conn))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return total, named


async def measured(
    conn: Connection,
    migration_id: int,
    aggregates: Sequence[Aggregate],
    reading: sql.Composable | None = None,
    brakes: Unbraked = UNBRAKED,
) -> list[Aggregated]:
    """Compare declared aggregates, each in one snapshot, and note the groups in which they differ."""
    told = []
    for aggregate in aggregates:
        await brakes.rest()
        found = await measure(conn, aggregate, reading)
        told.append(found.told)
        for row in found.notes:
            await store.note_drift(conn, migration_id, row["relation"], row["key"], row["kind"], row["detail"])
    return told
