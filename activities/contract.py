"""contract: the point of no return: saves what `down` cannot give back, then drops the old representation.

There is no undo. What it dropped, and what it saved, is in the audit log and in `pgduet_archive`.
"""

from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import columns, rows, sync, views
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Statement
from pgduet.postgres import catalogue, store
from pgduet.postgres.session import Connection


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
            await _locked(work, await work.drop_version(design.from_version), "schema")
            for table in design.tables:
                if not await _finished(work, table):
                    await _locked(work, await _final_shape(work, table), table.label)
            async with work.conn.transaction():
                affected: dict[str, object] = {
                    "dropped": [f"{table.label}.{old.name}" for table in design.tables for old in table.old_columns]
                }
                evidence: dict[str, object] = {"archived": archived}
                await store.run(work.conn, "route_complete", {"migration": work.migration.name})
                await store.change_route(work.conn, reference, authority="new", read_percent=100)
                head = await store.audited(work.conn, reference, "contract", affected=affected, evidence=evidence)
            return Outcome(summary=f"contracted; {archived} old values archived", evidence=evidence, audit_head=head)


async def _archive(work: Work) -> int:
    """Save old values once: a second try finds them saved."""
    count = 0
    async with work.conn.transaction():
        saved = await work.conn.execute(
            "SELECT FROM pgduet_archive.value WHERE migration = %s AND attempt = %s AND side = 'old' LIMIT 1",
            (work.migration.name, work.migration.attempt),
        )
        if saved.rowcount:
            return 0
        for table in work.migration.design.tables:
            if not await _finished(work, table):
                for query in rows.archive_old(work.migration.design, table, work.migration.attempt):
                    count += (await work.conn.execute(query)).rowcount
    return count


async def _finished(work: Work, table: TableDesign) -> bool:
    """Tell whether a table has its final shape already: then the columns in the making are gone."""
    found = await work.conn.execute(
        "SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = ANY (%s) AND NOT attisdropped",
        (table.label, [column.physical for column in table.new_columns]),
    )
    return found.rowcount == 0


async def _final_shape(work: Work, table: TableDesign) -> list[Statement]:
    names = await catalogue.not_null_names(work.conn, table.label)
    design = work.migration.design
    return [
        # Clients lock the view before the table: whoever does it the other way round can make one of them a deadlock's victim.
        views.lock_changed_view(design, table),
        *sync.remove(design, table),
        *columns.finish(table, names),
        *views.direct_view(design, table),
        *columns.drop_marker(table),
    ]


async def _locked(work: Work, statements: list[Statement], what: str) -> None:
    async def also(conn: Connection) -> None:
        del conn
        work.beat.note = what
        await reach("contract.before_commit")

    await work.locked(statements, also)
    await reach("contract.after_commit")
