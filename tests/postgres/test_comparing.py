"""A table and its shadow are compared by key: each kind of difference is named, and a comparison that was stopped goes on."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.twins import twins

from pgduet.errors import GateRefused
from pgduet.operations.comparison import Mapping, column, itself
from pgduet.operations.expressions import Expression
from pgduet.postgres import comparing, store
from pgduet.postgres.traits import known, traits

Connection = psycopg.AsyncConnection[Any]


async def make(conn: Connection, rows: int = 1000) -> None:
    await conn.execute("CREATE TABLE old (id int PRIMARY KEY, amount numeric(10,2), note text)")
    await conn.execute("CREATE TABLE new (id bigint PRIMARY KEY, amount numeric(12,3), note text)")
    await conn.execute(
        "INSERT INTO old SELECT i, i / 7.0, 'note ' || i FROM generate_series(1, %s) i", (rows,), prepare=False
    )
    await conn.execute("INSERT INTO new SELECT * FROM old")


async def drift(conn: Connection) -> None:
    await conn.execute("UPDATE new SET note = 'another' WHERE id = 7")
    await conn.execute("UPDATE new SET amount = NULL WHERE id = 8")
    await conn.execute("DELETE FROM new WHERE id IN (1, 500)")
    await conn.execute("INSERT INTO new VALUES (-5, 0, 'x'), (10000000000, 0, 'beyond int')")


DRIFT = [
    ("extra", {"id": -5}),
    ("extra", {"id": 10_000_000_000}),
    ("mismatch", {"id": 7}),
    ("mismatch", {"id": 8}),
    ("missing", {"id": 1}),
    ("missing", {"id": 500}),
]


async def test_tables_that_agree_have_no_suspects(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        found = await t.compare()
        assert (found.rows, found.shadow_rows, found.mismatches, found.missing, found.extra) == (1000, 1000, 0, 0, 0)
        assert (await t.settle()).clean


async def test_changed_missing_and_extra_rows_are_counted_and_each_named(dsn: str, conn: Connection) -> None:
    await make(conn)
    await drift(conn)
    async with twins(dsn) as t:
        found = await t.compare()
        assert (found.rows, found.shadow_rows) == (1000, 1000)
        assert (found.mismatches, found.missing, found.extra) == (2, 2, 2)
        assert (await t.settle()).confirmed == {"mismatch": 2, "missing": 2, "extra": 2}
        assert await t.named() == DRIFT


@pytest.mark.parametrize("parts", [1, 3])
async def test_the_same_is_found_in_small_chunks_and_in_parts(
    dsn: str, conn: Connection, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(conn)
    await drift(conn)
    await conn.execute("ANALYZE old")
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    monkeypatch.setattr(comparing, "PART_ROWS", 100)
    async with twins(dsn) as t:
        found = await t.compare(parts, chunk_ms=0.0)
        assert (len(t.parts), t.chunks >= 9) == (parts, True)
        assert (found.rows, found.shadow_rows) == (1000, 1000)
        await t.settle()
        assert await t.named() == DRIFT


async def test_an_empty_side_and_two_empty_sides(dsn: str, conn: Connection) -> None:
    await make(conn, 0)
    async with twins(dsn) as t:
        assert (await t.compare()).rows == 0
        await conn.execute("INSERT INTO new SELECT i, i, 'x' FROM generate_series(1, 250) i")
        assert (await t.compare()).extra == 250
        await conn.execute("WITH gone AS (DELETE FROM new RETURNING *) INSERT INTO old SELECT * FROM gone")
        assert (await t.compare()).missing == 250
        assert (await t.settle()).confirmed == {"missing": 250}


async def test_what_differs_beyond_the_rows_that_are_kept_is_counted_all_the_same(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(conn)
    await conn.execute("UPDATE new SET note = 'another' WHERE id > 100")
    await drift(conn)
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    monkeypatch.setattr(comparing, "NAMED_AT_MOST", 150)
    async with twins(dsn) as t:
        found = await t.compare(chunk_ms=0.0)
        assert (found.rows, found.shadow_rows, found.mismatches) == (1000, 1000, 901)
        assert (found.missing, found.extra) == (2, 2)
        ((kept,),) = await t.rows("SELECT count(*) FROM pgduet.suspect")
        assert 150 <= kept < 300


async def test_many_extra_rows_between_two_keys_do_not_make_a_chunk_large(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(conn, 0)
    await conn.execute("INSERT INTO old VALUES (1, 0, ''), (100000, 0, '')")
    await conn.execute("INSERT INTO new SELECT i, 0, '' FROM generate_series(1, 2000) i")
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    async with twins(dsn) as t:
        found = await t.compare(chunk_ms=0.0)
        assert (found.extra, found.missing, t.chunks >= 20) == (1999, 1, True)


async def test_a_comparison_that_was_stopped_goes_on_where_it_was(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(conn)
    await drift(conn)
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    async with twins(dsn) as t:
        (part_id,) = await comparing.begin(t.conn, t.comparison, 1)
        part = comparing.Comparing(t.conn, t.comparison, part_id, chunk_ms=0.0)
        await part.open()
        for _ in range(4):
            await part.next()
        before = part.counts.rows
        await conn.execute("SELECT pg_terminate_backend(%s)", (t.conn.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            await part.next()
    async with twins(dsn) as t:
        assert await comparing.begin(t.conn, t.comparison, 1) == [part_id]
        part = comparing.Comparing(t.conn, t.comparison, part_id)
        await part.open()
        assert (part.counts.rows, part.chunks) == (before, 4)
        assert 0 < before < 1000
        while not part.finished:
            await part.next()
        t.parts = [part_id]
        assert (part.counts.rows, part.counts.shadow_rows) == (1000, 1000)
        await t.settle()
        assert await t.named() == DRIFT
        assert await comparing.begin(t.conn, t.comparison, 1) != [part_id], "a finished one is begun anew"


async def test_a_database_that_was_set_up_by_an_earlier_release_gets_what_is_missing(
    dsn: str, conn: Connection
) -> None:
    await make(conn)
    async with twins(dsn) as t:
        await conn.execute("DROP TABLE pgduet.suspect, pgduet.comparison")
        assert await store.is_set_up(t.conn), "its migrations are still there"
        assert [await store.set_up(t.conn), await store.set_up(t.conn)] == [True, False]
        assert (await t.compare()).rows == 1000


async def test_a_cursor_of_another_comparison_is_not_followed(dsn: str, conn: Connection) -> None:
    await make(conn)
    async with twins(dsn) as t:
        first = await comparing.begin(t.conn, t.comparison, 1)
        other = t.comparison.model_copy(update={"mappings": t.comparison.mappings[:1]})
        assert await comparing.begin(t.conn, other, 1) != first
        with pytest.raises(GateRefused, match="begun anew"):
            await comparing.Comparing(t.conn, t.comparison, first[0]).open()


async def test_rows_that_cannot_be_told_apart_are_refused(dsn: str, conn: Connection) -> None:
    await make(conn)
    await conn.execute("ALTER TABLE new DROP CONSTRAINT new_pkey")
    async with twins(dsn) as t:
        with pytest.raises(GateRefused, match="no valid unique index"):
            await t.compare()


HOSTILE = ('we"ird %s.{x}', "Dröp' -- %(a)s")


async def test_hostile_names_and_keys(dsn: str, conn: Connection) -> None:
    for name in HOSTILE:
        table = '"' + name.replace('"', '""') + '"'
        await conn.execute(
            f'CREATE TABLE {table} ("K""e%%y {{0}}" text, "n;" int, "%%(v)s" text, PRIMARY KEY ("K""e%%y {{0}}", "n;"))'.replace(
                "%%", "%"
            ).encode()
        )
        await conn.execute(
            f"""INSERT INTO {table} VALUES ('it''s %s \"{{}}\" \\', 1, 'a'), ('é%%', 2, 'b'), ('', 3, NULL),
            ('Z', 4, ''), ('z', 4, '')""".encode()
        )
    quoted = '"' + HOSTILE[1].replace('"', '""') + '"'
    async with twins(dsn, ("public", HOSTILE[0]), ("public", HOSTILE[1]), ('K"e%y {0}', "n;")) as t:
        assert await t.drifted() == []
        await conn.execute(f'UPDATE {quoted} SET "%(v)s" = \'%s\' WHERE "n;" = 1'.encode())
        await conn.execute(f'DELETE FROM {quoted} WHERE "n;" = 2'.encode())
        found = await t.drifted()
        assert found == [
            ("mismatch", {'K"e%y {0}': 'it\'s %s "{}" \\', "n;": 1}),
            ("missing", {'K"e%y {0}': "é%%", "n;": 2}),
        ]
        assert (await t.repair()).written == 2
        assert await t.drifted() == []


async def test_composite_and_text_keys_in_small_chunks(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "FIRST_ROWS", 50)
    for table, kind in (("old", "varchar(20)"), ("new", "text")):
        await conn.execute(
            f"CREATE TABLE {table} (a {kind}, b int, c timestamptz, v int, PRIMARY KEY (a, b, c))".encode()
        )
        await conn.execute(
            f"""INSERT INTO {table} SELECT (ARRAY['a', 'A', 'ä', 'b', 'B', ''])[i %% 6 + 1] || i %% 5, i %% 17,
            '2026-01-01 UTC'::timestamptz + i * interval '1 us', i FROM generate_series(1, 1000) i""".replace(
                "%%", "%"
            ).encode()
        )
    await conn.execute("UPDATE new SET v = 0 WHERE v IN (11, 999)")
    await conn.execute("DELETE FROM new WHERE v = 500")
    async with twins(dsn, key=("a", "b", "c")) as t:
        found = await t.compare(chunk_ms=0.0)
        assert (found.rows, found.mismatches, found.missing, found.extra, t.chunks > 5) == (1000, 2, 1, 0, True)
        assert (await t.settle()).confirmed == {"mismatch": 2, "missing": 1}


async def test_keys_in_two_collations_are_compared_by_slices(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "SLICE_ROWS", 300)
    await conn.execute('CREATE TABLE old (id text COLLATE "C" PRIMARY KEY, v int)')
    await conn.execute('CREATE TABLE new (id text COLLATE "POSIX" PRIMARY KEY, v int)')
    await conn.execute(
        "INSERT INTO old SELECT (ARRAY['a', 'A', 'ä', 'b', 'B'])[i % 5 + 1] || i, i FROM generate_series(1, 1000) i"
    )
    await conn.execute("INSERT INTO new SELECT * FROM old")
    await conn.execute("ANALYZE old")
    async with twins(dsn) as t:
        assert not t.comparison.aligned
        found = await t.compare()
        assert (len(t.parts), found.rows, found.shadow_rows, found.missing, found.extra) == (4, 1000, 1000, 0, 0)
        await conn.execute("UPDATE new SET id = lower(id) WHERE id = 'A6'")
        assert await t.drifted() == [("extra", {"id": "a6"}), ("missing", {"id": "A6"})]
        assert (await t.repair()).written == 2
        assert await t.drifted() == []


async def test_a_key_that_is_computed_is_paired_by_its_value_and_rows_that_come_to_one_are_named(
    dsn: str, conn: Connection
) -> None:
    await conn.execute("CREATE TABLE old (code text PRIMARY KEY, v int)")
    await conn.execute("CREATE TABLE new (code text PRIMARY KEY, v int)")
    await conn.execute("INSERT INTO old VALUES ('A', 1), ('B', 1), ('b', 1), ('C', 3)")
    await conn.execute("INSERT INTO new VALUES ('a', 1), ('b', 1), ('c', 4), ('d', 5)")
    lower = Expression(source="lower(code)", canonical="lower(r.code)", alias="r")
    async with twins(dsn, key=("code",)) as t:
        key = t.comparison.key[0].model_copy(update={"up": lower})
        t.comparison = t.comparison.model_copy(update={"key": (key,)})
        assert await t.drifted() == [
            ("extra", {"code": "d"}),
            ("mismatch", {"code": "C"}),
            ("missing", {"code": "b"}),
        ], "B stands for both, or b does: one row is lost"


async def test_a_filter_that_says_nothing_of_a_row_does_not_take_it_out(dsn: str, conn: Connection) -> None:
    """Scenario 10: the copy drops valid rows whose helper is NULL; they are named as missing."""
    await make(conn, 10)
    await conn.execute("ALTER TABLE old ADD COLUMN helper int DEFAULT 1")
    await conn.execute("UPDATE old SET helper = NULL WHERE id = 3")
    await conn.execute("UPDATE old SET helper = -1 WHERE id = 4")
    await conn.execute("DELETE FROM new WHERE id IN (3, 4)")
    only = Expression(source="helper > 0", canonical="r.helper > 0", alias="r")
    async with twins(dsn, only=only) as t:
        assert await t.drifted() == [("missing", {"id": 3})]
        await conn.execute("INSERT INTO new VALUES (4, 0, '')")
        assert await t.drifted() == [("extra", {"id": 4}), ("missing", {"id": 3})]
        assert (await t.repair()).written == 2
        assert await t.drifted() == []


async def test_once_both_versions_write_either_direction_explains_a_row(dsn: str, conn: Connection) -> None:
    await conn.execute("CREATE TABLE old (id int PRIMARY KEY, rating text)")
    await conn.execute("CREATE TABLE new (id int PRIMARY KEY, stars int)")
    await conn.execute("INSERT INTO old VALUES (1, ' 05 '), (2, '3'), (3, '4')")
    await conn.execute("INSERT INTO new VALUES (1, 5), (2, 3), (3, 9)")
    up = Expression(source="rating::int", canonical="(r.rating)::integer", alias="r")
    down = Expression(source="stars::text", canonical="(r.stars)::text", alias="r")
    async with twins(dsn) as t:
        old, new = await traits(t.conn, "public.old"), await traits(t.conn, "public.new")
        mapping = Mapping(up=(column(new["stars"], up),), down=(column(old["rating"], down),))
        for both_ways in (False, True):
            change = {"mappings": (mapping,), "both_ways": both_ways}
            t.comparison = t.comparison.model_copy(update=change)
            assert await t.drifted() == [("mismatch", {"id": 3})]
        await conn.execute("UPDATE old SET rating = 'five' WHERE id = 2")
        assert await t.drifted() == [("mismatch", {"id": 3}), ("unmapped", {"id": 2})]
        assert (await t.repair()).written == 1
        assert await t.drifted() == [("unmapped", {"id": 2})]


async def test_rows_on_which_an_expression_raises_are_named_and_the_others_compared(dsn: str, conn: Connection) -> None:
    await make(conn)
    await conn.execute("ALTER TABLE new ADD COLUMN ratio numeric")
    await conn.execute("UPDATE new SET ratio = 100 / amount")
    await conn.execute("UPDATE old SET amount = 0 WHERE id IN (1, 2, 700, 1000)")
    await drift(conn)
    ratio = Expression(source="100 / amount", canonical="(100)::numeric / r.amount", alias="r")
    async with twins(dsn) as t:
        mapping = Mapping(up=(column((await traits(t.conn, "public.new"))["ratio"], ratio),))
        t.comparison = t.comparison.model_copy(update={"mappings": (*t.comparison.mappings[1:], mapping)})
        assert [each for each in await t.drifted() if each[0] == "unmapped"] == [
            ("unmapped", {"id": n}) for n in (1000, 2, 700)
        ], "1 is missing, so there is nothing that it could be compared with"
        assert t.counts.mismatches == 1
        await conn.execute("UPDATE old SET amount = 0")
        with pytest.raises(GateRefused, match="more than 100 rows"):
            await t.compare()


async def test_writers_whose_triggers_write_both_rows_are_never_under_suspicion(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement is one snapshot of both sides: what commits together is seen together."""
    await make(conn)
    await conn.execute(
        """CREATE FUNCTION sync() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN INSERT INTO public.new VALUES (NEW.*);
        ELSIF TG_OP = 'DELETE' THEN DELETE FROM public.new AS f WHERE f.id = OLD.id;
        ELSE UPDATE public.new AS f SET note = NEW.note WHERE f.id = NEW.id; END IF; RETURN NULL; END $$"""
    )
    await conn.execute(
        "CREATE TRIGGER sync AFTER INSERT OR UPDATE OR DELETE ON old FOR EACH ROW EXECUTE FUNCTION sync()"
    )
    monkeypatch.setattr(comparing, "FIRST_ROWS", 100)
    stop, written = asyncio.Event(), 0

    async def write(number: int) -> None:
        nonlocal written
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as client:
            while not stop.is_set():
                await client.execute("UPDATE old SET note = note || 'x' WHERE id %% 4 = %s AND id < 50", (number,))
                await client.execute("INSERT INTO old VALUES (%s, 0, 'theirs')", (5000 + number,))
                await client.execute("DELETE FROM old WHERE id = %s", (5000 + number,))
                written += 1

    async with twins(dsn) as t:
        writers = [asyncio.create_task(write(number)) for number in range(4)]
        rounds = 0
        async with asyncio.timeout(60):
            while rounds < 10 or written < 40:
                found = await t.compare(chunk_ms=0.0)
                assert (found.mismatches, found.missing, found.extra) == (0, 0, 0)
                rounds += 1
        stop.set()
        await asyncio.gather(*writers)


async def test_a_row_whose_shadow_lags_behind_its_writer_is_no_drift(dsn: str, conn: Connection) -> None:
    """The shadow follows a moment later, again and again: at each look the sides differ, but never the same two rows."""
    await make(conn)
    follow = "UPDATE new SET note = (SELECT note FROM old WHERE id = 7) WHERE id = 7"
    write = "UPDATE old SET note = note || 'x' WHERE id = 7"
    await conn.execute(write)
    async with twins(dsn) as t:
        assert (await t.compare()).mismatches == 1
        for looks in (1, 2):
            await conn.execute(follow)
            await conn.execute(write)
            seen = await t.settle(looks=looks)
            assert (seen.confirmed, seen.unsettled) == ({}, 1)
        await conn.execute(follow)
        assert (await t.settle(looks=3)).clean
        await conn.execute(write)
        assert (await t.compare()).mismatches == 1
        assert (await t.settle()).confirmed == {"mismatch": 1}, "nobody writes any more, and it differs"


async def test_drift_that_nobody_writes_is_confirmed_after_the_delay_and_not_before(dsn: str, conn: Connection) -> None:
    await make(conn)
    await drift(conn)
    async with twins(dsn) as t:
        await t.compare()
        settling = asyncio.create_task(t.settle(after_s=0.3))
        await conn.execute("UPDATE new SET note = 'note 7' WHERE id = 7")
        assert (await settling).confirmed == {"mismatch": 1, "missing": 2, "extra": 2}
        ((waited,),) = await t.rows("SELECT bool_and(confirmed_at >= seen_at + interval '0.3 s') FROM pgduet.suspect")
        assert waited


async def test_a_table_in_partitions_is_compared_with_one_that_has_none(dsn: str, conn: Connection) -> None:
    await make(conn)
    await conn.execute("DROP TABLE new")
    await conn.execute(
        "CREATE TABLE new (id bigint PRIMARY KEY, amount numeric(12,3), note text) PARTITION BY HASH (id)"
    )
    for number in range(3):
        await conn.execute(
            f"CREATE TABLE new_{number} PARTITION OF new FOR VALUES WITH (MODULUS 3, REMAINDER {number})".encode()
        )
    await conn.execute("INSERT INTO new SELECT * FROM old")
    await drift(conn)
    async with twins(dsn) as t:
        assert await t.drifted() == DRIFT
        assert (await t.repair()).written == 6
        assert await t.drifted() == []


async def test_chunks_go_by_the_keys_index_though_nothing_is_known_of_the_table(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "FIRST_ROWS", 500)
    await make(conn, 20_000)
    async with twins(dsn) as t:
        await t.conn.execute("SELECT pg_stat_reset()")
        (part_id,) = await comparing.begin(t.conn, t.comparison, 1)
        async with comparing.opened(t.conn, t.comparison, part_id, chunk_ms=0.0) as part:
            await part.next()
            query = comparing.comparing.chunk(t.comparison, comparing.Span(part.reached, ["1000"]))
            plan = await t.rows("EXPLAIN " + query.as_string())
        text = "\n".join(line for (line,) in plan)
        assert "Seq Scan" not in text, text


async def test_a_shadow_that_several_ranges_have_filled_is_merged_with_a_source_in_order_of_its_key(
    dsn: str, conn: Connection
) -> None:
    """To PostgreSQL several streams of keys in one heap are disorder: it reads pages by a bitmap, and sorts or hashes."""
    await make(conn, 60_000)
    await conn.execute("TRUNCATE new")
    await conn.execute("INSERT INTO new SELECT * FROM old ORDER BY (id - 1) % 15000 / 30, id")
    for table in ("old", "new"):
        await conn.execute(f"VACUUM ANALYZE {table}".encode())
    async with twins(dsn) as t:
        query = comparing.comparing.chunk(t.comparison, comparing.Span(["1"], ["20000"]))

        async def plan() -> str:
            return "\n".join(line for (line,) in await t.rows("EXPLAIN " + query.as_string()))

        await t.conn.execute("SET enable_seqscan = off")
        assert "Bitmap Heap Scan" in await plan(), "else this shows nothing"
        (part_id,) = await comparing.begin(t.conn, t.comparison, 1)
        async with comparing.opened(t.conn, t.comparison, part_id):
            merged = await plan()
            assert "Merge Full Join" in merged, merged
            assert "Bitmap" not in merged, merged
            assert "Sort" not in merged, merged
        assert await t.rows("SHOW enable_hashjoin") == [("on",)]
        await conn.execute("CREATE TABLE mixed AS SELECT * FROM old ORDER BY md5(id::text)")
        await conn.execute("TRUNCATE old")
        await conn.execute("INSERT INTO old SELECT * FROM mixed")
        await conn.execute("ANALYZE old")
        (part_id,) = await comparing.begin(t.conn, t.comparison, 1, anew=True)
        async with comparing.opened(t.conn, t.comparison, part_id):
            assert await t.rows("SHOW enable_hashjoin") == [("on",)], (
                "where the source is in disorder, PostgreSQL knows best"
            )


async def test_keys_that_are_numbers_are_cut_by_the_statistics_unless_many_have_come_since(
    dsn: str, conn: Connection
) -> None:
    await make(conn, 40_000)
    await conn.execute("ANALYZE old")
    async with twins(dsn) as t:
        of = await known(t.conn, t.comparison)
        (middle,) = of.cuts(2)
        assert abs(middle - 20_000) < 500
        assert (of.dense, of.ends) == (True, (1, 40_000))
        found = await t.compare(2)
        assert (len(t.parts), found.rows, found.shadow_rows, found.found) == (2, 40_000, 40_000, [])
        await conn.execute("INSERT INTO old SELECT i, 0, '' FROM generate_series(40001, 60000) i")
        assert (await known(t.conn, t.comparison)).cuts(2) == []
        found = await t.compare(2)
        assert (len(t.parts), found.rows, found.missing) == (2, 60_000, 20_000)


def test_a_column_of_the_other_side_is_rendered_by_its_quoted_name() -> None:
    assert itself('a"b').columns == ('a"b',)
