"""Rows that exist begin with what `up` gives most often: the backfill writes the others only, and nothing else is different."""

from typing import Any

import psycopg
import pytest
from support.mechanics import Mechanics, mechanics
from support.plans import create_reviews, replace

from pgduet.phases import SyncMode

ROWS = 4_000
Connection = psycopg.AsyncConnection[Any]

STARS = replace(
    "public.reviews",
    {"rating": "stars::text"},
    {"name": "stars", "type": "int", "up": "rating::int", "nullable": False},
)


@pytest.fixture
async def reviews(conn: Connection) -> None:
    """Give a table where nine of ten ratings are the same."""
    await create_reviews(conn, ROWS, trigger=False)
    await conn.execute("UPDATE public.reviews SET rating = CASE WHEN id % 10 = 0 THEN '4' ELSE '5' END")
    await conn.execute("VACUUM FULL public.reviews")


async def wrong(m: Mechanics) -> list[int]:
    """Find rows whose new column is not what `up` gives."""
    new = m.physical("stars")
    found = await m.rows(f'SELECT id FROM public.reviews WHERE "{new}" IS DISTINCT FROM rating::int ORDER BY id')
    return [row[0] for row in found]


async def has_default(m: Mechanics) -> bool:
    """Tell whether the new column has a default that inserts would take."""
    query = "SELECT atthasdef FROM pg_attribute WHERE attrelid = 'public.reviews'::regclass AND attname = %s"
    ((found,),) = await m.rows(query, (m.physical("stars"),))
    return bool(found)


@pytest.mark.usefixtures("reviews")
async def test_only_rows_that_differ_are_written_and_no_page_grows(dsn: str) -> None:
    async with mechanics(dsn, STARS) as m:
        ((pages,),) = await m.rows("SELECT pg_relation_filenode('public.reviews')")
        await m.expand(begun=True)
        assert await m.rows("SELECT pg_relation_filenode('public.reviews')") == [(pages,)], "no row was touched"
        assert len(await wrong(m)) == ROWS // 10
        assert not await has_default(m)
        await m.install(SyncMode.FILL)
        assert await m.backfill() == ROWS // 10
        assert await wrong(m) == []
        parity = await m.compare(SyncMode.FILL)
        assert (parity.rows, parity.mismatches) == (ROWS, 0)


@pytest.mark.usefixtures("reviews")
async def test_rows_written_before_the_triggers_are_there_are_filled(dsn: str, conn: Connection) -> None:
    async with mechanics(dsn, STARS) as m:
        await m.expand(begun=True)
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (100000, '2')")
        await conn.execute("UPDATE public.reviews SET rating = '1' WHERE id = 1")
        await m.install(SyncMode.FILL)
        await m.backfill()
        assert await wrong(m) == []


@pytest.mark.usefixtures("reviews")
async def test_an_unrelated_update_makes_a_row_right_wherever_it_goes(dsn: str, conn: Connection) -> None:
    async with mechanics(dsn, STARS) as m:
        await m.expand(begun=True)
        await m.install(SyncMode.FILL)
        await conn.execute("UPDATE public.reviews SET note = 'moved' WHERE id = 10")
        assert 10 not in await wrong(m)


@pytest.mark.usefixtures("reviews")
async def test_a_row_that_cannot_be_mapped_does_not_keep_what_it_began_with(dsn: str, conn: Connection) -> None:
    async with mechanics(dsn, STARS) as m:
        await m.expand(begun=True)
        await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 7")
        await m.install(SyncMode.FILL)
        await m.backfill()
        new = m.physical("stars")
        assert await m.rows(f'SELECT id FROM public.reviews WHERE "{new}" IS NULL') == [(7,)]
        assert await m.drift() == [({"id": 7}, "unmapped")]


@pytest.mark.parametrize(
    ("kind", "up"),
    [
        ("numeric", "CASE WHEN id % 2 = 0 THEN 1.0 ELSE 1.00 END"),  # equal, and not the same
        ("int", "id"),  # no value is common
        ("int", "NULLIF(id, id)"),  # the commonest is nothing
        ("int", "CASE WHEN id < 0 THEN id ELSE rating::int END"),
    ],
)
async def test_what_would_not_help_or_could_deceive_begins_empty(
    dsn: str, conn: Connection, kind: str, up: str
) -> None:
    await create_reviews(conn, 500, trigger=False)
    operation = {"add_column": {"table": "public.reviews", "column": {"name": "stars", "type": kind, "up": up}}}
    async with mechanics(dsn, operation) as m:
        await m.expand(begun=True)
        new = m.physical("stars")
        assert await m.rows(f'SELECT count(*) FROM public.reviews WHERE "{new}" IS NOT NULL') == [(0,)]
