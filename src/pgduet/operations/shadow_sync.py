"""The triggers on the anchor: old clients' writes reach the shadow (ADR 28).

The row is read again after it was written: what a trigger of the user's made of it meanwhile is newer. `pgduet.row` names the row
that is being written for both sides, so that neither side's trigger answers the other; a trigger of the user's that writes other
rows is heard.

A client at REPEATABLE READ or above does not see what the engine has written since its snapshot (ADR 28). While it may lack rows
that were copied, it only notes what it writes; later where it sees a note of the key, which a drain has carried over since. A row
that was put right since is asked for, by which PostgreSQL tells it of the conflict.

The trigger has four forms (`Form`). A form changes by replacing the function, which locks no table: transactions that are under
way may still write in the form before, and each form bears its neighbours.
"""

from collections.abc import Mapping
from enum import StrEnum

from psycopg import sql

from pgduet.operations import shadow_postponed, shadow_rekeyed
from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_keys import (
    NEW,
    NOTHING,
    OLD,
    TRUE,
    J,
    N,
    O,
    R,
    S,
    anchor_changed,
    anchor_key,
    any_of,
    assigned,
    fields,
    function,
    key_as_json,
    lines,
    listed,
    lock_types,
    quoted,
    same,
    shadow_key,
    to_anchor,
    to_shadow,
    token,
    trigger,
    where,
)
from pgduet.operations.statement import Lock, Query, Statement, identifiers
from pgduet.sql import block

RELEASE = "shadow_release"
KEPT_TYPES = "shadow_types"


class Form(StrEnum):
    """What the trigger on the anchor does."""

    NOTE = "note"
    """Writes down the keys of changed rows, while rows are copied."""
    MIRROR = "mirror"
    """Writes the shadow, or notes the key where the writer's snapshot may be older than the copied row."""
    BOTH = "both"
    """Writes the shadow, which new clients write, too."""
    ENFORCE = "enforce"
    """The same, and refuses what the shadow cannot hold: the new version is in force."""


def functions(design: ShadowDesign, plan: str, migration_id: int, form: Form) -> list[Statement]:
    """Create or replace the functions of the anchor's triggers in a form; takes no lock on any table."""
    published = form in {Form.BOTH, Form.ENFORCE}
    made = [_fits(design)] if design.guarded else []
    if published and design.releases:
        made.append(_release(design))
    made.append(function(design, "shadow_forward", _forward(design, plan, migration_id, form)))
    made.append(function(design, "shadow_truncate", _truncate(design, published=published)))
    return made


def triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Create the anchor's triggers: ahead of the user's AFTER triggers, so that what those write comes later here, too."""
    return [
        *trigger(
            design, design.relation, _name(plan, "row"), "shadow_forward", "AFTER INSERT OR UPDATE OR DELETE", "ROW"
        ),
        *trigger(design, design.relation, _name(plan, "all"), "shadow_truncate", "AFTER TRUNCATE", "STATEMENT"),
        *shadow_postponed.anchor_triggers(design, plan),
        *_kept_types(design),
    ]


def judged(design: ShadowDesign) -> dict[str, str]:
    """Give the types of the anchor's columns by which it was judged that each row of it has one in the shadow, or says so.

    They must be the same when the triggers are installed, and stay so: see `_kept_types`.
    """
    read = set(design.exists.columns) if design.exists else set()
    if not design.guarded:
        read |= {name for column in design.mapped for name in column.sources}
    return {column.name: column.type for column in design.anchors if column.name in read}


def trigger_names(plan: str) -> list[str]:
    """Name the anchor's triggers."""
    late = [shadow_postponed.anchor_trigger_name(plan, event) for event in shadow_postponed.EVENTS]
    return [*(_name(plan, kind) for kind in ("row", "all")), *late]


def drop_triggers(design: ShadowDesign, plan: str) -> list[Statement]:
    """Drop the anchor's triggers."""
    return [
        Statement(
            block("sync", "drop_trigger").format(trigger=sql.Identifier(name), relation=design.relation),
            f"drop the shadow's trigger on {design.label}",
            Lock.ACCESS_EXCLUSIVE,
            design.relation_label,
        )
        for name in trigger_names(plan)
    ]


def drop_functions(design: ShadowDesign) -> list[Statement]:
    """Drop all functions, once nothing calls them."""
    kinds = ["shadow_forward", "shadow_truncate", "shadow_reverse", "shadow_settle", "settle", "number", KEPT_TYPES]
    kinds.append(shadow_rekeyed.FUNCTION)
    names: list[sql.Composable] = [sql.SQL("{}()").format(design.routine(kind)) for kind in kinds]
    names += [
        sql.SQL("{}({})").format(design.routine(kind), lock_types(design)) for kind in ("lock_update", "lock_delete")
    ]
    names.append(sql.SQL("{}({})").format(design.routine("shadow_fits"), design.relation))
    names.append(sql.SQL("{}({}, text[])").format(design.routine(RELEASE), design.relation))
    names.append(sql.SQL("{}({})").format(design.routine("shadow_back"), design.shadow))
    names.append(sql.SQL("{}(integer, tid)").format(design.routine("drain")))
    query = block("shadow", "drop_function")
    return [Statement(query.format(function=name), "drop a function of the shadow") for name in names]


def _kept_types(design: ShadowDesign) -> list[Statement]:
    """Have PostgreSQL refuse another type of a column, and its loss.

    A trigger's `UPDATE OF` would do that as well, but misses what the user's BEFORE triggers write.
    """
    if not (names := list(judged(design))):
        return []
    query = block("shadow", "kept_types").format(
        function=design.routine(KEPT_TYPES),
        relation=design.relation,
        columns=listed([sql.SQL("o.{}").format(sql.Identifier(name)) for name in names]),
    )
    return [Statement(query, f"the types of {design.label} stay")]


def _name(plan: str, kind: str) -> str:
    return "!" + trigger_name(plan, f"shadow_{kind}")[1:]


def _forward(design: ShadowDesign, plan: str, migration_id: int, form: Form) -> Query:
    changed = any_of(anchor_changed(design, name, OLD, NEW) for name in (column.anchor for column in design.key))
    noted = block("journal", "noted").format(
        journal=design.journal,
        old_key=listed(anchor_key(design, OLD)),
        new_key=listed(anchor_key(design, NEW)),
        key_changed=changed,
    )
    if form is Form.NOTE:
        return block("shadow", "note").format(noted=noted)
    keep = form is not Form.MIRROR  # before publication nobody but us has written the shadow
    carried = _carried(design, plan, migration_id, form, keep=keep)
    keys: dict[str, sql.Composable] = {
        "relation": design.relation,
        "shadow": design.shadow,
        "old_token": token(design, to_shadow(design, OLD)),
        "new_token": token(design, to_shadow(design, NEW)),
        "s_is_old": same(shadow_key(design, S), to_shadow(design, OLD)),
        "s_is_new": same(shadow_key(design, S), to_shadow(design, NEW)),
        "o_is_old": same(anchor_key(design, O), anchor_key(design, OLD)),
        "o_is_new": same(anchor_key(design, O), anchor_key(design, NEW)),
        "carried": carried,
    }
    rekey = assigned(zip(design.key_names, to_shadow(design, NEW), strict=True))
    moved = sql.SQL(" OR {} = current_setting('pgduet.row_to', true)").format(keys["new_token"])
    return block("shadow", "forward").format(
        **keys,
        postpone=shadow_postponed.postpone(design) if keep else NOTHING,
        within=shadow_postponed.within(design) if keep else NOTHING,
        in_order=shadow_postponed.in_order(design) if keep else NOTHING,
        or_moved=moved if design.moves else NOTHING,
        late=_behind(design, keys, noted) if keep else block("shadow", "note_always").format(noted=noted),
        key_changed=changed,
        rekeyed=block("shadow", "rekeyed").format(**keys, rekey=rekey),
    )


def _behind(design: ShadowDesign, keys: Mapping[str, sql.Composable], noted: Query) -> Query:
    """Render what a client does whose snapshot may be older than what we have written since."""
    exists = [
        sql.SQL(" AND coalesce({}, false)").format(design.exists.over(row)) if design.exists else NOTHING
        for row in (OLD, NEW)
    ]
    lacking = block("shadow", "lacking").format(
        **keys, exists_old=exists[0], exists_new=exists[1], give_old=_given(design, OLD), give_new=_given(design, NEW)
    )
    return block("shadow", "behind").format(
        noted=noted,
        journal=design.journal,
        j_is_old=same(anchor_key(design, J), anchor_key(design, OLD)),
        j_is_new=same(anchor_key(design, J), anchor_key(design, NEW)),
        lacking=lacking,
    )


def _given(design: ShadowDesign, row: sql.Composable) -> Query:
    give = block("shadow", "give").format(
        shadow=design.shadow,
        columns=identifiers(column.name for column in design.mapped),
        values=listed(column.up_value(row) for column in design.mapped),
    )
    return block("shadow", "give_safe").format(give=give) if design.guarded else give


def _carried(design: ShadowDesign, plan: str, migration_id: int, form: Form, *, keep: bool) -> Query:
    exists = sql.SQL(" OR NOT coalesce({}, false)").format(design.exists.over(R)) if design.exists else NOTHING
    return block("shadow", "carried").format(
        shadow=design.shadow,
        s_is_r=same(shadow_key(design, S), to_shadow(design, R)),
        judge=_judge(design, plan, migration_id, form, keep=keep),
        unless_exists=exists,
        and_fits=_and_fits(design, keep=keep),
        release=block("shadow", "release").format(function=design.routine(RELEASE))
        if keep and design.releases
        else NOTHING,
        assign=assigned((column.name, _forwarded(design, column, keep=keep)) for column in design.mapped),
        columns=identifiers(column.name for column in design.mapped),
        values=listed(column.up_value(R) for column in design.mapped),
    )


def _forwarded(design: ShadowDesign, column: ShadowColumn, *, keep: bool) -> Query:
    """Render what a column becomes: a value that the anchor cannot hold stays, unless what it is made from has changed."""
    value = column.up_value(R)
    if not keep or column.same is not None:
        return value
    apart = any(each.name == column.name for each in design.apart)
    if apart and design.parted:
        return column.of(S)  # a row that is there has come from another partition
    changed = any_of(anchor_changed(design, name, OLD, R) for name in (() if apart else column.sources))
    return sql.SQL("CASE WHEN TG_OP = 'INSERT' OR {} THEN {} ELSE {} END").format(changed, value, column.of(S))


def _sources_changed(design: ShadowDesign, *, keep: bool) -> Query:
    if not keep:
        return TRUE
    names = dict.fromkeys(name for column in design.doubtful for name in column.sources)
    return sql.SQL("TG_OP = 'INSERT' OR {}").format(any_of(anchor_changed(design, name, OLD, R) for name in names))


def _and_fits(design: ShadowDesign, *, keep: bool) -> Query:
    if not (design.guarded and keep):
        return NOTHING
    return sql.SQL(" AND ({} OR {}(r) IS NULL)").format(
        _sources_changed(design, keep=keep), design.routine("shadow_fits")
    )


def _judge(design: ShadowDesign, plan: str, migration_id: int, form: Form, *, keep: bool) -> Query:
    if not design.guarded:
        return NOTHING
    parts: dict[str, sql.Composable] = {
        "changed": _sources_changed(design, keep=keep),
        "fits": design.routine("shadow_fits"),
    }
    if form is Form.ENFORCE:
        return block("shadow", "judge_enforced").format(
            **parts,
            message=sql.Literal(f"the new version of {design.label} cannot hold this row: "),
            hint=sql.Literal(
                f"It is in force since the cutover of migration {plan}; write values that it can represent."
            ),
            **where(design),
        )
    return block("shadow", "judge").format(
        **parts,
        migration_id=sql.Literal(migration_id),
        label=sql.Literal(design.label),
        drift_key=key_as_json(design, R),
    )


def _fits(design: ShadowDesign) -> Statement:
    required = [column for column in design.mapped if not column.nullable]
    body = block("shadow", "fits_body").format(
        shadow=design.shadow,
        assign=lines(sql.SQL("  {} := {};").format(c.of(N), c.up_value(O)) for c in design.mapped),
        empty=any_of(sql.SQL("{} IS NULL").format(column.of(N)) for column in required),
    )
    query = block("shadow", "fits").format(
        function=design.routine("shadow_fits"), relation=design.relation, body=quoted(body)
    )
    return Statement(query, f"shadow_fits of {design.label}")


def _release(design: ShadowDesign) -> Statement:
    held, now = sql.SQL("held"), sql.SQL("now")
    parts: dict[str, sql.Composable] = {
        "function": design.routine(RELEASE),
        "relation": design.relation,
        "shadow": design.shadow,
        "held_token": token(design, shadow_key(design, held)),
        "r_token": token(design, to_shadow(design, R)),
        "s_is_r": same(shadow_key(design, S), to_shadow(design, R)),
        "s_is_held": same(shadow_key(design, S), shadow_key(design, held)),
        "o_is_held": same(anchor_key(design, O), to_anchor(design, held)),
    }
    keys = [
        block("shadow", "release_key").format(
            **parts,
            s_has_it=same(fields(S, key.shadow), fields(R, key.anchor)),
            changed=any_of(
                sql.SQL("{} IS DISTINCT FROM {}").format(*pair)
                for pair in zip(fields(held, key.shadow), fields(now, key.anchor), strict=True)
            ),
            assign=assigned(zip(key.shadow, fields(now, key.anchor), strict=True)),
        )
        for key in design.released
    ]
    body = block("shadow", "release_body").format(**parts, keys=lines(keys))
    query = block("shadow", "release_function").format(**parts, body=quoted(body))
    return Statement(query, f"{RELEASE} of {design.label}")


def _truncate(design: ShadowDesign, *, published: bool) -> Query:
    if not published:
        return block("shadow", "truncate").format(shadow=design.shadow, label=sql.Literal(design.shadow_label))
    return block("shadow", "truncate_published").format(
        shadow=design.shadow,
        relation=design.relation,
        label=sql.Literal(design.shadow_label),
        o_is_s=same(to_shadow(design, O), shadow_key(design, S)),
    )
