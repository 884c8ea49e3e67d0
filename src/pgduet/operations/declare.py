"""Constraints and indexes of the new version: built without blocking, declared at cutover, named at contract.

Indexes are built CONCURRENTLY: in expand those that need no column in the making, before publication those that do, so that new
clients find them, before cutover unique ones.
Checks and foreign keys are added NOT VALID, then validated. All are made under working names, by which an earlier try is known as
ours; what the plan creates gets its own name when all is declared, the rest at contract. An exclusion constraint has no such way:
it is built whole, under the lock, within a time limit.
"""

from collections.abc import Mapping, Sequence

from psycopg import sql

from pgduet.operations.constraints import CarriedIndex, Check, DroppedIndex, Exclusion, ForeignKey
from pgduet.operations.design import TableDesign
from pgduet.operations.names import fit
from pgduet.operations.statement import Lock, Statement, Table, lock_table, locking, on_table, trusted
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
    """Give the other indexes that bind nobody; a key's successor follows the key, so it binds nobody anew."""
    return tuple(index for index in table.indexes if index.key or not (index.unique or index.first))


def late(table: TableDesign) -> tuple[CarriedIndex, ...]:
    """Give the unique indexes, which bind everybody."""
    return tuple(index for index in table.indexes if index.unique and not index.key)


def checks(table: Table, wanted: Sequence[Check]) -> list[Statement]:
    """Add checks, not validated: they bind from here, and scan nothing."""
    return [statement for check in wanted for statement in _again(table, check.working, check.definition())]


def foreign_key(table: Table, key: ForeignKey) -> list[Statement]:
    """Add a foreign key that is not there, not validated."""
    lock = Lock.SHARE_ROW_EXCLUSIVE
    parts = {"constraint": sql.Identifier(key.working), "definition": key.definition()}
    return [
        locking(key.target_relation, lock),
        on_table(table, "declare", "add", f"add {key.working}", lock, **parts),
    ]


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


def exclusion(table: TableDesign, wanted: Exclusion, limit_ms: int) -> list[Statement]:
    """Build an exclusion constraint under the lock, unless it takes longer than the limit."""
    constraint = sql.Identifier(wanted.working)
    lock = Lock.ACCESS_EXCLUSIVE
    drop = on_table(table, "columns", "drop_constraint", "clear an earlier try", lock, constraint=constraint)
    definition = trusted(wanted.definition)
    add = _on(table, "add_whole", f"build {wanted.name}", constraint=constraint, definition=definition)
    return [drop, _at_most(limit_ms), add, _at_most(0)]


def unique(table: TableDesign, index: CarriedIndex) -> Statement:
    """Put a UNIQUE constraint, or a primary key, upon its index."""
    timing = "INITIALLY DEFERRED" if index.deferred else "DEFERRABLE" if index.deferrable else ""
    constraint = sql.Identifier(index.working)
    using = "primary_using" if index.primary else "unique_using"
    return _on(table, using, f"{index.name} is unique", constraint=constraint, timing=trusted(timing))


def release(table: Table, names: Sequence[str]) -> list[Statement]:
    """Drop constraints by name."""
    return [
        on_table(
            table, "columns", "drop_constraint", f"no {name}", Lock.ACCESS_EXCLUSIVE, constraint=sql.Identifier(name)
        )
        for name in names
    ]


def release_keys(keys: Sequence[ForeignKey]) -> list[Statement]:
    """Lock what foreign keys point to, as PostgreSQL will when they are dropped."""
    return [locking(key.target_relation, Lock.ACCESS_EXCLUSIVE) for key in keys]


def constraints(table: TableDesign) -> list[Check | ForeignKey | Exclusion | CarriedIndex]:
    """Give all that binds everybody from cutover on."""
    on_indexes = [index for index in table.indexes if index.constraint]
    return [*table.checks, *table.foreign_keys, *table.exclusions, *on_indexes]


def bound(table: TableDesign, *, named: bool) -> list[str]:
    """Name the constraints that bind everybody from cutover on; `named` tells that what can have its own name has it."""
    return [each.name if named and each.at_once else each.working for each in constraints(table)]


def own_names(table: TableDesign) -> list[Statement]:
    """Give what the plan creates its own name."""
    return [proper_name(table, each.working, each.name) for each in constraints(table) if each.at_once]


def proper_name(table: Table, working: str, name: str) -> Statement:
    """Give a constraint its own name."""
    parts = {"constraint": sql.Identifier(working), "name": sql.Identifier(name)}
    lock = Lock.ACCESS_EXCLUSIVE
    return on_table(table, "columns", "rename_constraint", f"{name} gets its name", lock, **parts)


def proper_names(table: TableDesign) -> list[Statement]:
    """Give constraints and indexes their own names, once the old ones have gone with their columns."""
    made = [proper_name(table, each.working, each.name) for each in constraints(table) if not each.at_once]
    bare = [index for index in table.indexes if not index.constraint and index.working != index.name]
    return [*made, *(rename_index(table, table.schema_name, index.working, index.name) for index in bare)]


def rename_index(table: Table, schema: str, working: str, name: str) -> Statement:
    """Give an index of a table, or of a partition of it, its own name."""
    query = block("declare", "rename_index").format(index=sql.Identifier(schema, working), name=sql.Identifier(name))
    return Statement(query, f"{name} gets its name", Lock.ACCESS_EXCLUSIVE, table.label)


def changed(table: TableDesign, there: Mapping[str, str | None]) -> list[Statement]:
    """Drop and rename the constraints that the plan says, as far as they are `there`: whoever was first has done it.

    What a dropped foreign key points to, by which `there` maps it, is locked as PostgreSQL will lock it.
    """
    pointed = [there.get(name) for name in table.dropped_constraints]
    lock = Lock.ACCESS_EXCLUSIVE
    targets = [Statement(lock_table(trusted(to), lock), f"lock {to}", lock, to) for to in pointed if to]
    moving = [(name, to) for name, to in table.renamed_constraints if name in there]
    names = {name for name, _ in moving}
    # Two may change names, or one take another's: then by way of a third, when the other has gone.
    aside = {name: fit(f"_pgduet_{to}") for name, to in moving if to in names}
    moving.sort(key=lambda each: each[0] in aside)
    return [
        *targets,
        *release(table, table.dropped_constraints),
        *(proper_name(table, name, between) for name, between in aside.items()),
        *(proper_name(table, aside.get(name, name), to) for name, to in moving),
    ]


def _at_most(limit_ms: int) -> Statement:
    query = block("declare", "at_most").format(limit=sql.Literal(f"{limit_ms}ms"))
    return Statement(query, f"at most {limit_ms} ms" if limit_ms else "no limit of its own")


def _again(table: Table, name: str, definition: sql.Composable) -> list[Statement]:
    """Add a constraint so that twice in a row works: it has no IF NOT EXISTS."""
    constraint, lock = sql.Identifier(name), Lock.ACCESS_EXCLUSIVE
    return [
        on_table(table, "columns", "drop_constraint", "clear an earlier try", lock, constraint=constraint),
        on_table(table, "declare", "add", f"add {name}", lock, constraint=constraint, definition=definition),
    ]


def _on(table: TableDesign, template: str, summary: str, **parts: sql.Composable) -> Statement:
    return on_table(table, "declare", template, summary, Lock.ACCESS_EXCLUSIVE, **parts)
