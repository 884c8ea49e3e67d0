"""Swap, as cutover does and undoes it: names change places in the flip's own transaction, and back in one of their own (ADR 34).

Which of the two has the table's name is written into the design, in the transaction that changes it: whatever is rendered
afterwards, by whichever step or after a lost workflow, speaks of the tables as they are called. A step that had read the design
before finds a name that is gone, fails, and is tried again.
"""

from dataclasses import replace

from psycopg import sql
from psycopg.types.json import Jsonb

from pgduet.activities.engine import Work
from pgduet.barriers import reach
from pgduet.operations import shadow_columns as changed
from pgduet.operations import shadow_conflicts, shadow_phases, shadow_swap
from pgduet.operations.design import Design
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Statement
from pgduet.operations.views import Relation
from pgduet.postgres import catalogue, chain, shadow_columns, store
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_carrying import carried
from pgduet.sql import block


async def statements(work: Work) -> list[Statement]:
    """Give what changes the names; from here on `work` has the design as it is afterwards. Nothing where no table swaps."""
    design = work.migration.design
    made: list[Statement] = []
    after: list[ShadowDesign] = []
    for shadow in design.shadows:
        if shadow.swaps and shadow.swapped is None:
            relation, key = await _described(work.conn, shadow)
            seen = await shadow_columns.seen(work.conn, shadow)
            found = await carried(work.conn, seen.design, design.name)
            made += shadow_swap.swap(
                seen.design,
                design.name,
                work.migration.id,
                relation,
                key,
                views=await _newer_views(work, shadow),
                timeout_ms=work.migration.policy.lock_timeout_ms,
                unique=shadow_conflicts.in_force(found),
            )
            after.append(shadow_swap.swapped(seen.design, key))
        else:
            after.append(shadow)
    _now(work, after)
    return made


async def refuse_changed(work: Work) -> None:
    """Refuse to take the table's name from columns that somebody has changed since preflight, where the new shape has them not so.

    Raises:
        ColumnsChanged: naming them.
    """
    for shadow in work.migration.design.shadows:
        if shadow.swaps and shadow.swapped is None:
            seen = await shadow_columns.seen(work.conn, shadow)
            changed.refuse(work.migration.name, shadow, seen.columns, way_back=True, filled=seen.filled)


async def wait_for_tables(work: Work) -> int:
    """Wait until the tables' locks can be had, and let them go: the flip, which nobody can break off, will not wait for long."""
    made: list[Statement] = []
    for shadow in work.migration.design.shadows:
        if shadow.swaps and shadow.swapped is None:
            made += shadow_swap.locks(shadow, await _newer_views(work, shadow))

    async def also(_: Connection) -> None:
        work.beat.note = "tables can be swapped"

    return await work.locked(made, also) if made else 0


async def keep(work: Work, conn: Connection, *, leaves: str) -> None:
    """Write the names down in the transaction that changes them; who came by a table's name is of the other side from here on.

    `leaves` is the side that they were of. Tables changed in place keep theirs: with such a table in the plan nobody is forgotten.
    """
    design = work.migration.design
    await store.run(conn, "set_design", {"id": work.migration.id, "design": Jsonb(design.model_dump(mode="json"))})
    if not design.tables:
        await conn.execute(block("shadow_swap", "forget"), {"migration": work.migration.name, "side": leaves})


async def swap_back(work: Work) -> None:
    """Give the tables their names again: after authority, which waits for no lock."""
    design = work.migration.design
    made: list[Statement] = []
    for shadow in reversed(design.shadows):
        if shadow.swapped is None:
            continue
        views = await _older_views(work, shadow)
        # What binds everybody does so until it is dropped, which comes later.
        unique = shadow_conflicts.in_force(await carried(work.conn, shadow, design.name))
        made += shadow_swap.swap_back(shadow, design.name, work.migration.id, views=views, unique=unique)
    if not made:
        return
    _now(work, [shadow_swap.unswapped(shadow) for shadow in design.shadows])

    async def also(conn: Connection) -> None:
        await keep(work, conn, leaves="new")
        await store.audited(conn, work.reference, "swap_back", affected=affected(work.migration.design))
        await reach("swap_back.before_commit")

    await work.locked(made, also)
    await reach("swap_back.after_commit")


def affected(design: Design) -> dict[str, object]:
    """Name the tables that swap, for the record."""
    names = [shadow.label for shadow in design.shadows if shadow.swaps]
    return {"tables": names} if names else {}


async def _newer_views(work: Work, shadow: ShadowDesign) -> list[sql.Identifier]:
    design = work.migration.design
    found = await chain.versions_with(work.conn, design, work.migration.id, shadow.schema_name, shadow.shown_as)
    return [shadow_phases.view(shadow, version) for version in found]


async def _older_views(work: Work, shadow: ShadowDesign) -> list[sql.Identifier]:
    older = (await chain.sides(work.conn, work.migration)).old
    return [
        sql.Identifier(each.name, shadow.table)
        for each in older
        if each.shows == shadow.schema_name and await catalogue.has_view(work.conn, each.name, shadow.table)
    ]


def _now(work: Work, shadows: list[ShadowDesign]) -> None:
    design = work.migration.design.model_copy(update={"shadows": tuple(shadows)})
    work.migration = replace(work.migration, design=design)


async def _described(conn: Connection, shadow: ShadowDesign) -> tuple[Relation, str]:
    """Read what the anchor has that its successor gets, and what its primary key is called."""
    relations = {each.label: each for each in await catalogue.relations(conn, shadow.schema_name)}
    (about,) = await (await conn.execute(block("shadow_swap", "about"), {"relation": shadow.relation_label})).fetchall()
    return relations[shadow.relation_label], about["key"]
