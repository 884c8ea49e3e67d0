"""The shift is steered by what routers report while a step bakes, and by hand.

A real router reports the figures; the reads themselves are not made. Looks are a second apart, as a bake of 30 s has them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from support.asking import one
from support.harness import Harness
from support.plans import NAME, create_reviews

from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.routing import AsyncRouter, Path

Connection = psycopg.AsyncConnection[Any]
OLD, NEW = (Path(version, f"public_v{version}", is_new=version == "2") for version in ("1", "2"))
BAKING = {"bake_s": 30, "max_latency_ratio": 1.25, "min_samples": 100}
SHADOW_COLUMNS = """
ALTER TABLE pgduet.client ADD COLUMN IF NOT EXISTS compared bigint, ADD COLUMN IF NOT EXISTS mismatches bigint,
    ADD COLUMN IF NOT EXISTS calibrated bigint, ADD COLUMN IF NOT EXISTS noise bigint
"""
"""What routers with shadow reads report; those of this release have none."""


@pytest.fixture
async def router(stage: Harness, conn: Connection) -> AsyncIterator[AsyncRouter]:
    """A service that follows the route and tells often what it did."""
    await create_reviews(conn, 50, trigger=False)
    async with await AsyncRouter.open(stage.dsn, service="web", lease_s=0.6) as opened:
        yield opened


@asynccontextmanager
async def shifting(stage: Harness, **policy: Any) -> AsyncIterator[None]:
    """Bring a migration to its first step."""
    async with stage.worker():
        await stage.start(stage.plan(**policy))
        await at_step(stage, policy["shift"]["steps"][0])
        yield


async def at_step(stage: Harness, percent: int) -> Status:
    """Wait until a step bakes."""
    return await stage.until(lambda status: f"bake of the {percent} % step" in waiting(status))


def waiting(status: Status) -> str:
    """Say what is waited for."""
    return status.waiting_for.detail if status.waiting_for else ""


def reads(router: AsyncRouter, count: int, old_ms: float, new_ms: float, *, errors: int = 0) -> None:
    """Report so many reads of each version, and failures of the new one."""
    for number in range(count):
        router.record(NAME, OLD, old_ms / 1000)
        router.record(NAME, NEW, new_ms / 1000, error=number < errors)


async def breaches(conn: Connection) -> list[tuple[Any, ...]]:
    """Read what was decided about steps."""
    told = (
        "evidence ->> 'criterion', (evidence ->> 'read_percent')::int, (evidence ->> 'now')::int, evidence ->> 'then'"
    )
    rows = await conn.execute(f"SELECT {told} FROM pgduet.audit WHERE action = 'breach' ORDER BY seq".encode())
    return await rows.fetchall()


async def test_a_read_path_twice_as_slow_stops_the_shift_while_it_bakes_and_reads_go_back(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    async with shifting(stage, shift={**BAKING, "steps": [10, 100]}):
        reads(router, 400, 10, 11)
        await stage.act("advance", reason="it looks good")
        await at_step(stage, 100)
        reads(router, 400, 10, 20)
        status = await stage.waits("criteria", Phase.SHIFT)
        assert waiting(status).endswith("2.00 × those of the old one (limit 1.25 ×)")
        assert status.read_percent == 0
        epoch = await one(conn, "SELECT epoch FROM pgduet.route WHERE read_percent = 0 AND authority = 'old'")
        assert await router.wait_for(NAME, epoch, 30)
        assert [router.path(NAME, key).version for key in range(50)] == ["1"] * 50
        assert await breaches(conn) == [("latency", 100, 0, "wait")]
        measured = await one(conn, "SELECT evidence -> 'traffic' FROM pgduet.audit WHERE action = 'breach'")
        assert (measured["reads_old"], measured["reads_new"], round(measured["seconds_new"])) == (400, 400, 8)
        await stage.act("advance", reason="the new path is mended")
        status = await at_step(stage, 100)
        assert status.read_percent == 100


async def test_a_read_path_wrong_in_one_of_two_hundred_slows_the_shift_down_and_then_stops_it(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    wrong = (
        "UPDATE pgduet.client SET compared = coalesce(compared, 0) + 2000, mismatches = coalesce(mismatches, 0) + 10"
    )
    async with shifting(stage, shift={**BAKING, "steps": [10, 100], "on_breach": "slow_down"}):
        await conn.execute(SHADOW_COLUMNS)
        reads(router, 200, 10, 10)
        await stage.act("advance")
        await at_step(stage, 100)
        await conn.execute(wrong)
        status = await at_step(stage, 10)
        assert status.read_percent == 10
        said = "mismatch at the 100 % step: 10 of 2000 reads of the new version differ from the old one's; slow down to 10 %"
        assert status.decisions[-1].endswith(said)
        await conn.execute(wrong)
        status = await stage.waits("criteria", Phase.SHIFT)
        assert "10 of 2000" in waiting(status)
        assert status.read_percent == 0
        assert await breaches(conn) == [("mismatch", 100, 10, "slow down to 10 %"), ("mismatch", 10, 0, "wait")]


async def test_shadow_reads_of_routers_have_to_be_enough_and_to_agree(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    del router
    told = "UPDATE pgduet.client SET compared = %s, mismatches = %s, calibrated = 400, noise = 4"
    shadow = {"mode": "routers", "min_samples": 1000, "max_mismatch_ratio": 0.02}
    async with stage.worker():
        await stage.start(stage.plan(shadow=shadow, shift={"steps": [100], "bake_s": 600}))
        status = await stage.waits("samples", Phase.SHADOW)
        assert waiting(status) == "reads to be compared by routers: 0 of 1000"
        await conn.execute(SHADOW_COLUMNS)
        await conn.execute(told, (500, 30))
        status = await stage.waits("shadow", Phase.SHADOW)
        assert waiting(status).startswith("30 of 500 reads of the new version differ from the old one's, 4 of 400")
        await stage.act("advance", reason="the comparison is mended")
        await conn.execute(told, (1600, 41))
        await at_step(stage, 100)
    evidence = await one(conn, "SELECT evidence FROM pgduet.audit WHERE action = 'shadow_routers'")
    assert (evidence["compared"], evidence["mismatches"]) == (1100, 11)


async def test_errors_roll_back_at_the_step_where_they_are_seen(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    async with shifting(stage, shift={**BAKING, "steps": [10, 100]}, rollback={"automatic_on": ["error_ratio"]}):
        reads(router, 200, 10, 10, errors=9)
        status = await stage.result()
        assert status.state is State.ROLLED_BACK
        assert status.rollback == "pgduet: 9 of 200 reads of the new version failed"
    assert await breaches(conn) == [("error_ratio", 10, 0, "roll back")]


async def test_a_step_with_too_few_reads_is_not_passed_by_silence(stage: Harness, router: AsyncRouter) -> None:
    async with stage.worker():
        await stage.start(stage.plan(shift={"steps": [100], "bake_s": 0.2, "min_samples": 20}))
        status = await stage.waits("samples", Phase.SHIFT)
        assert waiting(status) == "reads of the new version by routers: 0 of 20 (1 routers there) at the 100 % step"
        reads(router, 19, 1, 1)
        await stage.until(lambda status: "19 of 20" in waiting(status))
        reads(router, 1, 1, 1)
        await stage.waits("window", Phase.SOAK)


async def test_what_is_set_by_hand_bakes_and_the_next_step_follows_from_there(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    del router
    async with shifting(stage, shift={**BAKING, "steps": [10, 20, 50, 100]}):
        await stage.act("route", read_percent=60, reason="faster")
        await at_step(stage, 60)
        await stage.act("route", read_percent=15, reason="slower")
        await at_step(stage, 15)
        await stage.act("advance")
        await at_step(stage, 20)
        await stage.act("route", read_percent=0, reason="stop")
        assert "as set by hand" in waiting(await stage.waits("criteria", Phase.SHIFT))
        await stage.act("advance")
        await at_step(stage, 10)
    assert await one(conn, "SELECT read_percent FROM pgduet.route") == 10
