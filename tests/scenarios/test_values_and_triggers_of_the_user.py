"""What is the user's stays the user's: values without an old equivalent, and triggers that a backfill must not fire."""

from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.harness import Harness, schema_dump
from support.plans import create_reviews, replace

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ROWS = 3_000

UPPER = replace(
    "public.reviews",
    {"note": "upper(remark)"},
    {"name": "remark", "type": "text", "nullable": True, "up": "lower(note)"},
)
"""A map that loses: what is neither all upper nor all lower case has no equivalent on the other side."""

LOG = """
CREATE TABLE public.log (id bigint, was text, now text);
CREATE FUNCTION public.note_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.log VALUES (NEW.id, OLD.note, NEW.note); RETURN NULL; END $$;
CREATE TRIGGER note_change AFTER UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.note_change();
"""


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    await conn.execute("UPDATE reviews SET note = 'NOTE ' || id")
    await conn.execute(LOG.encode())


async def one(conn: Connection, query: str) -> tuple[Any, ...] | None:
    return await (await conn.execute(query.encode())).fetchone()


async def test_a_value_without_an_old_equivalent_is_refused_before_commit_with_what_to_know(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(UPPER))
        await stage.waits("window", Phase.SOAK)
        with pytest.raises(errors.DataException) as caught:
            await conn.execute("UPDATE public_v2.reviews SET remark = 'Mixed' WHERE id = 7")
        said = caught.value.diag
        assert said.message_primary == 'value of remark in "public"."reviews" has no equivalent in version 1'
        assert said.message_hint is not None
        assert "policy.unmappable: refuse" in said.message_hint
        assert (said.schema_name, said.table_name) == ("public", "reviews")
        assert await one(conn, "SELECT note FROM public_v1.reviews WHERE id = 7") == ("NOTE 7",)
        assert (await stage.act("verify")).message.startswith("0 of ")


async def test_an_accepted_value_survives_old_clients_a_rollback_and_comes_back(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    plan = stage.plan(UPPER, unmappable="archive")
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE public_v2.reviews SET remark = 'Mixed' WHERE id = 7")
        await conn.execute("UPDATE public_v2.reviews SET remark = 'Mixed too' WHERE id IN (8, 9)")
        # Old clients: one of an unrelated column, one of the very value, through the view and the table.
        await conn.execute("UPDATE public_v1.reviews SET rating = '1' WHERE id = 7")
        await conn.execute("UPDATE reviews SET note = 'LATER' WHERE id = 9")
        kept = (
            "SELECT id, remark, note FROM public_v2.reviews JOIN public_v1.reviews old USING (id) WHERE id IN (7, 8, 9)"
        )
        found = await (await conn.execute(f"{kept} ORDER BY id".encode())).fetchall()
        assert found == [(7, "Mixed", "MIXED"), (8, "Mixed too", "MIXED TOO"), (9, "later", "LATER")]
        assert (await stage.act("verify")).message.startswith("0 of "), "each side follows from the other: no drift"
        await stage.act("abort")
        status = await stage.result()
        assert (status.state, status.archived) == (State.ROLLED_BACK, 2)
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        assert await one(conn, "SELECT note FROM reviews WHERE id = 7") == ("MIXED",)
        await stage.start(plan)
        status = await stage.waits("window", Phase.SOAK)
        assert status.restored == 2
        found = await (await conn.execute(f"{kept} ORDER BY id".encode())).fetchall()
    assert found == [(7, "Mixed", "MIXED"), (8, "Mixed too", "MIXED TOO"), (9, "later", "LATER")]


async def test_a_row_that_up_complains_about_is_named_by_its_key_and_its_value_stays(
    stage: Harness, conn: Connection
) -> None:
    await conn.execute(
        "CREATE FUNCTION public.stars(rating text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " $$ BEGIN IF rating = 'Okapi-8832' THEN RAISE EXCEPTION 'cannot map % at all', rating; END IF;"
        " RETURN rating::int; END $$"
    )
    await conn.execute("UPDATE reviews SET rating = 'Okapi-8832' WHERE id = 12")
    await conn.execute("UPDATE reviews SET rating = 'Zebra-4711' WHERE id = 13")
    column = {"name": "stars", "type": "int", "nullable": True, "up": "public.stars(rating)"}
    async with stage.worker():
        await stage.start(stage.plan({"add_column": {"table": "public.reviews", "column": column}}))
        status = await stage.waits("error", Phase.BACKFILL)
        assert status.failure is not None
        assert """"public"."reviews" {'id': 12}: raise exception (P0001)""" in status.failure
        assert """"public"."reviews" {'id': 13}: invalid text representation (22P02)""" in status.failure
        history = b"".join(event.SerializeToString() for event in (await stage.handle.fetch_history()).events)
        assert b"public.stars(rating)" in history, "the plan is there, as plain text"
        assert b"Okapi" not in history
        assert b"Zebra" not in history
        details = await (await conn.execute("SELECT detail FROM pgduet.drift ORDER BY key ->> 'id'")).fetchall()
        assert details == [
            ("P0001: cannot map Okapi-8832 at all",),
            ('22P02: invalid input syntax for type integer: "Zebra-4711"',),
        ]


@pytest.mark.parametrize("wish", ["suppress", "fire"])
async def test_the_backfill_fires_the_users_triggers_only_where_the_plan_says_so(
    stage: Harness, conn: Connection, wish: str
) -> None:
    digest = "SELECT md5(string_agg(updated_at::text, ' ' ORDER BY id)) FROM reviews"
    stamped = await one(conn, digest)
    async with stage.worker():
        await stage.start(stage.plan(UPPER, user_triggers=wish))
        await stage.waits("window", Phase.SOAK)
        logged = await one(conn, "SELECT count(*) FROM log")
        same = await one(conn, digest) == stamped
        assert (logged, same) == (((0,), True) if wish == "suppress" else ((ROWS,), False))
        # A client's own write fires them, whatever the plan says.
        await conn.execute("UPDATE public_v2.reviews SET remark = 'mine' WHERE id = 1")
    assert await one(conn, "SELECT was, now FROM log WHERE now = 'MINE'") == ("NOTE 1", "MINE")
