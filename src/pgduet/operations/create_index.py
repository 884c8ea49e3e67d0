"""create_index: an index of the new version, over the new version's columns, whatever they are called in the table until contract.

An index that binds nobody, over columns that are there, is built in expand, under its own name where that is free. One that needs a
column in the making is built before publication, a unique one before cutover, since it binds everybody; both under working names.
All are built CONCURRENTLY. `pgduet.postgres.indexing` has PostgreSQL accept the definition first.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.errors import UnknownColumn
from pgduet.operations.answers import Accepted, Answers, KeyPath, place
from pgduet.operations.constraints import CarriedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.names import working_name
from pgduet.operations.statement import trusted
from pgduet.plan.index_operations import CreateIndex, IndexColumn, OperatorClass, Setting
from pgduet.plan.models import Plan
from pgduet.plan.problems import did_you_mean


def asked(plan: Plan, table: TableDesign) -> Iterator[tuple[int, CreateIndex]]:
    """Walk the indexes that a plan asks for on a table, with their position."""
    for position, operation in enumerate(plan.operations):
        if isinstance(operation, CreateIndex) and _of(operation, table):
            yield position, operation


def definition(position: int, operation: CreateIndex, table: TableDesign, answers: Answers) -> sql.Composed:
    """Render what follows `ON <table>`, over the table's own columns.

    Raises:
        UnknownColumn: the new version of the table has no such column.
    """
    top: KeyPath = ("operations", position, "create_index")
    keys = [_key((*top, "columns", n), each, table, answers) for n, each in enumerate(operation.columns)]
    parts = [sql.SQL("USING {} ({})").format(sql.Identifier(operation.method), sql.SQL(", ").join(keys))]
    if operation.include:
        names = [_column((*top, "include", n), name, table) for n, name in enumerate(operation.include)]
        parts.append(sql.SQL("INCLUDE ({})").format(sql.SQL(", ").join(names)))
    if operation.nulls_not_distinct:
        parts.append(sql.Composed([sql.SQL("NULLS NOT DISTINCT")]))
    if operation.storage_parameters:
        parts.append(sql.SQL("WITH ({})").format(_settings(operation.storage_parameters)))
    if operation.where is not None:
        parts.append(sql.SQL("WHERE {}").format(answers.expressions[*top, "where"].alone(table.physical)))
    return sql.SQL(" ").join(parts)


def index(
    plan: str, position: int, operation: CreateIndex, table: TableDesign, accepted: Accepted, *, free: bool
) -> CarriedIndex:
    """Resolve the operation; `free` says that no relation has the name now."""
    making = {column.physical for column in table.new_columns}
    first = not operation.unique and not making & set(accepted.columns)
    return CarriedIndex(
        name=operation.name,
        working=operation.name if first and free else working_name(plan, operation.name),
        definition=accepted.definition,
        unique=operation.unique,
        constraint=False,
        shown=operation.name,
        position=position,
        first=first,
        keys=accepted.keys if operation.unique else (),
        predicate=accepted.predicate,
        nulls_distinct=not operation.nulls_not_distinct,
    )


def _of(operation: CreateIndex, table: TableDesign) -> bool:
    return (operation.relation.schema, operation.relation.name) == (table.schema_name, table.table)


def _key(path: KeyPath, column: IndexColumn, table: TableDesign, answers: Answers) -> sql.Composable:
    if column.expression is not None:
        parts = [sql.SQL("({})").format(answers.expressions[*path, "expression"].alone(table.physical))]
    else:
        parts = [sql.Composed([_column((*path, "column"), column.column or "", table)])]
    if column.collation:
        parts.append(sql.SQL("COLLATE {}").format(sql.Identifier(*column.collation_parts)))
    if column.opclass:
        parts.append(_opclass(column.opclass))
    words = [
        *([column.order.upper()] if column.order else []),
        *(["NULLS", column.nulls.upper()] if column.nulls else []),
    ]
    return sql.SQL(" ").join([*parts, *(trusted(word) for word in words)])


def _column(path: KeyPath, name: str, table: TableDesign) -> sql.Composable:
    if name not in table.new_names:
        known = list(table.new_names)
        raise UnknownColumn(
            f'column "{name}" does not exist in the new version of {table.schema_name}.{table.table}'
            f"{did_you_mean(name, known)}",
            place=place(path),
            hint=f"It has: {', '.join(known)}.",
        )
    return sql.Identifier(table.physical.get(name, name))


def _opclass(opclass: OperatorClass) -> sql.Composed:
    name = sql.Identifier(*opclass.parts)
    if not opclass.parameters:
        return sql.Composed([name])
    return sql.SQL("{} ({})").format(name, _settings(opclass.parameters))


def _settings(given: dict[str, Setting]) -> sql.Composed:
    pairs = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in given.items()]
    return sql.SQL(", ").join(pairs)
