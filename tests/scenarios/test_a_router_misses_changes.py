"""A router that misses changes: its process is stopped through two of them, or it is cut off from the database.

Within its lease the last decision stands; past it, it answers with the authority that it last knew. So contract and withdrawal
wait: for one that is connected until it has heard, for one that is cut off until its lease is over. Reads go on beside, and none
fails.
"""

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.asking import one
from support.mutants import Clause, must_fail
from support.plans import create_reviews
from support.steered_reader import Reader
from support.wire_cut import link_to
from support.worlds import World, on_newest

from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.routing import AsyncRouter

NOWHERE = 1
"""A port at which nobody listens."""
UNDER_FEET = "a version goes from under a router that may still send reads there"
AT_ONE_HUNDRED = {"steps": [100], "bake_s": 600}


def over_or(kind: str, status: Status) -> bool:
    """Tell that it waits for something, or has ended."""
    waits = status.waiting_for is not None and status.waiting_for.kind == kind
    return waits or status.state in {State.DONE, State.ROLLED_BACK}


async def older_than(world: World, seconds: float) -> None:
    """Wait until the last change of the route is so old."""
    async with asyncio.timeout(60):
        while not await one(
            world.conn, f"SELECT clock_timestamp() - changed_at > interval '{seconds} s' FROM pgduet.route"
        ):
            await asyncio.sleep(0.05)


async def stopped_through_cutover(world: World) -> None:
    """Stop a process before its reads move; wake it when contract wants to go."""
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    soak = {"window_s": 0, "legacy_idle_s": 0.5}
    async with stage.worker():
        await stage.start(stage.plan(soak=soak, gates={"shift": "manual", "contract": "auto"}))
        await stage.waits("gate", Phase.SHADOW)
        with Reader(stage.scratch / "reader.log", stage.dsn, stage.dsn, 1.0) as reader:
            await reader.says(version="1", fresh=True)
            reader.stop()
            try:
                await stage.act("advance")
                status = await stage.until(lambda status: over_or("census", status))
                await older_than(world, 2.0)
                status = await stage.status()
                assert status.waiting_for is not None, UNDER_FEET
            finally:
                reader.wake()
            await reader.says(version="2", fresh=True)
            assert reader.errors == []
            assert "frozen (has not heard of the last change)" in status.waiting_for.detail
            assert {line["version"] for line in reader.lines if not line["fresh"]} <= {"1"}, (
                "past its lease: the authority it knew"
            )
            assert (await stage.result()).state is State.DONE
            await reader.reads()
            assert reader.errors == []


@on_newest
async def test_contract_waits_for_a_router_whose_process_was_stopped_through_two_changes(world: World) -> None:
    await stopped_through_cutover(world)


@on_newest
async def test_without_counting_connected_routers_it_would_be_sent_to_what_has_gone(world: World) -> None:
    mutant = Clause("routers that are connected", "census", "clients", "c.kind = 'router' AND (", "false AND (")
    await must_fail(stopped_through_cutover(world), mutant, says=UNDER_FEET)


@on_newest
async def test_withdrawal_waits_for_a_router_whose_process_was_stopped_through_two_changes(world: World) -> None:
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    async with stage.worker():
        await stage.start(stage.plan(shift=AT_ONE_HUNDRED))
        await stage.waits("bake", Phase.SHIFT)
        with Reader(stage.scratch / "reader.log", stage.dsn, stage.dsn, 1.0) as reader:
            await reader.says(version="2", fresh=True)
            reader.stop()
            try:
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK)
                await stage.act("abort", reason="two changes")
                status = await stage.until(lambda status: over_or("clients", status))
                assert status.waiting_for is not None, UNDER_FEET
                assert "frozen (has not heard of the last change)" in status.waiting_for.detail
                await older_than(world, 2.0)
                assert (await stage.status()).state is State.ROLLING_BACK
            finally:
                reader.wake()
            assert (await stage.result()).state is State.ROLLED_BACK
            await reader.reads()
            assert reader.errors == []
            assert reader.lines[-1]["version"] != "2"
            assert {line["version"] for line in reader.lines if not line["fresh"]} <= {"1"}, (
                "past its lease: the authority it knew"
            )


async def cut_off_and_rolled_back(world: World, lease_s: float) -> None:
    """Cut a router off while it sends reads to the new version, and roll back at once; its reads have a way of their own."""
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    async with stage.worker(), link_to(world.server.port) as (link, port):
        await stage.start(stage.plan(shift=AT_ONE_HUNDRED))
        await stage.waits("bake", Phase.SHIFT)
        through = make_conninfo(stage.dsn, host="127.0.0.1", port=port)
        with Reader(stage.scratch / "reader.log", through, stage.dsn, lease_s) as reader:
            await reader.says(version="2", fresh=True)
            link.port = NOWHERE
            assert link.cut() >= 1
            await stage.act("abort", reason="cut off")
            assert (await stage.result()).state is State.ROLLED_BACK
            await reader.reads()
            assert reader.errors == [], f"{UNDER_FEET}: {reader.errors}"
            assert (reader.lines[-1]["version"], reader.lines[-1]["fresh"]) == ("1", False), (
                "the authority it last knew"
            )
            assert [line["version"] for line in reader.lines if line["fresh"]] == ["2"] * sum(
                line["fresh"] for line in reader.lines
            ), "within its lease the last decision stands"
            with pytest.raises(psycopg.errors.UndefinedTable):
                await world.conn.execute("SELECT FROM public_v2.reviews")


@on_newest
async def test_withdrawal_waits_for_the_lease_of_a_router_that_is_cut_off(world: World) -> None:
    await cut_off_and_rolled_back(world, 6.0)


@on_newest
async def test_without_leases_it_would_be_sent_to_what_has_gone(world: World) -> None:
    mutant = Clause("leases", "census", "clients", "c.last_seen > clock_timestamp() - lease.runs)", "false)")
    await must_fail(cut_off_and_rolled_back(world, 40.0), mutant, says=UNDER_FEET)


async def cut_off_and_contracted(world: World) -> None:
    """Cut a router off whose reads are on the new version already, before authority moves; let it back when contract waits."""
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    soak = {"window_s": 0, "legacy_idle_s": 60}
    async with stage.worker(), link_to(world.server.port) as (link, port):
        await stage.start(stage.plan(shift=AT_ONE_HUNDRED, soak=soak, gates={"contract": "auto"}))
        await stage.waits("bake", Phase.SHIFT)
        through = make_conninfo(stage.dsn, host="127.0.0.1", port=port)
        with Reader(stage.scratch / "reader.log", through, stage.dsn, 1.0) as reader:
            await reader.says(version="2", fresh=True)
            link.port = NOWHERE
            assert link.cut() >= 1
            await reader.says(version="1", fresh=False)
            await stage.act("advance")
            status = await stage.until(lambda status: over_or("census", status))
            assert status.waiting_for is not None, UNDER_FEET
            assert "frozen (gone since before the new version took over" in status.waiting_for.detail
            link.port = world.server.port
            assert (await stage.result()).state is State.DONE
            await reader.says(version="2", fresh=True)
            assert reader.errors == []


@on_newest
async def test_contract_waits_for_a_router_that_was_cut_off_before_authority_moved(world: World) -> None:
    await cut_off_and_contracted(world)


@on_newest
async def test_if_it_were_forgotten_it_would_be_sent_to_what_has_gone(world: World) -> None:
    mutant = Clause("routers that missed it", "census", "clients", " OR gone.missed")
    await must_fail(cut_off_and_contracted(world), mutant, says=UNDER_FEET)


@on_newest
async def test_contract_waits_for_leases_and_for_reads_that_are_sent_to_the_old_version(world: World) -> None:
    await create_reviews(world.conn, 10, trigger=False)
    stage = world.stage
    async with stage.worker():
        await stage.start(stage.plan(soak={"legacy_idle_s": 0.5}, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        async with await AsyncRouter.open(stage.dsn, service="web", lease_s=6.0):
            await stage.act("route", read_percent=25, reason="back for a while")
            await stage.act("advance")
            status = await stage.waits("census", Phase.CONTRACT)
            assert status.waiting_for is not None
            assert "web (its lease runs)" in status.waiting_for.detail
            status = await stage.until(lambda status: over_or("census", status) and "lease" not in told(status))
            assert told(status).endswith("75 % of the reads of routers (pgduet route review-stars --read-percent 100)")
            await stage.act("route", read_percent=100)
            assert (await stage.result()).state is State.DONE


def told(status: Status) -> str:
    """Say what is waited for."""
    return status.waiting_for.detail if status.waiting_for else ""
