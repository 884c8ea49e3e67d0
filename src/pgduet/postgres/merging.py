"""Fills a merge by ranges of keys, and empties its journal beside clients; asks PostgreSQL what can be merged (ADR 32).

A batch of the filling is one INSERT … SELECT over the next groups and the move of its cursor, in one transaction. It locks no
row. The cursor is a key; what `pgduet.backfill_range` counts are rows of the source, about. A drain takes so many notes as its
time allows, and whoever comes while another one is at it leaves it to that.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import errors, sql

from pgduet.barriers import reach
from pgduet.errors import NotSupported
from pgduet.operations import merge_rows_resolve, merge_rows_rows
from pgduet.operations.answers import Answers, KeyPath, located, place
from pgduet.operations.expressions import Expression
from pgduet.operations.facts import TableFacts
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.operations.merge_rows_resolve import Source
from pgduet.operations.statement import Query, trusted
from pgduet.plan.merge_operations import MergeRows
from pgduet.postgres.expressions import analyse, type_of
from pgduet.postgres.filling import Filling
from pgduet.postgres.pace import Pace, growth
from pgduet.postgres.session import Connection
from pgduet.sql import block

FIRST_ROWS, LEAST_ROWS, MOST_ROWS = 2_000, 100, 200_000
FIRST_NOTES, LEAST_NOTES, MOST_NOTES = 500, 20, 20_000
LOCK_WAIT = "200ms"
"""For the source's weakest lock, which only TRUNCATE and DDL refuse, and for a drain's end: nobody waits behind us meanwhile."""
BUSY_S = 0.05
TIDY_NOTES = 5_000
"""After so many notes that were taken readers step over enough of them that clearing them away is worth it."""


class _Elsewhere(Exception):
    """The cursor is not where this batch began."""


async def source(conn: Connection, table: TableFacts, key: Sequence[str]) -> Source:
    """Read what a merge asks of its source beyond the facts of any table."""
    relation = sql.Identifier(table.schema_name, table.table).as_string(None)
    (row,) = await _rows(conn, "source", {"oid": relation, "key": list(key)})
    return Source(**row)


async def taken(conn: Connection, design: MergeDesign) -> list[str]:
    """Name what the merged table and its key are to be called, and something else is."""
    names = [design.shown_as, design.key_name]
    where = {"schema": design.schema_name, "names": names, "source": design.label}
    return [row["name"] for row in await _rows(conn, "taken", where)]


async def answers(conn: Connection, index: int, operation: MergeRows, table: TableFacts) -> Answers:
    """Have PostgreSQL parse what is measured, and name the types of that and of the measures.

    Raises:
        UnknownColumn, ExpressionInvalid, ExpressionVolatile, NotSupported: with the path in the plan.
    """
    expressions: dict[KeyPath, Expression] = {}
    types: dict[KeyPath, str] = {}
    for question in merge_rows_resolve.questions(index, operation, table):
        with located(question.path):
            expressions[question.path] = await analyse(conn, question)
            types[question.path] = await type_of(conn, expressions[question.path], question.scope)
    found = Answers(types, expressions)
    merge_rows_resolve.refuse_measures(index, operation, table, found)
    for number, column in enumerate(operation.columns):
        path: KeyPath = ("operations", index, "merge_rows", "columns", number)
        value = types.get((*path, "value"))
        types[path] = await _measured(conn, column.measure, value, (*path, "measure"))
    merge_rows_resolve.refuse_incomplete(index, operation, table)
    for question in merge_rows_resolve.down_questions(index, operation, table, types):
        with located(question.path):
            expressions[question.path] = await analyse(conn, question)
    return found


async def _measured(conn: Connection, measure: str, value: str | None, path: KeyPath) -> str:
    """Name the type of a measure over values of a type."""
    nothing = sql.SQL("NULL::{}").format(trusted(value or "integer"))
    query = block("merging", "measured_type").format(
        measure=trusted(measure), value=sql.SQL("v" if value else "*"), nothing=nothing
    )
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL search_path = ''")
            row = await (await conn.execute(query)).fetchone()
    except psycopg.errors.UndefinedFunction as error:
        message = f"PostgreSQL has no {measure} of values of type {value}"
        raise NotSupported(message, place=place(path), hint="Choose another measure.") from error
    assert row is not None  # noqa: S101  (a measure over all rows gives one)
    return str(row["type"])


class GroupFilling(Filling):
    """The one range of a merge, from its cursor to the last key."""

    def __init__(self, conn: Connection, migration_id: int, design: MergeDesign) -> None:
        super().__init__()
        self.conn = conn
        self.migration_id = migration_id
        self.design = design
        self.where = {"id": migration_id, "relation": design.label, "part": 0}
        self.most = FIRST_ROWS
        self.key: str | None = None

    async def open(self) -> None:
        """Read the cursor, and make the session one that batches may run in."""
        await _rows(self.conn, "cursor_insert", self.where)
        await self._read()
        # Losing the last batches in a crash loses their cursor with them.
        await self.conn.execute(
            sql.SQL("SET synchronous_commit = off; SET lock_timeout = {}").format(sql.Literal(LOCK_WAIT))
        )

    async def next(self, pace: Pace) -> None:
        """Fill the next groups; the pause after it is the caller's."""
        began = time.monotonic()
        try:
            await self._batch()
        except _Elsewhere:
            await self._read()
            return
        except errors.LockNotAvailable:
            return
        factor = growth(pace.target_ms, (time.monotonic() - began) * 1000)
        self.most = min(MOST_ROWS, max(LEAST_ROWS, round(self.most * factor)))

    async def _batch(self) -> None:
        async with self.conn.transaction():
            query = merge_rows_rows.fill(self.design, self.most, self.key)
            row = await (await self.conn.execute(query)).fetchone()
            assert row is not None  # noqa: S101  (a function gives one row)
            filled, following = int(row["filled_rows"]), row["next"]
            # Nobody knows how many rows are left: the last step is as long as it comes out.
            cursor = self.end if following is None else min(self.cursor + self.most, self.end - 1)
            values = {**self.where, "block": cursor, "rows": filled, "from": self.key, "next": following}
            if not (await self.conn.execute(block("merging", "advance"), values)).rowcount:
                raise _Elsewhere
            await reach("batch.before_commit")
        await reach("batch.after_commit")
        self.cursor, self.key = cursor, following
        self.rows += filled
        self.batches += 1

    async def _read(self) -> None:
        (found,) = await _rows(self.conn, "cursor", self.where)
        self.first, self.end, self.cursor = found["block_from"], found["block_to"], found["cursor_block"]
        self.key = found["next_key"]
        self.rows_before = found["rows_done"] - self.rows


async def steps(conn: Connection, design: MergeDesign) -> int:
    """Tell how many rows the source has, about, and one more: for the step that finds no key left."""
    (row,) = await _rows(conn, "steps", {"relation": design.label})
    return int(row["steps"])


class Draining:
    """Empties the journal of a merge, so many notes at a time."""

    def __init__(self, conn: Connection, design: MergeDesign) -> None:
        self.conn = conn
        self.design = design
        self.most = FIRST_NOTES
        self.place = merge_rows_rows.START
        self.notes = 0
        self.untidy = 0
        self.finished = False
        """A whole pass has found nothing."""
        self.busy = False
        """Somebody else was at it, or held the source."""
        self._passed = 0

    async def open(self) -> None:
        """Make the session one that drains may run in."""
        await self.conn.execute(
            sql.SQL("SET synchronous_commit = off; SET lock_timeout = {}").format(sql.Literal(LOCK_WAIT))
        )

    async def next(self, pace: Pace) -> int:
        """Write the next noted groups; gives how many notes were taken."""
        began = time.monotonic()
        try:
            taken = await self._drain()
        except errors.LockNotAvailable:
            taken = -1
        self.busy = taken < 0
        if taken <= 0:
            self.finished = taken == 0 and (self.place == merge_rows_rows.START or not self._passed)
            if taken == 0:
                self.place, self._passed = merge_rows_rows.START, 0
            return 0
        self.finished = False
        self.notes += taken
        self.untidy += taken
        self._passed += taken
        factor = growth(pace.target_ms, (time.monotonic() - began) * 1000)
        self.most = min(MOST_NOTES, max(LEAST_NOTES, round(self.most * factor)))
        if self.untidy >= TIDY_NOTES:
            await self.tidy()
        return taken

    async def tidy(self) -> None:
        """Clear away the notes that were taken; where somebody vacuums already, leave it to that."""
        try:
            await self.conn.execute(merge_rows_rows.tidy(self.design).sql)
        except errors.LockNotAvailable:
            return
        self.untidy = 0

    async def _drain(self) -> int:
        query = merge_rows_rows.drain(self.design, self.most, self.place)
        row = await (await self.conn.execute(query)).fetchone()
        assert row is not None  # noqa: S101  (a function gives one row)
        if int(row["taken_notes"]) > 0:
            self.place = row["place"]
        return int(row["taken_notes"])


async def catch_up(conn: Connection, design: MergeDesign, pace: Pace) -> int:
    """Drain until little is left, that clients have written meanwhile; gives how many notes were taken."""
    draining = Draining(conn, design)
    await draining.open()
    while not draining.finished:
        wanted = draining.most
        taken = await draining.next(pace)
        if not draining.busy and taken < wanted // 2:
            break
        await asyncio.sleep(BUSY_S if draining.busy else pace.pause_ms / 1000)
    return draining.notes


async def has_journal(conn: Connection, design: MergeDesign) -> bool:
    """Tell whether old clients' writes are still noted, or can be."""
    (row,) = await _rows(conn, "journal_there", {"journal": design.journal.as_string(None)})
    return bool(row["there"])


async def noted(conn: Connection, design: MergeDesign) -> int:
    """Count the notes in the journal."""
    query: Query = block("merging", "count_notes").format(journal=design.journal)
    row = await (await conn.execute(query)).fetchone()
    return int(row["notes"]) if row else 0


async def _rows(conn: Connection, name: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = await conn.execute(block("merging", name), values)
    return await cursor.fetchall() if cursor.description else []
