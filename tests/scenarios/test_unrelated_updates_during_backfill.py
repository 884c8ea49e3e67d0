"""Scenario 4: an update of another column moves a row that is not yet filled into pages that are already scanned."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import Harness
from support.load import Load
from support.plans import NAME, create_reviews, overlaid

from pgduet import barriers
from pgduet.messages import Status
from pgduet.operations import sync
from pgduet.operations.names import physical_column
from pgduet.phases import Phase, SyncMode
from pgduet.postgres import store
from pgduet.postgres.batches import FIRST_PAGES
from pgduet.postgres.databases import Database
from pgduet.postgres.session import session

ROWS = 20_000
MOVED = 400
STARS = physical_column(NAME, "stars")
POLICY: dict[str, Any] = {"backfill": {"parallelism": 1}, "gates": {"verify": "manual", "shadow": "manual"}}

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def reviews(conn: Connection) -> Connection:
    """Give a table whose first pages, as many as the first batch scans, are empty, and whose other pages are full."""
    await create_reviews(conn, ROWS, trigger=False)
    await conn.execute(f"DELETE FROM public.reviews WHERE ctid < '({FIRST_PAGES},0)'")
    await conn.execute("VACUUM public.reviews")
    return conn


@pytest.fixture
def without_the_clause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutate the triggers of the backfill's time: an update of another column no longer fills an empty row."""
    original = sync.block

    def mutated(file: str, name: str) -> sql.SQL:
        found = original(file, name)
        return sql.SQL(found.as_string().replace("{or_empty}", "")) if name == "fill_mapping" else found

    monkeypatch.setattr(sync, "block", mutated)


async def mutate_installed(stage: Harness) -> None:
    """Render the sync functions that are in force once more."""
    async with session(Database(stage.database, stage.dsn), "test") as conn:
        migration = await store.latest(conn, NAME)
        assert migration is not None
        for table in migration.design.tables:
            for statement in sync.functions(migration.design, table, migration.id, SyncMode.FILL):
                await conn.execute(statement.sql)


@pytest.fixture
def mover(reviews: Connection, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Move rows from the last pages into the first ones, once, after the first batch; gives their keys."""
    moved: list[int] = []

    async def move() -> None:
        if moved:
            return
        cursor = await reviews.execute(
            """
            UPDATE public.reviews SET note = 'moved ' || id WHERE id > %s
            RETURNING id, (ctid::text::point)[0]::int AS block
            """,
            (ROWS - MOVED,),
        )
        moved.extend([key for key, block in await cursor.fetchall() if block < FIRST_PAGES])

    monkeypatch.setitem(barriers.HOOKS, "batch.after_commit", move)
    return lambda: moved


async def empty(conn: Connection) -> set[int]:
    """Find rows that were not filled."""
    query = sql.SQL("SELECT id FROM public.reviews WHERE {} IS NULL").format(sql.Identifier(STARS))
    return {row[0] for row in await (await conn.execute(query)).fetchall()}


async def test_a_row_that_moves_into_scanned_pages_is_filled(
    stage: Harness, reviews: Connection, mover: Callable[[], list[int]]
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**POLICY))
        await stage.waits("gate", Phase.BACKFILL)
        assert mover()
        assert await empty(reviews) == set()


async def test_without_the_clause_such_rows_are_lost_and_verify_repairs_them(
    stage: Harness, reviews: Connection, mover: Callable[[], list[int]], request: pytest.FixtureRequest
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**overlaid(POLICY, {"gates": {"backfill": "manual"}})))
        await stage.waits("gate", Phase.DUAL_WRITE)
        # Not before: dual_write's own probe would notice.
        request.getfixturevalue("without_the_clause")
        await mutate_installed(stage)
        await stage.act("advance")
        await stage.waits("gate", Phase.BACKFILL)
        lost = await empty(reviews)
        assert lost
        assert lost == set(mover())
        await stage.act("advance")
        status = await stage.waits("gate", Phase.VERIFY)
        assert status.parity is not None
        assert (status.parity.mismatches, status.parity.repaired) == (0, len(lost))
        assert await empty(reviews) == set()


async def test_without_the_clause_dual_write_is_not_left(
    stage: Harness, reviews: Connection, without_the_clause: None
) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        status = await stage.waits("error", Phase.DUAL_WRITE)
        assert "a probe write did not reach the other representation" in (status.failure or "")


async def test_a_stress_of_unrelated_updates_loses_no_row(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, ROWS)
    stop = asyncio.Event()

    async def annotate(part: int) -> None:
        async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                await client.execute(
                    "UPDATE public.reviews SET note = repeat('x', %s) WHERE id %% 400 = %s AND id BETWEEN 1000 AND 20000",
                    (turn % 7 * 20, part * 100 + turn * 37 % 100),
                )

    async with stage.worker(), Load(stage.dsn) as load, asyncio.TaskGroup() as group:
        for part in range(4):
            group.create_task(annotate(part))
        await stage.start(stage.plan(backfill={"parallelism": 2, "batch_target_ms": 5}, gates=POLICY["gates"]))
        await stage.waits("gate", Phase.BACKFILL)
        lost = await empty(conn)
        stop.set()
        await load.end()
        assert lost == set()
        assert load.errors == []
        await stage.act("advance")
        status = await stage.waits("gate", Phase.VERIFY)
        assert compared(status) == (0, 0)


def compared(status: Status) -> tuple[int, int]:
    """Give mismatches and repairs of the last comparison."""
    assert status.parity is not None
    return status.parity.mismatches, status.parity.repaired
