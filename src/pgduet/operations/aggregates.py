"""Declared aggregates: a count, sum, minimum or maximum over each side, for each group, which must come out the same.

Each side has an expression of its own over its own row. So an aggregate finds what rows cannot: an `up` and a `down` that are wrong
alike. Sums of floats are made of decimals, or their order would show.
"""

from typing import Literal

from psycopg import sql

from pgduet.operations.expressions import Expression, Frozen
from pgduet.operations.statement import Query, trusted
from pgduet.sql import block

ROW = sql.SQL("t")
"""The alias under which each side is read."""

_FLOATS = frozenset({"real", "double precision"})


class Measured(Frozen):
    """One side of an aggregate: what is measured of which relation, in which groups."""

    relation: tuple[str, str]
    value: Expression | None = None
    """Nothing where rows are counted."""
    type: str = ""
    groups: tuple[Expression, ...] = ()
    physical: tuple[tuple[str, str], ...] = ()
    """What its columns are called in the relation, where it is a column in the making."""
    only: Expression | None = None
    """Which rows are measured; one of which it cannot be said is."""

    def over(self, expression: Expression) -> sql.Composable:
        """Render an expression over the relation's row."""
        return expression.over(ROW, renamed=dict(self.physical))


class Aggregate(Frozen):
    """A declared aggregate of both sides."""

    name: str
    measure: Literal["count", "sum", "min", "max"]
    old: Measured
    new: Measured
    shape: int | None = None
    """The place of the operation that gives the table another shape; nothing where both versions' columns are in one table."""


def differences(aggregate: Aggregate, limit: int, reading: sql.Composable | None = None) -> Query:
    """Name the groups in which the sides differ, by what each of them has; `reading` takes the new table's place."""
    old, new = aggregate.old, aggregate.new
    return block("compare", "aggregates").format(
        old=sql.Identifier(*old.relation),
        only=sql.SQL("({} IS NOT FALSE)").format(old.over(old.only)) if old.only else sql.SQL("true"),
        new=sql.SQL("({})").format(reading) if reading else sql.Identifier(*new.relation),
        old_value=_value(aggregate.measure, old),
        new_value=_value(aggregate.measure, new),
        old_groups=_groups(old),
        new_groups=_groups(new),
        old_by=_by(old),
        new_by=_by(new),
        differs=_differ(aggregate.measure, old),
        limit=sql.Literal(limit),
    )


def _value(measure: str, side: Measured) -> Query:
    if side.value is None:
        return sql.SQL("count(*)")
    value = side.over(side.value)
    if measure == "sum" and side.type in _FLOATS:
        value = sql.SQL("{}::numeric").format(value)
    template = {"count": "count({})", "sum": "sum({})", "min": "min({})", "max": "max({})"}[measure]
    return sql.SQL(template).format(value)


def _groups(side: Measured) -> Query:
    """Render a group's values as jsonb, in which 1.0 and 1.00 are one."""
    values = sql.SQL(", ").join(side.over(group) for group in side.groups)
    return sql.SQL("jsonb_build_array({})").format(values)


def _by(side: Measured) -> Query:
    """Render the groups; without any, all rows are one."""
    if not side.groups:
        return sql.SQL("()")
    return sql.SQL(", ").join(side.over(group) for group in side.groups)


def _differ(measure: str, side: Measured) -> Query:
    """Render that the sides differ: numbers by value, whatever their scale."""
    differ: Query
    if measure in {"count", "sum"} and side.type not in {"interval", "money"}:
        differ = sql.SQL("old::numeric IS DISTINCT FROM new::numeric")
    elif side.type:
        differ = sql.SQL("old::{0} IS DISTINCT FROM new::{0}").format(trusted(side.type))
    else:
        differ = sql.SQL("old IS DISTINCT FROM new")
    return sql.SQL("(old_groups <> new_groups OR {})").format(differ)
