"""Partitioned tables: what cannot be done with them, and how an index gets onto all partitions without blocking anybody.

Columns, triggers, checks and NOT NULL are given to the parent: PostgreSQL brings them to every partition, those that are created
or attached later included. An index cannot be built concurrently on a parent: it is declared on the parent alone, built
concurrently on each partition, and attached; with the last one it is valid.
"""

from collections.abc import Iterator

from psycopg import sql

from pgduet.errors import NotSupported
from pgduet.operations.alter_column import copies
from pgduet.operations.answers import KeyPath, place
from pgduet.operations.constraints import CarriedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.facts import TableFacts
from pgduet.operations.names import working_name
from pgduet.operations.statement import Lock, Statement, on_table, trusted
from pgduet.plan.columns import Constrained
from pgduet.plan.models import (
    AddColumn,
    AlterColumn,
    ColumnOperation,
    CreateConstraint,
    DropColumn,
    ExtractTable,
    RenameColumn,
    RenameTable,
    ReplaceColumns,
    ShadowTable,
)
from pgduet.sql import block

CARRIED = (
    *(AddColumn, AlterColumn, DropColumn, RenameColumn, RenameTable, ReplaceColumns, CreateConstraint),
    *(ShadowTable, ExtractTable),
)
"""What can be done with a partitioned table; the last one says itself what it cannot."""


def refuse(table: TableFacts, top: KeyPath, operation: ColumnOperation) -> None:
    """Refuse what a partitioned table cannot have, or could have by blocking clients only.

    Raises:
        NotSupported: with the path in the plan.
    """
    if table.kind != "p":
        return
    for path, given in _given(operation):
        if given.unique:
            raise _refusal(
                table, (*top, *path, "unique"), "can be unique only together with its partition key", _UNIQUE
            )
        if given.references and not table.late_keys:
            raise _refusal(table, (*top, *path, "references"), _NO_LATE_KEYS, _LATE_KEYS)
    if isinstance(operation, AlterColumn) and (column := table.column(operation.column)) and copies(operation, column):
        bound = [index.name for index in table.indexes if index.constraint and column.name in index.columns]
        if bound:
            why = f"has no way to make a unique constraint without blocking: {', '.join(bound)} would be lost"
            raise _refusal(table, (*top, "column"), why, "Put a unique index in the constraint's place first.")
        keys = [key.name for key in table.foreign if column.name in key.columns]
        if keys and not table.late_keys:
            raise _refusal(table, (*top, "column"), f"{_NO_LATE_KEYS} ({', '.join(keys)})", _LATE_KEYS)


_UNIQUE = "Leave `unique` out, and create a unique index over the column and the partition key."
_NO_LATE_KEYS = "can have a foreign key added without a scan under lock from PostgreSQL 18 on only"
_LATE_KEYS = "Leave the foreign key out, or drop it first and add it after contract."


def _given(operation: ColumnOperation) -> Iterator[tuple[KeyPath, Constrained | AlterColumn]]:
    match operation:
        case AddColumn():
            yield ("column",), operation.column
        case ReplaceColumns():
            for number, column in enumerate(operation.columns):
                yield ("columns", number), column
        case AlterColumn():
            yield (), operation


def _refusal(table: TableFacts, path: KeyPath, why: str, hint: str) -> NotSupported:
    return NotSupported(f"{table.schema_name}.{table.table} is partitioned, and {why}", place=place(path), hint=hint)


def index_name(plan: str, index: CarriedIndex, partition: str) -> str:
    """Name an index on a partition until contract."""
    return working_name(plan, f"{partition}.{index.name}")


def declare(relation: sql.Identifier, name: str, index: CarriedIndex) -> Statement:
    """Declare an index on a partitioned table alone; it stays invalid until all partitions have theirs."""
    label = relation.as_string(None)
    query = block("declare", "build_unique_only" if index.unique else "build_only").format(
        index=sql.Identifier(name), relation=relation, definition=trusted(index.definition)
    )
    taking = block("locks", "share_only").format(relation=relation)
    return Statement(query, f"declare {index.name} of {label}", Lock.SHARE_ROW_EXCLUSIVE, label, taking=taking)


def attach(relation: sql.Identifier, parent: sql.Identifier, name: sql.Identifier) -> Statement:
    """Attach a partition's index to that of its parent: to do so locks the index, and once it is done it does nothing."""
    query = block("declare", "attach_index").format(parent=parent, index=name)
    return Statement(query, "attach an index", Lock.ACCESS_EXCLUSIVE, relation.as_string(None), taking=query)


def drop(table: TableDesign, index: CarriedIndex) -> Statement:
    """Drop an index with those of all partitions."""
    name = sql.Identifier(table.schema_name, index.working)
    return on_table(table, "declare", "drop_whole_index", f"drop {index.working}", Lock.ACCESS_EXCLUSIVE, index=name)
