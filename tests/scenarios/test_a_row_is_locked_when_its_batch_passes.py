"""Scenario 7: a transaction holds a row while its batch passes, and rolls back; the row is filled before the phase ends."""

import asyncio

from psycopg import sql
from support.harness import TIMEOUT_S
from support.mutants import Clause, must_fail
from support.plans import NAME, STARS, create_reviews
from support.worlds import World, on_newest

from pgduet.operations.names import physical_column
from pgduet.phases import Phase

ROWS = 2_000
HELD = 1_000
STARS_COLUMN = sql.Identifier(physical_column(NAME, "stars"))

COUNTS_WHAT_IS_LEFT = Clause(
    "rows that were skipped are counted, and come back to", "rows", "count_needed", "AND ({needs})", "AND false"
)
SKIPPED = "a row that a client held when its batch passed was left empty"


async def empty(world: World) -> list[int]:
    """Find rows that were not filled."""
    query = sql.SQL("SELECT id FROM public.reviews WHERE {} IS NULL ORDER BY id").format(STARS_COLUMN)
    return [row[0] for row in await (await world.conn.execute(query)).fetchall()]


async def held_and_rolled_back(world: World) -> None:
    """Hold a row until all others are filled, then take the write back."""
    stage = world.stage
    await create_reviews(world.conn, ROWS)
    async with stage.worker(), world.client() as client:
        await stage.start(
            stage.plan(STARS, backfill={"parallelism": 1}, gates={"backfill": "manual", "verify": "manual"})
        )
        await stage.waits("gate", Phase.DUAL_WRITE)
        await client.execute("UPDATE public.reviews SET note = 'held' WHERE id = %s", (HELD,))
        await stage.act("advance")
        async with asyncio.timeout(TIMEOUT_S):
            while await empty(world) != [HELD]:
                await asyncio.sleep(0.01)
        await client.rollback()
        await stage.waits("gate", Phase.BACKFILL)
        assert await empty(world) == [], SKIPPED


async def test_the_row_is_filled_before_the_phase_ends(world: World) -> None:
    await held_and_rolled_back(world)


@on_newest
async def test_without_a_count_of_what_was_skipped_it_stays_empty(world: World) -> None:
    await must_fail(held_and_rolled_back(world), COUNTS_WHAT_IS_LEFT, says=SKIPPED)
