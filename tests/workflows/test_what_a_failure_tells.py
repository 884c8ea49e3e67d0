"""A test that waited in vain tells all that is known."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.harness import POLL_S, Harness
from support.plans import create_reviews

from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]


async def test_who_waits_in_vain_is_told_what_is_known(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 10)
    with stage.worker_process() as worker:
        await stage.start(stage.plan(gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        async with conn.transaction():
            await conn.execute("LOCK TABLE reviews")
            await stage.act("advance")
            while 'name: "expand"' not in str((await stage.handle.describe()).raw_description.pending_activities):
                await asyncio.sleep(POLL_S)
            with pytest.raises(AssertionError, match=r"^its barrier was not reached in 0 s\n") as caught:
                await worker.killed(0)
        for fact in (
            '"phase": "expand"',
            "name=expand",
            "eventType=EVENT_TYPE_ACTIVITY_TASK_SCHEDULED",
            "idle in transaction",
            "worker on task queue",
        ):
            assert fact in str(caught.value)
        with pytest.raises(AssertionError, match="not reached in 0 s"):
            await stage.until(Phase.DONE, 0)
