"""Indexes are built beside clients: nobody queues behind a build, a killed one is begun again, what is not ours stays."""

import asyncio
import time

import psycopg
import pytest
from psycopg import errors
from support.building import BY_NOTE, NO_BUILD, Connection, found, half_way, states
from support.harness import TIMEOUT_S, Harness
from support.mutants import Clause, must_fail
from support.plans import MOOD, STARS, create_reviews

from pgduet import observe
from pgduet.messages import Status
from pgduet.phases import Phase, State

ONE_NOTE = {"create_index": {"table": "public.reviews", "name": "one_note", "columns": ["note"], "unique": True}}


async def test_a_worker_that_is_killed_half_way_leaves_an_index_that_the_next_one_builds_again(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    with stage.worker_process() as first:
        async with half_way(stage, conn) as (pid, writer):
            first.process.kill()
            with stage.worker_process():
                # The first build goes on in the server, until the next worker ends its session.
                ended = "SELECT true WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
                await found(conn, ended, pid)
                await writer.commit()
                await stage.waits("gate", Phase.EXPAND, 60)
                assert await states(conn) == {"by_note": True}


async def test_a_rollback_cancels_a_build_and_takes_what_is_left_of_it(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        async with half_way(stage, conn):
            aborting = asyncio.create_task(stage.act("abort"))
            await found(conn, NO_BUILD)
        await aborting
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await states(conn) == {}


async def test_status_tells_whose_end_a_build_waits_for(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        async with half_way(stage, conn) as (_, writer):
            told = await seen(stage, "lock")
            assert told.startswith('build by_note of "public"."reviews", for which others must end · held by pid ')
            assert f"pid {writer.info.backend_pid} " in told
        await stage.waits("gate", Phase.EXPAND)


async def test_status_tells_how_far_a_build_is(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 200)
    await conn.execute("""
        CREATE FUNCTION public.slow(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_catalog.pg_sleep(0.02); RETURN $1; END $$
    """)
    slowly = {**BY_NOTE["create_index"], "columns": [{"expression": "slow(note)"}]}
    async with stage.worker():
        await stage.start(stage.plan({"create_index": slowly}, gates={"dual_write": "manual"}))
        assert "building index: scanning table, " in await seen(stage, "index")
        await stage.waits("gate", Phase.EXPAND)


async def seen(stage: Harness, kind: str) -> str:
    """Look as `pgduet status` does until the migration waits for something."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            status: Status = (await observe.look(stage.client, stage.handle.id)).status
            if status.waiting_for and status.waiting_for.kind == kind:
                return status.waiting_for.detail
            await asyncio.sleep(0.1)


WAITS_LONG = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted AND waitstart < clock_timestamp() - interval '1.5 s'"
"""PostgreSQL looks for deadlocks once, 1 s after a wait began: from then on it is the other one who finds it."""


async def altered_by_whom_the_build_waits_for(stage: Harness, conn: Connection) -> None:
    """Alter the table in the transaction for whose end the build waits, with a client behind it."""
    await create_reviews(conn, 500)
    async with stage.worker():
        async with half_way(stage, conn) as (pid, writer), await psycopg.AsyncConnection.connect(stage.dsn) as client:
            await found(conn, WAITS_LONG, pid)
            altering = asyncio.create_task(writer.execute("ALTER TABLE public.reviews ADD COLUMN more int"))
            began = time.monotonic()
            reading = asyncio.create_task(client.execute("SELECT count(*) FROM public.reviews"))
            await altering
            waited_s = time.monotonic() - began
            await writer.commit()
            await reading
            assert waited_s < 0.8, f"it waited for {waited_s:.1f} s"
        await stage.waits("gate", Phase.EXPAND)
        assert await states(conn) == {"by_note": True}


async def test_a_build_gives_way_to_an_alter_table_instead_of_having_clients_queue_and_a_deadlock(
    stage: Harness, conn: Connection
) -> None:
    await altered_by_whom_the_build_waits_for(stage, conn)


GIVES_WAY = Clause(
    "who waits behind a build is looked for",
    "building",
    "queued",
    "NOT l.granted AND",
    "l.granted AND NOT l.granted AND",
)


async def test_without_a_look_at_who_waits_it_is_a_deadlock_and_the_client_is_its_victim(
    stage: Harness, conn: Connection
) -> None:
    await must_fail(altered_by_whom_the_build_waits_for(stage, conn), GIVES_WAY, says="deadlock detected")


async def test_an_index_of_the_users_that_has_the_name_by_now_is_left_alone(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        await stage.start(stage.plan(MOOD, BY_NOTE, gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        await conn.execute("CREATE INDEX by_note ON public.reviews (rating)")
        await conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.by_note'::regclass")
        await stage.act("advance")
        status = await stage.waits("error", Phase.EXPAND)
        assert 'schema public has a relation "by_note" by now, and it is not ours' in (status.failure or "")
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await states(conn) == {"by_note": False}


async def test_values_that_are_not_unique_hold_the_migration_and_their_keys_are_named(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("UPDATE public.reviews SET note = 'twice' WHERE id IN (3, 70)")
    async with stage.worker():
        await stage.start(stage.plan(ONE_NOTE))
        status = await stage.waits("drift", Phase.VERIFY)
        assert status.parity is not None
        assert status.parity.violations == 1
        assert [each["key"] for each in status.parity.examples] == [{"id": 3}, {"id": 70}]
        assert "twice" not in status.model_dump_json()
        assert await states(conn) == {}
        await conn.execute("UPDATE public_v1.reviews SET note = 'once' WHERE id = 70")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        assert list((await states(conn)).values()) == [True]
        with pytest.raises(errors.UniqueViolation):
            await conn.execute("UPDATE public_v1.reviews SET note = 'twice' WHERE id = 70")
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await states(conn) == {}
    await conn.execute("UPDATE public.reviews SET note = 'twice' WHERE id = 70")


async def test_an_index_that_has_come_to_be_needed_is_not_dropped_behind_the_point_of_no_return(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE UNIQUE INDEX by_note ON public.reviews (note)")
    async with stage.worker():
        await stage.start(stage.plan({"drop_index": {"name": "by_note"}}, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await conn.execute("ALTER TABLE public.reviews ADD CONSTRAINT by_note UNIQUE USING INDEX by_note")
        await stage.act("advance")
        status = await stage.waits("error", Phase.CONTRACT)
        assert "stands behind the constraint by_note" in (status.failure or "")
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await states(conn) == {"by_note": True}


async def test_who_has_a_name_or_took_an_index_that_contract_needs_is_told_while_there_is_a_way_back(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE UNIQUE INDEX by_id ON public.reviews (id)")
    named_by = {"set_replica_identity": {"table": "public.reviews", "identity": "index", "index": "by_id"}}
    async with stage.worker():
        await stage.start(stage.plan(STARS, MOOD, ONE_NOTE, named_by, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        obstacles = {
            "CREATE TABLE public.one_note (id int)": (
                "relation public.one_note has a name",
                "DROP TABLE public.one_note",
            ),
            "ALTER TABLE public.reviews ADD mood int": (
                "column mood has a name",
                "ALTER TABLE public.reviews DROP mood",
            ),
            "CREATE VIEW public.rated AS SELECT rating FROM public.reviews": (
                '"rating" of public.reviews cannot be dropped: on it depend rule _RETURN on view public.rated',
                "DROP VIEW public.rated",
            ),
            "DROP INDEX public.by_id": (
                "by index by_id: it is not there",
                "CREATE UNIQUE INDEX by_id ON public.reviews (id)",
            ),
        }
        for obstacle, (says, cure) in obstacles.items():
            await conn.execute(obstacle.encode())
            await stage.act("advance")
            status = await stage.until(lambda status, says=says: says in (status.failure or ""))
            assert status.phase is Phase.CONTRACT
            assert await nothing_is_decided(conn)
            await conn.execute(cure.encode())
        await stage.act("advance")
        assert (await stage.result()).state is State.DONE
    assert await states(conn) == {"one_note": True}


async def nothing_is_decided(conn: Connection) -> bool:
    cursor = await conn.execute("SELECT FROM pgduet.migration WHERE (controls ->> 'no_return')::boolean")
    return cursor.rowcount == 0


async def test_a_rollback_leaves_rows_named_in_full_where_the_index_that_named_them_has_gone(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE UNIQUE INDEX by_id ON public.reviews (id)")
    await conn.execute("ALTER TABLE public.reviews REPLICA IDENTITY USING INDEX by_id")
    async with stage.worker():
        full = {"set_replica_identity": {"table": "public.reviews", "identity": "full"}}
        await stage.start(stage.plan(full))
        await stage.waits("window", Phase.SOAK)
        await conn.execute("DROP INDEX public.by_id")
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
    cursor = await conn.execute("SELECT relreplident::text FROM pg_class WHERE oid = 'public.reviews'::regclass")
    assert await cursor.fetchall() == [("f",)]
