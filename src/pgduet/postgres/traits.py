"""What the catalogue says of tables that are compared: how values of each column are, whether keys are keys, how many rows."""

import math
from dataclasses import dataclass

from pgduet.errors import GateRefused
from pgduet.operations import comparing
from pgduet.operations.comparison import Comparison, Trait
from pgduet.postgres.session import Connection
from pgduet.sql import block

ORDERED = 0.8
"""From this correlation of pages and keys on rows count as lying in their keys' order."""
GROWN = 0.05
DENSE = 2
"""Keys are dense where every second whole number is one."""


async def traits(conn: Connection, relation: str) -> dict[str, Trait]:
    """Read the columns of a table, by name, in its order."""
    found = await (await conn.execute(block("compare", "traits"), {"relation": relation})).fetchall()
    return {
        row["name"]: Trait(
            name=row["name"],
            type=row["type"],
            not_null=row["not_null"],
            generated=row["generated"],
            collation=row["collation"],
            base=row["base"],
            kind=row["class"],
            built_in=row["built_in"],
            listed=row["listed"],
        )
        for row in found
    }


async def require_keys(conn: Connection, comparison: Comparison) -> None:
    """See that the key is one on both sides: rows that share a key, or have none, cannot be told apart.

    Raises:
        GateRefused: a side has no valid unique index on the key, or the key may be NULL.
    """
    for relation, names in (
        (comparison.source_label, {column.source for column in comparison.key}),
        (comparison.shadow_label, set(comparison.unique) or {column.shadow for column in comparison.key}),
    ):
        found = await (await conn.execute(block("compare", "unique_keys"), {"relation": relation})).fetchall()
        if not any(set(row["columns"]) == names for row in found):
            raise GateRefused(
                f"{relation} cannot be compared by {', '.join(sorted(names))}: no valid unique index has them, each NOT NULL",
                hint="Build the unique index first, or compare by another key.",
            )


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a comparison's rows before it: how many the source has, how they lie, where keys that are numbers end."""

    rows: float = math.inf
    correlation: float | None = None
    """How closely the source's pages follow its key."""
    numbers: tuple[int, ...] = ()
    """Keys that cut the rows in parts of one size, by the statistics; the first and the last key as well."""
    ends: tuple[int, int] | None = None
    """The first and the last key of both sides."""

    @property
    def ordered(self) -> bool:
        """Tell whether rows lie as their keys do, as they do where nobody knows: most keys are numbers that were drawn."""
        return self.correlation is None or abs(self.correlation) >= ORDERED

    @property
    def dense(self) -> bool:
        """Tell whether most whole numbers between the ends are keys."""
        if self.ends is None or math.isinf(self.rows):
            return False
        return self.rows * DENSE >= self.ends[1] - self.ends[0] + 1

    def cuts(self, parts: int) -> list[int]:
        """Cut the keys in parts; not at all where many have come since the statistics."""
        if self.ends is None or len(self.numbers) <= parts:
            return []
        (first, last), numbers = self.ends, self.numbers
        if max(numbers[0] - first, last - numbers[-1]) > GROWN * (last - first):
            return []
        return [numbers[len(numbers) * part // parts] for part in range(1, parts)]


async def known(conn: Connection, comparison: Comparison) -> Known:
    """Ask the catalogue, and both sides for their ends."""
    rows = await rows_estimated(conn, comparison.source_label)
    if not comparison.aligned:
        return Known(rows)
    where = {"relation": comparison.source_label, "name": comparison.key[0].source}
    told = await (await conn.execute(block("compare", "told_of"), where)).fetchone() or {}
    if not comparison.numbered:
        return Known(rows, told.get("correlation"))
    listed = told.get("bounds")
    numbers = tuple(map(int, listed.strip("{}").split(","))) if listed else ()
    return Known(rows, told.get("correlation"), numbers, await ends(conn, comparison))


async def ends(conn: Connection, comparison: Comparison) -> tuple[int, int] | None:
    """Find the first and the last key of both sides, where keys are whole numbers."""
    found = await (await conn.execute(comparing.extent(comparison))).fetchone()
    return (found["lowest"], found["highest"]) if found and found["highest"] is not None else None


async def rows_estimated(conn: Connection, relation: str) -> float:
    """Estimate the rows of a table with its partitions, from its statistics; infinity where there are none."""
    (row,) = await (await conn.execute(block("compare", "size"), {"relation": relation})).fetchall()
    return float("inf") if row["unknown"] else float(row["rows"])
