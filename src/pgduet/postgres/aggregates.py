"""Declared aggregates of a plan, resolved at preflight: parsed by PostgreSQL over each version's row, and comparable.

Where both representations are in one row, both sides are read from the table itself: the old one by the table's columns, the new
one by the columns in the making. A table that gets another shape has a relation for each side.
"""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from pgduet.errors import ExpressionInvalid
from pgduet.operations.aggregates import Aggregate, Measured
from pgduet.operations.answers import KeyPath, located
from pgduet.operations.column_design import without_length
from pgduet.operations.design import Design
from pgduet.operations.expressions import Expression, Question
from pgduet.operations.facts import TableFacts
from pgduet.operations.measured_sides import measured_sides
from pgduet.operations.questions import aggregate_questions
from pgduet.operations.statement import trusted
from pgduet.plan.aggregates import Aggregate as Declared
from pgduet.plan.models import Plan
from pgduet.postgres.expressions import analyse, type_of
from pgduet.postgres.session import Connection
from pgduet.sql import block

_NUMBERS = frozenset({"smallint", "integer", "bigint", "numeric", "real", "double precision"})
_TEXTS = frozenset({"text", "character varying", "name"})

Typed = tuple[Expression, str]


async def declared(
    conn: Connection, plan: Plan, facts: Mapping[str, TableFacts], types: Mapping[KeyPath, str], design: Design
) -> tuple[Aggregate, ...]:
    """Resolve the plan's declared aggregates.

    Raises:
        UnknownColumn, ExpressionInvalid, ExpressionVolatile: an expression is none over that version's row, or the sides
            cannot be compared.
    """
    found: dict[KeyPath, Typed] = {}
    shapes = measured_sides(design)
    for question in aggregate_questions(plan, facts, types, shapes):
        with located(question.path):
            found[question.path] = await _parsed(conn, question)
    resolved = []
    for number, aggregate in enumerate(plan.policy.verify.aggregates):
        top: KeyPath = ("policy", "verify", "aggregates", number)
        await _comparable(conn, aggregate, top, found)
        old, new = _side(aggregate, top, "old", found), _side(aggregate, top, "new", found)
        shape = shapes.get(str(aggregate.relation))
        if shape:
            old = old.model_copy(update={"relation": (shape.old.schema, shape.old.name), "only": shape.only})
            new = new.model_copy(update={"relation": shape.new})
        else:
            physical = next((t.physical for t in design.tables if t.label == _label(aggregate)), {})
            new = new.model_copy(update={"physical": tuple(physical.items())})
        position = shape.position if shape else None
        resolved.append(Aggregate(name=aggregate.name, measure=aggregate.measure, old=old, new=new, shape=position))
    return tuple(resolved)


async def _parsed(conn: Connection, question: Question) -> Typed:
    expression = await analyse(conn, question)
    return expression, await type_of(conn, expression, question.scope)


def _label(aggregate: Declared) -> str:
    return sql.Identifier(aggregate.relation.schema, aggregate.relation.name).as_string(None)


def _side(aggregate: Declared, top: KeyPath, side: str, found: Mapping[KeyPath, Typed]) -> Measured:
    value, kind = found.get((*top, side), (None, ""))
    return Measured(
        relation=(aggregate.relation.schema, aggregate.relation.name),
        value=value,
        type=_compared_as(aggregate.measure, kind),
        groups=tuple(found[*top, "group_by", position, side][0] for position in range(len(aggregate.group_by))),
    )


def _compared_as(measure: str, kind: str) -> str:
    """Name the type by which both sides' results are compared; of a sum, what is added up."""
    if measure == "count":
        return ""
    return "numeric" if measure != "sum" and _base(kind) in _NUMBERS else without_length(_base(kind))


def _base(kind: str) -> str:
    """Name a type without its size."""
    head, _, rest = kind.partition("(")
    return head + rest.partition(")")[2] if rest else kind


async def _comparable(conn: Connection, aggregate: Declared, top: KeyPath, found: Mapping[KeyPath, Typed]) -> None:
    """Refuse what PostgreSQL cannot measure or group by, and sides that are not of one kind."""
    if (*top, "old") in found:
        old, new = found[*top, "old"][1], found[*top, "new"][1]
        for side, kind in (("old", old), ("new", new)):
            with located((*top, side)):
                await _can(conn, "measured", aggregate.measure, kind)
        if aggregate.measure != "count":
            with located((*top, "new")):
                _refuse_unlike(old, new)
    for position in range(len(aggregate.group_by)):
        path = (*top, "group_by", position)
        old, new = found[*path, "old"][1], found[*path, "new"][1]
        for side, kind in (("old", old), ("new", new)):
            with located((*path, side)):
                await _can(conn, "grouped", "group by", kind)
        with located((*path, "new")):
            _refuse_unlike(old, new)


def _refuse_unlike(old: str, new: str) -> None:
    bases = {_base(old), _base(new)}
    if len(bases) > 1 and not bases <= _NUMBERS and not bases <= _TEXTS:
        raise ExpressionInvalid(
            f"the old version's side is {old} and the new version's {new}: they cannot be compared",
            hint=f"Cast one of them, such as `(…)::{old}`.",
        )


async def _can(conn: Connection, how: str, measure: str, kind: str) -> None:
    """Have PostgreSQL measure, or group by, nothing of a type."""
    function = sql.SQL({"count": "count", "sum": "sum", "min": "min", "max": "max"}.get(measure, "count"))
    query = block("compare", how).format(function=function, type=trusted(kind))
    try:
        async with conn.transaction():
            await conn.execute(query)
    except psycopg.errors.UndefinedFunction as error:
        raise ExpressionInvalid(
            f"PostgreSQL cannot {measure} values of type {kind}",
            hint="Cast it to a type that can be compared, such as text or numeric.",
        ) from error
