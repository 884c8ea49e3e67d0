"""A partitioned anchor: rows that move, and single partitions, of which TRUNCATE is seen by a trigger of their own (ADR 28, 35).

While rows are copied the keys of a truncated partition go into the journal; once the shadow is published its rows go with the
statement. A partition that came has its keys journalled, and where one has gone, those of the shadow's rows that the anchor has no
longer: the drain reads each anew, and carries it over or deletes it.
Limits: between an ATTACH or DETACH and the look that finds it, the new version does not know of it. A client at REPEATABLE READ
that truncates a partition leaves the rows that it does not see to the next look, and writes that down.
"""

from collections.abc import Iterable

from psycopg import sql

from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import (
    NEW,
    NOTHING,
    OLD,
    O,
    S,
    anchor_changed,
    anchor_key,
    any_of,
    assigned,
    listed,
    quoted,
    same,
    shadow_key,
    to_shadow,
    token,
)
from pgduet.operations.shadow_rows import page_range
from pgduet.operations.shadow_sync import Form, trigger_names
from pgduet.operations.statement import Lock, Query, Statement, identifiers
from pgduet.sql import block

KIND, MOVING = "shadow_leaf", "shadow_moving"


def functions(design: ShadowDesign, form: Form) -> list[Statement]:
    """Create or replace the functions of these triggers in a form; takes no lock on any table."""
    published = form in {Form.BOTH, Form.ENFORCE}
    moving = _moving(design) if published else block("shadow_leaves", "unmoved")
    return [_function(design, KIND, _truncated(design, published=published)), _function(design, MOVING, moving)]


def _function(design: ShadowDesign, kind: str, body: sql.Composable) -> Statement:
    query = block("shadow_leaves", "function").format(function=design.routine(kind), body=quoted(body))
    return Statement(query, f"{kind} of {design.label}")


def _moving(design: ShadowDesign) -> Query:
    return block("shadow_leaves", "moving").format(
        shadow=design.shadow,
        label=sql.Literal(design.shadow_label),
        key_changed=any_of(anchor_changed(design, column.anchor, OLD, NEW) for column in design.key),
        old_token=token(design, to_shadow(design, OLD)),
        new_token=token(design, to_shadow(design, NEW)),
        rekey=assigned(zip(design.key_names, to_shadow(design, NEW), strict=True)),
        s_is_old=same(shadow_key(design, S), to_shadow(design, OLD)),
        s_is_new=same(shadow_key(design, S), to_shadow(design, NEW)),
    )


def _truncated(design: ShadowDesign, *, published: bool) -> Query:
    if not published:
        keys = listed(anchor_key(design, O))
        insert = block("shadow_leaves", "note_insert").format(journal=design.journal, keys=keys)
        return block("shadow_leaves", "note").format(insert=quoted(insert))
    o_is_s = same(to_shadow(design, O), shadow_key(design, S))
    return block("shadow_leaves", "published").format(
        label=sql.Literal(design.shadow_label),
        delete=quoted(block("shadow_leaves", "published_delete").format(shadow=design.shadow)),
        where=quoted(sql.SQL(" ") + block("shadow_leaves", "published_where").format(o_is_s=o_is_s)),
    )


def moving_trigger(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create the whole table's trigger that sends rows along; behind the user's, to see the key that they make of it."""
    name, label = sql.Identifier(trigger_name(plan, MOVING)), design.relation_label
    columns = identifiers(column.anchor for column in design.key)
    query = block("shadow_leaves", "moving_trigger").format(
        trigger=name, columns=columns, relation=design.relation, function=design.routine(MOVING)
    )
    always = block("sync", "enable_trigger").format(trigger=name, relation=design.relation)
    return [
        Statement(query, f"trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label),
        Statement(always, f"trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label),
    ]


def drop_moving_trigger(design: ShadowDesign, plan: str) -> Statement:
    """Drop it."""
    name = sql.Identifier(trigger_name(plan, MOVING))
    query = block("sync", "drop_trigger").format(trigger=name, relation=design.relation)
    label = design.relation_label
    return Statement(query, f"drop the trigger on {label}", Lock.ACCESS_EXCLUSIVE, label)


def trigger(design: ShadowDesign, plan: str, leaf: sql.Identifier) -> list[Statement]:
    """Create a partition's trigger."""
    name, label = sql.Identifier(name_of(plan)), leaf.as_string(None)
    query = block("shadow_leaves", "trigger").format(trigger=name, relation=leaf, function=design.routine(KIND))
    always = block("sync", "enable_trigger").format(trigger=name, relation=leaf)
    return [
        Statement(query, f"trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label),
        Statement(always, f"trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label),
    ]


def drop_trigger(plan: str, leaf: sql.Identifier) -> Statement:
    """Drop a partition's trigger, or that of a table that was one."""
    label = leaf.as_string(None)
    query = block("sync", "drop_trigger").format(trigger=sql.Identifier(name_of(plan)), relation=leaf)
    return Statement(query, f"drop the trigger on {label}", Lock.ACCESS_EXCLUSIVE, label)


def drop_functions(design: ShadowDesign) -> list[Statement]:
    """Drop the functions, once no trigger calls them."""
    names = [sql.SQL("{}()").format(design.routine(kind)) for kind in (KIND, MOVING)]
    query = block("shadow", "drop_function")
    return [Statement(query.format(function=name), "drop a function of the shadow") for name in names]


def as_known(design: ShadowDesign, plan: str, known: Iterable[str]) -> Statement:
    """Raise 55000 where the partitions are others than those of these ids; to be run while the anchor is locked."""
    body = block("shadow_leaves", "as_known_body").format(
        row=sql.Literal(row_trigger(plan)),
        relation=sql.Literal(design.relation_label),
        known=sql.Literal(sorted(known)),
    )
    return Statement(block("shadow_leaves", "as_known").format(body=quoted(body)), "its partitions are those we know")


def journal_came(design: ShadowDesign, heap: sql.Identifier, first: int, last: int) -> Query:
    """Put into the journal the keys of the rows of a partition that the shadow has not, or otherwise, on some pages of it."""
    apart = {column.name for column in design.apart}
    compared = [column for column in design.mapped if column.name not in apart]
    differs = any_of(column.differs(column.of(S), column.up_value(O)) for column in compared)
    unfit = sql.SQL("{}(o) IS NOT NULL OR ").format(design.routine("shadow_fits")) if design.guarded else NOTHING
    return block("shadow_leaves", "journal_came").format(
        journal=design.journal,
        keys=listed(anchor_key(design, O)),
        heap=heap,
        pages=page_range(first, last),
        unfit=unfit,
        shadow=design.shadow,
        s_is_o=same(shadow_key(design, S), to_shadow(design, O)),
        equal=sql.SQL(" AND NOT ({})").format(differs),
    )


def name_of(plan: str) -> str:
    """Name a partition's trigger: ahead of the user's, as the whole table's is."""
    return "!" + trigger_name(plan, KIND)[1:]


def row_trigger(plan: str) -> str:
    """Name the trigger that partitions have from the whole table."""
    return trigger_names(plan)[0]
