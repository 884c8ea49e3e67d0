"""Indexes built and dropped CONCURRENTLY, constraints validated: who is in the way is told, who would have clients queue is let by.

A build that was cut short leaves an INVALID index: it is dropped, and built again. Only what is ours is: by its working name, or,
where an index is built under its own name, by the note that is committed before its build begins.

Clients never queue behind such a build: the lock that it asks for lets everybody read and write, and so does its wait for it. But
somebody else's ALTER TABLE may queue behind it, and clients behind that; or it may come from a transaction for whose end the build
waits, which would be a deadlock. Then the build gives way, and begins again later. Limit: it does so after the plan's lock timeout
and a look at the locks, which is taken every 100 ms.
"""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime

from psycopg import errors

from pgduet.activities.engine import Work
from pgduet.activities.partitioned import build_everywhere
from pgduet.barriers import reach
from pgduet.errors import LockDeadline, NameTaken
from pgduet.messages import LockWait
from pgduet.operations import declare
from pgduet.operations.constraints import CarriedIndex, DroppedIndex
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Statement, Table
from pgduet.postgres import catalogue, store
from pgduet.postgres.blockers import blocking
from pgduet.postgres.building import doing, give_way, queued, valid
from pgduet.postgres.executor import execute_alone

OURS, BUILT = "ours", "built"
LOOK_EVERY_S = 0.1
AGAIN_S = (1.0, 3.0)
"""How long others have the table after a build gave way."""


async def build(work: Work, table: TableDesign, index: CarriedIndex) -> bool:
    """Build an index unless it is there and valid; tells whether it had to be built.

    Raises:
        LockDeadline: it had to give way until the plan's deadline.
    """
    if table.partitioned:
        return await build_everywhere(work, table, index, build)
    return await build_beside(work, table, index.working, declare.build(table, index), declare.drop_index(table, index))


async def build_beside(work: Work, table: Table, name: str, create: Statement, drop: Statement) -> bool:
    """Build an index that is wholly ours, unless it is there and valid; tells whether it had to be built.

    Raises:
        LockDeadline: it had to give way until the plan's deadline.
    """
    ends = time.monotonic() + work.migration.policy.lock_deadline_s
    while True:
        is_valid = await valid(work.conn, table, name)
        if is_valid:
            return False
        if is_valid is not None:
            await beside_clients(work, drop)
        try:
            if await _ran(work, create):
                return True
        except errors.IntegrityError:
            await beside_clients(work, drop)
            raise
        await _later(ends, f"{create.summary} was not built")


async def beside_clients(work: Work, statement: Statement) -> None:
    """Run what can be run again from its beginning: a drop of an index, or the validation of a constraint.

    Raises:
        LockDeadline: it had to give way until the plan's deadline.
    """
    ends = time.monotonic() + work.migration.policy.lock_deadline_s
    while not await _ran(work, statement):
        await _later(ends, f"{statement.summary} did not come to its end")


async def build_first(work: Work) -> list[str]:
    """Build the indexes that bind nobody and need no column in the making; returns their names.

    Raises:
        NameTaken: somebody else has made a relation of an index's name since preflight.
    """
    names = []
    for table in work.migration.design.tables:
        for index in declare.first(table):
            known = await _known(work, index)
            if known is None:
                if await catalogue.relation_there(work.conn, table.schema_name, index.working):
                    raise NameTaken(
                        f'schema {table.schema_name} has a relation "{index.working}" by now, and it is not ours',
                        hint=f"Rename or drop it, then: pgduet advance {work.migration.name}",
                    )
                await store.set_controls(work.conn, work.migration.id, {_mark(index): OURS})
            await build(work, table, index)
            if known != BUILT:
                await _note(work, "expand", {_mark(index): BUILT}, table=table.label, index=index.working)
            names.append(index.name)
    return names


async def drop_first(work: Work) -> list[str]:
    """Drop what `build_first` built; returns the names."""
    names = []
    for table in reversed(work.migration.design.tables):
        for index in reversed(declare.first(table)):
            if await _known(work, index):
                await beside_clients(work, declare.drop_index(table, index))
                await _note(work, "undo_expand", {_mark(index): None}, table=table.label, index=index.working)
                names.append(index.name)
    return names


async def drop_old(work: Work, index: DroppedIndex, mark: str) -> None:
    """Drop an index that the new version does without; with `mark`, contract remembers it."""
    await beside_clients(work, declare.drop_old_index(index))
    await _note(work, "drop_index", {mark: True}, table=index.table, index=index.label)


def _mark(index: CarriedIndex) -> str:
    return f"index_{index.position}"


async def _known(work: Work, index: CarriedIndex) -> str | None:
    """Tell whether what has the index's name is ours, and whether it was built."""
    controls = await store.controls(work.conn, work.migration.id)
    found = controls.get(_mark(index))
    return str(found) if found else None


async def _note(work: Work, action: str, controls: dict[str, object], **affected: object) -> None:
    """Remember what was done to an index, with its entry in the audit log."""
    async with work.conn.transaction():
        await store.set_controls(work.conn, work.migration.id, controls)
        await store.audited(work.conn, work.reference, action, affected=affected)
        await reach("index.before_commit")
    await reach("index.after_commit")


async def _later(ends: float, what: str) -> None:
    if time.monotonic() > ends:
        raise LockDeadline(
            f"{what}: others locked the table again and again",
            hint="Try again when nobody changes the table (pgduet advance).",
        )
    await asyncio.sleep(random.uniform(*AGAIN_S))  # noqa: S311  (jitter)


async def _ran(work: Work, statement: Statement) -> bool:
    """Run a statement, and watch it from a second session; tells whether it came to its end, or gave way."""
    pid, since = work.conn.info.backend_pid, datetime.now(UTC)
    gave_way = False
    async with work.beside() as beside:
        running = asyncio.create_task(execute_alone(work.conn, statement))
        try:
            while not (await asyncio.wait({running}, timeout=LOOK_EVERY_S))[0]:
                if await queued(beside, pid, work.migration.policy.lock_timeout_ms):
                    gave_way = True
                    await give_way(beside, pid)
                elif (held := await blocking(beside, pid)).text:
                    told = f"{statement.summary}, for which others must end · {held.text}"
                    work.beat.progress = LockWait(waits_for_lock=told, since=since, ending=list(held.ending))
                else:
                    how_far = await doing(beside, pid)
                    told = f"{statement.summary}{how_far}"
                    work.beat.note = told
                    work.beat.progress = LockWait(waits_for_lock=told, since=since, kind="index") if how_far else None
            await running
        except errors.QueryCanceled:
            if not gave_way:
                raise
            return False
        finally:
            work.beat.progress = None
            if not running.done():
                running.cancel()
                with suppress(asyncio.CancelledError, errors.Error):
                    await running
    return True
