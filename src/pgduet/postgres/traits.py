"""What the catalogue says of tables that are compared: how values of each column are, whether keys are keys, how many rows."""

from pgduet.errors import GateRefused
from pgduet.operations.comparison import Comparison, Trait
from pgduet.postgres.session import Connection
from pgduet.sql import block


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


async def rows_estimated(conn: Connection, relation: str) -> float:
    """Estimate the rows of a table with its partitions, from its statistics; infinity where there are none."""
    (row,) = await (await conn.execute(block("compare", "size"), {"relation": relation})).fetchall()
    return float("inf") if row["unknown"] else float(row["rows"])
