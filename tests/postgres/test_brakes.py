"""What brakes a comparison: what it does to a snapshot that is held, and who is not starved by it."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from support.mechanics import Mechanics, mechanics
from support.plans import create_reviews

from pgduet.measured import Throttled
from pgduet.phases import SyncMode
from pgduet.postgres import brakes, gently, parity, store
from pgduet.postgres.brakes import GIVEN_UP_AT_MOST, Asked, Postponed, SnapshotGivenUp, braked
from pgduet.postgres.databases import Database
from pgduet.postgres.pressure import TRICKLE
from pgduet.postgres.session import session

Connection = psycopg.AsyncConnection[Any]
PROBE = {"name": "queue", "sql": "SELECT 9", "max": 3}


class Told:
    """What was said, last."""

    last: Throttled | None = None

    def __call__(self, throttled: Throttled | None) -> None:
        self.last = throttled

    async def kind(self, kind: str | None) -> None:
        """Wait until it says so."""
        async with asyncio.timeout(10):
            while (self.last.kind if self.last else None) != kind:
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, give a snapshot up soon, and read a page at a time."""
    monkeypatch.setattr(brakes, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(brakes, "STEP_S", 0.02)
    monkeypatch.setattr(brakes, "IN_A_SNAPSHOT_S", 0.1)
    monkeypatch.setattr(gently, "PIECE", 1)
    monkeypatch.setattr(gently, "SMALL_PIECE", 1)


def beside(dsn: str) -> Any:
    return lambda: session(Database("shop", dsn), "watch")


async def say(m: Mechanics, conn: Connection, **controls: Any) -> None:
    """Write an operator's word down, from another session than that which compares."""
    values = psycopg.types.json.Jsonb(controls)
    await conn.execute("UPDATE pgduet.migration SET controls = controls || %s WHERE id = %s", (values, m.migration.id))


async def test_a_snapshot_is_not_kept_through_a_pause_and_what_is_found_is_of_one_moment(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 2000, trigger=False)
    async with mechanics(dsn) as m:
        await m.published()
        told, begun = Told(), asyncio.Event()
        async with braked(m.conn, m.migration, beside(dsn), told) as brakes:
            await say(m, conn, pause_ms=20)
            comparing = asyncio.create_task(
                parity.compare(m.conn, m.migration, SyncMode.BOTH, lambda _: begun.set(), brakes)
            )
            await begun.wait()
            await say(m, conn, paused=True)
            await told.kind("paused")
            async with asyncio.timeout(10):
                while await snapshots(conn):
                    await asyncio.sleep(0.01)
            await conn.execute("DELETE FROM public.reviews WHERE id <= 700")
            await say(m, conn, paused=False, pause_ms=0)
            found = (await comparing).parity
        assert (found.rows, found.mismatches) == (1300, 0)


async def snapshots(conn: Connection) -> int:
    row = await (
        await conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgduet/%' AND backend_xmin IS NOT NULL"
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_probe_that_comes_and_goes_starves_no_snapshot(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn, backfill={"probes": [PROBE], "pause_ms": 0}) as m:
        told = Told()
        async with braked(m.conn, m.migration, beside(dsn), told) as brakes:
            for _ in range(GIVEN_UP_AT_MOST):
                with pytest.raises(SnapshotGivenUp):
                    await brakes.rest(0.01, in_snapshot=True)
            began = time.monotonic()
            await brakes.rest(0.1, in_snapshot=True)
            assert time.monotonic() - began >= 0.1 * (1 / TRICKLE - 1)
            assert told.last is not None
            assert (told.last.reason, told.last.rate) == ("probe queue 9 (limit 3)", TRICKLE)
            await say(m, conn, paused=True)
            await told_after_rest(brakes, told, "paused")


async def told_after_rest(brakes: Any, told: Told, kind: str) -> None:
    """Have it rest until it says so, which with a snapshot it does not do for long."""
    async with asyncio.timeout(10):
        while not (told.last and told.last.kind == kind):
            with suppress(SnapshotGivenUp):
                await brakes.rest(in_snapshot=True)
            await asyncio.sleep(0.01)


async def test_the_schedules_comparison_gives_way_to_a_pause_and_one_asked_for_during_it_does_not(
    dsn: str, conn: Connection
) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with mechanics(dsn) as m:
        await store.set_controls(m.conn, m.migration.id, {"paused": True})
        async with braked(m.conn, m.migration, beside(dsn), Told(), Asked(scheduled=True)) as brakes:
            with pytest.raises(Postponed):
                await brakes.rest()
        told = Told()
        async with braked(m.conn, m.migration, beside(dsn), told, Asked(although_paused=True)) as brakes:
            await brakes.rest()
            await say(m, conn, paused=False)
            async with asyncio.timeout(10):
                while brakes.asked.although_paused:
                    await asyncio.sleep(0.01)
            await say(m, conn, paused=True)
            await told_after_rest(brakes, told, "paused")


async def test_what_was_done_since_a_chunk_was_over_counts_to_its_rest(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10, trigger=False)
    async with (
        mechanics(dsn, backfill={"pause_ms": 10_000}) as m,
        braked(m.conn, m.migration, beside(dsn), Told()) as b,
    ):
        turns = gently.Turns(b)

        async def work() -> bool:
            return True

        async with asyncio.timeout(5):
            await turns.step(m.conn, work, lambda: time.monotonic() - 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await turns.step(m.conn, work, time.monotonic)
