"""Scenario 4: an update of another column moves a row that is not yet filled into pages that are already scanned."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.load import Load
from support.mutants import PROBE_LOOKS, Clause, Code, Mutant, must_fail
from support.plans import NAME, create_reviews
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.messages import Parity
from pgduet.operations import sync
from pgduet.operations.names import physical_column
from pgduet.phases import Phase
from pgduet.postgres.batches import FIRST_PAGES

ROWS = 20_000
MOVED = 400
STARS = sql.Identifier(physical_column(NAME, "stars"))
POLICY: dict[str, Any] = {"backfill": {"parallelism": 1}, "gates": {"verify": "manual", "shadow": "manual"}}

FILLS_EMPTY_ROWS = Clause(
    "an update of any column computes the new side",
    "sync",
    "fill",
    "{mappings}",
    "IF TG_OP = 'INSERT' THEN {mappings} END IF;",
)
FIRES_FOR_ANY_COLUMN = Code(
    "an update of any column fires the sync while rows are empty",
    sync._update_events,
    "_update_of(table.columns)",
    "_update_of([name for mapping in table.mappings for name in mapping.sources])",
)
LOST = "rows that moved into scanned pages are not filled"


async def empty(world: World) -> set[int]:
    """Find rows that were not filled."""
    query = sql.SQL("SELECT id FROM public.reviews WHERE {} IS NULL").format(STARS)
    return {row[0] for row in await (await world.conn.execute(query)).fetchall()}


@pytest.fixture
async def moved(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a table whose first pages, as many as the first batch scans, are empty, and whose other pages are full.

    After that batch rows of the last pages are updated, once; gives the keys of those that went to the first pages.
    """
    await create_reviews(world.conn, ROWS, trigger=False)
    await world.conn.execute(f"DELETE FROM public.reviews WHERE ctid < '({FIRST_PAGES},0)'")
    await world.conn.execute("VACUUM public.reviews")
    keys: list[int] = []

    async def move() -> None:
        if not keys:
            query = """
                UPDATE public.reviews SET note = 'moved ' || id WHERE id > %s
                RETURNING id, (ctid::text::point)[0]::int AS block
            """
            keys.extend([key for key, block in await world.rows(query, (ROWS - MOVED,)) if block < FIRST_PAGES])

    monkeypatch.setitem(barriers.HOOKS, "batch.after_commit", move)
    return keys


async def backfill_with_rows_that_move(world: World, moved: list[int]) -> None:
    """Backfill while rows move; none may be left empty."""
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(**POLICY))
        await world.stage.waits("gate", Phase.BACKFILL)
        assert moved, "no row has moved"
        assert await empty(world) == set(), LOST


async def test_a_row_that_moves_into_scanned_pages_is_filled(world: World, moved: list[int]) -> None:
    await backfill_with_rows_that_move(world, moved)


@on_newest
@pytest.mark.parametrize("mutant", [FILLS_EMPTY_ROWS, FIRES_FOR_ANY_COLUMN], ids=lambda mutant: mutant.name)
async def test_without_the_clause_such_rows_are_lost(world: World, moved: list[int], mutant: Mutant) -> None:
    await must_fail(backfill_with_rows_that_move(world, moved), mutant, PROBE_LOOKS, says=LOST)
    assert await empty(world) == set(moved)


@on_newest
async def test_without_the_clause_verify_finds_and_repairs_them(world: World, moved: list[int]) -> None:
    with FILLS_EMPTY_ROWS.applied(), PROBE_LOOKS.applied():
        async with world.stage.worker():
            await world.stage.start(world.stage.plan(**POLICY))
            await world.stage.waits("gate", Phase.BACKFILL)
            lost = await empty(world)
            assert lost == set(moved) != set()
            await world.stage.act("advance")
            parity = (await world.stage.waits("gate", Phase.VERIFY)).parity
            assert compared(parity) == (0, len(lost))
            assert await empty(world) == set()


@on_newest
async def test_without_the_clause_dual_write_is_not_left(world: World) -> None:
    await create_reviews(world.conn, 100)
    with FILLS_EMPTY_ROWS.applied():
        async with world.stage.worker():
            await world.stage.start(world.stage.plan())
            status = await world.stage.waits("error", Phase.DUAL_WRITE)
            assert "a probe write did not reach the other representation" in (status.failure or "")


@on_newest
async def test_a_stress_of_unrelated_updates_loses_no_row(world: World) -> None:
    stage = world.stage
    await create_reviews(world.conn, ROWS)
    stop = asyncio.Event()
    async with stage.worker(), Load(stage.dsn) as load, asyncio.TaskGroup() as group:
        for part in range(4):
            group.create_task(annotate(stage.dsn, part, stop))
        await stage.start(stage.plan(backfill={"parallelism": 2, "batch_target_ms": 5}, gates=POLICY["gates"]))
        await stage.waits("gate", Phase.BACKFILL)
        lost = await empty(world)
        stop.set()
        await load.end()
        assert lost == set()
        assert load.errors == []
        await stage.act("advance")
        assert compared((await stage.waits("gate", Phase.VERIFY)).parity) == (0, 0)


async def annotate(dsn: str, part: int, stop: asyncio.Event) -> None:
    """Update a column that the plan does not name, in rows all over the table."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as client:
        turn = 0
        while not stop.is_set():
            turn += 1
            await client.execute(
                "UPDATE public.reviews SET note = repeat('x', %s) WHERE id %% 400 = %s AND id BETWEEN 1000 AND 20000",
                (turn % 7 * 20, part * 100 + turn * 37 % 100),
            )


def compared(parity: Parity | None) -> tuple[int, int]:
    """Give mismatches and repairs of the last comparison."""
    assert parity is not None
    return parity.mismatches, parity.repaired
