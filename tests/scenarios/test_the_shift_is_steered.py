"""The shift is steered by what routers report while a step bakes, and by hand.

A service reads by a real router's migrator, and its new read path is at fault. Looks are a second apart, as a bake of 30 s
has them.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from support.asking import one
from support.harness import Harness
from support.plans import NAME, create_reviews
from support.reading import ROWS, Fault, Service

from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.routing import AsyncRouter, Limits, Path, hashed_key
from pgduet.routing.aio_migrator import AsyncMigrator

Connection = psycopg.AsyncConnection[Any]
OLD, NEW = (Path(version, f"public_v{version}", is_new=version == "2") for version in ("1", "2"))
BAKING = {"bake_s": 30, "max_latency_ratio": 1.25, "min_samples": 100}
EACH = Limits(sample=1.0, calibrate=0.1, waiting=5 * ROWS)
UNDISTURBED = {"max_latency_ratio": 1000}
"""For a fault that has nothing to do with time."""


@pytest.fixture
async def router(stage: Harness, conn: Connection) -> AsyncIterator[AsyncRouter]:
    """A service that follows the route and tells often what it did."""
    await create_reviews(conn, ROWS, trigger=False)
    async with await AsyncRouter.open(stage.dsn, service="web", lease_s=0.6) as opened:
        yield opened


@pytest.fixture
async def service(stage: Harness) -> AsyncIterator[Service]:
    """Its reads; asked for before the router, they end after it."""
    opened = Service(stage.dsn)
    yield opened
    await opened.close()


def migrator(router: AsyncRouter, service: Service, limits: Limits = EACH) -> AsyncMigrator[str | None]:
    """Have a router call the service's reads."""
    return router.migrator(NAME, read_old=service.old, read_new=service.new, limits=limits, label="by id")


async def reads_are_back(conn: Connection, router: AsyncRouter, service: Service) -> None:
    """See the router send everybody to the old version, and a reader get right answers only."""
    epoch = await one(conn, "SELECT epoch FROM pgduet.route WHERE read_percent = 0 AND authority = 'old'")
    assert await router.wait_for(NAME, epoch, 30)
    assert {router.path(NAME, key).version for key in range(1, ROWS + 1)} == {"1"}
    caller = migrator(router, service, Limits(sample=0))
    for key in range(200, ROWS + 1, 200):
        assert await caller.read(key) == str(key % 5 + 1)


async def measured(conn: Connection) -> dict[str, Any]:
    """Read what the first decision to turn back rests on."""
    rows = await conn.execute("SELECT evidence -> 'traffic' FROM pgduet.audit WHERE action = 'breach' ORDER BY seq")
    found: tuple[dict[str, Any]] | None = await rows.fetchone()
    assert found is not None
    return found[0]


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


async def step_passes(stage: Harness, percent: int, at_least: int) -> None:
    """End a step's bake when it has brought so many reads of the new version and nothing against it."""
    status = await stage.until(lambda status: bool(status.traffic and status.traffic.reads_new >= at_least))
    assert status.read_percent == percent
    await stage.act("advance", reason="it looks good")
    following = await stage.until(lambda status: status.read_percent != percent)
    assert following.read_percent > percent, following.decisions


async def all_told(router: AsyncRouter, reviews: AsyncMigrator[str | None]) -> None:
    """Wait until what was read off callers' paths is over, and told."""
    assert await reviews.settle(30)
    told = router._rounds + 2
    async with asyncio.timeout(30):
        while router._rounds < told:
            await asyncio.sleep(0.05)


async def breaches(conn: Connection) -> list[tuple[Any, ...]]:
    """Read what was decided about steps."""
    told = (
        "evidence ->> 'criterion', (evidence ->> 'read_percent')::int, (evidence ->> 'now')::int, evidence ->> 'then'"
    )
    rows = await conn.execute(f"SELECT {told} FROM pgduet.audit WHERE action = 'breach' ORDER BY seq".encode())
    return await rows.fetchall()


async def test_a_read_path_twice_as_slow_stops_the_shift_while_it_bakes_and_reads_go_back(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    service.takes_s = 0.05
    reviews = migrator(router, service, Limits(sample=0.05))
    async with shifting(stage, shift={**BAKING, "steps": [20, 50, 100]}), service.reading(reviews, readers=6):
        await step_passes(stage, 20, at_least=50)
        service.fault = Fault(slower=2)
        status = await stage.waits("criteria", Phase.SHIFT)
        assert re.fullmatch(
            r"routers' reads of the new version take 1\d\d\.\d\d ms \(p50 of \d+\), [12]\.\d\d × those of the old one"
            r" \(limit 1\.25 ×\)",
            waiting(status),
        )
        assert status.read_percent == 0
        assert await breaches(conn) == [("latency", 50, 0, "wait")]
        seen = await measured(conn)
        assert min(seen["reads_old"], seen["reads_new"]) >= 50
        assert 1.25 < seen["p50_new_ms"] / seen["p50_old_ms"] < 3
        await reads_are_back(conn, router, service)
        service.fault = Fault()
        await stage.act("advance", reason="the new path is mended")
        status = await at_step(stage, 50)
        assert status.read_percent == 50


async def test_a_read_path_that_is_slow_when_nobody_reads_the_old_one_stops_the_shift_by_what_that_took_before(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    service.takes_s = 0.05
    reviews = migrator(router, service, Limits(sample=0))
    async with shifting(stage, shift={**BAKING, "steps": [50, 100]}), service.reading(reviews, readers=6):
        await step_passes(stage, 50, at_least=60)
        service.fault = Fault(slower=3)  # beyond what the machine may do to the same reads a moment later
        status = await stage.waits("criteria", Phase.SHIFT)
        assert waiting(status).endswith(" × those of the old one before (limit 1.25 ×)")
        assert await breaches(conn) == [("latency", 100, 0, "wait")]
        await reads_are_back(conn, router, service)


async def test_a_read_that_hangs_now_and_then_stops_nothing(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    service.takes_s = 0.01
    reviews = migrator(router, service, Limits(sample=0))
    async with shifting(stage, shift={**BAKING, "steps": [50, 100], "bake_s": 4}), service.reading(reviews, readers=8):
        for _ in range(2):
            router.record(NAME, NEW, 60.0)
        await stage.waits("window", Phase.SOAK)
    assert await breaches(conn) == []
    means = "SELECT (evidence ->> 'seconds_new')::float8 / (evidence ->> 'reads_new')::int FROM pgduet.audit"
    rows = await conn.execute(f"{means} WHERE action = 'bake' ORDER BY seq LIMIT 1".encode())
    assert (await rows.fetchone() or (0,))[0] > 0.05, "the mean is many times that of the old version"


async def test_a_read_path_wrong_in_one_of_two_hundred_slows_the_shift_down_and_then_stops_it(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    shift = {**BAKING, **UNDISTURBED, "steps": [10, 100], "on_breach": "slow_down", "max_mismatch_ratio": 0.0005}
    async with shifting(stage, shift=shift), service.reading(migrator(router, service), readers=4):
        await step_passes(stage, 10, at_least=20)
        assert service.answers["wrong"] == 0
        service.fault = Fault(wrong_each=200)
        status = await at_step(stage, 10)
        assert status.read_percent == 10
        assert re.search(
            r"mismatch at the 100 % step: \d+ of \d+ reads of the new version differ from the old one's.*; slow down to 10 %$",
            status.decisions[-1],
        )
        status = await stage.waits("criteria", Phase.SHIFT)
        assert re.match(r"\d+ of \d+ reads of the new version differ", waiting(status))
        assert status.read_percent == 0
        assert await breaches(conn) == [("mismatch", 100, 10, "slow down to 10 %"), ("mismatch", 10, 0, "wait")]
        seen = await measured(conn)
        assert seen["noise"] == 0
        assert 1 / 1000 < seen["mismatches"] / seen["compared"] < 1 / 50
        assert {(each["who"], each["read"], each["kind"]) for each in seen["examples"]} == {("web", "by id", "value")}
        assert {each["key"] for each in seen["examples"]} <= {hashed_key(key) for key in range(200, ROWS + 1, 200)}
        await reads_are_back(conn, router, service)


async def test_shadow_reads_of_routers_have_to_be_enough_and_to_agree_and_not_to_fail(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    shadow = {"mode": "routers", "min_samples": 400, "max_mismatch_ratio": 0.001}
    reviews = migrator(router, service)
    async with stage.worker():
        await stage.start(stage.plan(shadow=shadow, shift={"steps": [100], "bake_s": 600, "max_error_ratio": 0.001}))
        status = await stage.waits("samples", Phase.SHADOW)
        assert waiting(status) == "reads to be compared by routers: 0 of 400"
        for fault, says in (
            (Fault(wrong_each=50), r"\d+ of \d+ reads of the new version differ from the old one's"),
            (Fault(fails_each=50), r"\d+ of \d+ reads of the new version that nobody waited for failed"),
        ):
            service.fault = fault
            async with service.reading(reviews):
                status = await stage.waits("shadow", Phase.SHADOW)
            assert re.match(says, waiting(status))
            service.fault = Fault()
            await all_told(router, reviews)
            await stage.act("advance", reason="the new path is mended")
            await stage.waits("samples", Phase.SHADOW)
        async with service.reading(reviews):
            await at_step(stage, 100)
    assert service.answers["wrong"] == service.answers["failed"] == 0, "in shadow nobody gets the new answer"
    evidence = await one(conn, "SELECT evidence FROM pgduet.audit WHERE action = 'shadow_routers'")
    assert evidence["compared"] >= 400
    assert (evidence["mismatches"], evidence["failed"]) == (0, 0)


async def test_errors_roll_back_at_the_step_where_they_are_seen(
    stage: Harness, conn: Connection, service: Service, router: AsyncRouter
) -> None:
    shift = {**BAKING, **UNDISTURBED, "steps": [10, 100]}
    reviews = migrator(router, service, Limits(sample=0))
    service.fault = Fault(fails_each=50)
    async with shifting(stage, shift=shift, rollback={"automatic_on": ["error_ratio"]}):
        async with service.reading(reviews, readers=4):
            status = await stage.result()
        assert status.state is State.ROLLED_BACK
        assert re.fullmatch(r"pgduet: \d+ of \d+ reads of the new version failed", status.rollback or "")
        assert service.answers["failed"] > 0
        assert router.path(NAME, 100).version != "2"
    assert await breaches(conn) == [("error_ratio", 10, 0, "roll back")]
    seen = await measured(conn)
    assert 0 < seen["errors_new"] <= service.answers["failed"]


async def test_errors_of_both_versions_send_reads_back_but_roll_nothing_back(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    shift = {**BAKING, **UNDISTURBED, "steps": [10, 100]}
    async with shifting(stage, shift=shift, rollback={"automatic_on": ["error_ratio"]}):
        for number in range(400):
            for path in (OLD, NEW):
                router.record(NAME, path, 0.01, error=number % 8 == 0)
        status = await stage.waits("criteria", Phase.SHIFT)
        assert re.fullmatch(r"(\d+) of (\d+) reads of the new version failed, \1 of \2 of the old one", waiting(status))
        assert status.read_percent == 0
    assert await breaches(conn) == [("error_ratio", 10, 0, "wait")]


async def test_a_step_with_too_few_reads_is_not_passed_by_silence(stage: Harness, router: AsyncRouter) -> None:
    async with stage.worker():
        await stage.start(stage.plan(shift={"steps": [100], "bake_s": 0.2, "min_samples": 20}))
        status = await stage.waits("samples", Phase.SHIFT)
        assert waiting(status) == "reads of the new version by routers: 0 of 20 (1 routers there) at the 100 % step"
        reads(router, 19, 1, 1)
        await stage.until(lambda status: "19 of 20" in waiting(status))
        reads(router, 1, 1, 1)
        await stage.waits("window", Phase.SOAK)


async def test_a_step_is_not_passed_because_its_routers_have_gone(stage: Harness, router: AsyncRouter) -> None:
    async with stage.worker():
        await stage.start(stage.plan(shift={"steps": [100], "bake_s": 0.2, "min_samples": 20}))
        await stage.until(lambda status: "(1 routers there)" in waiting(status))
        await router.close()
        status = await stage.until(lambda status: "(1 routers there)" not in waiting(status))
        assert waiting(status) == "reads of the new version by routers: 0 of 20 (no routers there) at the 100 % step"
        await stage.act("advance", reason="that service was switched off")
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
        await stage.act("route", read_percent=30, reason="go on from here")
        await at_step(stage, 30)
        await stage.act("route", read_percent=0, reason="stop again")
        await stage.waits("criteria", Phase.SHIFT)
        await stage.act("advance")
        await at_step(stage, 10)
    assert await one(conn, "SELECT read_percent FROM pgduet.route") == 10


async def test_what_routers_tell_late_of_a_step_counts_for_that_step(
    stage: Harness, conn: Connection, router: AsyncRouter
) -> None:
    async with (
        shifting(stage, shift={**BAKING, "steps": [10, 100]}),
        await psycopg.AsyncConnection.connect(stage.dsn) as holder,
    ):
        await holder.execute("SELECT FROM pgduet.client WHERE kind = 'router' FOR UPDATE")
        reads(router, 300, 10, 10)
        await stage.act("route", read_percent=60)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                await at_step(stage, 60)
        await holder.rollback()
        await at_step(stage, 60)
        await stage.act("advance")
        await at_step(stage, 100)
    told = await one(
        conn, "SELECT evidence FROM pgduet.audit WHERE action = 'bake' AND evidence ->> 'read_percent' = '60'"
    )
    assert told["reads_new"] == 0
