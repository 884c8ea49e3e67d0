"""A service reads both versions and compares: a new read path that is wrong in one row of 200 is seen with that ratio.

Then the migration is rolled back under its reads: they see no error, and stop of themselves to read the version that goes, or it
would wait for them for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.plans import NAME, create_reviews
from support.worlds import World, on_newest

from pgduet.phases import Phase, State
from pgduet.postgres import shadow_reads
from pgduet.routing import AsyncRouter, Limits, Path
from pgduet.routing.aio_migrator import AsyncMigrator

ROWS = 1_000
WRONG_EACH = 200


class Service:
    """Reads reviews by both versions, each of which gives a text, on connections of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.free: list[psycopg.AsyncConnection[Any]] = []
        self.shadow_reads = 0
        self.mended = False
        self.hold_s = 0.0
        """How long a read of the new version keeps its transaction open: long enough for a census to see it."""

    async def old(self, path: Path, key: int) -> str | None:
        """Read the rating; before the migration there are no version schemas."""
        return await self.fetch(path, sql.SQL("SELECT rating FROM reviews WHERE id = %s"), key)

    async def new(self, path: Path, key: int) -> str | None:
        """Read the stars, and get some wrong."""
        self.shadow_reads += 1
        found = await self.fetch(path, sql.SQL("SELECT stars::text FROM reviews WHERE id = %s"), key, self.hold_s)
        return "wrong" if key % WRONG_EACH == 0 and not self.mended else found

    async def fetch(self, path: Path, query: sql.SQL, key: int, hold_s: float = 0) -> str | None:
        """Read one value in a transaction that says which version it is of."""
        conn = self.free.pop() if self.free else await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        async with conn.transaction():
            if path.search_path:
                await conn.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.SQL(path.search_path)))  # type: ignore[arg-type]
            row = await (await conn.execute(query, [key])).fetchone()
            await asyncio.sleep(hold_s)
        self.free.append(conn)
        return row[0] if row else None

    async def close(self) -> None:
        """Close the connections."""
        for conn in self.free:
            await conn.close()


@asynccontextmanager
async def reading(reviews: AsyncMigrator[str | None]) -> AsyncIterator[None]:
    """Have rows read over and over until the block ends; an error or a wrong answer ends it."""
    leave = asyncio.Event()

    async def read() -> None:
        key = 0
        while not leave.is_set():
            key = key % ROWS + 1
            assert await reviews.read(key) == str(key % 5 + 1), "a caller sees the new path's fault"
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        yield
        leave.set()


@on_newest
async def test_a_wrong_new_path_is_seen_with_its_ratio_and_a_rollback_is_not_held_up_by_it(world: World) -> None:
    stage, service = world.stage, Service(world.stage.dsn)
    await create_reviews(world.conn, ROWS, trigger=False)
    limits = Limits(sample=1.0, calibrate=0.1, waiting=5 * ROWS)
    async with stage.worker(), await AsyncRouter.open(stage.dsn, service="reviews-web", lease_s=1.0) as router:
        reviews = router.migrator(NAME, read_old=service.old, read_new=service.new, limits=limits, label="by id")
        assert await reviews.read(7) == "3", "before the migration there is one version"
        await stage.start(stage.plan(gates={"shift": "manual"}))
        await stage.waits("gate", Phase.SHADOW)
        for key in range(2 * ROWS):
            assert await reviews.read(key % ROWS + 1) == str((key % ROWS + 1) % 5 + 1)
        assert await reviews.settle(60)
        epoch = router.route(NAME).epoch
        async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True, row_factory=dict_row) as conn:
            async with asyncio.timeout(30):
                while (await shadow_reads.found(conn, NAME))[1].compared < service.shadow_reads:
                    await asyncio.sleep(0.05)
            routers, found = await shadow_reads.found(conn, NAME)
            seen = await shadow_reads.mismatches(conn, NAME)
        assert (routers, found.noise, found.failed_new, found.dropped, found.broken) == (1, 0, 0, 0, 0)
        assert found.compared + found.calibrated >= ROWS
        assert found.net_ratio == pytest.approx(1 / WRONG_EACH, abs=0.0025)
        assert {(row["read"], row["kind"], row["answered"]) for row in seen} == {("by id", "value", "old")}
        service.hold_s = 0.02
        async with reading(reviews):
            await stage.act("abort", reason="the new read path is wrong")
            assert (await stage.result()).state is State.ROLLED_BACK
            assert router.route(NAME).epoch > epoch
        last = service.shadow_reads
        assert await reviews.read(7) == "3"
        assert await reviews.settle(30)
        assert (service.shadow_reads, router.both(NAME)) == (last, None)
    await service.close()


@on_newest
async def test_what_services_compare_stops_the_migration_until_the_path_is_mended_and_then_lets_it_pass(
    world: World,
) -> None:
    stage, service = world.stage, Service(world.stage.dsn)
    await create_reviews(world.conn, ROWS, trigger=False)
    limits = Limits(sample=1.0, calibrate=0.1, waiting=5 * ROWS)
    async with stage.worker(), await AsyncRouter.open(stage.dsn, service="reviews-web", lease_s=1.0) as router:
        reviews = router.migrator(NAME, read_old=service.old, read_new=service.new, limits=limits)
        async with reading(reviews):
            await stage.start(stage.plan(shadow={"mode": "routers", "min_samples": 400}))
            status = await stage.waits("shadow", Phase.SHADOW)
            assert "reads of the new version differ from the old one's" in (
                status.waiting_for.detail if status.waiting_for else ""
            )
            assert status.read_percent == 0
            service.mended = True
            assert await reviews.settle(30)
            told = router._rounds + 2
            async with asyncio.timeout(30):
                while router._rounds < told:
                    await asyncio.sleep(0.05)
            await stage.act("advance", reason="the new path is mended")
            await stage.waits("window", Phase.SOAK)
            found = router.tally(NAME).totals()
            assert found.latency["answered_new"].total > 0
        assert (found.failed_old, found.failed_new, found.broken, found.timeouts) == (0, 0, 0, 0)
    await service.close()
