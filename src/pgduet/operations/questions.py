"""What must be asked of PostgreSQL about a plan: the new columns' types, then every expression over its row."""

from collections.abc import Iterator, Mapping

from pgduet.errors import NameTaken, NotSupported, Place, UnknownColumn
from pgduet.operations.design import without_length
from pgduet.operations.expressions import Question
from pgduet.operations.facts import TableFacts
from pgduet.plan.models import AddColumn, Operation, Plan, ReplaceColumns
from pgduet.plan.problems import did_you_mean

KeyPath = tuple[str | int, ...]


def column_paths(plan: Plan) -> Iterator[tuple[KeyPath, Operation, int]]:
    """Walk every new column: its path in the plan, its operation, its place in it."""
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, AddColumn):
            yield ("operations", index, "add_column", "column"), operation, 0
        else:
            for number in range(len(operation.columns)):
                yield ("operations", index, "replace_columns", "columns", number), operation, number


def check_columns(plan: Plan, facts: Mapping[str, TableFacts]) -> None:
    """Refuse what the catalogue cannot take: columns that are not there, cannot go, or are there already.

    Raises:
        UnknownColumn, NameTaken, NotSupported: with the path in the plan.
    """
    for index, operation in enumerate(plan.operations):
        table = facts[str(operation.relation)]
        _check_table(table, index, operation)
        if isinstance(operation, ReplaceColumns):
            for number, name in enumerate(operation.replaces):
                _check_replaced(table, name, ("operations", index, "replace_columns", "replaces", number))
    gone = {(str(o.relation), name) for o in plan.operations if isinstance(o, ReplaceColumns) for name in o.replaces}
    for path, operation, number in column_paths(plan):
        name = operation.columns[number].name
        if facts[str(operation.relation)].column(name) and (str(operation.relation), name) not in gone:
            raise NameTaken(
                f'{operation.relation} already has a column "{name}", and it stays',
                place=place((*path, "name")),
                hint="Choose another name, or list the column in `replaces`.",
            )


def questions(plan: Plan, facts: Mapping[str, TableFacts], types: Mapping[KeyPath, str]) -> Iterator[Question]:
    """Ask for every `up`, `down` and `default`, over the columns that it may use."""
    for path, operation, number in column_paths(plan):
        table = facts[str(operation.relation)]
        column = operation.columns[number]
        scope = {c.name: c.type for c in table.columns}
        if column.up is not None:
            yield Question((*path, "up"), column.up, scope, without_length(types[path]), str(operation.relation))
        if column.default is not None:
            yield Question((*path, "default"), column.default, {}, without_length(types[path]), str(operation.relation))
    for index, operation in enumerate(plan.operations):
        if isinstance(operation, ReplaceColumns):
            yield from _downs(plan, facts, types, index, operation)


def place(path: KeyPath) -> Place:
    """Name a place in a plan by path; who has the file adds line and column."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return Place(text)


def _downs(
    plan: Plan, facts: Mapping[str, TableFacts], types: Mapping[KeyPath, str], index: int, operation: ReplaceColumns
) -> Iterator[Question]:
    table = facts[str(operation.relation)]
    scope = new_scope(plan, table, types)
    over = f"version {plan.version.to} of {operation.relation}"
    for name, source in operation.down.items():
        column = table.column(name)
        if column is not None:
            path = ("operations", index, "replace_columns", "down", name)
            yield Question(path, source, scope, without_length(column.type), over)


def new_scope(plan: Plan, table: TableFacts, types: Mapping[KeyPath, str]) -> dict[str, str]:
    """Give the columns of a table in the new version, with their types."""
    mine = [o for o in plan.operations if (o.relation.schema, o.relation.name) == (table.schema_name, table.table)]
    gone = {name for operation in mine if isinstance(operation, ReplaceColumns) for name in operation.replaces}
    scope = {c.name: c.type for c in table.columns if c.name not in gone}
    for path, operation, number in column_paths(plan):
        if operation in mine:
            scope[operation.columns[number].name] = types[path]
    return scope


def _check_table(table: TableFacts, index: int, operation: Operation) -> None:
    reasons = {
        "is partitioned": table.kind == "p",
        "is not a table": table.kind not in {"r", "p"},
        "has parents or children by inheritance or partitioning": table.inherits,
        "is temporary": table.persistence == "t",
        "forces row level security on the worker's role, which has no BYPASSRLS: rows would be hidden": table.hides_rows,
    }
    for reason, true in reasons.items():
        if true:
            raise NotSupported(
                f"{operation.relation} {reason}, which this version does not migrate",
                place=place(("operations", index, operation.kind, "table")),
                hint="Nothing was changed.",
            )


def _check_replaced(table: TableFacts, name: str, path: KeyPath) -> None:
    column = table.column(name)
    relation = f"{table.schema_name}.{table.table}"
    if column is None:
        near = did_you_mean(name, [c.name for c in table.columns])
        raise UnknownColumn(f'column "{name}" does not exist in {relation}{near}', place=place(path))
    if column.in_key or column.generated or column.dependents:
        reason = "; ".join(column.dependents) or ("a generated column" if column.generated else "the primary key")
        raise NotSupported(
            f'"{name}" of {relation} cannot be replaced in this version: it carries {reason}',
            place=place(path),
            hint="Drop what depends on it first, or leave the column out of the plan.",
        )
