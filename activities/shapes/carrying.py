"""What a shadow carries over from its anchor, in each phase (ADR 28): it is read anew whenever it is needed.

Whatever was built by a try that was killed is found by what is there. All of it hangs on the shadow and goes with it; only the
unique indexes that bind old clients are taken back by themselves.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from psycopg import errors, sql

from pgduet.activities.building import beside_clients, build, build_beside
from pgduet.activities.engine import Work
from pgduet.activities.partitioned import proper_names
from pgduet.activities.shapes import steps
from pgduet.errors import GateRefused, LockDeadline, NotSupported
from pgduet.operations import declare, partitioned, shadow_carry, shadow_conflicts, shadow_reverse, shadow_security
from pgduet.operations.constraints import CarriedIndex
from pgduet.operations.names import working_name
from pgduet.operations.shadow import Journal
from pgduet.operations.shadow_carried import Carried, Right, as_table, early, late, successors
from pgduet.operations.shadow_conflicts import Uniqueness
from pgduet.operations.shadow_design import ShadowDesign, ShadowKey
from pgduet.operations.statement import Lock, Statement, identifiers
from pgduet.operations.views import Relation
from pgduet.postgres import catalogue, shadow_checked, shadow_columns, shadow_snapshots, store
from pgduet.postgres.building import valid
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_carrying import carried
from pgduet.sql import block

LOOK_EVERY_S = 0.2
VIEW_RIGHTS = ("SELECT", "INSERT", "UPDATE")


async def created(work: Work, design: ShadowDesign) -> list[Statement]:
    """Give an empty shadow the form of its anchor's storage: it is made in the same transaction, so nothing is to be locked."""
    found = await carried(work.conn, design, work.migration.design.name)
    return [replace(each, lock=Lock.NONE, relation=None) for each in shadow_carry.shape(design, found)]


async def secured(work: Work, design: ShadowDesign) -> None:
    """Have new clients see the rows that the anchor's policies give them, whenever those have changed."""
    asked = {"relation": design.relation_label, "shadow": design.shadow_label}
    (now,) = await (await work.conn.execute(block("shadow_carry", "policies_are"), asked)).fetchall()
    mark = f"secured_{design.position}"
    known = (await store.controls(work.conn, work.migration.id)).get(mark)
    if not now["there"] or now["mark"] == known or (known is None and not now["secured"]):
        return
    found = await carried(work.conn, design, work.migration.design.name)
    await steps.locked(work, shadow_security.secure(design, found), steps.SECURE, design.label, {mark: now["mark"]})


async def older_snapshots_gone(work: Work, design: ShadowDesign) -> None:
    """Wait until no transaction is left whose snapshot is older than what we have written into the shadow so far.

    Raises:
        LockDeadline: somebody holds one for longer than the plan waits.
    """
    ends = time.monotonic() + work.migration.policy.lock_deadline_s
    left, since = await shadow_snapshots.older(work.conn), None
    while left.holders:
        who = ", ".join(map(str, left.pids))
        if time.monotonic() > ends:
            raise LockDeadline(
                f"transactions with a snapshot from before {design.label} had its new shape are still there: process {who}",
                hint="End them (pg_terminate_backend), then advance.",
            )
        since = steps.waiting(work, f"older snapshots than {design.label}'s new shape · process {who}", since)
        await asyncio.sleep(LOOK_EVERY_S)
        left = await shadow_snapshots.still(work.conn, left)
    work.beat.progress = None


async def values_found(work: Work, design: ShadowDesign) -> None:
    """Build what finds the holder of a unique value, where the trigger must, ahead of that form of it: it makes nothing unique."""
    if design.releases:
        table = as_table(design)
        for key, helper in _helpers(design):
            if not await valid(work.conn, table, key.working):
                await build(work, table, helper)


async def notes_found(work: Work, design: ShadowDesign) -> None:
    """Build what finds the note of a key, which clients with old snapshots ask for from the form `both` on; nobody else does."""
    journal = Journal(design)
    await build_beside(work, journal, journal.index, journal.build(), journal.drop())


async def ready_for_clients(work: Work, design: ShadowDesign) -> Uniqueness:
    """Build beside clients what new ones' statements need: indexes that bind nobody anew, statistics; gives what is unique then."""
    found = await carried(work.conn, design, work.migration.design.name)
    await _built(work, design, early(found))
    if design.releases:
        for _, helper in _helpers(design):
            await _dropped(work, design, helper)
    for statement in shadow_carry.before_publication(design, found):
        await beside_clients(work, statement)
    return shadow_conflicts.published(found)


async def binding(work: Work, design: ShadowDesign) -> None:
    """Build the unique indexes that bind everybody from cutover on.

    Raises:
        GateRefused: rows break one of them.
    """
    found = await carried(work.conn, design, work.migration.design.name)
    if late(found):  # as soon as one of them is there, whoever writes may meet it
        await _heeded(work, design, shadow_conflicts.in_force(found))
    for index in late(found):
        try:
            await build(work, as_table(design), index)
        except errors.IntegrityError:
            await released(work, design)
            raise GateRefused(
                f"rows of {design.schema_name}.{design.table} are not unique by {index.name} in their new shape",
                hint="Change the rows, or drop the index from the old table, then advance.",
            ) from None


async def released(work: Work, design: ShadowDesign) -> None:
    """Drop them again."""
    found = await carried(work.conn, design, work.migration.design.name)
    for index in late(found):
        await _dropped(work, design, index)
    if late(found):
        await _heeded(work, design, shadow_conflicts.published(found))


async def check_way(conn: Connection, plan: str, design: ShadowDesign) -> None:
    """Refuse what somebody has given the table since preflight, and contract could not get past.

    Raises:
        NotSupported: naming it.
    """
    if said := await shadow_checked.in_the_way(conn, design, await carried(conn, design, plan)):
        raise _not_yet(design, said)


async def settled(work: Work, design: ShadowDesign) -> None:
    """Build what somebody has given the table since, and see that nothing is missing.

    Raises:
        GateRefused: rows break a unique index.
        NotSupported: something is missing.
    """
    found = await carried(work.conn, design, work.migration.design.name)
    if await shadow_checked.not_yet(work.conn, work.migration.design.name, design):
        await _built(work, design, [each for each in early(found) if not _swapped(design, each)])
        await _heeded(work, design, shadow_conflicts.in_force(found))
        await binding(work, design)
    if said := await shadow_checked.not_yet(work.conn, work.migration.design.name, design):
        raise _not_yet(design, said)


async def finished(work: Work, design: ShadowDesign) -> list[Statement]:
    """Give what contract does behind `shadow_final.finish`, in its transaction."""
    found = await carried(work.conn, design, work.migration.design.name)
    names = await catalogue.not_null_names(work.conn, design.shadow_label)
    indexes = tuple(each for each in (*early(found), *late(found)))
    parts = await proper_names(work, as_table(design).model_copy(update={"indexes": indexes}))
    there = {} if design.swapped else await shadow_columns.stored(work.conn, design)
    return [*parts, *shadow_carry.at_contract(design, found, names, there)]


async def _heeded(work: Work, design: ShadowDesign, unique: Uniqueness) -> None:
    """Have new clients' INSERTs look for what is in their way by the indexes that there are, or are about to be."""
    await beside_clients(work, shadow_reverse.reverse_function(design, work.migration.design.name, unique))


def view_rights(design: ShadowDesign, relation: Relation) -> Carried:
    """Give the rights on columns that the new version's view gives, too."""
    after = successors(design)
    rights = [
        Right(grantee=grantee, privilege=right, column=after[column].name)
        for column, grantee, right in relation.column_grants
        if column in after and right in VIEW_RIGHTS
    ]
    return Carried(rights=tuple(rights))


def _helpers(design: ShadowDesign) -> Iterator[tuple[ShadowKey, CarriedIndex]]:
    """Give for each unique key a plain index over its columns."""
    for key in design.released:
        name = f"{key.name} found"
        yield (
            key,
            CarriedIndex(
                name=name,
                working=working_name(design.physical, name),
                definition=sql.SQL("USING btree ({})").format(identifiers(key.shadow)).as_string(None),
                unique=False,
                constraint=False,
            ),
        )


async def _dropped(work: Work, design: ShadowDesign, index: CarriedIndex) -> None:
    """Drop an index of the shadow, if it is there; of a partitioned one under the lock budget: PostgreSQL has no other way."""
    table = as_table(design)
    if await valid(work.conn, table, index.working) is None:
        return
    if table.partitioned:
        await steps.locked(work, [partitioned.drop(table, index)], steps.RELEASE, design.label)
    else:
        await beside_clients(work, declare.drop_index(table, index))


def _swapped(design: ShadowDesign, index: CarriedIndex) -> bool:
    """Tell whether a swap has given the shadow's index its name already."""
    return design.swapped is not None and index.name in {each.name for each in design.unique}


def _not_yet(design: ShadowDesign, said: Iterable[str]) -> NotSupported:
    return NotSupported(
        f"{design.schema_name}.{design.table} cannot get its new shape: {'; '.join(said)}",
        hint="Drop what is in the way, then advance.",
    )


async def _built(work: Work, design: ShadowDesign, indexes: Iterable[CarriedIndex]) -> None:
    for index in indexes:
        await build(work, as_table(design), index)
