"""Scenario 2: a client inserts 10,000 rows a transaction throughout the backfill; the backfill is bounded, and ends."""

from typing import Any

import pytest
from psycopg import sql
from support.mutants import Code, must_fail
from support.plans import NAME, STARS, create_reviews
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.operations.names import physical_column
from pgduet.phases import Phase
from pgduet.postgres.batches import Batches

ROWS = 10_000
AT_ONCE = 10_000
PAGES = "SELECT pg_relation_size('public.reviews') / current_setting('block_size')::int"
INSERT = f"INSERT INTO public.reviews (rating) SELECT '3' FROM generate_series(1, {AT_ONCE})"
POLICY: dict[str, Any] = {
    "backfill": {"parallelism": 1, "batch_target_ms": 200},  # few batches: each costs a transaction of the client's
    "gates": {"backfill": "manual", "verify": "manual"},
}

THE_BOUND = Code(
    "a range ends where the table ended when the backfill began",
    Batches._committed,
    "self.cursor = last",
    "self.cursor, self.end = last, (await store.run(self.conn, 'range', self.where))[0]['blocks_now']",
)
BEYOND = "the backfill went beyond the rows that were there when it began"


async def backfill_under_bulk_inserts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Insert as much as there was after every batch; the backfill must not follow."""
    await create_reviews(world.conn, ROWS, trigger=False)
    pages = await world.one(PAGES)
    transactions = 0

    async def insert() -> None:
        nonlocal transactions
        if transactions < pages:  # a batch has a page at least: by now a bounded one is at its end
            transactions += 1
            await world.conn.execute(INSERT.encode())

    monkeypatch.setitem(barriers.HOOKS, "dual_write.after_commit", insert)
    monkeypatch.setitem(barriers.HOOKS, "batch.after_commit", insert)
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(STARS, **POLICY))
        await world.stage.waits("gate", Phase.DUAL_WRITE)
        begun = await world.one(PAGES)
        await world.stage.act("advance")
        await world.stage.waits("gate", Phase.BACKFILL)
    assert transactions > 1, "nobody has inserted during the backfill"
    ((bound, reached, written),) = await world.rows(
        "SELECT block_to, cursor_block, rows_done FROM pgduet.backfill_range"
    )
    assert (bound, reached) == (begun, begun), BEYOND
    assert written == ROWS, "what clients insert is filled by their own triggers, and by nobody else"
    empty = sql.SQL("SELECT count(*) FROM public.reviews WHERE {} IS NULL")
    query = empty.format(sql.Identifier(physical_column(NAME, "stars")))
    assert await world.one(query.as_string()) == 0, "rows are not filled"
    assert await world.one("SELECT count(*) FROM public.reviews") == ROWS + transactions * AT_ONCE


async def test_the_backfill_ends_where_the_table_ended_when_it_began(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backfill_under_bulk_inserts(world, monkeypatch)


@on_newest
async def test_without_the_bound_it_runs_after_the_clients(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await must_fail(backfill_under_bulk_inserts(world, monkeypatch), THE_BOUND, says=BEYOND)
