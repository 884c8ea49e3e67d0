"""A table without any key, with the user's own BEFORE triggers and a generated column: migrated under load and rolled back."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.load import Load
from support.plans import MOOD, ROWS, STARS

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State

MANY = 5_000
TABLE = """
CREATE SEQUENCE public.review_numbers;
CREATE TABLE public.reviews (
    id         bigint NOT NULL DEFAULT nextval('public.review_numbers'),
    rating     text NOT NULL,
    note       text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    note_size  int GENERATED ALWAYS AS (length(note)) STORED
);
CREATE FUNCTION public.tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.rating := btrim(NEW.rating);
    RETURN NEW;
END $$;
CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.tidy();
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.updated_at := clock_timestamp();
    -- Brings about what no UPDATE names: a change of the source by a trigger.
    IF NEW.note = 'five stars' THEN NEW.rating := '5'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE UPDATE ON public.reviews FOR EACH ROW EXECUTE FUNCTION public.touch();
"""
AFTER = """
CREATE OR REPLACE FUNCTION public.tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE OR REPLACE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
"""
"""What the triggers do once there is no `rating`: changed in the transaction in which it goes."""
FREE = 4_000
"""From here on, rows that no client of the load writes."""

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def keyless(conn: Connection) -> Connection:
    """Give a connection to a database with the table."""
    await conn.execute(TABLE.encode())
    await conn.execute(ROWS.format(MANY).encode())
    await conn.execute("VACUUM ANALYZE public.reviews")
    return conn


async def one(conn: Connection, query: str) -> tuple[Any, ...] | None:
    return await (await conn.execute(query.encode())).fetchone()


async def triggers_are_seen(conn: Connection, row: int) -> None:
    """Write as clients whose triggers change what is written; each version must see what became of it."""
    await conn.execute("UPDATE public_v1.reviews SET rating = ' 4 ' WHERE id = %s", (row,))
    assert await one(conn, f"SELECT stars, note_size FROM public_v2.reviews WHERE id = {row}") == (
        4,
        len(f"note {row}"),
    )
    await conn.execute("UPDATE public.reviews SET note = 'five stars' WHERE id = %s", (row,))
    assert await one(conn, f"SELECT stars, note_size FROM public_v2.reviews WHERE id = {row}") == (5, 10)
    await conn.execute("UPDATE public_v2.reviews SET note = %s, stars = 2 WHERE id = %s", (f"note {row}", row))
    assert await one(conn, f"SELECT rating, note_size FROM public_v1.reviews WHERE id = {row}") == (
        "2",
        len(f"note {row}"),
    )
    await conn.execute("DELETE FROM public_v2.reviews WHERE id = %s", (row,))
    assert await one(conn, f"SELECT count(*) FROM public.reviews WHERE id = {row}") == (0,)


async def test_a_table_without_a_key_is_rolled_back_under_load_and_values_come_back(
    stage: Harness, keyless: Connection, postgres: EmbeddedPostgres
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    plan = stage.plan()
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await load.working(new=20)
        await triggers_are_seen(keyless, FREE)
        assert (await stage.act("verify")).message.startswith("0 of ")
        await stage.act("abort")
        status = await stage.result()
        assert status.state is State.ROLLED_BACK
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        await load.working()
        await load.end()
        moods = len(load.moods)
        assert 0 < moods <= status.archived
        await stage.start(plan)
        status = await stage.waits("window", Phase.SOAK)
        # A row is known by its values: what came back are those of rows that nobody has written since.
        assert 0 < status.restored <= moods
        restored = await one(keyless, "SELECT count(*) FROM public_v2.reviews WHERE mood IS NOT NULL")
        assert restored == (status.restored,)
    await load.verify(keyless)
    await computed(keyless)


async def test_a_table_without_a_key_is_carried_to_done_under_load(stage: Harness, keyless: Connection) -> None:
    after = {"sql": {"at": "contract", "tables": ["public.reviews"], "up": AFTER}}
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(STARS, MOOD, after, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await triggers_are_seen(keyless, FREE)
        await load.working(new=20)
        assert (await stage.act("verify")).message.startswith("0 of ")
        await load.deploy()
        await stage.act("advance")
        assert (await stage.result()).state is State.DONE
        await load.working(new=10)
        await load.end()
    await load.verify(keyless, new=True)
    await computed(keyless)


async def computed(conn: Connection) -> None:
    """The generated column is what it should be."""
    assert await one(conn, "SELECT count(*) FROM public.reviews WHERE note_size IS DISTINCT FROM length(note)") == (0,)


async def test_contract_waits_for_a_trigger_function_that_knows_an_old_column(
    stage: Harness, keyless: Connection
) -> None:
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(gates={"contract": "auto"}, soak={"window_s": 0, "legacy_idle_s": 0.5}))
        status = await stage.until(lambda status: status.phase is Phase.SOAK and status.waiting_for is not None)
        assert status.waiting_for is not None
        hazards = await one(keyless, "SELECT evidence ->> 'hazards' FROM pgduet.audit WHERE action = 'start'")
        for name in ("tidy", "touch"):
            told = f"trigger function public.{name} of public.reviews (reads rating)"
            assert told in status.waiting_for.detail
            assert hazards is not None
            assert (
                f"PD-H13  a trigger's function reads a column that the new version does not have: {told}" in hazards[0]
            )
        await load.deploy()
        # Ready for both versions: it asks the row, and PostgreSQL does not look for a column that may not be there.
        await keyless.execute(
            "CREATE OR REPLACE FUNCTION public.tidy() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RETURN NEW; /* no more NEW.rating */ END $$"
        )
        await keyless.execute(
            "CREATE OR REPLACE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " NEW.updated_at := clock_timestamp(); -- not OLD.rating\n RETURN NEW; END $$"
        )
        assert (await stage.result(60)).state is State.DONE
        await load.working(new=10)
        await load.end()
    assert load.errors == []
