"""What the catalogue cannot take of operations on constraints: unknown names, a second primary key, what others stand on.

Names that are taken are found with those that columns bring, when the design is there.
"""

from collections.abc import Iterator, Mapping

from psycopg import sql

from pgduet.errors import NotSupported, UnknownColumn, UnknownConstraint
from pgduet.operations.answers import Answers, KeyPath, place
from pgduet.operations.design import Design
from pgduet.operations.facts import ConstraintFacts, TableFacts
from pgduet.operations.references import asked
from pgduet.operations.table_constraints import dropped
from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    ColumnOperation,
    CreateConstraint,
    DropColumn,
    DropConstraint,
    Plan,
    RenameColumn,
    RenameConstraint,
    ReplaceColumns,
)
from pgduet.plan.problems import did_you_mean

_TRIGGER, _NOT_NULL = "t", "n"


def check(plan: Plan, table: TableFacts, top: KeyPath, operation: ColumnOperation) -> None:
    """Refuse what cannot be done.

    Raises:
        UnknownColumn, UnknownConstraint, NotSupported: with the path in the plan.
    """
    match operation:
        case CreateConstraint():
            _check_created(plan, table, top, operation)
        case DropConstraint():
            _check_dropped(table, top, operation)
        case RenameConstraint():
            found = _found(table, operation.name, (*top, "name"))
            _refuse_kind(found, (*top, "name"), "renamed")


def check_targets(plan: Plan, design: Design, facts: Mapping[str, TableFacts], answers: Answers) -> None:
    """Refuse a foreign key to what the same plan takes away: it would stand in the way of contract.

    Raises:
        NotSupported: with the path in the plan.
    """
    for path, references in asked(plan):
        label = sql.Identifier(references.relation.schema, references.relation.name).as_string(None)
        going = list(_going(design, label, facts.get(str(references.relation)), set(answers.targets[path])))
        if going:
            raise NotSupported(
                f"the foreign key refers to {going[0]}, which the plan takes away at contract",
                place=place(path),
                hint="Bring the foreign key in a plan of its own, after this one.",
            )


def _going(design: Design, label: str, facts: TableFacts | None, columns: set[str]) -> Iterator[str]:
    """Name what a plan takes away of that by which columns of a table can be referred to."""
    if any(table.label == label for table in design.dropped):
        yield f"table {label}"
    table = next((table for table in design.tables if table.label == label), None)
    yield from (f'column "{old.name}"' for old in (table.old_columns if table else ()) if old.name in columns)
    dropped = table.dropped_constraints if table else ()
    indexes = {index.name for index in design.dropped_indexes if index.table == label}
    for each in facts.constraints if facts else ():
        if each.name in dropped and set(each.columns) == columns:
            yield f'constraint "{each.name}"'
    for index in facts.indexes if facts else ():
        if index.name in indexes and index.unique and set(index.columns) == columns:
            yield f'index "{index.name}"'


def columns_after(plan: Plan, table: TableFacts) -> list[str]:
    """Name the columns that a table has in the new version."""
    gone: set[str] = set()
    added: list[str] = []
    for operation in plan.operations:
        if not isinstance(operation, ColumnOperation) or _name(operation) != (table.schema_name, table.table):
            continue
        match operation:
            case AddColumn():
                added.append(operation.column.name)
            case ReplaceColumns():
                gone |= set(operation.replaces)
                added += [column.name for column in operation.columns]
            case AlterColumn():
                gone.add(operation.column)
                added.append(operation.new_name)
            case RenameColumn():
                gone.add(operation.column)
                added.append(operation.to)
            case DropColumn():
                gone.add(operation.column)
    return [*(column.name for column in table.columns if column.name not in gone), *added]


def _check_created(plan: Plan, table: TableFacts, top: KeyPath, operation: CreateConstraint) -> None:
    if table.kind == "p":
        # Neither CREATE INDEX CONCURRENTLY nor (before PostgreSQL 18) a NOT VALID foreign key is for partitioned tables.
        raise NotSupported(
            f"{operation.relation} is partitioned: a constraint cannot be built there beside its clients in this version",
            place=place((*top, "table")),
            hint="Build it partition by partition, in a window of your own.",
        )
    known = columns_after(plan, table)
    for number, name in enumerate(operation.columns):
        if name not in known:
            message = f'column "{name}" does not exist in version {plan.version.to} of {operation.relation}'
            raise UnknownColumn(
                f"{message}{did_you_mean(name, known)}",
                place=place((*top, "columns", number)),
                hint=f"It has: {', '.join(known)}.",
            )
    if operation.type == "primary_key":
        has = next((each.name for each in table.constraints if each.kind == "p"), None)
        if has is not None:
            wrong = (
                "goes only at contract: until then there can be no second one"
                if has in dropped(plan, table)
                else "is there"
            )
            raise NotSupported(
                f'{operation.relation} has a primary key already: "{has}" {wrong}',
                place=place((*top, "type")),
                hint="Create a unique constraint over columns that must be filled: it does the same for clients.",
            )


def _check_dropped(table: TableFacts, top: KeyPath, operation: DropConstraint) -> None:
    path = (*top, "name")
    found = _found(table, operation.name, path)
    if found.kind == _NOT_NULL:
        hint = "Write `alter_column` with `nullable: true`."
        raise NotSupported(f'"{found.name}" is what makes a column NOT NULL', place=place(path), hint=hint)
    _refuse_kind(found, path, "dropped")
    if found.inbound:
        raise NotSupported(
            f'"{found.name}" cannot be dropped: on it stand {", ".join(found.inbound)}',
            place=place(path),
            hint="Drop those foreign keys first, in a plan of their own.",
        )
    if found.identity:
        raise NotSupported(
            f'"{found.name}" cannot be dropped: by it the rows of a published table are told apart,'
            " and without it every UPDATE and DELETE would be refused",
            place=place(path),
            hint="Give the table another replica identity first.",
        )
    for name in operation.copied:
        if name not in found.columns:
            message = f'"{name}" is no column of constraint "{found.name}"{did_you_mean(name, list(found.columns))}'
            side = "up" if name in operation.up else "down"
            hint = f"Its columns are {', '.join(found.columns) or 'none by name'}."
            raise UnknownColumn(message, place=place((*top, side, name)), hint=hint)


def _found(table: TableFacts, name: str, path: KeyPath) -> ConstraintFacts:
    found = table.constraint(name)
    if found is None:
        known = [each.name for each in table.constraints]
        raise UnknownConstraint(
            f'{table.schema_name}.{table.table} has no constraint "{name}"{did_you_mean(name, known)}',
            place=place(path),
            hint=f"It has: {', '.join(known)}." if known else "It has none.",
        )
    return found


def _refuse_kind(found: ConstraintFacts, path: KeyPath, verb: str) -> None:
    if found.kind == _TRIGGER:
        hint = "Leave it out of the plan, or use `sql`."
        raise NotSupported(
            f'"{found.name}" is a trigger, which is not {verb} like a constraint', place=place(path), hint=hint
        )


def _name(operation: ColumnOperation) -> tuple[str, str]:
    return operation.relation.schema, operation.relation.name
