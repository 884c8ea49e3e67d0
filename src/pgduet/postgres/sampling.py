"""Reads sampled keys through both versions, times them one by one, and compares the answers in one snapshot.

Latencies are medians of single reads by primary key with prepared statements, the two versions in turn, so that what disturbs one
disturbs the other. A table without a key is compared page by page and not timed.
"""

import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

from pgduet.messages import ShadowResult
from pgduet.operations import reads, rows
from pgduet.operations.design import Design, TableDesign
from pgduet.phases import SyncMode
from pgduet.postgres import store
from pgduet.postgres.heaps import heaps, pages
from pgduet.postgres.session import Connection
from pgduet.sql import block
from pgduet.telemetry import spans

KEYS_PER_PAGE = 4


async def sample(conn: Connection, migration: store.Migration, wanted: int) -> ShadowResult:
    """Take about `wanted` samples, spread over the tables; fewer where tables are empty."""
    return await sample_tables(conn, migration.design, wanted)


async def sample_tables(conn: Connection, design: Design, wanted: int) -> ShadowResult:
    """Sample the tables of a design."""
    result = ShadowResult(comparable=bool(design.tables))
    timed = _Times()
    share = max(1, wanted // max(1, len(design.tables)))
    with spans.span("sampled reads", wanted=wanted) as seen, spans.untraced():
        for table in design.tables:
            shown = await _shown(conn, design, table)
            if table.key and set(table.key) <= shown:
                await _Sampler(conn, design, table, shown, result).keys(share, timed)
            else:
                await _sample_pages(conn, design, table, share, result)
        seen.set_attributes({"pgduet.samples": result.samples, "pgduet.mismatches": result.mismatches})
    result.old_ms, result.new_ms = timed.medians()
    return result


async def _places(conn: Connection, table: TableDesign) -> list[tuple[TableDesign, int]]:
    """Give what has pages, with their number."""
    found = [(heap, await pages(conn, heap)) for heap in await heaps(conn, table)]
    return [(heap, count) for heap, count in found if count]


def _page(places: list[tuple[TableDesign, int]]) -> tuple[TableDesign, int]:
    """Choose a page, each as likely as any other."""
    [(heap, count)] = random.choices(places, [count for _, count in places])  # noqa: S311  (sampling)
    return heap, random.randrange(count)  # noqa: S311


class _Times:
    def __init__(self) -> None:
        self.old: list[float] = []
        self.new: list[float] = []

    def medians(self) -> tuple[float | None, float | None]:
        if not self.old or not self.new:
            return None, None
        return statistics.median(self.old) * 1000, statistics.median(self.new) * 1000


async def _shown(conn: Connection, design: Design, table: TableDesign) -> frozenset[str]:
    """Name the columns that the old version shows."""
    view = reads.view(design, table, new=False).as_string(conn)
    found = await (await conn.execute(block("reads", "shown"), {"view": view})).fetchall()
    return frozenset(row["name"] for row in found)


@dataclass
class _Sampler:
    """Samples one table by keys; `shown` are the columns that the old version shows."""

    conn: Connection
    design: Design
    table: TableDesign
    shown: frozenset[str]
    result: ShadowResult

    async def keys(self, wanted: int, timed: _Times) -> None:
        """Read so many rows through both versions, and compare them."""
        design, table = self.design, self.table
        places = await _places(self.conn, table)
        readers = [
            (reads.read(design, table, self.shown, new=new), timed.new if new else timed.old) for new in (False, True)
        ]
        empty_pages, seen = 0, 0
        while places and seen < wanted and empty_pages < 100:
            found = await (await self.conn.execute(reads.keys(*_page(places), KEYS_PER_PAGE))).fetchall()
            empty_pages = 0 if found else empty_pages + 1
            for row in found:
                key = tuple(row[name] for name in table.key)
                for query, times in random.sample(readers, 2):
                    began = time.perf_counter()
                    await (await self.conn.execute(query, key, prepare=True)).fetchone()
                    times.append(time.perf_counter() - began)
                await self._compare(key)
                seen += 1

    async def _compare(self, key: tuple[Any, ...]) -> None:
        query = reads.compare(self.design, self.table, self.shown, key)
        compared = await (await self.conn.execute(query)).fetchone()
        if compared is None or not compared["rows"]:
            return  # deleted meanwhile
        self.result.samples += 1
        if compared["mismatches"]:
            self.result.mismatches += 1
            if len(self.result.examples) < 20:
                named = dict(zip(self.table.key, map(str, key), strict=True))
                self.result.examples.append({"relation": self.table.label, "key": named})


async def _sample_pages(
    conn: Connection, design: Design, table: TableDesign, wanted: int, result: ShadowResult
) -> None:
    places = await _places(conn, table)
    seen = 0
    for _ in range(100):
        if not places or seen >= wanted:
            break
        heap, page = _page(places)
        query = rows.parity(design, heap, SyncMode.BOTH, page, page + 1, safe=True)
        counted = (await (await conn.execute(query)).fetchall())[0]
        seen += counted["rows"]
        result.mismatches += counted["mismatches"]
    result.samples += seen
