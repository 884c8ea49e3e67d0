"""What a trigger of the user's writes beside the row that fired it, while a new client's statement is under way (ADR 28).

A new client's statement writes the anchor row by row, so the user's AFTER triggers fire after each row; by an old client's they
fire after all of them. Were the shadow written along with what such a trigger (or a foreign key of the table to itself) writes to
another row, PostgreSQL would refuse the statement as soon as it came to that row (27000). So those rows are left alone in the
shadow until the statement is at its end: a deferred constraint trigger keeps them, and a trigger on the shadow has it fire. Where
the statement comes to one of them before that, it finds the anchor's values in the place of the shadow's.
Limits: what both change, in one column of one row, is refused as before, since one of the two would be lost, also where they come
to the same: each may have added one (not so for a boolean, and where both empty it). A row that is gone by then, or has another
key, is refused, too. One that is inserted meets what was postponed at once.
"""

import zlib
from collections.abc import Iterator

from psycopg import sql

from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_keys import (
    NEW,
    NOTHING,
    OLD,
    D,
    anchor_changed,
    any_of,
    function,
    lines,
    quoted,
    shadow_changed,
    trigger,
    where,
)
from pgduet.operations.statement import Lock, Query, Statement, trusted
from pgduet.sql import block

EVENTS = ("UPDATE", "DELETE")
_HINT = "Write these rows one statement each, or by the version before, until contract."


def anchor_triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create what keeps the rows until then; nothing is kept unless a new client's statement is under way."""
    return [each for event in EVENTS for each in _anchor_trigger(design, plan, event)] if design.postpones else []


def _anchor_trigger(design: ShadowDesign, plan: str, event: str) -> Iterator[Statement]:
    name, label = sql.Identifier(anchor_trigger_name(plan, event)), design.relation_label
    body = block("shadow", "postponed_trigger").format(
        trigger=name,
        event=trusted(event),
        relation=design.relation,
        mark=_mark(design),
        function=design.routine("shadow_forward"),
    )
    made = sql.SQL("DO {}").format(quoted(body))
    always = block("sync", "enable_trigger").format(trigger=name, relation=design.relation)
    yield Statement(made, f"postponing trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label)
    yield Statement(always, f"postponing trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label)


def anchor_trigger_name(plan: str, event: str) -> str:
    """Name the anchor's trigger for an event."""
    return "!" + trigger_name(plan, f"shadow_late_{event.lower()}")[1:]


def settling(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create what lets the kept rows reach the shadow at the end of a statement on it."""
    if not design.postpones:
        return []
    names = [sql.Identifier(design.schema_name, anchor_trigger_name(plan, event)) for event in EVENTS]
    body = block("shadow", "settle_body").format(constraints=sql.SQL(", ").join(names))
    settle = block("shadow", "settle_function").format(function=design.routine("settle"), body=quoted(body))
    at_end = block("shadow", "at_end").format(**_parts(design))
    when = "AFTER INSERT OR UPDATE OR DELETE"
    condition = sql.SQL(" {}").format(block("shadow", "when_postponed").format(mark=_mark(design)))
    return [
        Statement(settle, f"settle of {design.label}"),
        function(design, "shadow_settle", at_end),
        *trigger(design, design.shadow, shadow_trigger_name(plan), "shadow_settle", when, "STATEMENT", condition),
    ]


def shadow_trigger_name(plan: str) -> str:
    """Name the trigger on the shadow."""
    return trigger_name(plan, "shadow_settle")


def postpone(design: ShadowDesign) -> Query:
    """Render how the trigger on the anchor leaves a row for later."""
    if not design.postpones:
        return NOTHING
    changed = any_of(anchor_changed(design, column.anchor, OLD, NEW) for column in design.key)
    return block("shadow", "postpone").format(**_parts(design), key_changed=changed)


def within(design: ShadowDesign) -> Query:
    """Render that a row of a new client's statement was written, and that what it fires comes now."""
    return block("shadow", "within").format(**_parts(design)) if design.postpones else NOTHING


def in_order(design: ShadowDesign) -> Query:
    """Render that what was left for later comes ahead of a change that is not."""
    return block("shadow", "in_order").format(**_parts(design)) if design.postpones else NOTHING


def leaving(design: ShadowDesign) -> Query:
    """Render that all of that has come."""
    return block("shadow", "leaving") if design.postpones else NOTHING


def settled(design: ShadowDesign) -> Query:
    """Render that a row which is inserted meets no row that is left for later."""
    return block("shadow", "settled").format(**_parts(design)) if design.postpones else NOTHING


def gone(design: ShadowDesign) -> Query:
    """Render what there is to say where the anchor's row is no longer there."""
    return block("shadow", "gone").format(**_parts(design), refused=_refused(design)) if design.postpones else NOTHING


def met(design: ShadowDesign) -> Query:
    """Render how a statement comes to a row that was left for later: `d` is the anchor's."""
    if not design.postpones:
        return NOTHING
    apart, keys = {column.name for column in design.apart}, set(design.key_names)
    columns = [column for column in design.mapped if column.name not in apart | keys]
    unfit = [sql.SQL("NOT coalesce({}, false)").format(design.exists.over(D))] if design.exists else []
    if design.guarded:
        unfit.append(sql.SQL("{}(d) IS NOT NULL").format(design.routine("shadow_fits")))
    return block("shadow", "met").format(
        **_parts(design),
        unfit=any_of(unfit),
        refused=_refused(design),
        columns=lines(_met(design, column) for column in columns),
    )


def _met(design: ShadowDesign, column: ShadowColumn) -> Query:
    value = column.up_value(D)
    alike = sql.SQL("{} IS NULL AND {} IS NULL").format(column.of(NEW), value)
    if column.type == "boolean":
        alike = sql.SQL("{} IS NOT DISTINCT FROM {}").format(column.of(NEW), value)
    refused = sql.SQL("{} AND NOT ({})").format(shadow_changed(design, column.name, OLD, NEW), alike)
    moves = (
        column.name in design.partition_key
    )  # by its change PostgreSQL would move the row, and nobody had asked for it
    return block("shadow", "met_column").format(
        stale=_stale(design, column, value),
        collides=sql.SQL("true") if moves else refused,
        refused=_refused(design),
        old=column.of(OLD),
        new=column.of(NEW),
        value=value,
    )


def _stale(design: ShadowDesign, column: ShadowColumn, value: Query) -> Query:
    """Render that the anchor has another value than the shadow; one that it only cannot hold does not count."""
    stale = column.differs(column.of(OLD), value)
    if design.unmappable != "archive" or column not in design.lossy:
        return stale
    anchors = [each for each in design.downs if column.name in each.sources]
    apart = any_of(each.differs(each.of(D), each.down_value(OLD)) for each in anchors)
    return sql.SQL("{} AND {}").format(stale, apart)


def _refused(design: ShadowDesign) -> Query:
    message = f"a row of {design.shown_as} was already changed by a trigger that this statement has fired"
    parts = {"message": sql.Literal(message), "hint": sql.Literal(_HINT), **where(design)}
    return block("shadow", "met_twice").format(**parts)


def _mark(design: ShadowDesign) -> sql.Literal:
    """Give what stands for the shadow whatever the two tables are called: short, since it is read for each statement."""
    return sql.Literal(f"{zlib.crc32(f'{design.schema_name}.{design.physical}'.encode()):x}")


def _parts(design: ShadowDesign) -> dict[str, sql.Composable]:
    return {"mark": _mark(design), "settle": design.routine("settle")}
