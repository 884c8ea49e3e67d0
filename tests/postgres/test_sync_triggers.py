"""The sync triggers in their three forms, against every way of writing."""

from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.mechanics import Mechanics, mechanics
from support.plans import MOOD, STARS, create_reviews, replace

from pgduet.operations import columns, sync, views
from pgduet.phases import SyncMode

Connection = psycopg.AsyncConnection[Any]

UPPER = replace(
    "public.reviews", {"rating": "code"}, {"name": "code", "type": "text", "up": "upper(rating)", "nullable": False}
)
"""A map that cannot hold every new value: small letters have no old equivalent."""

INVERSE = replace(
    "public.reviews",
    {"rating": "(60 / stars)::text"},
    {"name": "stars", "type": "int", "up": "60 / rating::int", "nullable": False},
)
"""A map whose down raises for 0."""


async def side(m: Mechanics, key: int) -> tuple[Any, ...]:
    """Read both representations and the marker of a row."""
    new = m.table.new_columns[0].physical
    (row,) = await m.rows(f'SELECT rating, "{new}", _pgduet_v FROM public.reviews WHERE id = %s', (key,))
    return row


async def copy_in(conn: Connection, columns: str, line: str) -> None:
    """Write by COPY."""
    async with conn.cursor().copy(f"COPY public.reviews ({columns}) FROM STDIN".encode()) as copy:
        await copy.write(line + "\n")


@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_while_filling_every_way_of_writing_reaches_the_new_column(dsn: str, conn: Connection, role: str) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        await conn.execute(f"SET session_replication_role = {role}".encode())
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (100, '4')")
        assert await side(m, 100) == ("4", 4, None)
        await copy_in(conn, "id, rating", "101\t2")
        assert await side(m, 101) == ("2", 2, None)
        await conn.execute("UPDATE public.reviews SET rating = '5' WHERE id = 1")
        assert await side(m, 1) == ("5", 5, None)
        await conn.execute("UPDATE public.reviews SET note = 'another column' WHERE id = 2")
        assert await side(m, 2) == ("3", 3, None)
        await conn.execute(
            "INSERT INTO public.reviews (id, rating) VALUES (3, '1') ON CONFLICT (id) DO UPDATE SET rating = excluded.rating"
        )
        assert await side(m, 3) == ("1", 1, None)
        await conn.execute(
            """
            MERGE INTO public.reviews r USING (VALUES (4, '2'), (102, '3')) v(id, rating) ON r.id = v.id
            WHEN MATCHED THEN UPDATE SET rating = v.rating WHEN NOT MATCHED THEN INSERT (id, rating) VALUES (v.id, v.rating)
            """
        )
        assert (await side(m, 4), await side(m, 102)) == (("2", 2, None), ("3", 3, None))


async def test_while_filling_a_row_that_cannot_be_mapped_is_noted_once_and_its_writer_notices_nothing(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 3, trigger=False)
    async with mechanics(dsn) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 1")
        await conn.execute("UPDATE public.reviews SET note = 'again' WHERE id = 1")
        assert await side(m, 1) == ("five", None, None)
        assert await m.drift() == [({"id": 1}, "unmapped")]
        await conn.execute("UPDATE public.reviews SET rating = '5' WHERE id = 1")
        assert await side(m, 1) == ("5", 5, None)


@pytest.mark.parametrize("mode", [SyncMode.BOTH, SyncMode.ENFORCE])
@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_once_published_each_version_follows_the_other(
    dsn: str, conn: Connection, role: str, mode: SyncMode
) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await m.published(mode)
        await conn.execute(f"SET session_replication_role = {role}".encode())
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (100, '4')")
        assert await side(m, 100) == ("4", 4, None)
        await conn.execute("INSERT INTO public_v2.reviews (id, stars) VALUES (101, 3)")
        assert await side(m, 101) == ("3", 3, None)
        await conn.execute("UPDATE public.reviews SET rating = '5' WHERE id = 1")
        assert await side(m, 1) == ("5", 5, None)
        await conn.execute("UPDATE public_v2.reviews SET stars = 1 WHERE id = 1")
        assert await side(m, 1) == ("1", 1, None)
        await conn.execute(
            "INSERT INTO public_v2.reviews (id, stars) VALUES (2, 2) ON CONFLICT (id) DO UPDATE SET stars = excluded.stars"
        )
        assert await side(m, 2) == ("2", 2, None)
        await copy_in(conn, f'id, "{m.physical("stars")}", rating', "102\t5\t0")
        assert await side(m, 102) == ("5", 5, None), "a base-table writer who gives the new column means it"
        await copy_in(conn, "id, rating", "103\t2")
        assert await side(m, 103) == ("2", 2, None)


async def test_only_new_clients_are_held_to_a_new_constraint_before_cutover(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    operation = replace(
        "public.reviews",
        {"rating": "stars::text"},
        {"name": "stars", "type": "int", "up": "nullif(rating::int, 0)", "nullable": False},
    )
    async with mechanics(dsn, operation, MOOD) as m:
        await m.published()
        with pytest.raises(errors.NotNullViolation) as caught:
            await conn.execute("INSERT INTO public_v2.reviews (id, note) VALUES (100, 'no stars')")
        assert caught.value.diag.column_name == "stars"
        assert 'null value in column "stars"' in str(caught.value)
        with pytest.raises(errors.NotNullViolation):
            await conn.execute("UPDATE public_v2.reviews SET stars = NULL WHERE id = 1")
        await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id = 1")
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (101, '0')")
        assert (await side(m, 1), await side(m, 101)) == (("0", None, None), ("0", None, None))
        assert (await m.compare()).violations == 2


async def test_from_cutover_on_the_new_version_binds_everyone_and_says_so(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    operation = replace(
        "public.reviews",
        {"rating": "stars::text"},
        {"name": "stars", "type": "int", "up": "nullif(rating::int, 0)", "nullable": False},
    )
    async with mechanics(dsn, operation, MOOD) as m:
        await m.published(SyncMode.ENFORCE)
        with pytest.raises(errors.NotNullViolation):
            await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id = 1")
        with pytest.raises(errors.InvalidTextRepresentation) as caught:
            await conn.execute("INSERT INTO public.reviews (rating) VALUES ('five')")
        assert 'version 2 of "public"."reviews" cannot hold this row' in str(caught.value)
        assert "in force since its cutover" in (caught.value.diag.message_hint or "")
        with pytest.raises(errors.NotNullViolation):
            await conn.execute("INSERT INTO public_v2.reviews (note) VALUES ('no stars')")
        await conn.execute("UPDATE public.reviews SET rating = '2' WHERE id = 1")
        assert await side(m, 1) == ("2", 2, None)


async def test_an_old_clients_unmappable_write_is_accepted_before_cutover(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await m.published()
        await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = 1")
        assert await side(m, 1) == ("five", None, None)
        assert await m.drift() == [({"id": 1}, "unmapped")]


async def test_a_new_value_without_an_old_equivalent_is_refused_before_commit(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn, UPPER) as m:
        await m.published()
        for statement in (
            "UPDATE public_v2.reviews SET code = 'abc' WHERE id = 1",
            "INSERT INTO public_v2.reviews (code) VALUES ('abc')",
        ):
            with pytest.raises(errors.DataException) as caught:
                await conn.execute(statement.encode())
            assert caught.value.diag.message_primary == (
                'value of code in "public"."reviews" has no equivalent in version 1'
            )
            assert "policy.unmappable: refuse" in (caught.value.diag.message_hint or "")
            assert caught.value.diag.table_name == "reviews"
        await conn.execute("UPDATE public_v2.reviews SET code = 'ABC' WHERE id = 1")
        assert await side(m, 1) == ("ABC", "ABC", None)


async def test_a_new_value_on_which_down_raises_is_refused_with_the_reason(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn, INVERSE) as m:
        await m.published()
        with pytest.raises(errors.DataException) as caught:
            await conn.execute("UPDATE public_v2.reviews SET stars = 0 WHERE id = 1")
        assert caught.value.diag.message_detail == "division by zero"
        await conn.execute("UPDATE public_v2.reviews SET stars = 20 WHERE id = 1")
        assert await side(m, 1) == ("3", 20, None)


async def test_under_archive_such_a_value_is_accepted_and_survives_an_old_clients_other_update(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn, UPPER, unmappable="archive") as m:
        await m.published()
        await conn.execute("UPDATE public_v2.reviews SET code = 'abc' WHERE id = 1")
        assert await side(m, 1) == ("abc", "abc", None)
        await conn.execute("UPDATE public.reviews SET note = 'unrelated' WHERE id = 1")
        assert await side(m, 1) == ("abc", "abc", None)
        await conn.execute("UPDATE public.reviews SET rating = 'x' WHERE id = 1")
        assert await side(m, 1) == ("x", "X", None)


async def test_an_added_column_is_the_new_versions_own(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    added = {
        "add_column": {
            "table": "public.reviews",
            "column": {"name": "good", "type": "bool", "up": "rating > '3'", "nullable": False},
        }
    }
    async with mechanics(dsn, added) as m:
        await m.published()
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (100, '5')")
        assert await side(m, 100) == ("5", True, None)
        await conn.execute("UPDATE public_v2.reviews SET good = false WHERE id = 100")
        await conn.execute("UPDATE public.reviews SET rating = '4' WHERE id = 100")
        assert await side(m, 100) == ("4", False, None), "an old client's update says nothing about it"
        with pytest.raises(errors.NotNullViolation):
            await conn.execute("INSERT INTO public_v2.reviews (rating) VALUES ('1')")


async def test_a_row_that_moves_by_its_key_stays_in_step(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await m.published()
        await conn.execute("UPDATE public.reviews SET id = 1000, rating = '2' WHERE id = 1")
        await conn.execute("UPDATE public_v2.reviews SET id = 2000, stars = 5 WHERE id = 2")
        assert (await side(m, 1000), await side(m, 2000)) == (("2", 2, None), ("5", 5, None))
        await conn.execute("TRUNCATE public.reviews")
        assert (await m.compare()).rows == 0


@pytest.mark.parametrize("mode", list(SyncMode))
async def test_users_before_triggers_are_heard_whatever_they_change(dsn: str, conn: Connection, mode: SyncMode) -> None:
    await create_reviews(conn, 10)
    await conn.execute(
        """
        CREATE FUNCTION public.promote() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.note = 'best' THEN NEW.rating := '5'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER zzz_promote BEFORE INSERT OR UPDATE ON public.reviews
            FOR EACH ROW EXECUTE FUNCTION public.promote();
        """
    )
    async with mechanics(dsn) as m:
        assert m.table.always_fire
        await m.published(mode)
        await conn.execute("UPDATE public.reviews SET note = 'best' WHERE id = 1")
        await conn.execute("INSERT INTO public.reviews (id, rating, note) VALUES (100, '1', 'best')")
        assert (await side(m, 1), await side(m, 100)) == (("5", 5, None), ("5", 5, None))


async def test_without_the_always_firing_form_a_users_trigger_would_be_missed(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await m.published()
        await conn.execute(
            """
            CREATE FUNCTION public.promote() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.rating := '5'; RETURN NEW; END $$;
            CREATE TRIGGER zzz_promote BEFORE UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.promote();
            """
        )
        await conn.execute("UPDATE public.reviews SET note = 'best' WHERE id = 1")
        assert await side(m, 1) == ("5", 2, None), "this is what the form prevents"
        assert (await m.compare()).mismatches == 1


async def test_triggers_fire_always_and_last_and_only_for_their_columns(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 1, trigger=False)
    async with mechanics(dsn, STARS) as m:
        await m.expand()
        query = """
            SELECT tgname, tgenabled::text, cardinality(tgattr::int2[]) FROM pg_catalog.pg_trigger
            WHERE tgrelid = 'public.reviews'::regclass ORDER BY tgname
        """
        for mode, columns in ((SyncMode.FILL, 4), (SyncMode.BOTH, 2), (SyncMode.ENFORCE, 2)):
            await m.install(mode)
            found = await m.rows(query)
            assert [row[1:] for row in found] == [("A", 0), ("A", columns)]
            assert all(row[0].startswith("~") for row in found)


async def test_removing_leaves_nothing(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 5, trigger=False)
    async with mechanics(dsn, STARS) as m:
        await m.published()
        await m.run([*views.drop_schema("public", "2", ("reviews",)), *views.drop_inner_view(m.design, m.table)])
        for _ in range(2):
            await m.run(sync.remove(m.design, m.table))
            await m.run(columns.drop(m.table))
        assert (
            await m.rows(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'public.reviews'::regclass AND attname ~ 'pgduet'"
            )
            == []
        )
        assert await m.rows("SELECT proname FROM pg_proc WHERE proname ~ '^(sync|try)_'") == []


async def test_what_a_foreign_key_accepts_at_the_end_of_a_statement_is_refused_to_no_new_client(
    dsn: str, conn: Connection
) -> None:
    await conn.execute("CREATE TABLE public.tree (id int PRIMARY KEY)")
    parent = {"name": "parent", "type": "int", "references": "public.tree"}
    async with mechanics(dsn, {"add_column": {"table": "public.tree", "column": parent}}) as m:
        await m.published()
        await conn.execute("INSERT INTO public_v2.tree (id, parent) VALUES (1, 1)")
        await conn.execute("INSERT INTO public_v2.tree (id, parent) VALUES (2, 1), (3, 2)")
        await conn.execute("UPDATE public_v2.tree SET parent = 3 WHERE id = 3")
        with pytest.raises(errors.ForeignKeyViolation):
            await conn.execute("INSERT INTO public_v2.tree (id, parent) VALUES (4, 77)")
        assert (await m.compare()).violations == 0


async def test_what_can_be_deferred_is_counted_and_refused_to_nobody_before_cutover(dsn: str, conn: Connection) -> None:
    await conn.execute("CREATE TABLE public.list (id int PRIMARY KEY, pos int)")
    await conn.execute("INSERT INTO public.list VALUES (1, 1), (2, 2)")
    once = {"table": "public.list", "name": "once", "type": "unique", "columns": ["pos"], "deferrable": True}
    same = {"up": {"pos": "pos"}, "down": {"pos": "pos"}}
    async with mechanics(dsn, {"create_constraint": {**once, **same}}) as m:
        await m.published()
        await conn.execute("UPDATE public_v2.list SET pos = 3 - pos")
        assert (await m.compare()).violations == 0
        await conn.execute("INSERT INTO public_v2.list VALUES (3, 1)")
        assert (await m.compare()).violations == 1
