"""Swap: at cutover the shadow takes the anchor's name, so that clients who name the table meet the new shape; and back (ADR 34).

One transaction under the lock budget: names of tables and constraints change places, the shadow gets what clients meet at a table
(defaults, grants, owner), and every function of the sync is replaced by one that knows the names as they are now. What hangs on the
anchor by its OID stays with it: foreign keys, the user's triggers, sequences, views. So both are in step as before, anchor first.
Both tables are locked, and clients lock them in either order: those of one version by its view, which is locked ahead of them here.
Limits: a role that row level security does not bind writes the shadow past its policies; COPY FROM is refused to all others.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgduet.operations import shadow_reverse, shadow_rows, shadow_sync
from pgduet.operations.names import fit, trigger_name
from pgduet.operations.shadow import partition_name
from pgduet.operations.shadow_conflicts import Uniqueness
from pgduet.operations.shadow_design import ShadowDesign, ShadowKey, Swapped
from pgduet.operations.shadow_keys import quoted, trigger
from pgduet.operations.shadow_sync import Form
from pgduet.operations.statement import Lock, Role, Statement, locking, role, trusted
from pgduet.operations.views import Relation
from pgduet.sql import block

_COLUMN_RIGHTS = ("SELECT", "INSERT", "UPDATE", "REFERENCES")


def swapped(design: ShadowDesign, key: str) -> ShadowDesign:
    """Give the design after the swap; `key` is the name of the anchor's primary key."""
    return design.model_copy(update={"swapped": Swapped(key=key)})


def unswapped(design: ShadowDesign) -> ShadowDesign:
    """Give the design after the way back."""
    return design.model_copy(update={"swapped": None})


def swap(
    design: ShadowDesign,
    plan: str,
    migration_id: int,
    relation: Relation,
    key: str,
    *,
    views: Sequence[sql.Identifier],
    timeout_ms: int,
    unique: Uniqueness | None = None,
) -> list[Statement]:
    """Give the shadow the anchor's name.

    `relation` is the anchor as it is, `key` what its primary key is called; `views` show the shadow: the new version's and later
    ones'. `unique` is what the shadow has of unique indexes.
    """
    after = swapped(design, key)
    return [
        *locks(design, views),
        *(_rename_constraint(design.relation, old, new) for old, new in _aside(design, key)),
        _rename(design.relation, design.set_aside),
        _rename(design.shadow, design.table),
        _rename_constraint(after.shadow, _own_key(design), key),
        *(as_constraint(after, after.shadow, each) for each in design.unique),
        *_described(after, relation),
        *_emptied(after, plan, timeout_ms),
        *functions(after, plan, migration_id, Form.ENFORCE, unique),
    ]


def locks(design: ShadowDesign, views: Sequence[sql.Identifier]) -> list[Statement]:
    """Lock what a swap locks: ahead of the tables the views, whose clients lock the shadow first; others lock the anchor first."""
    return [
        *map(_lock_view, views),
        locking(design.relation, Lock.ACCESS_EXCLUSIVE),
        locking(design.shadow, Lock.ACCESS_EXCLUSIVE),
    ]


def swap_back(
    design: ShadowDesign,
    plan: str,
    migration_id: int,
    *,
    views: Sequence[sql.Identifier],
    unique: Uniqueness | None = None,
) -> list[Statement]:
    """Give the anchor its name again; `views` show the anchor: those of older versions.

    Owner and grants stay with the shadow, and harm nobody there.
    """
    if design.swapped is None:
        return []
    before, key = unswapped(design), design.swapped.key
    return [
        # Their clients lock the anchor first; all others, those by the name included, the shadow.
        *map(_lock_view, views),
        locking(design.shadow, Lock.ACCESS_EXCLUSIVE),
        locking(design.relation, Lock.ACCESS_EXCLUSIVE),
        *_drop_emptied(design, plan),
        *(_drop_default(design, name) for name, _ in _defaults(design)),
        _rename_constraint(design.shadow, key, _own_key(design)),
        *(_release(design, each) for each in design.unique),
        _rename(design.shadow, design.physical),
        _rename(design.relation, design.table),
        *(_rename_constraint(before.relation, new, old) for old, new in _aside(design, key)),
        *functions(before, plan, migration_id, Form.BOTH, unique),
    ]


def functions(
    design: ShadowDesign, plan: str, migration_id: int, form: Form, unique: Uniqueness | None
) -> list[Statement]:
    """Replace all functions of the sync: each knows the tables by their names."""
    return [
        *shadow_sync.functions(design, plan, migration_id, form),
        shadow_reverse.reverse_function(design, plan, unique),
        *shadow_reverse.lock_functions(design),
        shadow_rows.drain_function(design, migration_id),
    ]


def drop_guard(design: ShadowDesign, plan: str) -> list[Statement]:
    """Drop what a swapped shadow has beyond others, and its successor has not."""
    if design.swapped is None:
        return []
    return [*_drop_emptied(design, plan), *(_drop_default(design, name) for name, _ in _number(design))]


def _lock_view(view: sql.Identifier) -> Statement:
    label = view.as_string(None)
    query = block("shadow_swap", "lock_view").format(view=view)
    return Statement(query, f"lock {label}", Lock.ACCESS_EXCLUSIVE, label, taking=query)


def _aside(design: ShadowDesign, key: str) -> Iterator[tuple[str, str]]:
    yield key, fit(f"{design.set_aside}_pkey")
    for each in design.unique:
        yield each.name, fit(f"{each.working}_old")


def _own_key(design: ShadowDesign) -> str:
    return fit(f"{design.physical}_pkey")


def _rename(relation: sql.Identifier, name: str) -> Statement:
    query = block("shadow_final", "rename").format(relation=relation, name=sql.Identifier(name))
    return Statement(query, f"{relation.as_string(None)} becomes {name}")


def _rename_constraint(relation: sql.Identifier, name: str, becomes: str) -> Statement:
    query = block("shadow_final", "rename_constraint").format(
        relation=relation, constraint=sql.Identifier(name), name=sql.Identifier(becomes)
    )
    return Statement(query, f"{name} becomes {becomes}")


def as_constraint(design: ShadowDesign, relation: sql.Identifier, each: ShadowKey) -> Statement:
    """Let the unique index be the constraint that clients name in ON CONFLICT; PostgreSQL cannot do so on a partitioned table."""
    name, index = sql.Identifier(each.name), sql.Identifier(each.working)
    if design.partition_by:
        index = sql.Identifier(design.schema_name, each.working)
        return Statement(block("shadow_final", "rename_index").format(index=index, name=name), f"index {each.name}")
    query = block("shadow_final", "unique_using").format(relation=relation, name=name, index=index)
    return Statement(query, f"constraint {each.name}")


def _release(design: ShadowDesign, each: ShadowKey) -> Statement:
    if design.partition_by:
        index, name = sql.Identifier(design.schema_name, each.name), sql.Identifier(each.working)
        return Statement(block("shadow_final", "rename_index").format(index=index, name=name), f"index {each.working}")
    return _rename_constraint(design.shadow, each.name, each.working)


def _defaults(design: ShadowDesign) -> list[tuple[str, sql.Composable]]:
    """Give the defaults that the table needs under its name: its own, and its number where that chooses the partition.

    Elsewhere the trigger numbers the rows.
    """
    keys = set(design.key_names)
    made: list[tuple[str, sql.Composable]] = [
        (column.name, trusted(column.default))
        for column in design.columns
        if column.default is not None and column.name not in keys
    ]
    return [*made, *_number(design)]


def _number(design: ShadowDesign) -> list[tuple[str, sql.Composable]]:
    if not design.numbered_ahead:
        return []
    return [(design.numbered_column, sql.SQL("{}()").format(design.routine("number")))]


def _default(design: ShadowDesign, column: str, value: sql.Composable) -> Statement:
    parts = {"relation": design.shadow, "column": sql.Identifier(column), "value": value}
    return Statement(block("shadow_final", "set_default").format(**parts), f"default of {column}")


def _drop_default(design: ShadowDesign, column: str) -> Statement:
    parts = {"relation": design.shadow, "column": sql.Identifier(column)}
    return Statement(block("shadow_swap", "drop_default").format(**parts), f"no default of {column}")


def granted(design: ShadowDesign, on: sql.Identifier, relation: Relation) -> list[Statement]:
    """Give the shadow the anchor's grants, by the name that it has now; those on columns where it has them."""
    made = []
    for grantee, rights in sorted(relation.grants.items()):
        if rights:
            listed = sql.SQL(", ").join(trusted(right) for right in rights)
            query = block("tables", "grant").format(rights=listed, relation=on, role=role(grantee))
            made.append(Statement(query, "its grants"))
    names = {column.same: column.name for column in design.columns if column.same is not None}
    for column, grantee, right in relation.column_grants:
        if column in names and right in _COLUMN_RIGHTS:
            given = {"right": trusted(right), "column": sql.Identifier(names[column]), "role": role(grantee)}
            query = block("views", "grant_column").format(view=on, **given)
            made.append(Statement(query, "its column grants"))
    return made


def _described(design: ShadowDesign, relation: Relation) -> list[Statement]:
    """Give the shadow what clients meet at a table's name."""
    owner, tables = Role(relation.owner), [partition_name(design, each) for each in design.partitions]
    return [
        *(_default(design, name, value) for name, value in _defaults(design)),
        *granted(design, design.shadow, relation),
        *(
            Statement(block("shadow_final", "owner").format(relation=each, role=owner), "its owner")
            for each in (*tables, design.shadow)
        ),
    ]


def _emptied(design: ShadowDesign, plan: str, timeout_ms: int) -> list[Statement]:
    body = block("shadow_swap", "emptied").format(relation=design.relation, label=sql.Literal(design.shadow_label))
    function = block("shadow_swap", "emptied_function").format(
        function=design.routine("shadow_emptied"), body=quoted(body), timeout=sql.Literal(f"{timeout_ms}ms")
    )
    name = trigger_name(plan, "shadow_emptied")
    made = trigger(design, design.shadow, name, "shadow_emptied", "BEFORE TRUNCATE", "STATEMENT")
    return [Statement(function, f"shadow_emptied of {design.label}"), *made]


def _drop_emptied(design: ShadowDesign, plan: str) -> list[Statement]:
    name = sql.Identifier(trigger_name(plan, "shadow_emptied"))
    function = sql.SQL("{}()").format(design.routine("shadow_emptied"))
    label = design.shadow_label
    return [
        Statement(
            block("sync", "drop_trigger").format(trigger=name, relation=design.shadow),
            f"drop the trigger on {label}",
            Lock.ACCESS_EXCLUSIVE,
            label,
        ),
        Statement(block("shadow", "drop_function").format(function=function), "drop what emptied the old table"),
    ]
