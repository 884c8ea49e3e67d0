"""A whole comparison of a table with its shadow: all parts on as many sessions as are given, suspects settled, drift noted.

It can be called again after it was stopped, and goes on. `checked_at` is when its first chunk was read: nothing found is newer than
that. Declared aggregates are compared after the rows, each in a snapshot of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgduet.operations.aggregates import Aggregate, differences
from pgduet.operations.comparison import Comparison
from pgduet.postgres import comparing, suspects
from pgduet.postgres.comparing import Counts, opened, run
from pgduet.postgres.session import Connection

EXAMPLES = 20
PAUSE_MS = 2.0

Progress = Callable[[str], None]


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
    examples: list[dict[str, Any]] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Tell whether both sides are the same, in rows and in aggregates."""
        return self.settled.clean and not self.groups


async def compare(
    sessions: Sequence[Connection],
    comparison: Comparison,
    migration_id: int,
    *,
    aggregates: Sequence[Aggregate] = (),
    after_s: float = suspects.AFTER_S,
    pause_ms: float = PAUSE_MS,
    anew: bool = False,
    progress: Progress = lambda _: None,
) -> Compared:
    """Compare all rows; drift that is confirmed is noted, what is not found again is resolved.

    Raises:
        GateRefused: rows cannot be told apart by the key, or too many cannot be mapped.
    """
    first = sessions[0]
    parts = await comparing.begin(first, comparison, migration_id, len(sessions), anew=anew)
    left, total = list(parts), Counts()

    async def work(conn: Connection) -> None:
        nonlocal total
        while left:
            async with opened(conn, comparison, left.pop(0)) as part:
                while not part.finished:
                    await part.next()
                    progress(f"{comparison.source_label}: {total.rows + part.counts.rows} rows compared")
                    await asyncio.sleep(pause_ms / 1000)
                total += part.counts

    try:
        async with asyncio.TaskGroup() as group:
            for conn in sessions:
                group.create_task(work(conn))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    settled = await suspects.settle(first, comparison, parts, after_s=after_s)
    began = (await run(first, "began", {"ids": parts}))[0]["at"]
    await suspects.note(first, comparison, migration_id, parts, began)
    examples = await run(first, "examples", {"ids": parts, "limit": EXAMPLES})
    return Compared(
        parts=parts,
        checked_at=began,
        rows=total.rows,
        shadow_rows=total.shadow_rows,
        settled=settled,
        examples=[{"relation": comparison.source_label, **row} for row in examples],
        groups=[found for aggregate in aggregates for found in await groups(first, aggregate)],
    )


async def groups(conn: Connection, aggregate: Aggregate, limit: int = EXAMPLES) -> list[Group]:
    """Name the groups in which a declared aggregate differs, both sides read in one snapshot."""
    rows = await (await conn.execute(differences(aggregate, limit))).fetchall()
    return [Group(aggregate.name, row["groups"], row["old"], row["new"]) for row in rows]
