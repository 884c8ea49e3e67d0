"""A backfill that can be watched while something holds it back: slow enough to be met, quick to end."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg

from pgduet.client import Migrations
from pgduet.messages import Backfill, Throttled
from pgduet.phases import Phase
from support.harness import Harness
from support.plans import create_reviews

Connection = psycopg.AsyncConnection[Any]

ROWS = 4_000
SLOW: dict[str, Any] = {"parallelism": 1, "batch_target_ms": 1, "pause_ms": 30}
"""Ten pages or so in a second."""
PATIENCE_S = 25.0
POLL_S = 0.1
HOUR_S = 3600


def window(now: datetime, opens_s: float, closes_s: float) -> dict[str, str]:
    """Write a window that opens and closes in so many seconds, to the minute."""
    opens, closes = (now + timedelta(seconds=seconds) for seconds in (opens_s, closes_s))
    return {"from": f"{opens:%H:%M}", "to": f"{closes:%H:%M}", "timezone": "UTC"}


class Filling:
    """A backfill under way."""

    def __init__(self, stage: Harness, conn: Connection) -> None:
        self.stage = stage
        self.conn = conn
        self.migrations = Migrations(stage.client, task_queue=stage.queue)

    async def now(self) -> datetime:
        """Tell the database's time."""
        row = await (await self.conn.execute("SELECT clock_timestamp()")).fetchone()
        assert row is not None
        return datetime.fromisoformat(str(row[0]))

    async def look(self) -> Backfill:
        """Ask as `pgduet status` does."""
        found = await self.migrations.look(self.stage.plan()["name"], self.stage.database)
        return found.status.backfill

    async def cursors(self) -> list[int]:
        """Tell how far the ranges are."""
        found = await self.conn.execute("SELECT cursor_block FROM pgduet.backfill_range ORDER BY relation, part")
        return [row[0] for row in await found.fetchall()]

    async def until(self, condition: Callable[[Backfill], bool], patience_s: float = PATIENCE_S) -> Backfill:
        """Wait until the status shows something."""
        ends = time.monotonic() + patience_s
        while not condition(seen := await self.look()):
            assert time.monotonic() < ends, f"never so: {seen.model_dump_json(indent=1)}"
            await asyncio.sleep(POLL_S)
        return seen

    async def works(self) -> None:
        """Wait until rows are filled, and nothing holds it."""
        before = await self.cursors()
        ends = time.monotonic() + PATIENCE_S
        while await self.cursors() == before:
            assert time.monotonic() < ends, f"it does not work: {(await self.look()).model_dump_json(indent=1)}"
            await asyncio.sleep(POLL_S)
        await self.until(lambda seen: seen.throttle is None or seen.throttle.rate > 0)

    async def held(self, kind: str, patience_s: float = PATIENCE_S, word: str = "it is not held") -> Throttled:
        """Wait until it says that it is held, and by what; from there on it does not move. `word` is what is said if not."""
        ends = time.monotonic() + patience_s
        while not ((seen := await self.look()).throttle and seen.throttle.kind == kind and not seen.throttle.rate):
            assert time.monotonic() < ends, f"{word}\n{seen.model_dump_json(indent=1)}"
            await asyncio.sleep(POLL_S)
        assert seen.throttled_by == seen.throttle.reason
        before = await self.cursors()
        await asyncio.sleep(1.0)
        assert await self.cursors() == before, "it says that it holds, and works"
        return seen.throttle

    async def slowed(self, kind: str) -> Throttled:
        """Wait until it says that it works slower, and by what."""
        seen = await self.until(
            lambda seen: seen.throttle is not None and seen.throttle.kind == kind and seen.throttle.rate > 0
        )
        assert seen.throttle is not None
        return seen.throttle

    async def ends(self) -> dict[str, float]:
        """Take the brakes off, and tell for how long it was held, by reason."""
        await self.stage.act("throttle", pause_ms=0, batch_target_ms=100)
        await self.stage.waits("gate", Phase.BACKFILL)
        left = await self.conn.execute('SELECT count(*) FROM reviews WHERE "_pgduet_review-stars_stars" IS NULL')
        assert await left.fetchone() == (0,)
        row = await (await self.conn.execute("SELECT controls -> 'held_s' FROM pgduet.migration")).fetchone()
        assert row is not None
        return dict(row[0] or {})


async def spread(conn: Connection, rows: int = ROWS) -> None:
    """Make a table of few rows on many pages."""
    await create_reviews(conn, rows)
    await conn.execute("ALTER TABLE reviews SET (fillfactor = 10)")
    await conn.execute("VACUUM FULL reviews")
    await conn.execute("ALTER TABLE reviews SET (autovacuum_enabled = off)")


@asynccontextmanager
async def filling(
    stage: Harness,
    conn: Connection,
    prepare: Callable[[Connection], Awaitable[None]] | None = None,
    user_triggers: str = "suppress",
    **backfill: Any,
) -> AsyncIterator[Filling]:
    """Run a backfill over a table that is prepared before, and wait until it has begun."""
    await spread(conn)
    if prepare:
        await prepare(conn)
    async with stage.worker():
        policy = {"user_triggers": user_triggers, "gates": {"verify": "manual"}}
        await stage.start(stage.plan(backfill=SLOW | backfill, **policy))
        await stage.until(Phase.BACKFILL)
        run = Filling(stage, conn)
        await run.until(lambda seen: seen.parallelism > 0)
        yield run
