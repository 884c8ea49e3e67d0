"""backfill: fills existing rows in batches that adapt to a time target; undo only stops it, since the columns go with expand.

A slice works for a while on one range of pages and returns where it stopped. The cursor that counts is the row in
`pgduet.backfill_range`, written in the batch's own transaction: after a kill at most one batch is done again.
"""

import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.activities.ranges import bounds
from pgduet.activities.shapes import Range, shapes_of
from pgduet.errors import UnmappableRows
from pgduet.messages import BackfillInput, ControlsRequest, Outcome, Part, PartList, Reference, SliceResult, Throttle
from pgduet.postgres import store
from pgduet.postgres.batches import Batches
from pgduet.postgres.filling import Filling
from pgduet.postgres.gauges import GaugeRoom
from pgduet.postgres.heaps import all_pages, heap, heaps, pages
from pgduet.postgres.parity import unmapped_rows
from pgduet.postgres.pressure import Pressure
from pgduet.postgres.session import condition
from pgduet.postgres.strain import LABELS
from pgduet.telemetry import batches as told


class Backfill:
    """Fills rows."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine
        self.gauges = GaugeRoom()

    @activity.defn(name="plan_backfill")
    async def plan_backfill(self, reference: Reference) -> PartList:
        """Cut every table's pages into ranges; the bounds are fixed now, since the triggers see to all later rows."""
        async with self.engine.work(reference, "plan_backfill") as work:
            wide = _parallelism(work, await store.controls(work.conn, work.migration.id))
            async with work.conn.transaction():
                for each in await _ranges(work, wide):
                    await store.run(work.conn, "ranges_insert", {"id": work.migration.id, **asdict(each)})
                await store.run(work.conn, "mark_wal", {"id": work.migration.id})
                # What an earlier workflow held is nobody's to hold any more.
                await store.set_controls(work.conn, work.migration.id, {"held": []})
            rows = await store.run(work.conn, "ranges", {"id": work.migration.id})
            parts = [Part(**{key: row[key] for key in Part.model_fields}) for row in rows]
            controls = await store.controls(work.conn, work.migration.id)
            return PartList(parts=parts, parallelism=_parallelism(work, controls), limits=_limits(controls))

    @activity.defn(name="fill_slice")
    async def fill_slice(self, task: BackfillInput) -> SliceResult:
        """Fill batch after batch until the time is up, the range is done, or somebody (a window, too) stops it."""
        async with self.engine.work(task.reference, "backfill") as work:
            batches = await _filling(work, task.part)
            if batches is None:
                return _gone(task)
            database = self.engine.databases.resolve(task.reference.database)
            async with self.gauges.of(database, work.migration) as gauges:
                held_since, closed_since = _held_before(task), task.closed_since
                pressure = Pressure(gauges, work.migration.policy, task.part.label, held_since, closed_since)
                await batches.open()
                held = await _fill(work, batches, pressure, task.slice_s)
                if task.closed_since and not pressure.verdict.stops:
                    held.add("window", (gauges.look().at - task.closed_since).total_seconds())
            await _note_held(work, held)
            return pressure.applied(batches.result())

    @activity.defn(name="backfill_outcome")
    async def backfill_outcome(self, reference: Reference) -> Outcome:
        """Tell what the backfill did, or name the rows that `up` cannot map.

        Raises:
            UnmappableRows: rows are left; the backfill's phase is not over while there are any.
        """
        async with self.engine.work(reference, "backfill_outcome", alone=True) as work:
            for shape in shapes_of(work.migration.design):
                await shape.filled(work)
            left = await _unmapped_now(work)
            ranges = await store.run(work.conn, "ranges", {"id": work.migration.id})
            if left:
                shown = "; ".join(
                    f"{row['relation']} {row['key']}: {condition(str(row['detail'])[:5])}" for row in left[:5]
                )
                raise UnmappableRows(
                    f"`up` cannot map {len(left)}{'+' if len(left) == _LIMIT else ''} rows: {shown}",
                    hint=f"Correct these rows (old clients may), then: pgduet advance {reference.name}. Or change the plan:"
                    f" pgduet rollback {reference.name}",
                )
            rows, batches = sum(r["rows_done"] for r in ranges), sum(r["batches"] for r in ranges)
            evidence = {"rows_written": rows, "batches": batches, **await _weight(work)}
            async with work.conn.transaction():
                head = await store.audited(work.conn, reference, "backfill", evidence=evidence)
            return Outcome(
                summary=f"{rows} rows written in {batches} batches",
                evidence={"rows": rows, "batches": batches},
                audit_head=head,
            )

    @activity.defn(name="undo_backfill")
    async def undo_backfill(self, reference: Reference) -> Outcome:
        """Record that the backfill stopped: its children have ended, and its rows go with the columns."""
        async with self.engine.work(reference, "undo_backfill") as work, work.conn.transaction():
            head = await store.audited(work.conn, reference, "undo_backfill")
            return Outcome(summary="backfill stopped", audit_head=head)

    @activity.defn(name="set_controls")
    async def set_controls(self, request: ControlsRequest) -> Outcome:
        """Change pace or pause; running slices read it within a second."""
        async with self.engine.work(request.reference, "controls") as work, work.conn.transaction():
            await store.set_controls(work.conn, work.migration.id, request.controls, reset=request.reset)
            evidence = {**dict.fromkeys(request.reset, "as planned"), **request.controls}
            head = await store.audited(work.conn, request.reference, "controls", evidence=evidence)
            return Outcome(summary=f"controls: {request.controls}", audit_head=head)


_LIMIT = 100


def _parallelism(work: Work, controls: dict[str, Any]) -> int:
    """Tell how many ranges may be filled at the same time."""
    return int(controls.get("parallelism", work.migration.policy.backfill.parallelism))


def _limits(controls: dict[str, Any]) -> dict[str, Any]:
    """Tell what an operator has set over the plan's pace."""
    return {name: controls[name] for name in Throttle.PACE if name in controls}


class _Held:
    """For how long a slice held back, by reason."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last: str | None = None

    def add(self, kind: str | None, seconds: float = 0.0) -> None:
        """Count time for a reason; a reason that is another than the one before is another hold."""
        if kind:
            self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
            told.held(kind, seconds, again=kind == self.last)
        self.last = kind


async def _fill(work: Work, batches: Filling, pressure: Pressure, slice_s: float) -> _Held:
    """Fill batch after batch, at the pace that the pressure leaves; tells for how long it held back."""
    ends, held = time.monotonic() + slice_s, _Held()

    def over() -> bool:
        work.beat.progress = pressure.applied(batches.result())
        return time.monotonic() >= ends or activity.is_worker_shutdown()

    await pressure.begin(over)
    while not batches.finished:
        verdict = pressure.check()
        if over() or verdict.stops:
            break
        began = time.monotonic()
        if verdict.rate:
            async with pressure.turn():
                began = time.monotonic()
                await batches.next(pressure.pace)
            held.add(None)
        worked_s = time.monotonic() - began
        if not batches.finished:
            await pressure.rest(worked_s if verdict.rate else 0.0, over)
        if not verdict.rate and verdict.throttled:
            held.add(verdict.throttled.kind, time.monotonic() - began)
    if pressure.verdict.stops and pressure.verdict.throttled:
        held.add(pressure.verdict.throttled.kind)
    return held


def _held_before(task: BackfillInput) -> datetime | None:
    """Tell since when the range has been held: what a try of this slice that was killed had said, or the slices before."""
    for beat in activity.info().heartbeat_details:
        with suppress(ValidationError):
            return SliceResult.model_validate(beat).held_since
    return task.held_since


async def _note_held(work: Work, held: _Held) -> None:
    """Add up how long the backfill held back, and why; other slices write the same row, so this waits for them."""
    noted = {kind: seconds for kind, seconds in held.seconds.items() if seconds > 0}
    if noted:
        await work.conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
    for kind, seconds in noted.items():
        await store.run(
            work.conn, "add_held", {"id": work.migration.id, "why": LABELS.get(kind, kind), "seconds": seconds}
        )


async def _weight(work: Work) -> dict[str, object]:
    """Measure what the tables weigh now, and what WAL the whole server has written since the backfill began."""
    weight = 0
    for table in work.migration.design.synced:
        weight += await all_pages(work.conn, table)
    for shape in shapes_of(work.migration.design):
        weight += await shape.weight(work.conn)
    written = (await store.run(work.conn, "wal_since", {"id": work.migration.id}))[0]["mb"]
    return {"pages": weight} if written is None else {"pages": weight, "server_wal_mb": round(written, 1)}


def _gone(task: BackfillInput) -> SliceResult:
    """Be done with a partition that was dropped or detached: its rows are no part of the table any more."""
    blocks = task.part.block_to - task.part.block_from
    return SliceResult(cursor_block=task.part.block_to, finished=True, blocks_done=blocks, percent=100.0)


async def _ranges(work: Work, wide: int) -> list[Range]:
    """Cut every table's pages, and what shapes have to fill; of an empty partition nothing: its rows come by the triggers."""
    made = []
    for table in work.migration.design.synced:
        for each in await heaps(work.conn, table) if table.derived else []:
            size = await pages(work.conn, each)
            cut = [] if each.leaf and not size else bounds(size, wide)
            made += [Range(each.heap_label, number, *pair) for number, pair in enumerate(cut)]
    for shape in shapes_of(work.migration.design):
        made += await shape.ranges(work.conn, wide)
    return made


async def _filling(work: Work, part: Part) -> Filling | None:
    """Give what fills a range; nothing where its table is gone."""
    for shape in shapes_of(work.migration.design):
        if found := await shape.filling(work, part):
            return found
    table = await heap(work.conn, work.migration, part.relation)
    return Batches(work.conn, work.migration, table, part.part) if table else None


async def _unmapped_now(work: Work) -> list[dict[str, object]]:
    """Ask again of all rows: some may have been corrected since a batch met them, others broken."""
    found: list[dict[str, object]] = []
    for table in work.migration.design.synced:
        if table.derived:
            found += await unmapped_rows(work.conn, work.migration, table, _LIMIT)
    for shape in shapes_of(work.migration.design):
        found += await shape.unmapped(work, _LIMIT)
    return found
