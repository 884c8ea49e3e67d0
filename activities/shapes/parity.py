"""Parity of shapes as an activity runs it: sessions, whose request it is, how far the migration is; then one message.

A comparison of a large table may take hours. How far it is stands in `pgduet.comparison`, under the name of the activity that asked
for it: a try after one that was killed goes on there. One at a time of each migration: somebody who asks meanwhile waits, and
says so.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from temporalio import activity

from pgduet.activities.engine import Work
from pgduet.measured import Parity
from pgduet.operations.aggregates import Aggregate
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.phases import SyncMode
from pgduet.postgres import store
from pgduet.postgres.brakes import Brakes
from pgduet.postgres.counterpart import Compared, Progress
from pgduet.postgres.merge_parity import MergeParity
from pgduet.postgres.session import Connection
from pgduet.postgres.shadow_parity import ShadowParity, Standing

WAIT_S = 0.5


async def of_shadow(work: Work, design: ShadowDesign, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity:
    """Compare an anchor with its shadow."""
    migration = work.migration
    published = migration.sync_mode not in {None, SyncMode.FILL}
    standing = Standing(published, migration.authority, migration.policy.user_triggers)
    async with _sessions(work, progress, brakes) as sessions:
        parity = ShadowParity(sessions, design, work.reference, standing, brakes.pace, progress=progress, brakes=brakes)
        found = await parity.whole(_request(design), aggregates=_declared(work, design), repair=repair)
    return _told(found)


async def of_merge(work: Work, design: MergeDesign, progress: Progress, brakes: Brakes, *, repair: bool) -> Parity:
    """Compare groups with what the new version reads of them."""
    async with _sessions(work, progress, brakes) as sessions:
        parity = MergeParity(sessions, design, work.reference, progress=progress, brakes=brakes)
        found = await parity.whole(_request(design), aggregates=_declared(work, design), repair=repair)
    return _told(found)


@asynccontextmanager
async def _sessions(work: Work, progress: Progress, brakes: Brakes) -> AsyncIterator[Sequence[Connection]]:
    """Open as many sessions as a backfill may use, once nobody else compares."""
    wide = int(brakes.reading.controls.get("parallelism", work.migration.policy.backfill.parallelism))
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(work.beside()) for _ in range(max(1, wide))]
        opened = await asyncio.gather(*opening, return_exceptions=True)
        sessions = [each for each in opened if not isinstance(each, BaseException)]
        if failed := [each for each in opened if isinstance(each, BaseException)]:
            raise failed[0]
        # Held by the session, and so given up with it.
        while not (await store.run(sessions[0], "compares_alone", {"id": work.migration.id}))[0]["alone"]:
            progress("waits for another comparison to end")
            await asyncio.sleep(WAIT_S)
        yield sessions


def _request(design: ShadowDesign | MergeDesign) -> str:
    """Name what asked: a later try of the same activity has the same name, and another activity another."""
    info = activity.info()
    return f"{info.workflow_run_id}/{info.activity_id}/{design.position}"


def _declared(work: Work, design: ShadowDesign | MergeDesign) -> list[Aggregate]:
    found = [each for each in work.migration.design.aggregates if each.shape == design.position]
    if isinstance(design, ShadowDesign) and design.swapped:
        return [_by_present_names(each, design) for each in found]
    return found


def _by_present_names(aggregate: Aggregate, design: ShadowDesign) -> Aggregate:
    """Measure both sides where they are after a swap: the aggregate was declared before it."""
    old = aggregate.old.model_copy(update={"relation": (design.schema_name, design.anchor_name)})
    new = aggregate.new.model_copy(update={"relation": (design.schema_name, design.shadow_name)})
    return aggregate.model_copy(update={"old": old, "new": new})


def _told(found: Compared) -> Parity:
    return Parity(
        checked_at=found.checked_at,
        rows=found.rows,
        mismatches=found.mismatches,
        repaired=found.repaired,
        examples=found.examples,
        aggregates=found.aggregates,
    )
