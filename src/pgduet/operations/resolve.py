"""Resolves a plan against what PostgreSQL said of it: plan, facts, types and expressions make a design."""

from collections.abc import Mapping

from pgduet.errors import NotSupported
from pgduet.operations import add_column, replace_columns
from pgduet.operations.design import BY_TEXT, ColumnMapping, Design, TableDesign, is_exact
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import TableFacts
from pgduet.operations.questions import KeyPath, place
from pgduet.plan.models import AddColumn, Plan


def resolve(
    plan: Plan,
    facts: Mapping[str, TableFacts],
    types: Mapping[KeyPath, str],
    expressions: Mapping[KeyPath, Expression],
) -> Design:
    """Make the design of a plan.

    Raises:
        NotSupported: an expression reads a generated column, which a BEFORE trigger does not see.
    """
    tables = []
    for relation in plan.tables():
        table = facts[str(relation)]
        mappings = tuple(
            _mapping(plan, index, table, types, expressions)
            for index, operation in enumerate(plan.operations)
            if operation.relation == relation
        )
        _refuse_generated(table, mappings)
        tables.append(
            TableDesign(
                schema_name=table.schema_name,
                table=table.table,
                key=table.key,
                key_types=tuple(column.type for name in table.key if (column := table.column(name))),
                columns=tuple(column.name for column in table.columns),
                inexact=tuple(column.name for column in table.columns if not (is_exact(column.type) and column.exact)),
                opaque=tuple(column.name for column in table.columns if column.type in BY_TEXT),
                always_fire=bool(table.user_before_triggers),
                mappings=mappings,
            )
        )
    return Design(
        name=plan.name,
        from_version=plan.version.from_,
        to_version=plan.version.to,
        unmappable=plan.policy.unmappable,
        tables=tuple(tables),
    )


def _mapping(
    plan: Plan,
    index: int,
    table: TableFacts,
    types: Mapping[KeyPath, str],
    expressions: Mapping[KeyPath, Expression],
) -> ColumnMapping:
    operation = plan.operations[index]
    if isinstance(operation, AddColumn):
        return add_column.mapping(plan.name, index, operation, types, expressions)
    return replace_columns.mapping(plan.name, index, operation, table, types, expressions)


def _refuse_generated(table: TableFacts, mappings: tuple[ColumnMapping, ...]) -> None:
    for mapping in mappings:
        for name in mapping.sources:
            column = table.column(name)
            if column is not None and column.generated:
                raise NotSupported(
                    f'"{name}" is a generated column, which has no value yet when `up` runs',
                    place=place(("operations", mapping.position, mapping.kind)),
                    hint="Write the generated column's own expression instead of its name.",
                )
