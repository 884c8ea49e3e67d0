"""Compares a declared aggregate of both versions' rows: one statement, and so one snapshot; names the groups that differ."""

from dataclasses import dataclass, field
from typing import Any

from psycopg import DataError, sql
from psycopg.errors import RaiseException
from pydantic_core import to_json

from pgduet.errors import GateRefused
from pgduet.measured import Aggregated
from pgduet.operations.aggregates import Aggregate, differences
from pgduet.postgres.session import Connection, condition
from pgduet.texts import shown

EXAMPLES = 20
GROUP_LETTERS, EXACT = 100, 2**53


@dataclass
class Measured:
    """What came out: for messages, and for `pgduet.drift`, where values may be."""

    told: Aggregated
    notes: list[dict[str, Any]] = field(default_factory=list)


async def measure(conn: Connection, aggregate: Aggregate, reading: sql.Composable | None = None) -> Measured:
    """Compare an aggregate.

    Raises:
        GateRefused: an expression raises on some row.
    """
    relation = sql.Identifier(*aggregate.old.relation).as_string(None)
    try:
        async with conn.transaction():
            found = await (await conn.execute(differences(aggregate, EXAMPLES, reading))).fetchall()
    except (DataError, RaiseException) as error:
        raise GateRefused(
            f"aggregate {aggregate.name} cannot be asked of every row of {relation}: {condition(error.sqlstate)}",
            hint="Roll back, and write an expression that is NULL for such rows instead of failing.",
        ) from None
    told = Aggregated(
        name=aggregate.name,
        relation=relation,
        measure=aggregate.measure,
        differing=found[0]["differing"] if found else 0,
        groups=[[_short(value) for value in row["groups"]] for row in found],
    )
    notes = [
        {
            "relation": relation,
            "kind": "aggregate",
            "key": {"aggregate": aggregate.name, "group": row["groups"]},
            "detail": to_json({"old": row["old"], "new": row["new"]}).decode(),
        }
        for row in found
    ]
    return Measured(told, notes)


def _short(value: Any) -> Any:
    """Cut what a group is called where it is long: it travels."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) <= EXACT):
        return value  # larger integers are not exact in every reader of JSON
    return shown(value if isinstance(value, str) else to_json(value).decode(), GROUP_LETTERS)
