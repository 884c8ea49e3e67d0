"""dual_write: all sync triggers of a table in one transaction, proved by a write that is rolled back; undo drops them."""

from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.activities.shapes import shapes_of
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import probes, sync
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Statement
from pgduet.phases import SyncMode
from pgduet.postgres import catalogue, store
from pgduet.postgres.heaps import filled
from pgduet.postgres.probing import probe
from pgduet.postgres.session import Connection


class DualWrite:
    """Installs the sync triggers and removes them again."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="dual_write")
    async def dual_write(self, reference: Reference) -> Outcome:
        """Install the triggers (old to new), then prove them by a probe write in each table."""
        async with self.engine.work(reference, "dual_write", alone=True) as work:
            design = work.migration.design
            tries = 0
            for table in design.synced:
                statements = sync.install(design, table, work.migration.id, SyncMode.FILL)
                spent, _ = await _locked(work, table, statements, "dual_write", SyncMode.FILL)
                tries += spent
            for shape in shapes_of(design):
                tries += await shape.dual_write(work)
            probed = {
                table.label: await probe(work.conn, probes.forward(design, await filled(work.conn, table)))
                for table in design.synced
            } | {shape.label: await shape.probe(work.conn) for shape in shapes_of(design)}
            async with work.conn.transaction():
                head = await store.audited(work.conn, reference, "probe", evidence={"forward": probed})
            evidence = {"lock_tries": tries, "probes": probed}
            return Outcome(summary="writes of old clients reach the new columns", evidence=evidence, audit_head=head)

    @activity.defn(name="undo_dual_write")
    async def undo_dual_write(self, reference: Reference) -> Outcome:
        """Drop triggers and functions."""
        async with self.engine.work(reference, "undo_dual_write", alone=True) as work:
            design = work.migration.design
            head = None
            for shape in reversed(shapes_of(design)):
                await shape.undo_dual_write(work)
            for table in design.synced:
                _, head = await _locked(work, table, sync.remove(design, table), "undo_dual_write", None)
            return Outcome(summary="sync triggers dropped", audit_head=head)


async def _locked(
    work: Work, table: TableDesign, statements: list[Statement], step: str, mode: SyncMode | None
) -> tuple[int, str]:
    heads: list[str] = []

    async def also(conn: Connection) -> None:
        if mode is not None:
            # Under the lock: triggers without a guard rest on it.
            await catalogue.require_types(conn, (table.schema_name, table.table), sync.judged(table), table.label)
        await store.run(conn, "set_mode", {"id": work.migration.id, "mode": mode})
        heads.append(await store.audited(conn, work.reference, step, affected={"table": table.label}))
        await reach(f"{step}.before_commit")

    tries = await work.locked(statements, also)
    await reach(f"{step}.after_commit")
    return tries, heads[-1]
