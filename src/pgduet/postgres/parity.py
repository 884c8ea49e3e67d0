"""Compares both representations of every row, names the rows that disagree, and repairs them when asked.

All page ranges are read in one snapshot, so a row that moves meanwhile is counted once, and the tolerance is zero. The snapshot is
as old as the comparison takes: about a second for a million rows, and five beside clients, to whom it leaves most of the time.
Where something holds the comparison for longer than moments, the snapshot is given up, and it begins anew.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from psycopg import DataError, Error, sql
from psycopg.errors import RaiseException

from pgduet.errors import GateRefused
from pgduet.measured import Aggregated, Parity
from pgduet.operations import rows
from pgduet.operations.aggregates import Aggregate
from pgduet.operations.constraints import Exclusion
from pgduet.operations.design import TableDesign
from pgduet.operations.statement import Query
from pgduet.phases import Authority, SyncMode
from pgduet.postgres import store
from pgduet.postgres.brakes import UNBRAKED, SnapshotGivenUp, Unbraked
from pgduet.postgres.constraints import EXCLUSION_PAGES
from pgduet.postgres.executor import is_transient
from pgduet.postgres.gently import Gently
from pgduet.postgres.heaps import heaps, pages
from pgduet.postgres.measuring import measure
from pgduet.postgres.muting import mutes
from pgduet.postgres.polite import write_politely
from pgduet.postgres.session import Connection, condition

REPAIRED_PAGES = 256
EXAMPLES = 20
RETRY_S = 0.05

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What a comparison in place found: what is told, and what is noted of it in `pgduet.drift`."""

    parity: Parity
    notes: list[dict[str, Any]]


async def compare(
    conn: Connection, migration: store.Migration, mode: SyncMode, progress: Progress, brakes: Unbraked = UNBRAKED
) -> Found:
    """Compare all rows of the tables that a migration changes in place; whoever has the whole keeps it (`keep`)."""
    while True:
        await brakes.rest()
        try:
            return await _in_one_snapshot(conn, migration, mode, progress, brakes)
        except SnapshotGivenUp:
            progress("held: it begins anew, in a new snapshot")


async def _in_one_snapshot(
    conn: Connection, migration: store.Migration, mode: SyncMode, progress: Progress, brakes: Unbraked
) -> Found:
    comparison = _Comparison(conn, migration, mode, progress, brakes)
    tables, aggregates = migration.design.compared, [a for a in migration.design.aggregates if a.shape is None]
    if not (tables or aggregates):
        return Found(comparison.result(await _now(conn)), [])
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        began = await _now(conn)
        for table in tables:
            await comparison.table(table)
            await comparison.beside_others(table)
        for aggregate in aggregates:
            await comparison.aggregate(aggregate)
    return Found(comparison.result(began), [*comparison.examples, *comparison.groups])


async def _now(conn: Connection) -> datetime:
    found = await (await conn.execute("SELECT clock_timestamp() AS at")).fetchone()
    return found["at"] if found else datetime.now().astimezone()


async def keep(conn: Connection, migration: store.Migration, found: Found, whole: Parity) -> None:
    """Keep what was found in place beside the migration, and the comparison whole, in the transaction that this is called in."""
    elsewhere = [*(each.label for each in migration.design.shadows), *(each.label for each in migration.design.merged)]
    before = {"id": migration.id, "before": found.parity.checked_at, "elsewhere": elsewhere}
    await store.run(conn, "drift_clear", before)
    for row in found.notes:
        await store.note_drift(conn, migration.id, row["relation"], row["key"], row["kind"], row["detail"])
    await store.save_parity(conn, migration.id, whole.model_dump(mode="json"))


async def repair(
    conn: Connection,
    migration: store.Migration,
    mode: SyncMode,
    authority: Authority,
    progress: Progress,
    brakes: Unbraked = UNBRAKED,
) -> int:
    """Give drifted rows what the authority says; returns how many rows were written."""
    written = 0
    for table in [heap for synced in migration.design.synced for heap in await heaps(conn, synced)]:
        mute = await mutes(conn, table.label, migration.policy.user_triggers)
        for first in range(0, await pages(conn, table), REPAIRED_PAGES):
            last = first + REPAIRED_PAGES
            if authority is Authority.NEW and table.mirrored:
                query = rows.repair_old(table, first, last)
            elif authority is Authority.OLD and table.derived:
                query = rows.repair_new(migration.design, table, mode, first, last)
            else:
                continue
            began = time.monotonic()
            written += await write_politely(conn, query, mute=mute)
            progress(f"{table.label}: {written} rows repaired")
            await brakes.rest(time.monotonic() - began)
    return written


async def unmapped_rows(
    conn: Connection, migration: store.Migration, table: TableDesign, limit: int
) -> list[dict[str, Any]]:
    """Name rows that `up` cannot map, as they are at one moment."""
    found: list[dict[str, Any]] = []
    gently = Gently(conn)
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for heap in await heaps(conn, table):
            async for first, last in gently.pieces(await pages(conn, heap)):
                query = rows.unmapped(migration.design, heap, first, last, limit - len(found))
                found += await (await conn.execute(query)).fetchall()
    # Without a primary key a row's values are all there is to name it, and they stay in the database.
    keys = [row["key"] if table.key else "a row, see pgduet.drift" for row in found]
    return [{"relation": table.label, "key": key, "detail": row["error"]} for key, row in zip(keys, found, strict=True)]


class _Comparison:
    """Counts, chunk by chunk, inside one snapshot."""

    def __init__(
        self,
        conn: Connection,
        migration: store.Migration,
        mode: SyncMode,
        progress: Progress,
        brakes: Unbraked = UNBRAKED,
    ) -> None:
        self.conn = conn
        self.migration = migration
        self.mode = mode
        self.progress = progress
        self.gently = Gently(conn, brakes)
        self.rows = self.mismatches = self.violations = 0
        self.examples: list[dict[str, Any]] = []
        self.aggregated: list[Aggregated] = []
        self.groups: list[dict[str, Any]] = []

    async def table(self, table: TableDesign) -> None:
        for heap in await heaps(self.conn, table):
            await self._heap(heap)

    async def _heap(self, table: TableDesign) -> None:
        total = await pages(self.conn, table)
        async for first, last in self.gently.pieces(total):
            counted, safe = await self._counted(table, first, last)
            self.rows += counted["rows"]
            self.mismatches += counted["mismatches"]
            self.violations += counted["violations"]
            if (counted["mismatches"] or counted["violations"]) and len(self.examples) < EXAMPLES:
                await self._name(table, first, last, safe=safe)
            self.progress(f"{table.heap_label}: {last} of {total} pages compared")

    async def beside_others(self, table: TableDesign) -> None:
        """Count the rows that cannot be there together: by a coming uniqueness or exclusion, until PostgreSQL sees to it."""
        if self.migration.authority is Authority.NEW:
            return
        for index in rows.uniqueness(table):
            self.progress(f"{table.label}: is {index.shown} unique?")
            await self._together(table, rows.duplicates(table, index), partial(rows.duplicated, table, index))
        for exclusion in table.exclusions:
            await self._refuse_grown(table, exclusion)
            self.progress(f"{table.label}: does {exclusion.name} hold?")
            await self._together(table, rows.clashes(table, exclusion), partial(rows.clashing, table, exclusion))

    async def aggregate(self, aggregate: Aggregate) -> None:
        """Compare a declared aggregate in the same snapshot, and name the groups in which it differs."""
        self.progress(f"{sql.Identifier(*aggregate.old.relation).as_string(None)}: {aggregate.name}")
        found = await measure(self.conn, aggregate)
        self.aggregated.append(found.told)
        self.groups += found.notes

    async def _refuse_grown(self, table: TableDesign, exclusion: Exclusion) -> None:
        """Refuse what would take a time that grows with the square of the rows, for a constraint that cannot be built any more."""
        if (found := await pages(self.conn, table)) > EXCLUSION_PAGES:
            raise GateRefused(
                f"{table.label} has grown to {found} pages, and {exclusion.name} can be built on {EXCLUSION_PAGES} at most",
                hint="Roll back, and bring the constraint with a new table or in a window of your own.",
            )

    async def _together(self, table: TableDesign, counting: Query, naming: Callable[[int], Query]) -> None:
        count = (await (await self.conn.execute(counting)).fetchall())[0]["rows"]
        self.violations += count
        if count and (room := EXAMPLES - len(self.examples)) > 0:
            named = await (await self.conn.execute(naming(room))).fetchall()
            self.examples += [{"relation": table.label, **row} for row in named]

    async def _counted(self, table: TableDesign, first: int, last: int) -> tuple[dict[str, int], bool]:
        """Count the fast way; where an expression raises, row by row with care."""
        for safe in (False, True):
            try:
                async with self.conn.transaction():
                    query = rows.parity(self.migration.design, table, self.mode, first, last, safe=safe)
                    return (await (await self.conn.execute(query)).fetchall())[0], safe
            except Error as error:
                if is_transient(error) or (safe and not isinstance(error, DataError | RaiseException)):
                    raise
                if safe:
                    raise GateRefused(
                        f"a check of {table.label} cannot be asked of every row: {condition(error.sqlstate)}",
                        hint="Correct the rows, or write a check that is false for them instead of failing.",
                    ) from None
        raise AssertionError

    async def _name(self, table: TableDesign, first: int, last: int, *, safe: bool) -> None:
        room = EXAMPLES - len(self.examples)
        query = rows.differing(self.migration.design, table, self.mode, first, last, room, safe=safe)
        for row in await (await self.conn.execute(query)).fetchall():
            self.examples.append({"relation": table.label, **row})

    def result(self, at: datetime) -> Parity:
        return Parity(
            checked_at=at,
            rows=self.rows,
            mismatches=self.mismatches,
            violations=self.violations,
            # Values of rows stay in the database (pgduet.drift); keys and kinds travel.
            examples=[self._named(row) for row in self.examples],
            aggregates=self.aggregated,
        )

    def _named(self, row: dict[str, Any]) -> dict[str, Any]:
        """Name a row by its primary key; without one, its values are all there is, and they stay in the database."""
        keyed = bool(self.migration.table(row["relation"]).key)
        return {"relation": row["relation"], "kind": row["kind"], "key": row["key"] if keyed else "see pgduet.drift"}
