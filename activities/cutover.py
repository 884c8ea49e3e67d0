"""cutover: the reverse path proved, constraints built without blocking, then one transaction flips authority; undo flips it back.

The undo is the first of rollback's two steps (make safe): reads and authority go back at once, without any table lock; then
names that were swapped and enforcement are taken back under the lock budget. It takes the same time whatever the number of rows.
"""

from temporalio import activity

from pgduet.activities import swapping
from pgduet.activities.declaring import declare_constraints, release_constraints
from pgduet.activities.engine import Engine, Work
from pgduet.activities.shapes import shapes_of
from pgduet.barriers import reach
from pgduet.messages import Outcome, Reference
from pgduet.operations import probes, sync
from pgduet.phases import Authority, SyncMode
from pgduet.postgres import store
from pgduet.postgres.heaps import filled
from pgduet.postgres.probing import probe
from pgduet.postgres.session import Connection
from pgduet.postgres.swapping import refuse_unbound


class Cutover:
    """Flips authority, and back."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="prepare_cutover")
    async def prepare_cutover(self, reference: Reference) -> Outcome:
        """Execute the reverse path, then declare what the new version requires."""
        async with self.engine.work(reference, "cutover", alone=True) as work:
            design = work.migration.design
            await refuse_unbound(work.conn, work.migration)
            await swapping.refuse_changed(work)
            probed = {
                table.label: await probe(work.conn, probes.reverse(design, await filled(work.conn, table)))
                for table in design.synced
            } | {shape.label: await shape.probe_back(work.conn) for shape in shapes_of(design)}
            tries = await declare_constraints(work)
            for shape in shapes_of(design):
                tries += await shape.declare(work)
            tries += await swapping.wait_for_tables(work)
            evidence = {"reverse_probes": probed, "lock_tries": tries}
            async with work.conn.transaction():
                head = await store.audited(work.conn, reference, "prepare_cutover", evidence=evidence)
            return Outcome(summary="constraints declared", evidence=evidence, audit_head=head)

    @activity.defn(name="flip")
    async def flip(self, reference: Reference) -> Outcome:
        """Give authority to the new version, in one transaction; it locks no table but those that swap their names."""
        async with self.engine.work(reference, "flip", alone=True) as work:
            if work.migration.authority is Authority.NEW:
                # A worker was killed after its commit: the decision is taken, and stands in the audit log.
                return Outcome(summary="authority: new")
            changed: dict[str, object] = {}
            head: str | None = None

            async def flipped(conn: Connection) -> None:
                nonlocal changed, head
                changed = await _authority(work, Authority.NEW, SyncMode.ENFORCE, read_percent=100)
                if swaps:
                    await swapping.keep(work, conn, leaves="old")
                named = swapping.affected(work.migration.design)
                head = await store.audited(conn, reference, "cutover", affected=named, evidence=changed)
                await reach("flip.before_commit")

            if swaps := await swapping.statements(work):
                await work.locked(swaps, flipped)
            else:
                async with work.conn.transaction():
                    await flipped(work.conn)
            await reach("flip.after_commit")
            return Outcome(summary="authority: new", evidence=changed, audit_head=head)

    @activity.defn(name="undo_cutover")
    async def undo_cutover(self, reference: Reference) -> Outcome:
        """Give authority back to the old version at once, then take enforcement off."""
        async with self.engine.work(reference, "undo_cutover", alone=True) as work:
            async with work.conn.transaction():
                changed = await _authority(work, Authority.OLD, SyncMode.BOTH, read_percent=0)
                head = await store.audited(work.conn, reference, "undo_cutover", evidence=changed)
                await reach("undo_cutover.before_commit")
            await reach("undo_cutover.after_commit")
            await swapping.swap_back(work)
            for shape in reversed(shapes_of(work.migration.design)):
                await shape.release(work)
            await release_constraints(work)
            return Outcome(summary="authority: old; nothing new is enforced", evidence=changed, audit_head=head)


async def _authority(work: Work, authority: Authority, mode: SyncMode, *, read_percent: int) -> dict[str, object]:
    design = work.migration.design
    for table in design.synced:
        for statement in sync.functions(design, table, work.migration.id, mode):
            await work.conn.execute(statement.sql)
    for shape in shapes_of(design):
        for statement in shape.functions(work, mode):
            await work.conn.execute(statement.sql)
    await store.run(work.conn, "set_authority", {"id": work.migration.id, "authority": authority, "mode": mode})
    return await store.change_route(work.conn, work.reference, authority=authority, read_percent=read_percent)
