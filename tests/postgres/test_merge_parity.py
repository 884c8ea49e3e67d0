"""Parity of merged rows: groups by ranges of keys, with what the new version reads of them."""

from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from support.merging import Merge, create_lines, totals
from support.shadows import over

from pgduet.messages import Reference
from pgduet.operations.aggregates import Aggregate, Measured
from pgduet.postgres import comparing
from pgduet.postgres.counterpart import Compared
from pgduet.postgres.databases import Database
from pgduet.postgres.merge_parity import MergeParity
from pgduet.postgres.session import session

Connection = psycopg.AsyncConnection[Any]
REFERENCE = Reference(database="shop", name="totals", migration_id=1, actor="tester")
GROUPS = 1000
TARGET = totals().target_label


@pytest.fixture
async def m(conn: Connection) -> Merge:
    """Give a published merge of a thousand invoices."""
    await create_lines(conn, GROUPS)
    merge = Merge(conn, totals())
    await merge.published()
    await conn.execute("ANALYZE public.lines")
    return merge


async def compare(dsn: str, request: str, **how: Any) -> Compared:
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(session(Database("shop", dsn), "test")) for _ in range(2)]
        return await MergeParity(sessions, totals(), REFERENCE).whole(request, **how)


async def noted(m: Merge) -> set[tuple[str, int]]:
    found = await m.conn.execute("SELECT kind, (key ->> 'id')::int FROM pgduet.drift WHERE resolved_at IS NULL")
    return {(kind, key) for kind, key in await found.fetchall()}


async def test_groups_that_are_noted_are_in_step_and_are_read_from_the_source(dsn: str, m: Merge) -> None:
    await m.conn.execute("UPDATE public.lines SET amount = 99 WHERE invoice_id <= 20")
    await m.conn.execute("DELETE FROM public.lines WHERE invoice_id = 30")
    await m.conn.execute("INSERT INTO public.lines (invoice_id) VALUES (5000)")
    found = await compare(dsn, "one")
    assert (found.rows, found.mismatches, await m.notes() > 0) == (GROUPS, 0, True)


async def test_drift_in_the_merged_table_is_named_in_small_chunks_and_repaired(
    dsn: str, m: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    monkeypatch.setattr(comparing, "MOST_ROWS", 100)
    await m.conn.execute(f"UPDATE {TARGET} SET total = total + 1 WHERE id IN (5, 500, 999)".encode())
    await m.conn.execute(f"UPDATE {TARGET} SET last = NULL WHERE id = 7".encode())
    await m.conn.execute(f"DELETE FROM {TARGET} WHERE id IN (10, 1000)".encode())
    await m.conn.execute(f"INSERT INTO {TARGET} (id, lines) VALUES (-4, 1), (7777, 1)".encode())
    found = await compare(dsn, "one")
    assert found.settled.confirmed == {"mismatch": 4, "missing": 2, "extra": 2}
    ((chunks,),) = await (await m.conn.execute("SELECT sum(chunks)::int FROM pgduet.comparison")).fetchall()
    assert chunks > 10
    named = {
        *(("mismatch", n) for n in (5, 500, 999, 7)),
        *(("missing", n) for n in (10, 1000)),
        *(("extra", n) for n in (-4, 7777)),
    }
    assert await noted(m) == named
    detail = await m.conn.execute("SELECT detail FROM pgduet.drift WHERE key = '{\"id\": 5}'")
    assert await detail.fetchall() == [
        ('{"new": {"last": "n3", "lines": "3", "total": "7"}, "old": {"last": "n3", "lines": "3", "total": "6"}}',)
    ]
    found = await compare(dsn, "two", repair=True)
    assert (found.mismatches, found.repaired, await m.stored(), await m.notes()) == (0, 8, (GROUPS, 0), 0)
    assert await noted(m) == set()
    logged = await m.conn.execute(
        "SELECT sum((affected ->> 'rows')::int)::int FROM pgduet.audit WHERE action = 'repair'"
    )
    assert await logged.fetchall() == [(8,)]


async def test_aggregates_are_those_of_what_the_new_version_reads(dsn: str, m: Merge) -> None:
    old = Measured(
        relation=("public", "lines"), value=over("t.amount"), type="numeric", groups=(over("(t.invoice_id % 3)"),)
    )
    new = Measured(
        relation=("public", totals().physical), value=over("t.total"), type="numeric", groups=(over("(t.id % 3)"),)
    )
    total = Aggregate(name="total", measure="sum", old=old, new=new)
    await m.conn.execute("UPDATE public.lines SET amount = 99 WHERE invoice_id = 20")
    assert [each.differing for each in (await compare(dsn, "one", aggregates=(total,))).aggregates] == [0]
    await m.conn.execute(f"UPDATE {TARGET} SET total = 0 WHERE id = 10".encode())
    (found,) = (await compare(dsn, "two", aggregates=(total,))).aggregates
    assert (found.differing, found.groups) == (1, [[1]])
