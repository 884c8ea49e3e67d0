"""Comparisons hold as backfills do, say why, and keep no other act waiting; what they find is seen whole, or not at all."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from support.harness import Harness, pgduet
from support.holding import begun, held_at
from support.plans import NAME, STARS, create_reviews
from support.throttled import HOUR_S, PATIENCE_S, POLL_S, window

from pgduet.client import Migrations
from pgduet.measured import Throttled
from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]

ROWS = 10
PROBE = {"name": "queue-length", "sql": "SELECT count(*) FROM public.queue", "max": 3}
WIDER: dict[str, Any] = {
    "shadow_table": {"table": "public.orders", "columns": [{"name": "id", "type": "bigint"}]},
}
AGREE = f"0 of {2 * ROWS} rows differ, 0 repaired"


async def published(stage: Harness, conn: Connection, **backfill: Any) -> None:
    """Have one table change in place and one get another shape, up to the gate before shadow."""
    await create_reviews(conn, ROWS)
    await conn.execute("CREATE TABLE public.queue AS SELECT 1 AS job WHERE false")
    await conn.execute("CREATE TABLE public.orders (id int PRIMARY KEY, amount int)")
    await conn.execute(f"INSERT INTO public.orders SELECT i, i FROM generate_series(1, {ROWS}) AS i".encode())
    await stage.start(stage.plan(STARS, WIDER, gates={"shadow": "manual"}, backfill=backfill))
    await stage.waits("gate", Phase.VERIFY)


async def held(stage: Harness, kind: str) -> Throttled:
    """Wait until the status says by what a comparison is held."""
    migrations, ends = Migrations(stage.client, task_queue=stage.queue), time.monotonic() + PATIENCE_S
    while True:
        found = (await migrations.status(NAME, stage.database)).comparison
        if found and found.kind == kind and not found.rate:
            return found
        assert time.monotonic() < ends, f"it is not held by {kind}: {found}"
        await asyncio.sleep(POLL_S)


async def test_a_probe_a_pause_and_a_closed_window_hold_a_comparison_and_keep_no_act_waiting(
    stage: Harness, conn: Connection
) -> None:
    closed = window(datetime.now(UTC), 2 * HOUR_S, 3 * HOUR_S)
    async with stage.worker():
        await published(stage, conn, probes=[PROBE])
        await conn.execute("INSERT INTO public.queue SELECT generate_series(1, 9)")
        asked = await begun(stage, "verify")
        assert (await held(stage, "probe")).reason == "probe queue-length 9 (limit 3)"
        await stage.act("pause")
        await conn.execute("TRUNCATE public.queue")
        await held(stage, "paused")
        await stage.act("throttle", window=closed)
        await stage.act("resume")
        assert (await held(stage, "window")).reason.startswith("outside its window: ")
        _, said = await pgduet(stage, "status", NAME, "--database", stage.database)
        assert "now: outside its window: " in said
        assert f"pgduet throttle {NAME} --window none" in said
        await stage.act("throttle", window="none")
        assert (await asked.result()).message == AGREE
        await stage.act("pause")
        assert (await stage.act("verify")).message == AGREE, "who asks while it is paused knows of the pause"
        await stage.act("resume")
        await stage.act("throttle", window=closed)
        asked = await begun(stage, "verify")
        await held(stage, "window")
        await stage.act("abort")
        assert (await asked.result()).message == "verify was stopped: it is rolling back"
        assert (await stage.result()).phase is Phase.ROLLED_BACK


async def test_what_a_comparison_finds_is_seen_whole(stage: Harness, conn: Connection) -> None:
    async def kept() -> tuple[int, int]:
        row = await (
            await conn.execute(
                "SELECT (parity ->> 'rows')::int, (SELECT count(*)::int FROM pgduet.drift WHERE resolved_at IS NULL)"
                "  FROM pgduet.migration"
            )
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    async with stage.worker():
        await published(stage, conn)
        await conn.execute("ALTER TABLE public.reviews DISABLE TRIGGER USER")
        await conn.execute("UPDATE public.reviews SET rating = '4' WHERE rating = '5'")
        await conn.execute("ALTER TABLE public.reviews ENABLE TRIGGER USER")
        async with held_at("batch.before_commit") as there:
            asked = await begun(stage, "verify")
            await there()
            assert await kept() == (2 * ROWS, 0), "the table in place has been compared, the shadow has not"
        assert (await asked.result()).message == f"2 of {2 * ROWS} rows differ, 0 repaired"
        assert await kept() == (2 * ROWS, 2)
