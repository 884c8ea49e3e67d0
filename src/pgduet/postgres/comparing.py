"""Compares a source table with its shadow, chunk by chunk, from a cursor in the database.

A chunk is a range of keys that has so many rows at most on either side. One statement compares it, so that both sides are of one
snapshot and the tolerance is zero; its snapshot is as old as a chunk takes. Then the cursor moves, and what differs is kept as
suspects, in one transaction: a worker that is killed compares one chunk again. Parts of the keys have cursors of their own, and are
compared side by side on sessions of their own.

Limits: a row whose key changes while a comparison runs may be in no chunk of it. Where keys have no common order, slices by hash
take the place of ranges, and each reads both tables whole.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from psycopg import DataError, Error, errors, sql
from psycopg.errors import RaiseException
from psycopg.types.json import Jsonb

from pgduet.barriers import reach
from pgduet.errors import GateRefused
from pgduet.operations import comparing
from pgduet.operations.comparing import Key, Looking, Span
from pgduet.operations.comparison import Comparison
from pgduet.operations.statement import Query
from pgduet.postgres.executor import is_transient
from pgduet.postgres.pace import growth
from pgduet.postgres.session import Connection, condition
from pgduet.postgres.traits import DENSE, Known, ends, known, require_keys
from pgduet.sql import block

FIRST_ROWS = 20_000
PART_ROWS = 10_000
"""A table is not cut in parts that have fewer rows each."""
MOST_ROWS = 500_000
LEAST_ROWS = 100
MOST_GROWTH = 8.0
"""So little is in the first chunk that it may take an eighth of what a chunk aims at."""
LONGEST_MS = 2000
"""What a chunk may take in all, however its rows are: some forty times what it aims at."""
CHUNK_MS = 50.0
"""What a chunk aims at: the speed is the same from 10,000 rows on (ADR 29), and the snapshot stays short."""
NAMED_AT_MOST = 100_000
"""Rows of a part that are kept by key; what differs beyond them is counted."""
UNMAPPED_AT_MOST = 100
LOOKED_AT_ONCE = 500
SAMPLED_ROWS = 20_000
WITHOUT_JIT = sql.SQL("SET jit = off; SET synchronous_commit = off")
"""Losing the last chunks in a crash loses their cursor with them."""
BY_INDEX = sql.SQL("SET enable_seqscan = off")
BY_MERGING = sql.SQL("SET enable_hashjoin = off; SET enable_bitmapscan = off")
AS_BEFORE = """RESET enable_seqscan; RESET enable_hashjoin; RESET enable_bitmapscan; RESET jit; RESET synchronous_commit;
RESET statement_timeout"""
SLICE_ROWS = 2_000_000
MOST_SLICES = 16


@dataclass
class Counts:
    """What chunks found, as first seen."""

    rows: int = 0
    shadow_rows: int = 0
    mismatches: int = 0
    missing: int = 0
    extra: int = 0
    unmapped: int = 0
    found: list[list[Any]] = field(default_factory=list)
    """Kind, key and versions of each row that differs."""

    def __iadd__(self, other: "Counts") -> Self:
        """Take in another chunk."""
        for name in ("rows", "shadow_rows", "mismatches", "missing", "extra", "unmapped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.found += other.found
        return self


async def run(conn: Connection, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a block of compare.sql; rows if it gives any."""
    cursor = await conn.execute(block("compare", name), values)
    return await cursor.fetchall() if cursor.description else []


async def begin(
    conn: Connection,
    comparison: Comparison,
    migration_id: int,
    parts: int = 1,
    *,
    anew: bool = False,
    request: str = "",
    before: int = 0,
    paired: bool = True,
    of: Known | None = None,
) -> list[int]:
    """Give the parts of a comparison: those of one that has not finished, unless `anew` or its shape is another; else new ones.

    With a `request`, those of the comparison that was begun with it, finished or not, and of no other.

    Raises:
        GateRefused: rows cannot be told apart by the key.
    """
    if paired:
        await require_keys(conn, comparison)
    where = {"id": migration_id, "source": comparison.source_label, "shadow": comparison.shadow_label}
    found = await run(conn, "parts", where)
    same = bool(found) and all(part["shape"] == comparison.shape and part["request"] == request for part in found)
    if same and not anew and (request or any(part["finished_at"] is None for part in found)):
        return [part["id"] for part in found]
    bounds = await _bounds(conn, comparison, parts, of or await known(conn, comparison))
    begun: list[int] = []
    async with conn.transaction():
        await run(conn, "forget", where)
        for number, (low, high) in enumerate(zip([None, *bounds], [*bounds, None], strict=True)):
            values = {"part": number, "shape": comparison.shape, "low": _json(low), "high": _json(high)}
            made = await run(conn, "begin", where | values | {"request": request, "before": before})
            begun.append(made[0]["id"])
    return begun


async def _bounds(conn: Connection, comparison: Comparison, parts: int, of: Known) -> list[Any]:
    """Cut the keys in parts of about one size; slices are counted up instead where keys have no order."""
    rows = of.rows
    if not comparison.aligned:
        slices = 1 if rows == float("inf") else min(MOST_SLICES, int(rows / SLICE_ROWS) + 1)
        return [{"slice": number, "of": slices} for number in range(1, slices)]
    if parts == 1 or rows < parts * PART_ROWS:
        return []
    if cuts := of.cuts(parts):
        return [[str(number)] for number in cuts]
    percent = 100.0 if rows == float("inf") else min(100.0, 100.0 * SAMPLED_ROWS / rows)
    found = await (await conn.execute(comparing.quantiles(comparison, parts, percent))).fetchall()
    return [row["bound"] for row in found[:-1]]


class Comparing:
    """One part of a comparison, from its cursor to its end."""

    def __init__(
        self,
        conn: Connection,
        comparison: Comparison,
        part_id: int,
        *,
        chunk_ms: float = CHUNK_MS,
        of: Known | None = None,
        render: Callable[[Comparison, Span, bool], Query] | None = None,
    ) -> None:
        self.conn = conn
        self.render = render
        self.comparison = comparison
        self.id = part_id
        self.chunk_ms = chunk_ms
        self.size = FIRST_ROWS
        self.reached: list[str] | None = None
        self.high: list[str] | None = None
        self.named = self.chunks = 0
        self.finished = False
        self.counts = Counts()
        self.longest_ms = 0.0
        self._over_at = 0.0
        self._looks: dict[bool, Looking] = {}
        self.limit_ms: int | None = None
        self.began_at: datetime | None = None
        self._span = Span()
        self._of = of
        self._dense = False
        """Most whole numbers between the last chunk's ends were keys; before the first one: between all, by the estimate."""
        self._before = 0
        """A whole number below all keys."""
        self._end: int | None = None

    async def open(self) -> None:
        """Read the cursor, and make the session one in which chunks go by the key's index.

        Raises:
            GateRefused: somebody has begun the comparison anew.
        """
        found = await run(self.conn, "part", {"id": self.id})
        if not found or found[0]["shape"] != self.comparison.shape:
            raise GateRefused("the comparison was begun anew by another run", hint="Start it again.")
        (part,) = found
        self.finished = part["finished_at"] is not None
        self.began_at = part["began_at"]
        self.named, self.chunks = part["named"], part["chunks"]
        self.counts = Counts(*(part[n] for n in ("rows", "shadow_rows", "mismatches", "missing", "extra", "unmapped")))
        settings: list[sql.Composable] = [WITHOUT_JIT]
        if self.comparison.aligned:
            self.reached, self.high = part["reached"] or part["low"], part["high"]
            of = self._of or await known(self.conn, self.comparison)
            self._note_ends(of)
            settings += self._by_the_keys(of)
        else:
            self._span = _slice(part)
        await self.conn.execute(sql.SQL("; ").join([*settings, *self._bound_by_time()]))

    async def next(self) -> bool:
        """Compare the next chunk, and tell whether more is left; the pause after it is the caller's."""
        began = time.monotonic()
        for setting in self._bound_by_time():
            await self.conn.execute(setting)
        span, last = await self._next_span()
        try:
            found = await self._compared(span)
        except errors.QueryCanceled:
            if self.size <= LEAST_ROWS or not self.comparison.aligned:
                raise
            # Far more than was aimed at, for rows that are larger than those before: nothing is counted, and less is tried.
            self.size = max(LEAST_ROWS, self.size // 8)
            return True
        finally:
            self._over_at = time.monotonic()
        self.longest_ms = max(self.longest_ms, took_ms := (self._over_at - began) * 1000)
        self._judge(span, found)
        await self._advance(found, span, last=last)
        self._adapt(took_ms)
        return not last

    def over(self) -> float:
        """Tell when the last chunk had been compared: what is written and asked between two of them is nothing to rest from."""
        return self._over_at

    def _bound_by_time(self) -> list[sql.Composed]:
        """Have a chunk cut off that would hold its snapshot for long; the smallest one takes as long as it takes."""
        wanted_ms = 0 if self.size <= LEAST_ROWS or not self.comparison.aligned else LONGEST_MS
        if wanted_ms == self.limit_ms:
            return []
        self.limit_ms = wanted_ms
        return [sql.SQL("SET statement_timeout = {}").format(sql.Literal(wanted_ms))]

    async def _next_span(self) -> tuple[Span, bool]:
        if not self.comparison.aligned:
            return self._span, True
        if self._dense and self._end is not None:
            # So many whole numbers are so many keys at most, on either side: no need to search for the last of them.
            reached = self._number(self.reached)
            if self.high is None and self._even(reached, self._end) >= self._end:
                self._end = (await ends(self.conn, self.comparison) or (0, self._end))[1]
                if reached < self._end <= self._even(reached, self._end):
                    return Span(self.reached, None), True  # no more than a chunk, but for what comes this moment
            number = self._even(reached, self._end)
            if number > reached:
                return Span(self.reached, [str(number)]), number == self._end and self.high is not None
        high = await self._bound(self.reached, self.high, self.size)
        return Span(self.reached, high or self.high), high is None

    def _even(self, reached: int, end: int) -> int:
        """Give the end of the next of even chunks: each has about what was aimed at, up to half more, and none is a mere rest."""
        left = end - reached
        return reached + -(-left // max(1, round(left / self.size)))

    def _note_ends(self, of: Known) -> None:
        """Note the first and the last key, where keys are whole numbers; rows that come later are beyond it, and searched for."""
        if of.ends is None:
            return
        lowest, last = of.ends
        self._before = lowest - 1
        self._dense = of.dense and self.render is None  # else rows of the source are not pairs
        self._end = int(self.high[0]) if self.high is not None else last

    def _by_the_keys(self, of: Known) -> list[sql.SQL]:
        """Say how chunks go by the keys' indexes.

        A table that was just filled has no statistics: sequential scans could have each chunk read all of it. Where the source
        lies as its keys do, so does the shadow, in as many pieces as there were ranges to be filled; but to PostgreSQL the pieces
        look like disorder, and it would sort or hash what comes in order (ADR 29).
        """
        return [BY_INDEX, BY_MERGING] if self.render is None and of.ordered else [BY_INDEX]

    def _number(self, key: Key | None) -> int:
        return self._before if key is None else int(key[0])

    def _judge(self, span: Span, found: Counts) -> None:
        """Tell whether the next chunk's end can be counted instead of searched for."""
        if self._end is None or span.high is None:
            return
        width = int(span.high[0]) - self._number(span.low)
        self._dense = max(found.rows, found.shadow_rows) * DENSE >= width

    async def _bound(self, low: list[str] | None, high: list[str] | None, rows: int) -> list[str] | None:
        query = comparing.bound(self.comparison, low, high, rows)
        row = await (await self.conn.execute(query)).fetchone()
        return row["bound"] if row else None

    async def _compared(self, span: Span) -> Counts:
        try:
            return await self._chunk(span)
        except (DataError, RaiseException) as error:
            if is_transient(error):
                raise
            if not self.comparison.aligned:
                raise GateRefused(
                    f"rows of {self.comparison.label} cannot be mapped: {condition(error.sqlstate)}",
                    hint="Correct the rows, or write an `up` that maps them.",
                ) from None
        counts = Counts()
        await self._carefully(span, self.size, counts)
        return counts

    async def _carefully(self, span: Span, rows: int, counts: Counts) -> None:
        """Halve a span in which an expression raises, until the rows are found on which it does; the others are compared."""
        low, end = list(span.low) if span.low is not None else None, list(span.high) if span.high is not None else None
        while True:
            middle = await self._bound(low, end, max(1, rows // 2))
            part = Span(low, middle or end)
            try:
                counts += await self._chunk(part)
            except (DataError, RaiseException) as error:
                if rows <= 1:
                    await self._unmapped(part, counts, error)
                else:
                    await self._carefully(part, max(1, rows // 2), counts)
            if middle is None or middle == end:
                return
            low = middle

    async def _unmapped(self, span: Span, counts: Counts, error: Error) -> None:
        for row in await (await self.conn.execute(comparing.spanned(self.comparison, span, 2))).fetchall():
            counts.rows += 1
            counts.unmapped += 1
            counts.found.append(["unmapped", row["key"], condition(error.sqlstate)])
        if counts.unmapped > UNMAPPED_AT_MOST:
            raise GateRefused(
                f"more than {UNMAPPED_AT_MOST} rows of {self.comparison.label} cannot be mapped, the first:"
                f" {json.dumps(counts.found[0][1], ensure_ascii=False)}: {condition(error.sqlstate)}",
                hint="Correct the rows, or write an `up` that maps them.",
            )

    async def _chunk(self, span: Span) -> Counts:
        named = self.named < NAMED_AT_MOST
        query = self.render(self.comparison, span, named) if self.render else None
        query = query or comparing.chunk(self.comparison, span, named=named)
        (row,) = await (await self.conn.execute(query)).fetchall()
        if not named:
            missing, extra = row["missing"], row["extra"]
            mismatches = row["bad"] - missing - extra
            return Counts(row["pairs"] - extra, row["pairs"] - missing, mismatches, missing, extra)
        seen = Counter(kind for kind, *_ in row["found"])
        found = row["found"] if self.render else await self._standing(row["found"])
        kinds = Counter(kind for kind, *_ in found)
        rows, shadow_rows = row["pairs"] - seen["extra"], row["pairs"] - seen["missing"]
        return Counts(rows, shadow_rows, kinds["mismatch"], kinds["missing"], kinds["extra"], found=found)

    async def _standing(self, found: list[list[Any]]) -> list[list[Any]]:
        """Look at once which versions of the rows differ; those that agree by now were under way."""
        standing: list[list[Any]] = []
        for extra in (False, True):
            keys = [key for kind, key in found if (kind == "extra") is extra]
            for first in range(0, len(keys), LOOKED_AT_ONCE):
                asked = [{"id": number, "key": key} for number, key in enumerate(keys[first : first + LOOKED_AT_ONCE])]
                if extra not in self._looks:
                    self._looks[extra] = Looking(self.comparison, extra=extra)
                rows = await (await self.conn.execute(self._looks[extra].at(asked))).fetchall()
                standing += [[row["kind"], row["key"], row["seen"]] for row in rows if row["kind"]]
        return standing

    async def _advance(self, chunk: Counts, span: Span, *, last: bool) -> None:
        values = {name: value for name, value in vars(chunk).items() if name != "found"}
        reached = {"reached": _json(span.high), "named": len(chunk.found), "finished": last}
        await reach("batch.before_commit")
        await run(self.conn, "advance", {"id": self.id, "found": Jsonb(chunk.found), **reached, **values})
        await reach("batch.after_commit")
        self.named += len(chunk.found)
        self.chunks += 1
        self.finished = last
        self.reached = list(span.high) if span.high is not None else None
        self.counts += replace(chunk, found=[])

    def _adapt(self, took_ms: float) -> None:
        self.size = min(MOST_ROWS, max(LEAST_ROWS, round(self.size * growth(self.chunk_ms, took_ms, MOST_GROWTH))))


def _slice(part: dict[str, Any]) -> Span:
    """Read which slice a part is: `low` says the one before which it begins."""
    low, high = part["low"], part["high"]
    of = (low or high or {"of": 1})["of"]
    return Span(slices=of, slice=low["slice"] if low else 0)


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(value)


@asynccontextmanager
async def opened(conn: Connection, comparison: Comparison, part_id: int, **how: Any) -> AsyncIterator[Comparing]:
    """Open a part, and leave the session as it was."""
    part = Comparing(conn, comparison, part_id, **how)
    try:
        await part.open()
        yield part
    finally:
        if not conn.closed:
            await conn.execute(AS_BEFORE)
