"""Reads of merged rows: some of them compared and timed, one row of the source as a probe (ADR 32)."""

import random
import time
from statistics import median

from pgduet.measured import ShadowResult
from pgduet.operations import merge_rows_reads
from pgduet.operations.merge_rows_design import MergeDesign
from pgduet.postgres import probing
from pgduet.postgres.session import Connection
from pgduet.sql import block

KEYS_PER_PAGE = 4
EMPTY_PAGES = 100


async def probe(conn: Connection, design: MergeDesign) -> str:
    """Take a row away, look for its group's note, and roll back.

    Raises:
        GateRefused: it was not noted.
    """

    async def ask() -> list[bool]:
        gone = await (await conn.execute(merge_rows_reads.probe_write(design))).fetchone()
        if gone is None:
            return []
        query = merge_rows_reads.probe_look(design, [gone[name] for name in design.target_key])
        return [row["good"] for row in await (await conn.execute(query)).fetchall()]

    return await probing.probed(conn, ask)


async def pages(conn: Connection, design: MergeDesign) -> int:
    """Count the pages of the target."""
    cursor = await conn.execute(block("store", "pages"), {"relation": design.target_label})
    return int((await cursor.fetchall())[0]["pages"])


async def sample(conn: Connection, design: MergeDesign, wanted: int) -> ShadowResult:
    """Read about so many groups, by pages of the source; fewer where it is empty."""
    result = ShadowResult(comparable=True)
    (found,) = await (await conn.execute(block("store", "pages"), {"relation": design.label})).fetchall()
    for new in (False, True):
        await conn.execute(merge_rows_reads.prepare(design, new=new))
    times: dict[bool, list[float]] = {False: [], True: []}
    empty = 0
    while found["pages"] and result.samples < wanted and empty < EMPTY_PAGES:
        query = merge_rows_reads.some_keys(design, random.randrange(found["pages"]), KEYS_PER_PAGE)  # noqa: S311
        rows = await (await conn.execute(query)).fetchall()
        empty = 0 if rows else empty + 1
        for row in rows:
            key = [row[name] for name in design.target_key]
            for new in random.sample((False, True), 2):
                began = time.perf_counter()
                await (await conn.execute(merge_rows_reads.execute(design, key, new=new))).fetchall()
                times[new].append(time.perf_counter() - began)
            await _compare(conn, design, key, result)
    for new in (False, True):
        await conn.execute(merge_rows_reads.forget(design, new=new))
    if times[False]:
        result.old_ms, result.new_ms = (median(times[new]) * 1000 for new in (False, True))
    return result


async def _compare(conn: Connection, design: MergeDesign, key: list[str], result: ShadowResult) -> None:
    compared = await (await conn.execute(merge_rows_reads.compare_one(design, key))).fetchone()
    if compared is None or not compared["there"]:
        return  # deleted meanwhile
    result.samples += 1
    if compared["differs"]:
        result.mismatches += 1
        if len(result.examples) < 20:
            named = dict(zip(design.target_key, key, strict=True))
            result.examples.append({"relation": design.label, "key": named})
