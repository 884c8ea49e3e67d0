"""Fills one range of heap pages batch by batch, never in a client's way for longer than a batch.

A batch is one UPDATE over a few pages and the move of the cursor, in one transaction and two round trips: between them the server
waits for us, and where it has no core to spare for us that is what costs. The number of pages follows the time that the last
batch took. It never waits for a row lock: when a client holds a row, the free rows of the pages are filled and the
rest is tried again, counted by a statement of its own, until none is left. When `up` raises on a row, that row is left empty
and noted, and its neighbours are filled. The user's triggers do not fire, unless the plan says so.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg import Error, OperationalError, errors, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow

from pgduet.barriers import reach
from pgduet.messages import SliceResult
from pgduet.operations import rows
from pgduet.operations.design import TableDesign
from pgduet.operations.template import Template, blank
from pgduet.postgres import store
from pgduet.postgres.blockers import row_holders
from pgduet.postgres.executor import is_transient
from pgduet.postgres.filling import Filling
from pgduet.postgres.muting import mutes
from pgduet.postgres.pace import Pace, growth
from pgduet.postgres.session import Connection
from pgduet.sql import block
from pgduet.telemetry import batches
from pgduet.texts import shown

FIRST_PAGES = 32
MOST_PAGES = 4096
SPARSE_ROWS = 1.0
"""Rows a page below which a batch tells nothing about what a page costs: pages that are empty, or filled already."""
ROW_LOCK_WAIT = "10ms"
ROW_LOCK_REST_S, LONGEST_ROW_LOCK_REST_S = 0.02, 0.5
SHORTEST_LIMIT_MS = 100
"""A batch is cut off at this, or at twice its target: with the lock wait it stays far under deadlock_timeout (1 s), or a
client could be chosen as a deadlock's victim."""


class _Rewritten(Exception):
    """VACUUM FULL or the like has moved every row to another page."""


class Batches(Filling):
    """One range of one table, from its cursor to its end."""

    def __init__(self, conn: Connection, migration: store.Migration, table: TableDesign, part: int) -> None:
        super().__init__()
        self.conn = conn
        self.migration = migration
        self.table = table
        self.where = {"id": migration.id, "relation": table.heap_label, "part": part}
        self.filling = Template(
            sql.SQL("{};\nBEGIN").format(rows.fill(migration.design, table, blank("first"), blank("last")))
        )
        self.moving = Template(
            block("store", "range_advance").format(
                block=blank("block"),
                rows=blank("rows"),
                **{name: sql.Literal(value) for name, value in self.where.items()},
            )
        )
        self.pages = self.known_pages = FIRST_PAGES
        self.tries = self.unlocked_rows = 0
        self.limit_ms = -1
        self.row_locks: str | None = None
        self.row_lock_rest_s = ROW_LOCK_REST_S

    async def open(self) -> None:
        """Read the cursor, and make the session one that batches may run in."""
        found = (await store.run(self.conn, "range", self.where))[0]
        if found["relfilenode"] != found["filenode_now"]:
            restart = {**self.where, "filenode": found["filenode_now"], "block_to": found["blocks_now"]}
            await store.run(self.conn, "range_restart", restart)
            found = (await store.run(self.conn, "range", self.where))[0]
        self.first, self.end, self.cursor = found["block_from"], found["block_to"], found["cursor_block"]
        self.rows_before = found["rows_done"] - self.rows
        self.tries = max(self.tries, found["batches"])
        if await mutes(self.conn, self.table.label, self.migration.policy.user_triggers):
            await self.conn.execute("SET session_replication_role = replica")
        # Losing the last batches in a crash loses their cursor with them: nothing is out of step.
        await self.conn.execute(
            sql.SQL("SET synchronous_commit = off; SET lock_timeout = {}").format(sql.Literal(ROW_LOCK_WAIT))
        )
        await self._limit(float(self.migration.policy.backfill.batch_target_ms))

    def result(self, held: str | None = None) -> SliceResult:
        """Tell where the range stands, and whether clients' row locks hold it up."""
        return super().result(held or self.row_locks)

    async def next(self, pace: Pace) -> None:
        """Fill the next pages, or what was left of them; the pause after it is the caller's."""
        await self._limit(pace.target_ms)
        first, written = self.cursor, self.rows
        last = min(first + self.pages, self.end)
        began = time.monotonic()
        try:
            self.tries += 1
            with batches.batch(self.tries, self.table.label, first, last) as told:
                try:
                    await self._batch(last)
                finally:
                    told.rows, told.row_locks = self.rows - written, self.row_locks is not None
        except _Rewritten:
            await self.open()
            return
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            self.row_locks = self._held(last)
            return
        except errors.QueryCanceled:
            self.pages = self.known_pages = max(1, self.pages // 4)
            return
        self._adapt(
            pace.target_ms, (time.monotonic() - began) * 1000, dense=self.rows - written >= SPARSE_ROWS * (last - first)
        )

    async def _limit(self, target_ms: float) -> None:
        """Cut off a batch that takes too long; a single page takes what it takes, and only that."""
        limit_ms = 0 if self.pages == 1 else max(SHORTEST_LIMIT_MS, round(2 * target_ms))
        if limit_ms != self.limit_ms:
            await self.conn.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{limit_ms}ms")))
            self.limit_ms = limit_ms

    async def _batch(self, last: int) -> None:
        if self.row_locks:
            await self._fill_unlocked(last)
            return
        try:
            await self._fill(last)
        except Error as error:
            if is_transient(error):
                raise
            await self._fill_mappable(last)

    def _adapt(self, target_ms: float, took_ms: float, *, dense: bool) -> None:
        """Follow the last batch's time; pages with nothing to fill must not lead to a batch that full ones make long."""
        factor = growth(target_ms, took_ms)
        most = MOST_PAGES if dense else 2 * self.known_pages
        self.pages = min(most, max(1, round(self.pages * factor)))
        if dense:
            self.known_pages = self.pages

    async def _fill(self, last: int) -> None:
        """Fill all that there is to fill, or nothing.

        A BEGIN that follows in one message opens the transaction in which the message's statements run already. It comes last
        so that a fill that fails leaves nothing open.
        """
        fill = self.filling.filled(first=rows.tid(self.cursor), last=rows.tid(last))
        async with self._undone_if_broken_off():
            done = await self.conn.execute(fill)
            await reach("batch.before_commit")
            moved = await self.conn.execute(sql.SQL("{};\nCOMMIT").format(self._advance(last, done.rowcount)))
        await self._committed(last, done.rowcount, await moved.fetchone())

    @asynccontextmanager
    async def _undone_if_broken_off(self) -> AsyncIterator[None]:
        """Roll back what is open, as psycopg's own transaction does, whose BEGIN and COMMIT are round trips of their own."""
        try:
            yield
        except BaseException:
            if self.conn.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
                with suppress(OperationalError):  # the session went, and the transaction with it
                    await self.conn.rollback()
            raise

    async def _fill_unlocked(self, last: int) -> None:
        """Fill what nobody holds; go on only when a later statement counts nothing left."""
        design = self.migration.design
        query = rows.fill(design, self.table, self.cursor, last, how="fill_unlocked", safe=True)
        async with self.conn.transaction():
            self.unlocked_rows += (await self.conn.execute(query)).rowcount
        count = rows.fill(design, self.table, self.cursor, last, how="count_needed", safe=True)
        left = await (await self.conn.execute(count)).fetchone()
        if left is None or left["count"]:
            holders = await row_holders(self.conn, self.table.heap, rows.pages(self.cursor, last))
            self.row_locks = self._held(last, holders.text)
            # Each look reads all these pages, and a client may sit on its row all night.
            await asyncio.sleep(self.row_lock_rest_s)
            self.row_lock_rest_s = min(LONGEST_ROW_LOCK_REST_S, 1.5 * self.row_lock_rest_s)
            return
        self.row_lock_rest_s = ROW_LOCK_REST_S
        await self._note_unmapped(last)
        async with self.conn.transaction():
            moved = await self.conn.execute(self._advance(last, self.unlocked_rows))
            await reach("batch.before_commit")
        filled, self.unlocked_rows, self.row_locks = self.unlocked_rows, 0, None
        await self._committed(last, filled, await moved.fetchone())

    def _held(self, last: int, who: str = "") -> str:
        """Say that clients hold rows, and who, as far as that can be told."""
        where = f"row locks of clients on pages {self.cursor} to {last - 1} of {self.table.label}"
        return shown(f"{where}, {who}" if who else where)

    async def _fill_mappable(self, last: int) -> None:
        """Fill the rows that `up` can map; note the others, which stay empty."""
        async with self.conn.transaction():
            query = rows.fill(self.migration.design, self.table, self.cursor, last, safe=True)
            done = await self.conn.execute(query)
            await self._note_unmapped(last)
            moved = await self.conn.execute(self._advance(last, done.rowcount))
            await reach("batch.before_commit")
        await self._committed(last, done.rowcount, await moved.fetchone())

    async def _note_unmapped(self, last: int) -> None:
        query = rows.unmapped(self.migration.design, self.table, self.cursor, last, 100)
        for row in await (await self.conn.execute(query)).fetchall():
            await store.note_drift(self.conn, self.migration.id, self.table.label, row["key"], "unmapped", row["error"])

    def _advance(self, last: int, count: int) -> sql.Composed:
        """Move the range's cursor; it tells whether the cursor still stood in the table's file."""
        return self.moving.filled(block=last, rows=count)

    async def _committed(self, last: int, count: int, found: DictRow | None) -> None:
        await reach("batch.after_commit")
        self.rows += count
        self.batches += 1
        if not (found and found["moved"]):
            raise _Rewritten
        self.cursor = last
