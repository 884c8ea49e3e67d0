"""Constraints and indexes of the new version: built without blocking, declared at cutover, named at contract.

Indexes are built CONCURRENTLY: in expand those that need no column in the making, before publication those that do, so that new
clients find them, before cutover unique ones.
Checks and foreign keys are added NOT VALID, then validated. All bear working names until contract.
"""

from collections.abc import Sequence

from psycopg import sql

from pgduet.operations.constraints import CarriedIndex, Check, DroppedIndex, ForeignKey
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Lock, Statement, Table, on_table, trusted
from pgduet.sql import block


def build(table: TableDesign, index: CarriedIndex) -> Statement:
    """Build an index; outside a transaction, and without a lock timeout, which would leave it INVALID."""
    query = block("declare", "build_unique" if index.unique else "build").format(
        index=sql.Identifier(index.working), relation=table.relation, definition=trusted(index.definition)
    )
    return Statement(query, f"build {index.name} of {table.label}", Lock.SHARE_UPDATE_EXCLUSIVE, table.label)


def drop_index(table: TableDesign, index: CarriedIndex) -> Statement:
    """Drop what a build that was cut short left behind."""
    name = sql.Identifier(table.schema_name, index.working)
    query = block("declare", "drop_index").format(index=name)
    return Statement(query, f"drop {index.working}", Lock.SHARE_UPDATE_EXCLUSIVE, table.label)


def drop_old_index(index: DroppedIndex) -> Statement:
    """Drop an index that the new version does without."""
    query = block("declare", "drop_index").format(index=sql.Identifier(index.schema_name, index.name))
    return Statement(query, f"drop {index.label}", Lock.SHARE_UPDATE_EXCLUSIVE, index.table)


def first(table: TableDesign) -> tuple[CarriedIndex, ...]:
    """Give the indexes that are built in expand."""
    return tuple(index for index in table.indexes if index.first)


def early(table: TableDesign) -> tuple[CarriedIndex, ...]:
    """Give the other indexes that bind nobody."""
    return tuple(index for index in table.indexes if not (index.unique or index.first))


def late(table: TableDesign) -> tuple[CarriedIndex, ...]:
    """Give the unique indexes, which bind everybody."""
    return tuple(index for index in table.indexes if index.unique)


def checks(table: Table, wanted: Sequence[Check]) -> list[Statement]:
    """Add checks, not validated: they bind from here, and scan nothing."""
    return [
        statement
        for check in wanted
        for statement in _again(table, check.working, check.definition(), Lock.ACCESS_EXCLUSIVE)
    ]


def foreign_key(table: Table, key: ForeignKey) -> list[Statement]:
    """Add a foreign key, not validated."""
    target = key.target_relation.as_string(None)
    lock = Statement(
        block("locks", "share_row_exclusive").format(relation=key.target_relation),
        f"lock {target}",
        Lock.SHARE_ROW_EXCLUSIVE,
        target,
    )
    return [lock, *_again(table, key.working, key.definition(), Lock.SHARE_ROW_EXCLUSIVE)]


def validate(table: Table, name: str) -> Statement:
    """Validate a constraint: reads the whole table, lets everybody read and write meanwhile."""
    return on_table(
        table,
        "columns",
        "validate",
        f"validate {name}",
        Lock.SHARE_UPDATE_EXCLUSIVE,
        constraint=sql.Identifier(name),
    )


def unique(table: TableDesign, index: CarriedIndex) -> Statement:
    """Put a UNIQUE constraint upon its index."""
    timing = "INITIALLY DEFERRED" if index.deferred else "DEFERRABLE" if index.deferrable else ""
    constraint = sql.Identifier(index.working)
    return _on(table, "unique_using", f"{index.name} is unique", constraint=constraint, timing=trusted(timing))


def release(table: Table, names: Sequence[str]) -> list[Statement]:
    """Drop constraints by their working names."""
    return [
        on_table(
            table, "columns", "drop_constraint", f"no {name}", Lock.ACCESS_EXCLUSIVE, constraint=sql.Identifier(name)
        )
        for name in names
    ]


def bound(table: TableDesign) -> list[str]:
    """Name the constraints that bind everybody from cutover on, by their working names."""
    named = [check.working for check in table.checks] + [key.working for key in table.foreign_keys]
    return named + [index.working for index in late(table) if index.constraint]


def proper_name(table: Table, working: str, name: str) -> Statement:
    """Give a constraint its own name."""
    parts = {"constraint": sql.Identifier(working), "name": sql.Identifier(name)}
    lock = Lock.ACCESS_EXCLUSIVE
    return on_table(table, "columns", "rename_constraint", f"{name} gets its name", lock, **parts)


def proper_names(table: TableDesign) -> list[Statement]:
    """Give constraints and indexes their own names, once the old ones have gone with their columns."""
    pairs = [(check.working, check.name) for check in table.checks]
    pairs += [(key.working, key.name) for key in table.foreign_keys]
    pairs += [(index.working, index.name) for index in table.indexes if index.constraint]
    made = [proper_name(table, working, name) for working, name in pairs]
    for index in table.indexes:
        if not index.constraint and index.working != index.name:
            query = block("declare", "rename_index").format(
                index=sql.Identifier(table.schema_name, index.working), name=sql.Identifier(index.name)
            )
            made.append(Statement(query, f"{index.name} gets its name", Lock.ACCESS_EXCLUSIVE, table.label))
    return made


def _again(table: Table, name: str, definition: sql.Composable, lock: Lock) -> list[Statement]:
    """Add a constraint so that twice in a row works: it has no IF NOT EXISTS."""
    constraint = sql.Identifier(name)
    return [
        on_table(table, "columns", "drop_constraint", "clear an earlier try", lock, constraint=constraint),
        on_table(table, "declare", "add", f"add {name}", lock, constraint=constraint, definition=definition),
    ]


def _on(table: TableDesign, template: str, summary: str, **parts: sql.Composable) -> Statement:
    return on_table(table, "declare", template, summary, Lock.ACCESS_EXCLUSIVE, **parts)
