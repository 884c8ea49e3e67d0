"""One partition of an anchor: TRUNCATE is seen by triggers of its own, DETACH and ATTACH by who has these (ADR 28).

While rows are copied the keys of a truncated partition go into the journal; once the shadow is published its rows go with the
statement. A partition that came without the triggers, or left with them, has its keys journalled: the drain reads each anew, and
carries over or deletes it.
Limits: between an ATTACH or DETACH and the look that finds it, the new version does not know of it.
"""

from psycopg import sql

from pgduet.operations.names import trigger_name
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_keys import O, S, anchor_key, listed, quoted, same, shadow_key, to_shadow
from pgduet.operations.shadow_sync import Form
from pgduet.operations.statement import Lock, Statement
from pgduet.sql import block

KIND = "shadow_leaf"
_WHEN = ("BEFORE", "AFTER")


def function(design: ShadowDesign, form: Form) -> Statement:
    """Create or replace the function of the partitions' triggers in a form; takes no lock on any table."""
    if form in {Form.NOTE, Form.MIRROR}:
        insert = block("shadow_leaves", "note_insert").format(
            journal=design.journal, keys=listed(anchor_key(design, O))
        )
        body = block("shadow_leaves", "note").format(insert=quoted(insert))
    else:
        body = block("shadow_leaves", "published").format(
            label=sql.Literal(design.shadow_label),
            shadow=design.shadow,
            relation=design.relation,
            o_is_s=same(to_shadow(design, O), shadow_key(design, S)),
        )
    query = block("shadow_leaves", "function").format(function=design.routine(KIND), body=quoted(body))
    return Statement(query, f"{KIND} of {design.label}")


def triggers(design: ShadowDesign, plan: str, leaf: sql.Identifier) -> list[Statement]:
    """Create a partition's triggers."""
    label = leaf.as_string(None)
    made = []
    for when in _WHEN:
        name = sql.Identifier(name_of(plan, when))
        query = block("shadow_leaves", "trigger").format(
            trigger=name, when=sql.SQL(when), relation=leaf, function=design.routine(KIND)
        )
        made.append(Statement(query, f"trigger on {label}", Lock.SHARE_ROW_EXCLUSIVE, label))
        always = block("sync", "enable_trigger").format(trigger=name, relation=leaf)
        made.append(Statement(always, f"trigger on {label}, always", Lock.SHARE_ROW_EXCLUSIVE, label))
    return made


def drop_triggers(plan: str, leaf: sql.Identifier) -> list[Statement]:
    """Drop a partition's triggers, or those of a table that was one."""
    label = leaf.as_string(None)
    return [
        Statement(
            block("sync", "drop_trigger").format(trigger=sql.Identifier(name_of(plan, when)), relation=leaf),
            f"drop the trigger on {label}",
            Lock.ACCESS_EXCLUSIVE,
            label,
        )
        for when in _WHEN
    ]


def drop_function(design: ShadowDesign) -> Statement:
    """Drop the function, once no partition's trigger calls it."""
    name = sql.SQL("{}()").format(design.routine(KIND))
    return Statement(block("shadow", "drop_function").format(function=name), "drop a function of the shadow")


def name_of(plan: str, when: str) -> str:
    """Name a partition's trigger: ahead of the user's, as the whole table's is."""
    return "!" + trigger_name(plan, f"{KIND}_{when.lower()}")[1:]
