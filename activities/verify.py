"""verify: full parity; then publication of the new version; undo withdraws it, once nobody is left on it.

Publication turns the sync both ways before anybody can come in by the new version: functions and trigger change in one short
transaction, values that an earlier rollback archived come back, and only then is there a view to write through.
"""

import asyncio

from psycopg import errors
from temporalio import activity

from pgduet.activities.declaring import build_indexes
from pgduet.activities.engine import HEARTBEAT_S, Engine, Work
from pgduet.activities.shapes import shapes_of
from pgduet.activities.shapes.comparing import with_shapes
from pgduet.activities.versions import drop_version, open_old_version, open_version, unpublished_before
from pgduet.barriers import reach
from pgduet.errors import GateRefused
from pgduet.messages import Outcome, Parity, ParityRequest, Reference, Throttled
from pgduet.operations import probes, rows, sync, views
from pgduet.operations.statement import Statement
from pgduet.phases import SyncMode
from pgduet.postgres import store
from pgduet.postgres.archive import restore_all
from pgduet.postgres.brakes import Asked, Brakes, Postponed, braked
from pgduet.postgres.gently import Gently
from pgduet.postgres.heaps import filled, heaps, pages
from pgduet.postgres.parity import compare, keep, repair
from pgduet.postgres.probing import probe
from pgduet.postgres.session import Connection
from pgduet.telemetry import metrics

CONTRACTED_MEANWHILE = 5
SAVED = "saved_new"
"""Under which the controls keep how many values of the new version a rollback has saved."""


class Verify:
    """Compares, publishes, withdraws."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="parity")
    async def parity(self, request: ParityRequest) -> Parity:
        """Compare all rows; with `repair`, give drifted rows what the authority says and compare again.

        It holds as a backfill does, and its heartbeats say why. The result is kept whole, with its entry in the audit log.
        """
        while True:
            async with self.engine.work(request.reference, "parity") as work:
                try:
                    return await _parity(work, request)
                except errors.UndefinedTable:
                    if not await _renamed(work):
                        raise

    @activity.defn(name="publish")
    async def publish(self, reference: Reference) -> Outcome:
        """Turn the sync both ways, bring archived values back, and open the new version's schema."""
        async with self.engine.work(reference, "publish", alone=True) as work:
            built = await build_indexes(work)
            for table in work.migration.design.synced:
                await _both_ways(work, sync.install(work.migration.design, table, work.migration.id, SyncMode.BOTH))
            for shape in shapes_of(work.migration.design):
                await shape.prepare_publication(work)
            restored = await restore_all(work.conn, work.migration)
            for shape in shapes_of(work.migration.design):
                restored += await shape.restore(work)
            await _open_schema(work, restored)
            probed = {
                table.label: await probe(
                    work.conn, probes.reverse(work.migration.design, await filled(work.conn, table))
                )
                for table in work.migration.design.synced
            } | {shape.label: await shape.probe_back(work.conn) for shape in shapes_of(work.migration.design)}
            async with work.conn.transaction():
                head = await store.audited(work.conn, reference, "probe", evidence={"reverse": probed})
            names = ", ".join(work.migration.design.version_schemas(work.migration.design.to_version))
            evidence: dict[str, object] = {"restored": restored, "reverse_probes": probed, "indexes": built}
            return Outcome(
                summary=f"published {names}",
                evidence=evidence,
                audit_head=head,
            )

    @activity.defn(name="undo_verify")
    async def undo_verify(self, reference: Reference) -> Outcome:
        """Drop the new version's schema, then save what only it had."""
        async with self.engine.work(reference, "undo_verify", alone=True) as work:
            await _close_schema(work)
            archived, head = await _archive(work)
            return Outcome(
                summary=f"withdrawn; {archived} values of the new version archived",
                evidence={"archived": archived},
                audit_head=head,
            )


async def _others_compared(work: Work) -> bool:
    """Wait until no other session compares this migration; tells whether one did."""
    waited = False
    while not (await store.run(work.conn, "try_comparing", {"id": work.migration.id}))[0]["alone"]:
        waited, work.beat.note = True, "another comparison is under way"
        await asyncio.sleep(HEARTBEAT_S)
    return waited


async def _latest(work: Work) -> Parity:
    """Read what the last comparison found.

    Raises:
        GateRefused: there was none.
    """
    latest = (await store.migration(work.conn, work.reference)).parity
    if latest is None:
        raise GateRefused("it is paused", hint=f"Go on: pgduet resume {work.reference.name}")
    return Parity.model_validate(latest)


async def _parity(work: Work, request: ParityRequest) -> Parity:
    """Compare, held where the operator, the window or a probe says so; a scheduled comparison may leave it at the last one."""
    if await _others_compared(work) and request.scheduled and work.migration.parity:
        return await _latest(work)

    def tell(throttled: Throttled | None) -> None:
        work.beat.progress = throttled

    asked = Asked(request.scheduled, request.although_paused)
    try:
        async with braked(work.conn, work.migration, work.beside, tell, asked) as brakes:
            return await _compared(work, request, brakes)
    except Postponed:
        return await _latest(work)


async def _compared(work: Work, request: ParityRequest, brakes: Brakes) -> Parity:
    """Compare what changes in place, then shapes, and keep all of it at once: nobody sees one part without the others."""
    migration = work.migration

    def progress(note: str) -> None:
        work.beat.note = note

    mode = SyncMode.FILL if migration.sync_mode in {None, SyncMode.FILL} else SyncMode.BOTH
    found = await compare(work.conn, migration, mode, progress, brakes)
    repaired = 0
    if request.repair and found.parity.mismatches:
        repaired = await repair(work.conn, migration, mode, migration.authority, progress, brakes)
        found = await compare(work.conn, migration, mode, progress, brakes)
    found.parity.repaired = repaired
    whole = await with_shapes(work, found.parity, progress, brakes, repair=request.repair)
    async with work.conn.transaction():
        await keep(work.conn, migration, found, whole)
        await store.audited(
            work.conn,
            request.reference,
            "repair" if whole.repaired else "parity",
            affected={"rows": whole.rows},
            evidence=whole.model_dump(
                mode="json", include={"mismatches", "violations", "repaired", "examples", "aggregates"}
            )
            | ({"scheduled": True} if request.scheduled else {}),
        )
    limit = migration.policy.verify.max_drift_rows
    metrics.comparison(drifted=bool(whole.mismatches > limit or whole.off))
    return whole


async def _both_ways(work: Work, statements: list[Statement]) -> None:
    async def also(conn: Connection) -> None:
        await store.run(conn, "set_mode", {"id": work.migration.id, "mode": SyncMode.BOTH})

    await work.locked(statements, also)


async def _open_schema(work: Work, restored: int) -> str | None:
    design = work.migration.design
    if (await store.run(work.conn, "by_id", {"id": work.migration.id}))[0]["published_at"]:
        return None  # by an earlier try; clients may be on it
    if waiting := await unpublished_before(work):
        raise GateRefused(
            f"version {design.from_version} is not published yet: {', '.join(waiting)}",
            hint="It is published when those are through verify.",
        )
    for _ in range(CONTRACTED_MEANWHILE):
        try:
            return await _open_both(work, restored)
        except (errors.UndefinedTable, errors.UndefinedColumn):
            # An earlier migration's contract gave a table its final shape between our look and our view.
            await asyncio.sleep(0.1)
    return await _open_both(work, restored)


async def _open_both(work: Work, restored: int) -> str:
    design = work.migration.design
    version = design.to_version
    heads: list[str] = []
    await open_old_version(work)

    async def also(conn: Connection) -> None:
        await open_version(work, version, mine=True)
        await store.run(conn, "set_published", {"id": work.migration.id, "published": True})
        await store.set_comparing(conn, work.migration.name, comparing=True)
        await store.change_route(conn, work.reference, published=True, read_percent=0, authority="old")
        affected: dict[str, object] = {"schemas": list(design.version_schemas(version))}
        evidence: dict[str, object] = {"restored": restored}
        heads.append(await store.audited(conn, work.reference, "publish", affected=affected, evidence=evidence))
        await reach("publish.before_commit")

    if statements := [each for shape in shapes_of(design) for each in await shape.opening(work)]:
        await work.locked(statements, also)
    else:
        async with work.conn.transaction():
            await also(work.conn)
    await reach("publish.after_commit")
    return heads[-1]


async def _close_schema(work: Work) -> None:
    design = work.migration.design
    statements = await drop_version(work, design, design.to_version)
    statements += [statement for table in design.tables for statement in views.drop_inner_view(design, table)]
    statements += [each for shape in reversed(shapes_of(design)) for each in await shape.closing(work)]

    async def also(conn: Connection) -> None:
        await store.change_route(conn, work.reference, published=False, read_percent=0, authority="old")
        await reach("undo_verify.before_commit")

    await work.locked(statements, also)
    await reach("undo_verify.after_commit")


async def _archive(work: Work) -> tuple[int, str]:
    """Save new-only values once: `published_at` says that there may be some, and is cleared after the save."""
    published = (await store.run(work.conn, "by_id", {"id": work.migration.id}))[0]["published_at"]
    count = await _save_new(work) if published is not None else 0
    async with work.conn.transaction():
        current = (await store.run(work.conn, "lock", {"id": work.migration.id}))[0]
        if current["published_at"] is None and current["sync_mode"] == SyncMode.BOTH:
            # Values came back, but nobody could use the new version: what the archive held still holds.
            await store.run(work.conn, "unrestore", {"migration": work.migration.name, "since": current["started_at"]})
        if published is not None:
            await store.run(work.conn, "set_published", {"id": work.migration.id, "published": False})
        await store.run(work.conn, "set_mode", {"id": work.migration.id, "mode": None})
        head = await store.audited(work.conn, work.reference, "withdraw", evidence={"archived": count})
    return count, head


async def _renamed(work: Work) -> bool:
    """Tell whether a swap has given the tables other names since the step began."""
    return (await store.migration(work.conn, work.reference)).design != work.migration.design


async def _save_new(work: Work) -> int:
    """Save what only the new version has, as of one moment and piece by piece; a second try finds it saved."""
    design, attempt = work.migration.design, work.migration.attempt
    count, gently = 0, Gently(work.conn)
    async with work.conn.transaction():
        await work.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        saved = (await store.controls(work.conn, work.migration.id)).get(SAVED)
        if saved is not None:
            return int(saved)
        for table in design.synced:
            for heap in await heaps(work.conn, table):
                async for first, last in gently.pieces(await pages(work.conn, heap)):
                    for query in rows.archive_new(design, heap, attempt, first, last):
                        count += (await work.conn.execute(query)).rowcount
        for shape in shapes_of(design):
            count += await shape.archive_new(work.conn, attempt)
        await store.set_controls(work.conn, work.migration.id, {SAVED: count})
    await reach("undo_verify.after_save")
    return count
