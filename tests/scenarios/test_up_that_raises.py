"""Scenario 25: an `up` raises for some rows while old clients update exactly those.

Old clients see nothing of it. The rows are named, in the backfill and again after publication; neither phase is left, so the
cutover is blocked; corrected, the migration goes on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from support.asking import one
from support.harness import Harness
from support.mutants import Clause, Code, Mutant, must_fail
from support.plans import create_reviews
from support.worlds import World

from pgduet.messages import Status
from pgduet.operations import design
from pgduet.phases import Phase
from pgduet.postgres.parity import _Comparison

Connection = psycopg.AsyncConnection[Any]
RAISING = [321, 654]
ROWS = 1_000


@asynccontextmanager
async def insisting(stage: Harness, table: str) -> AsyncIterator[None]:
    """Have an old client update exactly these rows all the time; what it sees go wrong is raised."""
    stop = asyncio.Event()

    async def insist() -> None:
        async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as client:
            while not stop.is_set():
                for key in RAISING:
                    await client.execute(f"UPDATE {table} SET note = note || '.' WHERE id = %s".encode(), (key,))
                await asyncio.sleep(0.005)

    task = asyncio.create_task(insist())
    try:
        yield
    finally:
        stop.set()
        await task


async def scenario(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = ANY (%s)", (RAISING,))
    async with stage.worker():
        async with insisting(stage, "public.reviews"):
            await stage.start(stage.plan(gates={"verify": "manual", "cutover": "manual"}))
            status = await stage.until(stuck)
            assert held_in(status) == (Phase.BACKFILL, "error"), "a row that is not filled does not hold the backfill"
            assert status.failure is not None
            assert "`up` cannot map 2 rows" in status.failure
            assert all(str({"id": key}) in status.failure for key in RAISING)
            await conn.execute("UPDATE public_v1.reviews SET rating = 'six' WHERE id = ANY (%s)", (RAISING,))
            await stage.act("advance")
            await stage.until(lambda s: sum("backfill stopped" in decision for decision in s.decisions) == 2)
        await conn.execute("UPDATE public_v1.reviews SET rating = '5' WHERE id = ANY (%s)", (RAISING,))
        await stage.act("advance")
        await stage.waits("gate", Phase.BACKFILL)
        await stage.act("advance")
        await stage.waits("approval", Phase.SHIFT)
        async with insisting(stage, "public_v1.reviews"):
            await conn.execute("UPDATE public.reviews SET rating = 'seven' WHERE id = ANY (%s)", (RAISING,))
            await stage.act("approve", gate="cutover")
            status = await stage.until(lambda s: stuck(s) and Phase.CUTOVER.reached(s.phase))
        assert held_in(status) == (Phase.CUTOVER, "drift"), "drift does not block the cutover"
        assert status.parity is not None
        assert sorted(example["key"]["id"] for example in status.parity.examples) == RAISING
        await conn.execute("UPDATE public_v1.reviews SET rating = '4' WHERE id = ANY (%s)", (RAISING,))
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
    assert await one(conn, "SELECT count(*) FROM public_v2.reviews WHERE stars = 4 AND id = ANY (%s)", (RAISING,)) == 2


def stuck(status: Status) -> bool:
    """Tell that the migration waits for somebody."""
    return status.waiting_for is not None


def held_in(status: Status) -> tuple[Phase, str | None]:
    """Tell where it waits, and for what."""
    return status.phase, status.waiting_for.kind if status.waiting_for else None


async def test_old_clients_see_nothing_the_rows_are_named_and_the_cutover_waits_until_they_are_corrected(
    world: World,
) -> None:
    await scenario(world.stage, world.conn)


async def test_rows_of_a_table_that_gets_another_shape_are_named_too_until_they_are_corrected(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, ROWS, trigger=False)
    await conn.execute("UPDATE public.reviews SET rating = 'five' WHERE id = ANY (%s)", (RAISING,))
    shape = {
        "table": "public.reviews",
        "columns": [{"name": "rating", "type": "int", "up": "rating::int"}],
        "down": {"rating": "rating::text"},
    }
    async with stage.worker():
        await stage.start(stage.plan({"shadow_table": shape}, gates={"verify": "manual"}))
        status = await stage.waits("error", Phase.BACKFILL)
        assert "`up` cannot map 2 rows" in (status.failure or "")
        assert all(str({"id": key}) in (status.failure or "") for key in RAISING)
        await conn.execute("UPDATE public.reviews SET rating = '5' WHERE id = ANY (%s)", (RAISING,))
        await stage.act("advance")
        await stage.waits("gate", Phase.BACKFILL)


MUTANTS: list[tuple[list[Mutant], str]] = [
    (
        [
            Clause(
                "the trigger's EXCEPTION block",
                "sync",
                "up_guarded",
                "EXCEPTION WHEN OTHERS THEN",
                "EXCEPTION WHEN division_by_zero THEN",
            )
        ],
        "invalid input syntax for type integer",
    ),
    (
        [Code("the judgement of what can raise", design.up_is_sure, "return not", "return True or not")],
        "invalid input syntax for type integer",
    ),
    (
        [Clause("the search for rows without a value", "rows", "unmapped", "AND {try_up}(t) IS NOT NULL", "AND false")],
        "a row that is not filled does not hold the backfill",
    ),
    (
        # Either of them would do: the row has no value, and the new version requires one.
        [
            Clause(
                "parity's judgement",
                "rows",
                "judged",
                "CASE WHEN {try_up}(t) IS NOT NULL THEN true",
                "CASE WHEN {try_up}(t) IS NOT NULL THEN false",
            ),
            Code("the count of violations", _Comparison.result, "violations=self.violations", "violations=0"),
        ],
        "violates check constraint",
    ),
]


@pytest.mark.parametrize(("mutants", "says"), MUTANTS, ids=[mutants[0].name for mutants, _ in MUTANTS])
async def test_the_scenario_sees_what_is_missing(
    stage: Harness, conn: Connection, mutants: list[Mutant], says: str
) -> None:
    await must_fail(scenario(stage, conn), *mutants, says=says)
