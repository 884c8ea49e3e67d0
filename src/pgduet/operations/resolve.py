"""Resolves a plan against what PostgreSQL said of it: plan, facts and answers make a design."""

from collections.abc import Mapping

from psycopg import sql

from pgduet.errors import NotSupported
from pgduet.operations import (
    add_column,
    alter_column,
    carry,
    create_table,
    drop_column,
    rekey,
    rename_column,
    replace_columns,
    table_constraints,
)
from pgduet.operations.answers import Answers, place
from pgduet.operations.column_design import BY_TEXT, Alias, ColumnMapping, is_exact
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import TableFacts
from pgduet.operations.whole_tables import DroppedTable, Script
from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    ColumnOperation,
    CreateConstraint,
    CreateTable,
    DropColumn,
    DropConstraint,
    DropTable,
    Plan,
    RenameColumn,
    RenameTable,
    ReplaceColumns,
    Sql,
    TableName,
)

Carried = Mapping[str, dict[str, Expression]]
"""By table: the checks that PostgreSQL accepts over the new columns."""


def resolve(plan: Plan, facts: Mapping[str, TableFacts], answers: Answers, checks: Carried) -> Design:
    """Make the design of a plan.

    Raises:
        NotSupported: an expression reads a generated column, which a BEFORE trigger does not see.
    """
    tables = tuple(_table(plan, name, facts[str(name)], answers, checks) for name in plan.tables())
    tables = rekey.with_keys(plan.name, tables, facts)
    operations = list(enumerate(plan.operations))
    return Design(
        name=plan.name,
        from_version=plan.version.from_,
        to_version=plan.version.to,
        unmappable=plan.policy.unmappable,
        tables=tables,
        created=tuple(
            create_table.created(plan.name, index, o, answers) for index, o in operations if isinstance(o, CreateTable)
        ),
        dropped=tuple(
            DroppedTable(schema_name=o.relation.schema, table=o.relation.name, position=index)
            for index, o in operations
            if isinstance(o, DropTable)
        ),
        scripts=tuple(
            Script(position=index, up=o.up, down=o.down, at=o.at, tables=tuple(_label(t) for t in o.touched))
            for index, o in operations
            if isinstance(o, Sql)
        ),
    )


def mappings_of(plan: Plan, name: TableName, table: TableFacts, answers: Answers) -> tuple[ColumnMapping, ...]:
    """Resolve the operations that need columns of their own."""
    made = (
        _mapping(plan, index, table, answers)
        for index, operation in enumerate(plan.operations)
        if isinstance(operation, ColumnOperation) and operation.relation == name
    )
    return tuple(mapping for mapping in made if mapping is not None)


def _table(plan: Plan, name: TableName, table: TableFacts, answers: Answers, checks: Carried) -> TableDesign:
    mappings = mappings_of(plan, name, table, answers)
    _refuse_generated(table, mappings)
    design = TableDesign(
        schema_name=table.schema_name,
        table=table.table,
        key=table.key,
        key_types=tuple(column.type for key in table.key if (column := table.column(key))),
        columns=tuple(column.name for column in table.columns),
        inexact=tuple(column.name for column in table.columns if not (is_exact(column.type) and column.exact)),
        opaque=tuple(column.name for column in table.columns if column.type in BY_TEXT),
        always_fire=bool(table.user_before_triggers),
        mappings=mappings,
        computed=tuple(column.name for column in table.columns if column.generated or column.identity),
        partitioned=table.kind == "p",
        partition_key=table.partition_key,
        aliases=tuple(_aliases(plan, name, table, answers)),
        new_name=next((o.to for o in plan.operations if isinstance(o, RenameTable) and o.relation == name), None),
        dropped_constraints=table_constraints.dropped(plan, table),
    )
    return design.model_copy(update=_bound(plan, table, design, checks.get(str(name), {}), answers))


def _bound(
    plan: Plan, table: TableFacts, design: TableDesign, carried: dict[str, Expression], answers: Answers
) -> dict[str, object]:
    """Resolve what binds rows: what is carried over, what columns bring, what the plan creates on the table."""
    mappings, physical = design.mappings, design.physical
    checks = carry.checks(plan, table, mappings, physical, carried, answers)
    keys = carry.foreign_keys(plan, table, mappings, answers)
    indexes = tuple(carry.indexes(plan, table, mappings, answers))
    brought = {column.name: column for column in design.new_columns}
    moved = {each.name for each in table.all_indexes if carry.concerned(each.columns, mappings)}
    moved |= {each.name for each in table.checks if carry.concerned(each.columns, mappings)}
    moved |= {each.name for each in table.foreign if carry.concerned(each.columns, mappings)}
    return {
        "checks": (*checks, *table_constraints.checks(plan, table, physical, answers)),
        "foreign_keys": (*keys, *table_constraints.foreign_keys(plan, table, physical, answers)),
        "indexes": (*indexes, *table_constraints.indexes(plan, table, physical)),
        "filled": table_constraints.filled(plan, table, physical, brought),
        # One that is carried over gets its new name with the others.
        "renamed_constraints": tuple(p for p in table_constraints.renamed(plan, table) if p[0] not in moved),
    }


def _aliases(plan: Plan, name: TableName, table: TableFacts, answers: Answers) -> list[Alias]:
    made = []
    for index, operation in enumerate(plan.operations):
        if not isinstance(operation, AlterColumn | RenameColumn) or operation.relation != name:
            continue
        column = table.column(operation.column)
        assert column is not None  # noqa: S101  (checked before)
        if isinstance(operation, RenameColumn):
            made.append(rename_column.alias(index, operation, column))
        elif not alter_column.copies(operation, column):
            made.append(alter_column.alias(index, operation, column, answers))
    return made


def _mapping(plan: Plan, index: int, table: TableFacts, answers: Answers) -> ColumnMapping | None:
    operation = plan.operations[index]
    match operation:
        case AddColumn():
            return add_column.mapping(plan.name, index, operation, answers)
        case AlterColumn():
            column = table.column(operation.column)
            if column is None or not alter_column.copies(operation, column):
                return None
            return alter_column.mapping(plan.name, index, operation, table, answers)
        case DropColumn():
            return drop_column.mapping(index, operation, table, answers)
        case CreateConstraint() | DropConstraint():
            return table_constraints.mapping(plan.name, index, operation, table, answers)
        case ReplaceColumns():
            return replace_columns.mapping(plan.name, index, operation, table, answers)
    return None


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


def _label(table: TableName) -> str:
    return sql.Identifier(table.schema, table.name).as_string(None)
