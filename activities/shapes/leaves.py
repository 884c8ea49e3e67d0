"""Partitions of an anchor, in each phase (ADR 35): those that came or went since the last look are followed.

What is known is a mark of the migration's, set when everything has been carried over: whoever is killed before does it again.
"""

from collections.abc import Awaitable, Callable

from pgduet.activities.engine import Work
from pgduet.activities.shapes import steps
from pgduet.barriers import reach
from pgduet.operations import shadow_leaves
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Statement
from pgduet.postgres import store
from pgduet.postgres.copying import see_all
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_leaves import journal_came, journal_gone, leaves


async def heard(work: Work, design: ShadowDesign) -> tuple[list[Statement], dict[str, object]]:
    """Give the triggers of a partitioned anchor and its partitions, and the mark that they are known: nothing is copied yet."""
    if not design.parted:
        return [], {}
    found = [leaf for leaf in await leaves(work.conn, design, _plan(work)) if leaf.attached]
    made = shadow_leaves.moving_trigger(design, _plan(work))
    made += [each for leaf in found for each in shadow_leaves.trigger(design, _plan(work), leaf.relation)]
    return made, {_mark(design): sorted(leaf.id for leaf in found)}


async def followed(work: Work, design: ShadowDesign, drain: Callable[[], Awaitable[None]]) -> frozenset[str]:
    """Carry over what came with partitions, or went with them, since they were known; gives those that are known now."""
    marked = (await store.controls(work.conn, work.migration.id)).get(_mark(design)) if design.parted else None
    if marked is None:
        return frozenset()
    plan, known = _plan(work), frozenset(marked)
    found = await leaves(work.conn, design, plan)
    there = frozenset(leaf.id for leaf in found if leaf.attached)
    unheard = [leaf.relation for leaf in found if leaf.attached and not leaf.heard]
    statements = [each for relation in unheard for each in shadow_leaves.trigger(design, plan, relation)]
    statements += [shadow_leaves.drop_trigger(plan, leaf.relation) for leaf in found if not leaf.attached]
    if statements:
        await steps.locked(work, statements, steps.PARTITIONS, design.label)
    if there == known:
        return known
    work.beat.note = f"{design.label}: partitions have come or gone"
    await see_all(work.conn)
    for leaf in found:
        if leaf.attached and leaf.id not in known:
            await journal_came(work.conn, design, leaf)
    if known - there:
        await journal_gone(work.conn, design)
    await reach("partitions.after_journal")
    await drain()
    await store.set_controls(work.conn, work.migration.id, {_mark(design): sorted(there)})
    return there


async def no_more(conn: Connection, plan: str, design: ShadowDesign) -> list[Statement]:
    """Drop these triggers; those of tables that were partitions, too."""
    if not design.parted:
        return []
    found = [leaf.relation for leaf in await leaves(conn, design, plan) if leaf.heard]
    dropped = [shadow_leaves.drop_trigger(plan, relation) for relation in found]
    return [shadow_leaves.drop_moving_trigger(design, plan), *dropped]


def forgotten(design: ShadowDesign) -> dict[str, object]:
    """Give the mark that none is known, nor to be followed."""
    return {_mark(design): None} if design.parted else {}


def _plan(work: Work) -> str:
    return work.migration.design.name


def _mark(design: ShadowDesign) -> str:
    return f"partitions_{design.position}"
