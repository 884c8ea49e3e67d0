"""contract: the point of no return: saves what `down` cannot give back, then drops the old representation.

There is no undo. What it dropped, and what it saved, is in the audit log and in `pgduet_archive`; whole tables move there.
"""

import asyncio
from typing import Any

from psycopg import errors
from temporalio import activity

from pgduet.activities.building import drop_old
from pgduet.activities.engine import Engine, Work
from pgduet.activities.partitioned import proper_names
from pgduet.activities.shapes import shapes_of
from pgduet.activities.versions import drop_older_views, drop_version
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import (
    column_changes,
    columns,
    declare,
    dependents,
    rekey,
    replica_identity,
    rows,
    scripts,
    sync,
    views,
)
from pgduet.operations.constraints import DroppedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.names import archived_table
from pgduet.operations.statement import Lock, Statement, locking
from pgduet.operations.whole_tables import CreatedTable, Script
from pgduet.postgres import catalogue, chain, store
from pgduet.postgres.census import set_to
from pgduet.postgres.dependents import dependents_of
from pgduet.postgres.gently import Gently
from pgduet.postgres.heaps import heaps, pages
from pgduet.postgres.moving import archive_table, own_search_path
from pgduet.postgres.session import Connection
from pgduet.sql import block

PUBLISHED_MEANWHILE = 5
"""How often a later version may be published between our look at the views and our lock on them."""


class Contract:
    """Drops the old representation."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="contract")
    async def contract(self, reference: Reference) -> Outcome:
        """Archive, then drop the old version's schema, then give each table its final shape."""
        async with self.engine.work(reference, "contract", alone=True) as work:
            # From here on nobody may roll back: who adopts the migration after a loss must know.
            await store.set_controls(work.conn, work.migration.id, {"no_return": True})
            archived = await _archive(work)
            design = work.migration.design
            older = await drop_older_views(work, design)
            await _locked(work, [*await drop_version(work, design, design.from_version), *older], "schema")
            for index in design.dropped_indexes:
                await _drop_index(work, index)
            for table in design.tables:
                await _shape(work, table)
            for shape in shapes_of(design):
                await shape.contract(work)
            for created in design.created:
                await _once(work, created.label, _final_names(created))
            for dropped in design.dropped:
                name = archived_table(design.name, dropped.schema_name, dropped.table, work.migration.attempt)
                if not await _is_done(work, dropped.label):
                    await _once(work, dropped.label, await archive_table(work.conn, dropped, name))
            for script in design.contract_scripts():
                await _once(work, f"sql {script.position}", await _run(work, script))
            return await _finish(work, archived)


async def _finish(work: Work, archived: int) -> Outcome:
    design = work.migration.design
    async with work.conn.transaction():
        affected: dict[str, object] = {
            "dropped": [
                *(f"{table.label}.{old.name}" for table in design.tables for old in table.old_columns),
                *(table.label for table in design.dropped),
                *(f"{table.label}: {gone}" for table in design.tables for gone in table.dropped_constraints),
                *(index.label for index in design.dropped_indexes),
                *(gone for shape in shapes_of(design) for gone in shape.dropped),
            ]
        }
        gone = list(design.version_schemas(design.from_version))
        evidence: dict[str, object] = {"archived": archived, "set_to": await set_to(work.conn, gone)}
        await store.run(work.conn, "route_complete", {"migration": work.migration.name})
        await store.change_route(work.conn, work.reference, authority="new", read_percent=100)
        head = await store.audited(work.conn, work.reference, "contract", affected=affected, evidence=evidence)
    return Outcome(summary=f"contracted; {archived} old values archived", evidence=evidence, audit_head=head)


async def _drop_index(work: Work, index: DroppedIndex) -> None:
    """Drop an index once; after that its name may be another one's, which gets it with its table's final shape."""
    if not await _is_done(work, index.label):
        await drop_old(work, index, f"contracted {index.label}")


async def _archive(work: Work) -> int:
    """Save old values once, as of one moment: a second try finds them saved."""
    count, gently = 0, Gently(work.conn)
    async with work.conn.transaction():
        await work.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        saved = await work.conn.execute(
            "SELECT FROM pgduet_archive.value WHERE migration = %s AND attempt = %s AND side = 'old' LIMIT 1",
            (work.migration.name, work.migration.attempt),
        )
        if saved.rowcount:
            return 0
        for table in work.migration.design.synced:
            if await _is_done(work, table.label):
                continue
            for heap in await heaps(work.conn, table):
                async for first, last in gently.pieces(await pages(work.conn, heap)):
                    for query in rows.archive_old(work.migration.design, heap, work.migration.attempt, first, last):
                        count += (await work.conn.execute(query)).rowcount
        for shape in shapes_of(work.migration.design):
            if not await _is_done(work, shape.label):
                count += await shape.archive_old(work.conn, work.migration.attempt)
    return count


async def _shape(work: Work, table: TableDesign) -> None:
    """Give a table its final shape; a later version that was published meanwhile is found at the next try."""
    for _ in range(PUBLISHED_MEANWHILE):
        try:
            return await _once(work, table.label, await _final_shape(work, table))
        except errors.DependentObjectsStillExist:
            await asyncio.sleep(0.1)
    return await _once(work, table.label, await _final_shape(work, table))


async def _final_shape(work: Work, table: TableDesign) -> list[Statement]:
    """Give the statements after which a table is what the new version says, with the new version's names."""
    if await _is_done(work, table.label):
        return []
    design = work.migration.design
    names = await catalogue.not_null_names(work.conn, table.label)
    known = await _rows(work, "constraints_there", table)
    there = {row["name"]: row["target"] if row["refers"] else None for row in known}
    over = await dependents_of(work.conn, table)
    versions = await chain.versions_showing(work.conn, design, table, work.migration.id)
    relations = await catalogue.relations(work.conn, table.schema_name)
    relation = next(each for each in relations if each.table == table.table)
    referred = await catalogue.foreign_targets(work.conn, table.label, [old.name for old in table.old_columns])
    facts = await catalogue.table(work.conn, table.schema_name, table.table)
    return [
        *(locking(target, Lock.ACCESS_EXCLUSIVE) for target in referred),
        # Clients lock the view before the table: whoever does it the other way round can make one of them a deadlock's victim.
        *dependents.locks(over),
        *views.lock_views(table, versions),
        *(sync.remove(design, table) if table.synced else []),
        *rekey.before(table, facts),
        *columns.finish(table, names, over),
        *column_changes.taken_over(table, facts, [views.published_name(table, version) for version in versions]),
        *declare.changed(table, there),
        *declare.proper_names(table),
        *rekey.after(table, facts),
        *await proper_names(work, table),
        *replica_identity.at_contract(table),
        *views.direct_views(design, table, relation, versions),
        *columns.drop_marker(table),
        *columns.rename_table(table),
        # What the plan's author changes with the table (a trigger's function) must never be seen apart from it.
        *[statement for script in design.contract_scripts(table) for statement in await _run(work, script)],
    ]


async def _rows(work: Work, name: str, table: TableDesign) -> list[dict[str, Any]]:
    return await (await work.conn.execute(block("declare", name), {"relation": table.label})).fetchall()


def _final_names(created: CreatedTable) -> list[Statement]:
    return [declare.proper_name(created, key.working, key.name) for key in created.foreign_keys]


async def _run(work: Work, script: Script) -> list[Statement]:
    return [scripts.run(script, script.up, search_path=await own_search_path(work.conn))]


async def _once(work: Work, what: str, statements: list[Statement]) -> None:
    """Run the statements of one table in one transaction that also remembers that it is done."""
    if statements and not await _is_done(work, what):
        await _locked(work, statements, what)


async def _is_done(work: Work, what: str) -> bool:
    controls = await store.controls(work.conn, work.migration.id)
    return bool(controls.get(f"contracted {what}"))


async def _locked(work: Work, statements: list[Statement], what: str) -> None:
    async def also(conn: Connection) -> None:
        work.beat.note = what
        await store.set_controls(conn, work.migration.id, {f"contracted {what}": True})
        await reach("contract.before_commit")

    await work.locked(statements, also)
    await reach("contract.after_commit")
