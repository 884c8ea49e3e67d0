"""What the catalogue says of tables that are compared: how values of each column are, whether keys are keys, how many rows."""

from dataclasses import dataclass

from pgduet.errors import GateRefused
from pgduet.operations.comparison import Comparison, Trait
from pgduet.postgres.session import Connection
from pgduet.sql import block

ORDERED = 0.8
GROWN = 0.05


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
class Told:
    """What statistics tell of the source's key; nothing where there are none."""

    correlation: float | None = None
    numbers: tuple[int, ...] = ()
    """Keys that cut the rows in parts of one size, where keys are whole numbers; the first and the last key as well."""

    @property
    def ordered(self) -> bool:
        """Tell whether rows lie as their keys do, which they do where nobody knows: most keys are numbers that were drawn."""
        return self.correlation is None or abs(self.correlation) >= ORDERED

    def cuts(self, parts: int, first: int, last: int) -> list[int]:
        """Cut the keys in parts; not at all where there have come many since."""
        numbers, width = self.numbers, last - first
        if len(numbers) <= parts or max(numbers[0] - first, last - numbers[-1]) > GROWN * width:
            return []
        return [numbers[len(numbers) * part // parts] for part in range(1, parts)]


async def told_of_key(conn: Connection, comparison: Comparison) -> Told:
    """Read what statistics tell of the first column of the source's key."""
    where = {"relation": comparison.source_label, "name": comparison.key[0].source}
    row = await (await conn.execute(block("compare", "told_of"), where)).fetchone()
    if row is None:
        return Told()
    listed = row["bounds"] if comparison.numbered else None
    return Told(row["correlation"], tuple(map(int, listed.strip("{}").split(","))) if listed else ())


async def rows_estimated(conn: Connection, relation: str) -> float:
    """Estimate the rows of a table with its partitions, from its statistics; infinity where there are none."""
    (row,) = await (await conn.execute(block("compare", "size"), {"relation": relation})).fetchall()
    return float("inf") if row["unknown"] else float(row["rows"])
