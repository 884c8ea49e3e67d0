"""A whole comparison of a table with its shadow: all parts on as many sessions as are given, suspects settled, drift noted.

It can be called again after it was stopped, and goes on. `checked_at` is when its first chunk was read: nothing found is newer than
that. Beside clients it takes a fifth of the time, on one session. Declared aggregates are compared after the rows, each in a snapshot
of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgduet.operations.aggregates import Aggregate, differences
from pgduet.operations.comparison import Comparison
from pgduet.postgres import comparing, suspects
from pgduet.postgres.comparing import Counts, opened, run
from pgduet.postgres.gently import BESIDE_MS, Turns
from pgduet.postgres.session import Connection

EXAMPLES = 20

Progress = Callable[[str], None]
Settling = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Group:
    """A group in which a declared aggregate differs; no value where a side lacks the group."""

    aggregate: str
    group: list[Any]
    old: str | None
    new: str | None


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
    groups: list[Group] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Tell whether both sides are the same, in rows and in aggregates."""
        return self.settled.clean and not self.unnamed and not self.groups

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
    token: str = "",
    before: int = 0,
    settling: Settling | None = None,
    progress: Progress = lambda _: None,
) -> Compared:
    """Compare all rows; drift that is confirmed is noted, what is not found again is resolved.

    `before` says how many rows differed before a repair that this follows; `settling` brings to rest what is under way, before suspects are looked at again.

    Raises:
        GateRefused: rows cannot be told apart by the key, or too many cannot be mapped.
    """
    first = sessions[0]
    parts = await comparing.begin(
        first, comparison, migration_id, len(sessions), anew=anew, token=token, before=before
    )
    left, total, named = list(parts), Counts(), 0
    turns = Turns()

    async def work(conn: Connection) -> None:
        nonlocal total, named
        while left:
            async with opened(conn, comparison, left.pop(0)) as part:
                aim_ms = part.chunk_ms
                while not part.finished:
                    part.chunk_ms = min(aim_ms, BESIDE_MS) if turns.beside else aim_ms
                    await turns.step(conn, part.next)
                    progress(f"{comparison.source_label}: {total.rows + part.counts.rows} rows compared")
                total += part.counts
                named += part.named

    try:
        async with asyncio.TaskGroup() as group:
            for conn in sessions:
                group.create_task(work(conn))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    if settling and named:
        await settling()
    settled = await suspects.settle(first, comparison, parts, after_s=after_s)
    about = (await run(first, "began", {"ids": parts}))[0]
    began = about["at"]
    await suspects.note(first, comparison, migration_id, parts, began)
    examples = await run(first, "examples", {"ids": parts, "limit": EXAMPLES})
    return Compared(
        parts=parts,
        checked_at=began,
        rows=total.rows,
        shadow_rows=total.shadow_rows,
        settled=settled,
        unnamed=total.mismatches + total.missing + total.extra + total.unmapped - named,
        before=about["before"],
        examples=[{"relation": comparison.source_label, **row} for row in examples],
        groups=[found for aggregate in aggregates for found in await groups(first, aggregate)],
    )


async def groups(conn: Connection, aggregate: Aggregate, limit: int = EXAMPLES) -> list[Group]:
    """Name the groups in which a declared aggregate differs, both sides read in one snapshot."""
    rows = await (await conn.execute(differences(aggregate, limit))).fetchall()
    return [Group(aggregate.name, row["groups"], row["old"], row["new"]) for row in rows]
