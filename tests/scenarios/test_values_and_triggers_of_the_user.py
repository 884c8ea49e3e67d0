"""What is the user's stays the user's: values that `up` complains about."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.plans import create_reviews, replace

from pgduet.phases import Phase

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
