"""What must be asked of PostgreSQL about a plan: types, then every expression over the row that it may read."""

from collections.abc import Iterator, Mapping, Sequence

from pgduet.operations import shaped
from pgduet.operations.alter_column import copies, same
from pgduet.operations.answers import ADD_UP, KeyPath, place
from pgduet.operations.column_design import without_length
from pgduet.operations.expressions import Question
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.operations.measured_sides import Sides
from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    ColumnOperation,
    CreateConstraint,
    CreateIndex,
    CreateTable,
    DropColumn,
    DropConstraint,
    NewColumn,
    Plan,
    RenameColumn,
    ReplaceColumns,
    TableColumn,
)

__all__ = [
    "KeyPath",
    "aggregate_questions",
    "carried_checks",
    "new_scope",
    "place",
    "questions",
    "typed_columns",
    "types_to_ask",
]

Types = Mapping[KeyPath, str]
Known = Mapping[str, TableFacts]


def types_to_ask(plan: Plan) -> Iterator[tuple[KeyPath, str]]:
    """Walk the types that a plan names, by the path of their column."""
    for path, column in typed_columns(plan):
        yield path, column.type
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, AlterColumn) and operation.type is not None:
            yield ("operations", index, "alter_column"), operation.type
    yield from shaped.types_to_ask(plan)


def typed_columns(plan: Plan) -> Iterator[tuple[KeyPath, NewColumn | TableColumn]]:
    """Walk the columns that a plan spells out."""
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        if isinstance(operation, AddColumn):
            yield (*top, "column"), operation.column
        elif isinstance(operation, ReplaceColumns | CreateTable):
            columns: Sequence[NewColumn | TableColumn] = operation.columns
            for number, column in enumerate(columns):
                yield (*top, "columns", number), column


def aggregate_questions(plan: Plan, facts: Known, types: Types, shapes: Mapping[str, Sides]) -> Iterator[Question]:
    """Ask for what declared aggregates measure and group by, over the row of each version."""
    for number, aggregate in enumerate(plan.policy.verify.aggregates):
        top: KeyPath = ("policy", "verify", "aggregates", number)
        name = str(aggregate.relation)
        shape = shapes.get(name)
        over = str(shape.old) if shape else name
        table = facts[over]
        old = {column.name: column.type for column in table.columns}
        new, after = shape.columns if shape else new_scope(plan, table, types), f"version {plan.version.to} of {name}"
        if aggregate.old is not None and aggregate.new is not None:
            yield Question((*top, "old"), aggregate.old, old, "", over)
            yield Question((*top, "new"), aggregate.new, new, "", after)
        for position, by in enumerate(aggregate.group_by):
            yield Question((*top, "group_by", position, "old"), by.old, old, "", over)
            yield Question((*top, "group_by", position, "new"), by.new, new, "", after)


def questions(plan: Plan, facts: Known, types: Types) -> Iterator[Question]:
    """Ask for every `up`, `down`, `default` and `check`, over the columns that it may use."""
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, CreateTable):
            yield from _of_created(index, operation, types)
        elif isinstance(operation, CreateConstraint | DropConstraint):
            yield from _of_constraint(plan, index, operation, facts[str(operation.relation)], types)
        elif isinstance(operation, CreateIndex):
            scope = new_scope(plan, facts[str(operation.relation)], types)
            yield from _of_index(plan, index, operation, scope)
        elif isinstance(operation, ColumnOperation):
            table = facts[str(operation.relation)]
            yield from _of_columns(plan, index, operation, table, types)
    yield from shaped.questions(plan, facts, types)


def _of_columns(
    plan: Plan, index: int, operation: ColumnOperation, table: TableFacts, types: Types
) -> Iterator[Question]:
    top: KeyPath = ("operations", index, operation.kind)
    over = str(operation.relation)
    old = {c.name: c.type for c in table.columns}
    after = f"version {plan.version.to} of {over}"
    match operation:
        case AddColumn() | ReplaceColumns():
            listed: Sequence[NewColumn] = [operation.column] if isinstance(operation, AddColumn) else operation.columns
            for number, column in enumerate(listed):
                path = (*top, "column") if isinstance(operation, AddColumn) else (*top, "columns", number)
                into = without_length(types[path])
                if column.up is not None:
                    yield Question((*path, "up"), column.up, old, into, over)
                if column.default is not None:
                    # Without `up` it maps rows; with it, it is for new clients' inserts alone.
                    free = column.up is not None
                    yield Question((*path, "default"), column.default, {}, into, over, may_change=free, cure=ADD_UP)
                if column.check:
                    scope = new_scope(plan, table, types)
                    yield Question((*path, "check"), column.check.expression, scope, "boolean", after)
            if isinstance(operation, ReplaceColumns):
                yield from _downs(plan, top, operation.down, table, types, after)
        case AlterColumn():
            yield from _of_altered(plan, top, operation, table, types)
        case DropColumn() if operation.down is not None:
            scope = new_scope(plan, table, types)
            kind = _facts(table, operation.column).type
            yield Question((*top, "down"), operation.down, scope, without_length(kind), after)


def _of_constraint(
    plan: Plan, index: int, operation: CreateConstraint | DropConstraint, table: TableFacts, types: Types
) -> Iterator[Question]:
    """Ask for a check, and for both directions of each column that gets a second form; what is left out is the column itself."""
    top: KeyPath = ("operations", index, operation.kind)
    old, scope = {c.name: c.type for c in table.columns}, new_scope(plan, table, types)
    over = str(operation.relation)
    after = f"version {plan.version.to} of {over}"
    if isinstance(operation, CreateConstraint) and operation.check:
        yield Question((*top, "check"), operation.check, scope, "boolean", after)
    for name in operation.copied:
        into = without_length(_facts(table, name).type)
        up, down = operation.up.get(name), operation.down.get(name)
        yield Question((*top, "up", name), up or same(name), old, into, over, implied=up is None)
        yield Question((*top, "down", name), down or same(name), scope, into, after, implied=down is None)


def _of_altered(
    plan: Plan, top: KeyPath, operation: AlterColumn, table: TableFacts, types: Types
) -> Iterator[Question]:
    column = _facts(table, operation.column)
    over = str(operation.relation)
    after = f"version {plan.version.to} of {over}"
    into = without_length(types.get(top, column.type))
    if operation.default is not None:
        yield Question((*top, "default"), operation.default, {}, into, over, may_change=True)
    if not copies(operation, column):
        return
    old, new = {c.name: c.type for c in table.columns}, new_scope(plan, table, types)
    up, down = operation.up, operation.down
    yield Question((*top, "up"), up or same(operation.column), old, into, over, implied=up is None)
    yield Question(
        (*top, "down"),
        down or same(operation.new_name),
        new,
        without_length(column.type),
        after,
        implied=down is None,
    )
    if operation.check:
        yield Question((*top, "check"), operation.check.expression, new, "boolean", after)


def _of_created(index: int, operation: CreateTable, types: Types) -> Iterator[Question]:
    top: KeyPath = ("operations", index, "create_table", "columns")
    scope = {column.name: types[*top, number] for number, column in enumerate(operation.columns)}
    over = str(operation.relation)
    given = {c.name: scope[c.name] for c in operation.columns if c.generated is None}
    for number, column in enumerate(operation.columns):
        path = (*top, number)
        into = without_length(types[path])
        if column.generated is not None:
            yield Question((*path, "generated"), column.generated, given, into, over, kept=True)
        if column.default is not None:
            yield Question((*path, "default"), column.default, {}, into, over, may_change=True)
        if column.check:
            yield Question((*path, "check"), column.check.expression, scope, "boolean", over)
    for number, constraint in enumerate(operation.constraints):
        if constraint.check:
            path = (*top[:-1], "constraints", number)
            yield Question((*path, "check"), constraint.check, scope, "boolean", over)


def _of_index(plan: Plan, index: int, operation: CreateIndex, scope: Mapping[str, str]) -> Iterator[Question]:
    top: KeyPath = ("operations", index, "create_index")
    over = f"version {plan.version.to} of {operation.relation}"
    for number, column in enumerate(operation.columns):
        if column.expression is not None:
            yield Question((*top, "columns", number, "expression"), column.expression, scope, "", over)
    if operation.where is not None:
        yield Question((*top, "where"), operation.where, scope, "boolean", over)


def _downs(
    plan: Plan, top: KeyPath, downs: Mapping[str, str], table: TableFacts, types: Types, over: str
) -> Iterator[Question]:
    scope = new_scope(plan, table, types)
    for name, source in downs.items():
        column = table.column(name)
        if column is not None:
            yield Question((*top, "down", name), source, scope, without_length(column.type), over)


def new_scope(plan: Plan, table: TableFacts, types: Types) -> dict[str, str]:
    """Give the columns of a table in the new version, with their types."""
    scope = {column.name: column.type for column in table.columns}
    added: dict[str, str] = {}
    for index, operation in enumerate(plan.operations):
        mine = isinstance(operation, ColumnOperation) and (operation.relation.schema, operation.relation.name) == (
            table.schema_name,
            table.table,
        )
        if not mine:
            continue
        top: KeyPath = ("operations", index, operation.kind)
        match operation:
            case AddColumn():
                added[operation.column.name] = types[*top, "column"]
            case ReplaceColumns():
                for name in operation.replaces:
                    scope.pop(name, None)
                added |= {c.name: types[*top, "columns", number] for number, c in enumerate(operation.columns)}
            case AlterColumn():
                kind = scope.pop(operation.column)
                added[operation.new_name] = types.get(top, kind)
            case RenameColumn():
                added[operation.to] = scope.pop(operation.column)
            case DropColumn():
                scope.pop(operation.column)
    return scope | added


def carried_checks(table: TableFacts, names: Mapping[str, str]) -> Iterator[Question]:
    """Ask for the table's checks over its columns with their new types (by their old names)."""
    scope = {c.name: names.get(c.name, c.type) for c in table.columns}
    for check in table.checks:
        yield Question(("check", check.name), check.expression, scope, "boolean", f"{table.schema_name}.{table.table}")


def _facts(table: TableFacts, name: str) -> ColumnFacts:
    column = table.column(name)
    assert column is not None  # noqa: S101  (checked before)
    return column
