"""Parity counts exactly, names the keys of what differs, and gives rows back what the authority says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from support.mechanics import Mechanics, mechanics
from support.plans import MOOD, STARS, create_reviews, replace

from pgduet.errors import GateRefused
from pgduet.operations import rows
from pgduet.phases import Authority, SyncMode
from pgduet.postgres import gently, parity
from pgduet.postgres.parity import EXAMPLES, unmapped_rows

Connection = psycopg.AsyncConnection[Any]


async def drifted(m: Mechanics, keys: list[int], value: int = 9) -> None:
    """Let the new side of some rows drift."""
    await m.unseen(f'UPDATE public.reviews SET "{m.physical("stars")}" = %s WHERE id = ANY (%s)', (value, keys))


@pytest.fixture
async def published(dsn: str, conn: Connection) -> AsyncIterator[Mechanics]:
    """Give a published migration of 2,000 rows."""
    await create_reviews(conn, 2000, trigger=False)
    async with mechanics(dsn) as m:
        await m.published()
        yield m


async def test_rows_that_differ_are_counted_and_named_until_they_are_repaired(
    published: Mechanics, conn: Connection
) -> None:
    await drifted(published, [3, 1999])
    found = await published.compare()
    assert (found.rows, found.mismatches, found.violations) == (2000, 2, 0)
    relation = published.table.label
    assert found.examples == [
        {"relation": relation, "key": {"id": 3}, "kind": "mismatch"},
        {"relation": relation, "key": {"id": 1999}, "kind": "mismatch"},
    ]
    assert await published.drift() == [({"id": 1999}, "mismatch"), ({"id": 3}, "mismatch")]
    assert await published.repair() == 2
    assert (await published.compare()).mismatches == 0
    assert await published.drift() == []
    sides = await published.rows(
        "SELECT rating, stars::text FROM public_v2.reviews JOIN public.reviews r USING (id) WHERE id IN (3, 1999)"
    )
    assert all(old == new for old, new in sides)


async def test_the_same_drift_found_twice_is_noted_once(published: Mechanics, conn: Connection) -> None:
    await drifted(published, [5])
    for _ in range(3):
        await published.compare()
    assert await published.drift() == [({"id": 5}, "mismatch")]


async def test_many_rows_are_counted_exactly_and_a_few_are_named(published: Mechanics, conn: Connection) -> None:
    await drifted(published, list(range(1, 501)))
    found = await published.compare()
    assert found.mismatches == 500
    assert len(found.examples) == EXAMPLES


async def test_values_of_rows_stay_in_the_database(published: Mechanics, conn: Connection) -> None:
    await drifted(published, [7], value=777)
    found = await published.compare()
    assert "777" not in found.model_dump_json()
    ((detail,),) = await published.rows("SELECT detail FROM pgduet.drift WHERE resolved_at IS NULL")
    assert "777" in detail


async def test_the_authority_says_which_side_is_right(published: Mechanics, conn: Connection) -> None:
    await drifted(published, [11], value=9)
    assert await published.repair(Authority.NEW) == 1
    assert await published.rows("SELECT rating FROM public.reviews WHERE id = 11") == [("9",)]
    await drifted(published, [11], value=2)
    assert await published.repair(Authority.OLD) == 1
    assert await published.rows("SELECT stars FROM public_v2.reviews WHERE id = 11") == [(9,)]
    assert (await published.compare()).mismatches == 0


async def test_while_the_old_side_has_authority_a_repair_leaves_it_alone(
    published: Mechanics, conn: Connection
) -> None:
    await conn.execute("UPDATE public.reviews SET rating = ' 05 ' WHERE id = 11")
    assert (await published.compare()).mismatches == 0, "up maps it, though down would write it otherwise"
    await drifted(published, [11])
    assert await published.repair(Authority.OLD) == 1
    assert await published.rows("SELECT rating FROM public.reviews WHERE id = 11") == [(" 05 ",)]
    assert (await published.compare()).mismatches == 0


async def test_once_the_new_side_has_authority_a_repair_leaves_it_alone(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    upper = replace(
        "public.reviews",
        {"rating": "code"},
        {"name": "code", "type": "text", "up": "upper(rating)", "nullable": False},
    )
    async with mechanics(dsn, upper, unmappable="archive") as m:
        await m.published(SyncMode.ENFORCE)
        await conn.execute("UPDATE public_v2.reviews SET code = 'abc' WHERE id = 1")
        await m.unseen("UPDATE public.reviews SET rating = 'drifted' WHERE id = 1")
        assert await m.repair(Authority.NEW) == 1
        assert await m.rows(f'SELECT rating, "{m.physical("code")}" FROM public.reviews WHERE id = 1') == [
            ("abc", "abc")
        ]
        assert (await m.compare()).mismatches == 0


async def test_a_repair_does_not_fire_the_users_triggers(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 100)
    async with mechanics(dsn) as m:
        await m.published()
        before = await m.rows("SELECT id, updated_at FROM public.reviews ORDER BY id")
        await drifted(m, [4])
        assert await m.repair() == 1
        assert await m.rows("SELECT id, updated_at FROM public.reviews ORDER BY id") == before


async def test_a_repair_waits_for_no_client_and_comes_back_to_what_it_holds(
    published: Mechanics, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await drifted(published, [3, 1999])
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.execute("SELECT FROM public.reviews WHERE id = 1999 FOR UPDATE")
        task = asyncio.create_task(published.repair())
        async with asyncio.timeout(10):
            while await lock_waits(client) < 2:
                await asyncio.sleep(0.01)
        await client.rollback()
        assert await task == 2
    assert (await published.compare()).mismatches == 0


async def lock_waits(conn: Connection) -> int:
    """Count how often somebody gave up on a lock in this database: each is a transaction rolled back."""
    await conn.execute("SELECT pg_stat_clear_snapshot()")
    cursor = await conn.execute("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    ((count,),) = await cursor.fetchall()
    return int(count)


async def test_a_lossy_map_is_consistent_when_either_direction_holds(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    half = replace(
        "public.reviews",
        {"rating": "stars::text"},
        {"name": "stars", "type": "int", "up": "rating::numeric::int", "nullable": False},
    )
    async with mechanics(dsn, half) as m:
        await m.published()
        await conn.execute("UPDATE public.reviews SET rating = '3.4' WHERE id = 1")
        assert await m.rows("SELECT stars FROM public_v2.reviews WHERE id = 1") == [(3,)]
        assert (await m.compare()).mismatches == 0


async def test_rows_that_up_cannot_map_are_named_whatever_the_form(published: Mechanics, conn: Connection) -> None:
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 42")
    found = await published.compare()
    assert (found.mismatches, found.violations) == (1, 1)
    assert [example["key"] for example in found.examples] == [{"id": 42}]
    assert await published.repair() == 0, "there is nothing that it could be given"
    left = await unmapped_rows(published.conn, published.migration, published.table, 10)
    assert [(row["key"], "invalid input syntax" in row["detail"]) for row in left] == [({"id": 42}, True)]
    await conn.execute("UPDATE public.reviews SET rating = '4' WHERE id = 42")
    found = await published.compare()
    assert (found.mismatches, found.violations) == (0, 0)
    assert await published.drift() == []


async def test_while_filling_an_empty_row_is_a_mismatch(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 100, trigger=False)
    async with mechanics(dsn) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        found = await m.compare(SyncMode.FILL)
        assert (found.mismatches, found.violations) == (100, 100)
        assert await m.repair(Authority.OLD, SyncMode.FILL) == 100
        assert (await m.compare(SyncMode.FILL)).mismatches == 0


async def test_a_wrong_helper_in_the_plan_shows_as_missing_rows(dsn: str, conn: Connection) -> None:
    """Scenario 10: `up` gives NULL for rows whose helper column is NULL; parity names them before the cutover."""
    await create_reviews(conn, 100, trigger=False)
    filtered = replace(
        "public.reviews",
        {"rating": "stars::text"},
        {"name": "stars", "type": "int", "up": "rating::int + 0 * length(note)", "nullable": False},
    )
    async with mechanics(dsn, filtered) as m:
        await conn.execute("UPDATE public.reviews SET note = NULL WHERE id IN (10, 20)")
        await m.published()
        found = await m.compare()
        assert found.violations == 2
        assert [(e["key"], e["kind"]) for e in found.examples] == [
            ({"id": 10}, "constraint"),
            ({"id": 20}, "constraint"),
        ]


async def test_a_table_without_a_key_names_rows_by_what_both_versions_have(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 100, trigger=False)
    await conn.execute("ALTER TABLE public.reviews DROP CONSTRAINT reviews_pkey")
    async with mechanics(dsn) as m:
        await m.published()
        await drifted(m, [8])
        (example,) = (await m.compare()).examples
        assert example["key"] == "see pgduet.drift", "its values stay in the database"
        [(key,)] = await m.rows("SELECT key FROM pgduet.drift WHERE resolved_at IS NULL")
        assert (key["id"], key["note"]) == (8, "note 8")
        assert set(key) == {"id", "note", "updated_at"}
        assert await m.repair() == 1


async def test_one_snapshot_counts_a_row_that_moves_once(
    published: Mechanics, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row moves between two chunks: a comparison page by page without a snapshot would count some twice."""
    monkeypatch.setattr(gently, "PIECE", 1)
    monkeypatch.setattr(gently, "SMALL_PIECE", 1)
    comparison = parity._Comparison(published.conn, published.migration, SyncMode.BOTH, lambda _: None)
    async with published.conn.transaction():
        await published.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await published.conn.execute("SELECT 1 FROM public.reviews LIMIT 1")
        await conn.execute("UPDATE public.reviews SET note = note || 'longer'")
        await comparison.table(published.table)
    assert (comparison.rows, comparison.mismatches) == (2000, 0)


async def test_what_only_the_new_version_has_is_archived_and_restored_exactly(
    published: Mechanics, conn: Connection
) -> None:
    await conn.execute("UPDATE public_v2.reviews SET mood = 'it''s 100 %%' WHERE id IN (1, 2, 3)")
    archive = rows.archive_new(published.design, published.table, 1, 0, 1_000)
    saved = [(await published.conn.execute(query)).rowcount for query in archive]
    assert saved == [0, 3]
    await published.unseen(f'UPDATE public.reviews SET "{published.physical("mood")}" = NULL')
    await conn.execute("DELETE FROM public.reviews WHERE id = 3")
    await conn.execute("UPDATE public_v2.reviews SET mood = 'later' WHERE id = 2")
    mapping = published.table.mappings[1]
    query = rows.restore(published.design, published.table, mapping, [1, 2, 3])
    assert (await published.conn.execute(query)).rowcount == 1
    assert await published.rows("SELECT id, mood FROM public_v2.reviews WHERE mood IS NOT NULL ORDER BY id") == [
        (1, "it's 100 %%"),
        (2, "later"),
    ], "a value that somebody wrote since is left alone"


async def test_a_value_that_down_cannot_carry_back_is_archived(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    upper = replace(
        "public.reviews",
        {"rating": "left(code, 1)"},
        {"name": "code", "type": "text", "up": "rating", "nullable": False},
    )
    async with mechanics(dsn, upper, MOOD, unmappable="archive") as m:
        await m.published()
        await conn.execute("UPDATE public_v2.reviews SET code = '4 of 5' WHERE id = 1")
        saved = [(await m.conn.execute(q)).rowcount for q in rows.archive_new(m.design, m.table, 1, 0, 1_000)]
        assert saved == [1, 0]
        kept = await m.rows("SELECT key, kept, beside FROM pgduet_archive.value")
        assert kept == [({"id": 1}, {"code": "4 of 5"}, {"rating": "4"})]


async def test_a_composite_key_is_named_whole(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    await conn.execute("ALTER TABLE public.reviews DROP CONSTRAINT reviews_pkey, ADD PRIMARY KEY (note, id)")
    async with mechanics(dsn, STARS) as m:
        await m.published()
        await drifted(m, [8])
        (example,) = (await m.compare()).examples
        assert example["key"] == {"note": "note 8", "id": 8}


async def test_values_that_a_carried_uniqueness_will_not_hold_are_counted_and_named(dsn: str, conn: Connection) -> None:
    await conn.execute("CREATE TABLE public.users (id int PRIMARY KEY, email text UNIQUE, gone boolean)")
    await conn.execute("CREATE UNIQUE INDEX here ON public.users (lower(email)) WHERE NOT gone")
    await conn.execute(
        "INSERT INTO public.users VALUES (1, 'a', true), (2, 'A', false), (3, NULL, false), (4, NULL, false), (5, 'b', false)"
    )
    lower = {"table": "public.users", "column": "email", "up": "lower(email)", "down": "email"}
    async with mechanics(dsn, {"alter_column": lower}, unmappable="archive") as m:
        await m.published()
        found = await m.compare()
        assert (found.mismatches, found.violations) == (0, 1)
        assert [each["key"] for each in found.examples] == [{"id": 1}, {"id": 2}]
        with pytest.raises(psycopg.errors.UniqueViolation):
            await conn.execute(f'CREATE UNIQUE INDEX ON public.users ("{m.physical("email")}")')


async def test_rows_are_not_compared_each_with_each_once_a_table_has_grown(dsn: str, conn: Connection) -> None:
    await conn.execute("CREATE TABLE public.slots (id int PRIMARY KEY, days int4range)")
    free = {"name": "free", "type": "exclude", "exclude": {"elements": "days WITH &&"}}
    async with mechanics(dsn, {"create_constraint": {"table": "public.slots", **free}}) as m:
        await conn.execute("INSERT INTO public.slots VALUES (1, '[1,5)'), (2, '[4,6)')")
        assert (await m.compare()).violations == 1
        await conn.execute(
            "INSERT INTO public.slots SELECT i, int4range(i * 9, i * 9 + 5) FROM generate_series(3, 30000) i"
        )
        with pytest.raises(GateRefused, match="has grown to"):
            await m.compare()
