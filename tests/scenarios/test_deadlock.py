"""Scenario 14: a forced deadlock. A client waits for a row of a batch that then waits for a row of the client's.

PostgreSQL breaks a cycle after `deadlock_timeout` (1 s), and ends whoever began to wait first: that would be the client. It never
comes to that: a batch gives up a row lock after 10 ms, and is cut off long before the timeout.
"""

import asyncio
from typing import Any

import psycopg
from support.asking import one
from support.harness import Harness
from support.mutants import Attribute, Code, must_fail
from support.plans import create_reviews
from support.worlds import World

from pgduet.phases import Phase
from pgduet.postgres import batches
from pgduet.postgres.batches import Batches

Connection = psycopg.AsyncConnection[Any]
ROWS = 100
"""One page or two: a batch holds the first row while it gets to the last one."""

SLOW_STARS = """
CREATE FUNCTION public.slow_stars(rating text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    -- Long enough for a client to come and wait; only where a batch maps this row.
    IF rating = '50' AND current_setting('application_name') LIKE 'pgduet/backfill%' THEN PERFORM pg_sleep(0.3); END IF;
    RETURN rating::int;
END $$;
"""
SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


async def scenario(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, ROWS, trigger=False)
    await conn.execute(SLOW_STARS.encode())
    await conn.execute("UPDATE public.reviews SET rating = id::text")
    await conn.execute("VACUUM FULL public.reviews")
    column = {"name": "stars", "type": "int", "up": "public.slow_stars(rating)"}
    operation = {"add_column": {"table": "public.reviews", "column": column}}
    policy = {
        "backfill": {"parallelism": 1, "batch_target_ms": 250},
        "gates": {"backfill": "manual", "verify": "manual"},
    }
    async with stage.worker(), await psycopg.AsyncConnection.connect(stage.dsn) as client:
        await stage.start(stage.plan(operation, **policy))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await client.execute("UPDATE public.reviews SET note = 'last' WHERE id = %s", (ROWS,))
        await stage.act("advance")
        async with asyncio.timeout(30):
            while not await one(conn, SLEEPS):
                await asyncio.sleep(0.005)
        try:
            await client.execute("UPDATE public.reviews SET note = 'first' WHERE id = 1")
        except psycopg.errors.DeadlockDetected as error:
            raise AssertionError("a client is the victim of a deadlock with us") from error
        await client.commit()
        await stage.waits("gate", Phase.BACKFILL)
    assert await one(conn, "SELECT string_agg(note, ' ' ORDER BY id) FROM reviews WHERE id IN (1, 100)") == "first last"


async def test_no_client_is_the_victim_of_a_deadlock_with_a_batch(world: World) -> None:
    await scenario(world.stage, world.conn)


async def test_without_the_limits_of_a_batch_a_client_is(stage: Harness, conn: Connection) -> None:
    patient = Attribute("the limit of a row lock's wait", batches, "ROW_LOCK_WAIT", "0")
    endless = Code(
        "the limit of a batch", Batches._limit, "limit_ms = 0 if self.pages == 1 else", "limit_ms = 0 if True else"
    )
    await must_fail(scenario(stage, conn), patient, endless, says="a client is the victim of a deadlock with us")
