"""shift: the route's read percent, the traffic it brings, and the census of who uses what; undo sends all reads back.

A census sees who is there at one instant. Where a version is about to go, it therefore looks several times a second, until somebody
is seen, or for long enough to say that nobody is left. Limits: see `pgduet.postgres.census`.
"""

import asyncio
import time
from typing import Literal

from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.activities.neighbours import passed
from pgduet.activities.shapes import shapes_of
from pgduet.activities.traffic import measured
from pgduet.barriers import reach
from pgduet.messages import CensusRequest, CensusResult, Outcome, Reference, RouteRequest, Traffic, TrafficRequest
from pgduet.operations import column_changes
from pgduet.phases import Authority
from pgduet.postgres import catalogue, store
from pgduet.postgres.census import left_on, note_counted, take

WATCH_S = 5.0
"""For so long it looks, or for as long as a client is remembered if that is shorter. A worker that leaves has time for it."""
LOOK_EVERY_S = 0.25


class Shift:
    """Moves reads and watches them."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="set_route")
    async def set_route(self, request: RouteRequest) -> Outcome:
        """Change the share of reads on the new path; routers hear of it at once."""
        async with self.engine.work(request.reference, "route") as work:
            return await _route(work, request, "route")

    @activity.defn(name="undo_shift")
    async def undo_shift(self, reference: Reference) -> Outcome:
        """Send all reads back to the old version."""
        async with self.engine.work(reference, "undo_shift", alone=True) as work:
            request = RouteRequest(reference=reference, read_percent=0, authority=Authority.OLD)
            return await _route(work, request, "undo_shift")

    @activity.defn(name="traffic")
    async def traffic(self, request: TrafficRequest) -> Traffic:
        """Measure what routers reported, as totals since they began, and probe both versions."""
        async with self.engine.work(request.reference, "traffic") as work:
            return await measured(work, request)

    @activity.defn(name="census")
    async def census(self, request: CensusRequest) -> CensusResult:
        """Tell who uses which version; that nobody uses one that is about to go rests on several looks."""
        async with self.engine.work(request.reference, "census") as work:
            await store.set_up(work.conn)  # of a migration that began before backends were remembered
            changed = [said for shape in shapes_of(work.migration.design) for said in await shape.tend(work)]
            changed += await _changed(work)
            await note_counted(work.conn, work.migration)
            ends = time.monotonic() + min(WATCH_S, request.idle_s)
            found = await take(work.conn, work.migration, request.idle_s, request.leaving)
            while request.leaving and not _decided(found, request.leaving) and time.monotonic() < ends:
                if await _is_forced(work):
                    break
                await asyncio.sleep(LOOK_EVERY_S)
                found = await take(work.conn, work.migration, request.idle_s, request.leaving)
            return found.model_copy(update={"no_way_back": await passed(work.conn, work.migration), "changed": changed})


async def _changed(work: Work) -> list[str]:
    """Tell what somebody has changed of columns that have a second form, and contract will not get past."""
    said = []
    for table in work.migration.design.tables:
        if any(mapping.pairs for mapping in table.mappings):
            facts = await catalogue.table(work.conn, table.schema_name, table.table)
            said += [f"{table.label}: {what}" for what, _ in column_changes.in_the_way(table, facts)]
    return said


def _decided(found: CensusResult, leaving: Literal["old", "new"]) -> bool:
    """Tell whether looking on can change nothing: a session that is merely still there may yet be seen at the new version."""
    return any(left not in found.lingering for left in left_on(found, leaving))


async def _is_forced(work: Work) -> bool:
    """Tell whether somebody has said, meanwhile, that no client is to be waited for."""
    decided = (await store.migration(work.conn, work.reference)).going_back
    return decided is not None and decided.force


async def _route(work: Work, request: RouteRequest, step: str) -> Outcome:
    async with work.conn.transaction():
        changes = request.model_dump(include={"read_percent", "authority"}, exclude_none=True)
        changed = await store.change_route(work.conn, request.reference, **changes)
        head = await store.audited(work.conn, request.reference, step, evidence=changed)
        await reach(f"{step}.before_commit")
    await reach(f"{step}.after_commit")
    return Outcome(
        summary=f"{changed.get('read_percent')} % of reads on the new path", evidence=changed, audit_head=head
    )
