"""backfill: fills existing rows in batches that adapt to a time target; undo only stops it, since the columns go with expand.

A slice works for a while on one range of pages and returns where it stopped. The cursor that counts is the row in
`pgduet.backfill_range`, written in the batch's own transaction: after a kill at most one batch is done again.
"""

import re
import time

from temporalio import activity

from pgduet.activities.engine import Engine, Work
from pgduet.errors import UnmappableRows
from pgduet.messages import BackfillInput, ControlsRequest, Outcome, Part, PartList, Reference, SliceResult
from pgduet.postgres import store
from pgduet.postgres.batches import STOPS, Batches, Pressure
from pgduet.postgres.parity import unmapped_rows
from pgduet.postgres.session import condition


class Backfill:
    """Fills rows."""

    def __init__(self, engine: Engine) -> None:
        """Take what every activity stands on."""
        self.engine = engine

    @activity.defn(name="plan_backfill")
    async def plan_backfill(self, reference: Reference) -> PartList:
        """Cut every table's pages into ranges; the bounds are fixed now, since the triggers see to all later rows."""
        async with self.engine.work(reference, "plan_backfill") as work:
            async with work.conn.transaction():
                for table in work.migration.design.synced:
                    if table.derived:
                        await _insert_ranges(work, table.label)
                await store.run(work.conn, "mark_wal", {"id": work.migration.id})
                # What an earlier workflow held is nobody's to hold any more.
                await store.set_controls(work.conn, work.migration.id, {"held": []})
            rows = await store.run(work.conn, "ranges", {"id": work.migration.id})
            parts = [Part(**{key: row[key] for key in Part.model_fields}) for row in rows]
            return PartList(parts=parts, parallelism=await _parallelism(work))

    @activity.defn(name="fill_slice")
    async def fill_slice(self, task: BackfillInput) -> SliceResult:
        """Fill batch after batch until the time is up, the range is done, or somebody pauses."""
        async with self.engine.work(task.reference, "backfill") as work:
            table = work.migration.table(task.part.relation)
            batches = Batches(work.conn, work.migration, table, task.part.part)
            pressure = Pressure(work.conn, work.migration, task.part)
            await batches.open()
            ends = time.monotonic() + task.slice_s
            held: str | None = None
            held_s: dict[str, float] = {}
            while not batches.finished and time.monotonic() < ends and not activity.is_worker_shutdown():
                held = await pressure.check()
                if not held:
                    await batches.next(pressure.pace)
                work.beat.progress = batches.result(held)
                if held in STOPS:
                    break
                if held:
                    began = time.monotonic()
                    await pressure.relax()
                    why = _without_figures(held)
                    held_s[why] = held_s.get(why, 0.0) + time.monotonic() - began
            await _note_held(work, held_s)
            return batches.result(held if held in STOPS else None)

    @activity.defn(name="backfill_outcome")
    async def backfill_outcome(self, reference: Reference) -> Outcome:
        """Tell what the backfill did, or name the rows that `up` cannot map.

        Raises:
            UnmappableRows: rows are left; the backfill's phase is not over while there are any.
        """
        async with self.engine.work(reference, "backfill_outcome") as work:
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
            await store.set_controls(work.conn, work.migration.id, request.controls)
            head = await store.audited(work.conn, request.reference, "controls", evidence=dict(request.controls))
            return Outcome(summary=f"controls: {request.controls}", audit_head=head)


_LIMIT = 100
RANGE_PAGES = 16_384
"""A table larger than this for each range gets more ranges than are filled at once, so that their number can be raised: 128 MB."""
MOST_RANGES = 16


async def _parallelism(work: Work) -> int:
    """Tell how many ranges may be filled at the same time."""
    controls = (await store.run(work.conn, "controls", {"id": work.migration.id}))[0]["controls"]
    return int(controls.get("parallelism", work.migration.policy.backfill.parallelism))


async def _note_held(work: Work, held_s: dict[str, float]) -> None:
    """Add up how long the backfill held back, and why; other slices write the same row, so this waits for them."""
    if held_s:
        await work.conn.execute("SET lock_timeout = 0; SET statement_timeout = 0")
    for why, seconds in held_s.items():
        await store.run(work.conn, "add_held", {"id": work.migration.id, "why": why, "seconds": seconds})


async def _weight(work: Work) -> dict[str, object]:
    """Measure what the tables weigh now, and what WAL the whole server has written since the backfill began."""
    pages = 0
    for table in work.migration.design.synced:
        pages += (await store.run(work.conn, "pages", {"relation": table.label}))[0]["pages"]
    written = (await store.run(work.conn, "wal_since", {"id": work.migration.id}))[0]["mb"]
    return {"pages": pages} if written is None else {"pages": pages, "server_wal_mb": round(written, 1)}


def _without_figures(held: str) -> str:
    """Name a reason to hold without the figures of the moment."""
    return re.split(r"\s+[\d(]", held, maxsplit=1)[0]


async def _insert_ranges(work: Work, relation: str) -> None:
    size = (await store.run(work.conn, "pages", {"relation": relation}))[0]["pages"]
    wanted = max(await _parallelism(work), min(MOST_RANGES, size // RANGE_PAGES))
    parts = min(wanted, max(1, size // 16))
    bounds = [size * number // parts for number in range(parts + 1)]
    for number in range(parts):
        await store.run(
            work.conn,
            "ranges_insert",
            {
                "id": work.migration.id,
                "relation": relation,
                "part": number,
                "block_from": bounds[number],
                "block_to": bounds[number + 1],
            },
        )


async def _unmapped_now(work: Work) -> list[dict[str, object]]:
    """Ask again of all rows: some may have been corrected since a batch met them, others broken."""
    found: list[dict[str, object]] = []
    for table in work.migration.design.synced:
        if table.derived:
            found += await unmapped_rows(work.conn, work.migration, table, _LIMIT)
    return found
