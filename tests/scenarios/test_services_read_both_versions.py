"""A service reads both versions and compares: a new read path that is wrong in one row of 200 is seen with that ratio.

Then the migration is rolled back under its reads: they see no error, and stop of themselves to read the version that goes, or it
would wait for them for ever.
"""

import asyncio

import psycopg
import pytest
from psycopg.rows import dict_row
from support.plans import NAME, create_reviews
from support.reading import ROWS, Fault, Service
from support.worlds import World, on_newest

from pgduet.phases import Phase, State
from pgduet.postgres import shadow_reads
from pgduet.routing import AsyncRouter, Limits

WRONG_EACH = 200


@on_newest
async def test_a_wrong_new_path_is_seen_with_its_ratio_and_a_rollback_is_not_held_up_by_it(world: World) -> None:
    stage, service = world.stage, Service(world.stage.dsn)
    await create_reviews(world.conn, ROWS, trigger=False)
    limits = Limits(sample=1.0, calibrate=0.1, waiting=5 * ROWS)
    async with stage.worker(), await AsyncRouter.open(stage.dsn, service="reviews-web", lease_s=1.0) as router:
        reviews = router.migrator(NAME, read_old=service.old, read_new=service.new, limits=limits, label="by id")
        service.fault = Fault(wrong_each=WRONG_EACH)
        assert await reviews.read(7) == "3", "before the migration there is one version"
        await stage.start(stage.plan(gates={"shift": "manual"}))
        await stage.waits("gate", Phase.SHADOW)
        for key in range(2 * ROWS):
            assert await reviews.read(key % ROWS + 1) == str((key % ROWS + 1) % 5 + 1)
        assert await reviews.settle(60)
        epoch = router.route(NAME).epoch
        async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True, row_factory=dict_row) as conn:
            async with asyncio.timeout(30):
                while (await shadow_reads.found(conn, NAME))[1].compared < service.read_new:
                    await asyncio.sleep(0.05)
            routers, found = await shadow_reads.found(conn, NAME)
            seen = await shadow_reads.mismatches(conn, NAME)
        assert (routers, found.noise, found.failed_new, found.dropped, found.broken) == (1, 0, 0, 0, 0)
        assert found.compared + found.calibrated >= ROWS
        assert found.net_ratio == pytest.approx(1 / WRONG_EACH, abs=0.0025)
        assert {(row["read"], row["kind"], row["answered"]) for row in seen} == {("by id", "value", "old")}
        service.hold_s = 0.02
        async with service.reading(reviews):
            await stage.act("abort", reason="the new read path is wrong")
            assert (await stage.result()).state is State.ROLLED_BACK
            assert service.answers["wrong"] == 0, "a caller sees the new path's fault"
            assert router.route(NAME).epoch > epoch
        last = service.read_new
        assert await reviews.read(7) == "3"
        assert await reviews.settle(30)
        assert (service.read_new, router.both(NAME)) == (last, None)
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
        service.fault = Fault(wrong_each=WRONG_EACH)
        async with service.reading(reviews):
            await stage.start(stage.plan(shadow={"mode": "routers", "min_samples": 400}))
            status = await stage.waits("shadow", Phase.SHADOW)
            assert "reads of the new version differ from the old one's" in (
                status.waiting_for.detail if status.waiting_for else ""
            )
            assert status.read_percent == 0
            assert service.answers["wrong"] == 0, "a caller sees the new path's fault"
            service.fault = Fault()
            assert await reviews.settle(30)
            told = router._rounds + 2
            async with asyncio.timeout(30):
                while router._rounds < told:
                    await asyncio.sleep(0.05)
            await stage.act("advance", reason="the new path is mended")
            await stage.waits("window", Phase.SOAK)
            found = router.tally(NAME).totals()
            assert found.latency["answered_new"].total > 0
        assert service.answers["wrong"] == service.answers["failed"] == 0
        assert (found.failed_old, found.failed_new, found.broken, found.timeouts) == (0, 0, 0, 0)
    await service.close()
