"""Batches over heap pages: none waits for a client, none forgets a row, all can be done again."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from support.mechanics import Mechanics, mechanics
from support.plans import create_reviews

from pgduet import barriers
from pgduet.operations import columns, sync
from pgduet.phases import SyncMode
from pgduet.postgres.batches import FIRST_PAGES, MOST_PAGES

ROWS = 10_000

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[Connection]:
    """Give a client that keeps its transactions open."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


async def ready(m: Mechanics, parts: int = 1) -> None:
    """Go to the moment before the backfill."""
    await m.expand()
    await m.install(SyncMode.FILL)
    await m.cut(parts)


async def empty(m: Mechanics) -> list[int]:
    """Find rows that are not filled."""
    found = await m.rows(f'SELECT id FROM public.reviews WHERE "{m.physical("stars")}" IS NULL ORDER BY id')
    return [row[0] for row in found]


async def recorded(m: Mechanics) -> tuple[int, int]:
    """Read rows and batches from the metadata."""
    (row,) = await m.rows("SELECT sum(rows_done)::int, sum(batches)::int FROM pgduet.backfill_range")
    return row


@contextmanager
def sent_by(conn: Connection, file: Path) -> Iterator[list[str]]:
    """Collect what a session sends, message by message, as libpq's own trace tells it."""
    messages: list[str] = []
    with file.open("wb") as trace:
        conn.pgconn.trace(trace.fileno())
        try:
            yield messages
        finally:
            conn.pgconn.untrace()
    messages += re.findall(
        r"^\d{4}-\S+ \S+\tF\t\d+\t(.*?)(?=^\d{4}-\S+ \S+\t|\Z)", file.read_text(), re.DOTALL | re.MULTILINE
    )


async def test_a_batch_costs_two_round_trips_however_many_rows_it_fills(
    dsn: str, conn: Connection, tmp_path: Path
) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        with sent_by(m.conn, tmp_path / "trace") as messages:
            while not batches.finished:
                await batches.next(m.pace)
        fills = [message for message in messages if "WHERE (t.ctid" in message]
        moves = [message for message in messages if "pgduet.backfill_range" in message]
        assert (len(fills), len(moves)) == (batches.tries, batches.batches), messages
        assert len([message for message in messages if "SET statement_timeout" not in message]) == len(fills + moves)


async def test_the_backfill_spares_itself_the_trigger_and_an_unrelated_update_does_not(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, ROWS, trigger=False)
    async with mechanics(dsn) as m:
        await ready(m)
        await m.conn.execute("SET track_functions = 'pl'")
        batches = await m.batches()
        await m.finish(batches)
        await m.conn.execute("UPDATE public.reviews SET note = 'unrelated' WHERE id <= 3")
        await m.conn.execute("SELECT pg_stat_force_next_flush()")
        (called,) = await m.rows(
            "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_user_functions WHERE funcname LIKE '%sync_update%'"
        )
        assert (batches.rows, called) == (ROWS, (3,))


async def test_every_row_is_filled_once_and_nothing_else_of_it_changes(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    before = await (
        await conn.execute("SELECT id, rating, note, updated_at FROM public.reviews ORDER BY id")
    ).fetchall()
    async with mechanics(dsn) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        assert await m.backfill() == ROWS
        assert await empty(m) == []
        assert (await recorded(m))[0] == ROWS
        assert (await m.compare(SyncMode.FILL)).mismatches == 0
    after = await (await conn.execute("SELECT id, rating, note, updated_at FROM public.reviews ORDER BY id")).fetchall()
    assert after == before


async def test_where_the_plan_says_so_the_users_triggers_fire(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 100)
    async with mechanics(dsn, user_triggers="fire") as m:
        before = await m.rows("SELECT min(updated_at) FROM public.reviews")
        await m.expand()
        await m.install(SyncMode.FILL)
        await m.backfill()
        assert await m.rows("SELECT count(*) FROM public.reviews WHERE updated_at = %s", before[0]) == [(0,)]


@pytest.mark.parametrize("end", ["rollback", "commit"])
async def test_a_row_that_a_client_holds_is_come_back_to(
    dsn: str, conn: Connection, client: Connection, end: str
) -> None:
    await create_reviews(conn, 1000)
    async with mechanics(dsn) as m:
        await ready(m)
        await client.execute("UPDATE public.reviews SET note = 'held' WHERE id = 500")
        batches = await m.batches()
        await batches.next(m.pace)
        assert "row locks of clients" in (batches.result(None).throttled_by or "")
        for _ in range(3):
            await batches.next(m.pace)
            assert batches.cursor == 0
        told = batches.result(None).throttled_by or ""
        assert f", held by pid {client.info.backend_pid} (" in told
        assert "idle in transaction" in told
        assert "'held'" not in told
        assert await empty(m) == [500], "its neighbours do not wait for it"
        await getattr(client, end)()
        await m.finish(batches)
        assert batches.result(None).throttled_by is None
        assert await empty(m) == []
        assert (await recorded(m))[0] == batches.rows == 1000 - (end == "commit")


async def test_a_row_that_a_client_holds_for_long_is_looked_at_less_and_less(
    dsn: str, conn: Connection, client: Connection
) -> None:
    await create_reviews(conn, ROWS, trigger=False)
    async with mechanics(dsn) as m:
        await ready(m)
        await client.execute("UPDATE public.reviews SET note = 'held' WHERE id = 1")
        batches = await m.batches()
        began, looks = time.monotonic(), 0
        while time.monotonic() < began + 3:
            await batches.next(m.pace)
            looks += 1
        assert batches.row_locks is not None
        assert looks < 25, "each look reads the pages twice"
        await client.rollback()
        await m.finish(batches)
        assert await empty(m) == []


async def test_a_client_never_waits_for_more_than_a_batch_and_a_batch_never_for_a_client(
    dsn: str, conn: Connection, client: Connection
) -> None:
    await create_reviews(conn, 1000)
    async with mechanics(dsn) as m:
        await ready(m)
        await client.execute("SELECT FROM public.reviews WHERE id = 7 FOR UPDATE")
        batches = await m.batches()
        settings = await m.rows(
            "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
            " current_setting('session_replication_role')"
        )
        assert settings == [("10ms", "100ms", "replica")]
        await batches.next(m.pace)
        await batches.next(m.pace)
        await conn.execute("UPDATE public.reviews SET note = 'not held' WHERE id = 8")
        assert await empty(m) == [7]


@pytest.mark.parametrize(
    ("prepare", "filled"),
    [
        ("TRUNCATE public.reviews", 0),
        ("DELETE FROM public.reviews WHERE id NOT IN (1, 5000)", 2),
        ("DELETE FROM public.reviews WHERE id > 4000", 4000),
        ("DELETE FROM public.reviews WHERE id BETWEEN 100 AND 4900", 199),
        ("UPDATE public.reviews SET id = 2^40 WHERE id = 5000", 5000),
    ],
    ids=["an empty table", "two rows far apart", "no last pages", "a hole", "a key far away"],
)
async def test_holes_and_ends_stop_nothing(dsn: str, conn: Connection, prepare: str, filled: int) -> None:
    await create_reviews(conn, 5000)
    await conn.execute(prepare.encode())
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        await m.finish(batches)
        assert batches.rows == filled
        assert await empty(m) == []


async def test_rows_that_go_while_the_backfill_runs_stop_nothing(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        await batches.next(m.pace)
        await conn.execute("DELETE FROM public.reviews WHERE id > 8000")
        await conn.execute("VACUUM public.reviews")
        await m.finish(batches)
        assert await empty(m) == []


async def test_a_range_that_is_filled_already_is_passed_without_a_write(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 1000)
    async with mechanics(dsn) as m:
        await ready(m)
        await conn.execute("UPDATE public.reviews SET note = note")
        batches = await m.batches()
        await m.finish(batches)
        assert batches.rows == 0


async def test_rows_inserted_in_bulk_meanwhile_do_not_prolong_it(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 2000)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        end = batches.end
        await conn.execute("INSERT INTO public.reviews (rating) SELECT '3' FROM generate_series(1, 20000)")
        await m.finish(batches)
        assert (batches.cursor, batches.rows) == (end, 2000)
        assert await empty(m) == []


async def test_it_goes_on_at_the_recorded_cursor(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        first = await m.batches()
        while not first.cursor:
            await first.next(m.pace)
        second = await m.batches()
        assert second.cursor == first.cursor
        await m.finish(second)
        assert second.result(None).rows_total == ROWS
        assert (await recorded(m))[0] == ROWS
        assert await empty(m) == []


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("reopened", [True, False], ids=["between slices", "within a slice"])
async def test_a_table_that_is_rewritten_meanwhile_is_filled_all_the_same(
    dsn: str, conn: Connection, parts: int, *, reopened: bool
) -> None:
    await create_reviews(conn, 3 * ROWS)
    await conn.execute("DELETE FROM public.reviews WHERE id <= 5000")
    async with mechanics(dsn) as m:
        await ready(m, parts)
        open_ranges = [await m.batches(part) for part in range(parts)]
        for batches in open_ranges[:-1]:
            await m.finish(batches)
        await open_ranges[-1].next(m.pace)
        assert await empty(m)
        # The empty pages go: every row moves to a lower page, behind cursors and into ranges that are done.
        await conn.execute("VACUUM FULL public.reviews")
        await m.finish(await m.batches(parts - 1) if reopened else open_ranges[-1])
        assert await empty(m) == []
        assert (await m.compare(SyncMode.FILL)).mismatches == 0


async def test_a_row_that_up_cannot_map_is_noted_and_its_neighbours_are_filled(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 1000)
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id IN (10, 900)")
    async with mechanics(dsn) as m:
        await ready(m)
        await m.finish(await m.batches())
        assert await empty(m) == [10, 900]
        assert await m.drift() == [({"id": 10}, "unmapped"), ({"id": 900}, "unmapped")]


async def test_a_row_that_up_cannot_map_and_that_a_client_holds_ends_nothing(
    dsn: str, conn: Connection, client: Connection
) -> None:
    await create_reviews(conn, 1000)
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 10")
    async with mechanics(dsn) as m:
        await ready(m)
        # The row that cannot be mapped comes first on the page: the lock is met only after it was left out.
        await client.execute("UPDATE public.reviews SET note = 'held' WHERE id = 500")
        batches = await m.batches()
        for _ in range(3):
            await batches.next(m.pace)
        assert await empty(m) == [10, 500]
        await client.rollback()
        await m.finish(batches)
        assert await empty(m) == [10]


async def test_a_batch_that_takes_too_long_is_cut_until_it_fits(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        await m.conn.execute("SET statement_timeout = '1ms'")
        await batches.next(m.pace)
        assert (batches.pages, batches.cursor) == (FIRST_PAGES // 4, 0)
        await m.finish(batches)
        assert await empty(m) == []


async def test_the_limit_is_off_for_a_single_page_only(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        batches.pages = 1
        await batches.next(m.pace)
        assert await m.rows("SHOW statement_timeout") == [("0",)]
        batches.pages = 2
        await batches.next(m.pace)
        assert await m.rows("SHOW statement_timeout") == [("100ms",)]


async def test_a_batch_with_a_row_that_up_cannot_map_is_cut_too(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 1")
    await conn.execute("VACUUM FULL public.reviews")
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        await m.conn.execute("SET statement_timeout = '5ms'")
        await batches.next(m.pace)
        assert batches.pages < FIRST_PAGES
        await m.finish(batches)
        await m.conn.execute("RESET statement_timeout")
        assert await empty(m) == [1]


async def test_the_batch_size_follows_the_time_that_batches_take(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        batches._adapt(25, 12.5, dense=True)
        assert batches.pages == FIRST_PAGES * 2
        batches._adapt(25, 1, dense=True)
        assert batches.pages == FIRST_PAGES * 4, "twofold at most"
        batches._adapt(25, 1000, dense=True)
        assert batches.pages == FIRST_PAGES * 2
        for _ in range(20):
            batches._adapt(25, 0, dense=True)
        assert batches.pages == MOST_PAGES


async def test_pages_with_nothing_to_fill_do_not_lead_to_a_batch_that_full_ones_make_long(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 10)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        for _ in range(20):
            batches._adapt(25, 0, dense=False)
        assert batches.pages == 2 * FIRST_PAGES


async def test_cursor_and_rows_commit_together(dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await create_reviews(conn, ROWS)

    async def break_off() -> None:
        raise ConnectionAbortedError

    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        monkeypatch.setitem(barriers.HOOKS, "batch.before_commit", break_off)
        with pytest.raises(ConnectionAbortedError):  # noqa: PT012  (a busy machine may cut the first tries)
            while True:
                await batches.next(m.pace)
        assert len(await empty(m)) == ROWS
        assert await recorded(m) == (0, 0)
        monkeypatch.delitem(barriers.HOOKS, "batch.before_commit")
        await m.finish(batches)
        assert (await recorded(m))[0] == ROWS


async def test_a_batch_that_is_broken_off_leaves_a_session_that_goes_on(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_reviews(conn, ROWS)

    async def cancel() -> None:
        raise asyncio.CancelledError

    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        monkeypatch.setitem(barriers.HOOKS, "batch.before_commit", cancel)
        with pytest.raises(asyncio.CancelledError):  # noqa: PT012  (a busy machine may cut the first tries)
            while True:
                await batches.next(m.pace)
        assert m.conn.info.transaction_status is TransactionStatus.IDLE
        await conn.execute("SET lock_timeout = '1s'; UPDATE public.reviews SET note = 'nobody holds it'")


async def test_what_a_batch_wrote_into_a_rewritten_table_counts_although_its_cursor_does_not(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        batches = await m.batches()
        await conn.execute("VACUUM FULL public.reviews")
        while not batches.rows:
            await batches.next(m.pace)
        assert batches.cursor == 0
        await m.finish(batches)
        assert (await recorded(m))[0] == batches.rows == batches.result().rows_total == ROWS
        assert await empty(m) == []


async def test_a_table_without_a_key_is_filled_too(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 1000)
    await conn.execute("ALTER TABLE public.reviews DROP CONSTRAINT reviews_pkey")
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 10")
    async with mechanics(dsn) as m:
        assert m.table.key == ()
        await ready(m)
        await m.finish(await m.batches())
        assert await empty(m) == [10]
        ((key, kind),) = await m.drift()
        assert (key["id"], key["note"], kind) == (10, "note 10", "unmapped")


async def test_everything_can_be_taken_away_in_the_middle(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    async with mechanics(dsn) as m:
        await ready(m)
        await (await m.batches()).next(m.pace)
        await m.run([*sync.remove(m.design, m.table), *columns.drop(m.table)])
        assert await m.rows("SELECT count(*) FROM public.reviews") == [(ROWS,)]
