"""What the catalogue cannot take of a `shadow_table` or an `extract_table`: refused at check, and again at start."""

from collections.abc import Iterable, Iterator

from pgduet.errors import NotSupported, UnknownColumn
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.facts import ColumnFacts, TableFacts
from pgduet.plan.problems import did_you_mean
from pgduet.plan.shadow_operations import ExtractTable, ShadowTable

OF_A_PARTITION = ", of a partition alone"


def refuse(index: int, operation: ShadowTable | ExtractTable, table: TableFacts) -> None:
    """Refuse what the catalogue cannot take.

    Raises:
        UnknownColumn: a column of the plan is not there.
        NotSupported: the table, or its key, cannot be carried.
    """
    top: KeyPath = ("operations", index, operation.kind)
    if not table.key:
        hint = "Give the table a primary key first, in a plan of its own."
        raise NotSupported(f"{operation.relation} has no primary key to tell its rows by", place=place(top), hint=hint)
    if table.inherits and table.kind != "p":
        raise NotSupported(f"{operation.relation} is part of an inheritance tree", place=place(top))
    columns = [column.name for column in table.columns]
    for path, name in _named(operation):
        if name not in columns:
            message = f"{operation.relation} has no column `{name}`{did_you_mean(name, columns)}"
            raise UnknownColumn(message, place=place((*top, *path)))
    _refuse_of_partitions(top, operation, table)
    if isinstance(operation, ExtractTable):
        if set(operation.key) != set(table.key):
            hint = f"Its primary key is ({', '.join(table.key)})."
            raise NotSupported("`key` is not the table's primary key", place=place((*top, "key")), hint=hint)
        return
    _refuse_shape(top, operation, table)


def _refuse_of_partitions(top: KeyPath, operation: ShadowTable | ExtractTable, table: TableFacts) -> None:
    """Refuse what single partitions have over columns that go: nothing carries it over."""
    moved = {moved.name for moved in operation.columns} if isinstance(operation, ExtractTable) else None
    columns = [c for c in table.columns if moved is None or c.name in moved] if table.kind == "p" else []
    if alone := alone_on(columns):
        raise NotSupported(
            f"{operation.relation} cannot get another shape: {'; '.join(alone)} would be lost",
            place=place((*top, "table")),
            hint="Drop it first, or give it to the whole table.",
        )


def alone_on(columns: Iterable[ColumnFacts]) -> list[str]:
    """Name what single partitions have over columns."""
    return sorted({what for each in columns for what in each.hanging("other") if what.endswith(OF_A_PARTITION)})


def _refuse_shape(top: KeyPath, operation: ShadowTable, table: TableFacts) -> None:
    gone = [name for name in table.key if name in operation.replaces]
    changed = [column.name for column in operation.columns if column.name in table.key and column.up is not None]
    for name in (*gone, *changed):
        message = f"`{name}` is of the primary key, by which both versions know a row: its value must stay"
        raise NotSupported(message, place=place(top), hint="Its type may change: leave `up` and `down` out.")
    after = [column.name for column in table.columns if column.name not in operation.replaces]
    after += [column.name for column in operation.columns]
    spread = operation.partition_by.columns if operation.partition_by else ()
    named: list[tuple[KeyPath, str]] = [(("order", number), name) for number, name in enumerate(operation.order)]
    named += [(("primary_key", number), name) for number, name in enumerate(operation.primary_key)]
    named += [(("partition_by", "columns", number), name) for number, name in enumerate(spread)]
    for path, name in named:
        if name not in after:
            message = f"the new shape of {operation.relation} has no column `{name}`{did_you_mean(name, after)}"
            raise UnknownColumn(message, place=place((*top, *path)))
    if operation.primary_key and not set(table.key) <= set(operation.primary_key):
        hint = f"Leave its columns in: {', '.join(table.key)}."
        raise NotSupported(
            "the new key lacks a column of the old one, by which both versions know a row",
            place=place((*top, "primary_key")),
            hint=hint,
        )
    if operation.partition_by is None:
        return
    key = operation.primary_key or table.key
    absent = [name for name in operation.partition_by.columns if name not in key]
    if absent:
        hint = f"primary_key: [{', '.join((*key, *absent))}]"
        raise NotSupported(
            f"the primary key lacks {', '.join(absent)}, by which the rows are spread", place=place(top), hint=hint
        )


def _named(operation: ShadowTable | ExtractTable) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(operation, ExtractTable):
        yield from ((("columns", number, "name"), moved.name) for number, moved in enumerate(operation.columns))
        yield from ((("key", name), name) for name in operation.key)
    else:
        yield from ((("replaces", number), name) for number, name in enumerate(operation.replaces))
