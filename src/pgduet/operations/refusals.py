"""What the catalogue cannot take: columns that are not there, cannot change or are there already. Nothing is touched."""

from collections.abc import Callable, Iterator, Mapping

from pgduet.errors import DownIncomplete, NameTaken, NotSupported, UnknownColumn
from pgduet.operations import constraint_refusals, partitioned, rekey, shaped
from pgduet.operations.alter_column import copies
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.create_table import named_indexes
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import ColumnFacts, HangingKind, TableFacts
from pgduet.plan import rewrites
from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    ColumnOperation,
    CreateConstraint,
    CreateTable,
    DropColumn,
    DropConstraint,
    DropTable,
    MergeRows,
    Operation,
    Plan,
    RenameColumn,
    RenameTable,
    ReplaceColumns,
    ShapeOperation,
    TableChange,
)
from pgduet.plan.problems import did_you_mean

Taken = Callable[[str, str], bool]
"""Tells whether a schema has a relation of a name."""

MOST_PARTITIONS = 64
"""Each costs a change of the table about half a millisecond, under a lock that nobody gets past."""
_LATER = "Drop what depends on it first, or leave the column out of the plan."
_KEY: tuple[HangingKind, ...] = ("primary", "inbound")
_FOLLOWS_KEY: tuple[HangingKind, ...] = (*_KEY, "itself")
"""What is made anew to a key's successor."""
_HOLDS: tuple[HangingKind, ...] = (*_KEY, "itself", "exclusion", "view", "trigger", "policy", "generated", "other")
_MADE_ANEW: tuple[HangingKind, ...] = tuple(kind for kind in _HOLDS if kind not in {"view", "policy"})
"""For a column with a successor: views and policies are made anew at contract; `dependents_of` finds out whether they can be."""


def check(plan: Plan, facts: Mapping[str, TableFacts], taken: Taken) -> None:
    """Refuse what cannot be done.

    Raises:
        UnknownColumn, NameTaken, NotSupported, DownIncomplete: with the path in the plan.
    """
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        if isinstance(operation, TableChange | DropTable | ShapeOperation):
            _check_table(facts[str(operation.relation)], top, operation)
        if isinstance(operation, CreateConstraint | DropConstraint):
            _check_copied(facts[str(operation.relation)], top, operation)
        if isinstance(operation, ColumnOperation):
            partitioned.refuse(facts[str(operation.relation)], top, operation)
            _check_columns(facts[str(operation.relation)], top, operation)
            constraint_refusals.check(plan, facts[str(operation.relation)], top, operation)
        match operation:
            case CreateTable():
                _free(taken, operation.relation.schema, operation.relation.name, (*top, "table"))
                for at, name in named_indexes(operation):
                    _free(taken, operation.relation.schema, name, (*top, *at))
            case RenameTable():
                _free(taken, operation.relation.schema, operation.to, (*top, "to"))
            case DropTable():
                _check_dropped(facts[str(operation.relation)], top)
    for path, brought in shaped.wanted(plan):
        _free(taken, brought.schema, brought.name, path)
    shaped.refuse(plan, facts)
    _check_new_names(plan, facts)


def refuse_held(design: TableDesign, table: TableFacts) -> None:
    """Refuse to drop old columns upon which something has come to depend since preflight.

    Raises:
        NotSupported: naming what depends on them.
    """
    rekey.refuse_unknown(design, table)
    anew = {old.name for mapping in design.mappings for old, _ in mapping.pairs}
    for old in design.old_columns:
        column = table.column(old.name)
        kinds = _MADE_ANEW if old.name in anew else _HOLDS
        if design.rekey and old.name in design.key:
            kinds = tuple(kind for kind in kinds if kind not in _FOLLOWS_KEY)
        reasons = column.hanging(*kinds) if column else ()
        if reasons:
            raise NotSupported(
                f'"{old.name}" of {table.schema_name}.{table.table} cannot be dropped: on it depend {"; ".join(reasons)}',
                hint="Drop what depends on it, then advance.",
            )


def _check_columns(table: TableFacts, top: KeyPath, operation: ColumnOperation) -> None:
    match operation:
        case ReplaceColumns():
            for number, name in enumerate(operation.replaces):
                path = (*top, "replaces", number)
                _check_movable(table, _found(table, name, path), path, "replaced", (*_HOLDS, "foreign"))
        case AlterColumn():
            path = (*top, "column")
            column = _found(table, operation.column, path)
            if copies(operation, column):
                rekey.refuse(table, top, operation)
                kinds = tuple(kind for kind in _MADE_ANEW if not (column.in_key and kind in _FOLLOWS_KEY))
                _check_movable(table, column, path, "altered beyond its name, default and comment", kinds, key=True)
            elif operation.default is not None and (column.generated or column.identity):
                raise NotSupported(f'"{column.name}" numbers or computes itself', place=place((*top, "default")))
        case RenameColumn():
            _found(table, operation.column, (*top, "column"))
        case DropColumn():
            path = (*top, "column")
            column = _found(table, operation.column, path)
            _check_movable(table, column, path, "dropped", _HOLDS)
            if column.not_null and column.default is None and operation.down is None:
                raise DownIncomplete(
                    f'"{column.name}" must not be empty and has no default: rows that new clients insert would have no value',
                    place=place(path),
                    hint="Give `down`: an expression over the columns that stay, or a constant.",
                )


def _check_copied(table: TableFacts, top: KeyPath, operation: CreateConstraint | DropConstraint) -> None:
    for name in operation.copied:
        path = (*top, "up" if name in operation.up else "down", name)
        _check_movable(table, _found(table, name, path), path, "given a second form", _MADE_ANEW)


def _found(table: TableFacts, name: str, path: KeyPath) -> ColumnFacts:
    column = table.column(name)
    if column is None:
        near = did_you_mean(name, [c.name for c in table.columns])
        relation = f"{table.schema_name}.{table.table}"
        raise UnknownColumn(f'column "{name}" does not exist in {relation}{near}', place=place(path))
    return column


def _check_movable(
    table: TableFacts,
    column: ColumnFacts,
    path: KeyPath,
    verb: str,
    kinds: tuple[HangingKind, ...],
    *,
    key: bool = False,
) -> None:
    """Refuse what hangs on a column that is to go; with `key`, one of the primary key has been asked about already."""
    reasons = list(column.hanging(*kinds))
    if column.in_key and not key and not column.hanging("primary"):
        reasons.append("the primary key")
    if column.name in table.partition_key:
        reasons.append("the partition key")
    if column.generated:
        reasons.append("a generated value")
    if column.identity and not (key and column.in_key):
        reasons.append("an identity")
    if reasons:
        of_key = column.in_key or bool(column.hanging("inbound"))
        raise NotSupported(
            f'"{column.name}" of {table.schema_name}.{table.table} cannot be {verb} in this version: it carries'
            f" {'; '.join(reasons)}",
            place=place(path),
            hint=f"{_LATER} A key's columns can change their type alone." if of_key else _LATER,
        )


def _check_table(table: TableFacts, top: KeyPath, operation: TableChange | DropTable | ShapeOperation) -> None:
    if table.partition_of:
        raise NotSupported(
            f"{operation.relation} is a partition of {table.partition_of}: all partitions have the columns of their parent",
            place=place((*top, "table")),
            hint=f"Name the parent: {table.partition_of}.",
        )
    reasons = {
        f"is partitioned: {operation.kind} is not for such tables": table.kind == "p"
        and not isinstance(operation, partitioned.CARRIED),
        f"has partitions that are no tables ({', '.join(table.odd_partitions)})": bool(table.odd_partitions),
        f"has {table.partitions} partitions, of which a change locks every one (at most {MOST_PARTITIONS}): clients would wait"
        " longer than the lock budget allows": table.partitions > MOST_PARTITIONS,
        "is not a table": table.kind not in {"r", "p"},
        "has parents or children by inheritance": table.inherits and table.kind != "p",
        "is temporary": table.persistence == "t",
        "forces row level security on the worker's role, which has no BYPASSRLS: rows would be hidden": table.hides_rows,
    }
    for reason, true in reasons.items():
        if true:
            raise NotSupported(
                f"{operation.relation} {reason}, which this version does not migrate",
                place=place((*top, "table")),
                hint=rewrites.ordinary(operation.relation, table.key or ["…"])
                if table.kind == "p" and isinstance(operation, MergeRows)
                else "Leave the table out of the plan.",
            )


def _check_dropped(table: TableFacts, top: KeyPath) -> None:
    held = sorted({what for column in table.columns for what in column.hanging("view", "inbound")})
    if held:
        raise NotSupported(
            f"{table.schema_name}.{table.table} cannot be dropped: on it depend {'; '.join(held)}",
            place=place((*top, "table")),
            hint="Drop what depends on it first.",
        )


def _free(taken: Taken, schema: str, name: str, path: KeyPath) -> None:
    if taken(schema, name):
        raise NameTaken(
            f'schema {schema} already has a relation "{name}"', place=place(path), hint="Choose another name."
        )


def _check_new_names(plan: Plan, facts: Mapping[str, TableFacts]) -> None:
    leaving = {
        (str(o.relation), name) for o in plan.operations if isinstance(o, ColumnOperation) for name in _leaving(o)
    }
    for path, operation, name in _brought(plan):
        table = str(operation.relation)
        if facts[table].column(name) and (table, name) not in leaving:
            raise NameTaken(
                f'{table} already has a column "{name}", and it stays',
                place=place(path),
                hint="Choose another name, or list the column in `replaces`."
                if isinstance(operation, AddColumn | ReplaceColumns)
                else "Choose another name.",
            )


def _leaving(operation: Operation) -> tuple[str, ...]:
    """Name the columns whose name is free in the new version."""
    match operation:
        case ReplaceColumns():
            return operation.replaces
        case AlterColumn() | RenameColumn() | DropColumn():
            return (operation.column,)
        case CreateConstraint() | DropConstraint():
            return operation.copied
    return ()


def _brought(plan: Plan) -> Iterator[tuple[KeyPath, ColumnOperation, str]]:
    for index, operation in enumerate(plan.operations):
        top: KeyPath = ("operations", index, operation.kind)
        match operation:
            case AddColumn():
                yield (*top, "column", "name"), operation, operation.column.name
            case ReplaceColumns():
                for number, column in enumerate(operation.columns):
                    yield (*top, "columns", number, "name"), operation, column.name
            case AlterColumn() if operation.name:
                yield (*top, "name"), operation, operation.name
            case RenameColumn():
                yield (*top, "to"), operation, operation.to
