"""Holding a migration exactly where a test wants it: an activity waits at a barrier in this process, or for a user's lock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from temporalio.client import WorkflowUpdateHandle, WorkflowUpdateStage

from pgduet import barriers
from pgduet.messages import Answer
from support.harness import Harness

TIMEOUT_S = 30.0


class There:
    """Whether somebody has got to a barrier: await it until somebody has."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    @property
    def seen(self) -> bool:
        """Tell whether somebody has been there."""
        return self.event.is_set()

    async def __call__(self) -> None:
        """Wait until somebody is there."""
        async with asyncio.timeout(TIMEOUT_S):
            await self.event.wait()


@asynccontextmanager
async def held_at(barrier: str, *, hold: bool = True) -> AsyncIterator[There]:
    """Hold whoever gets to a barrier until the block ends, or only look who does.

    PostgreSQL ends a session of ours that stays idle within a transaction: where it takes long, hold after the commit.
    """
    there, go_on = There(), asyncio.Event()

    async def hook() -> None:
        there.event.set()
        if hold:
            await go_on.wait()

    barriers.HOOKS[barrier] = hook
    try:
        yield there
    finally:
        go_on.set()
        del barriers.HOOKS[barrier]


@asynccontextmanager
async def locked(dsn: str, statement: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Hold what a statement locks, in a session of the user's."""
    async with await psycopg.AsyncConnection.connect(dsn, application_name="user") as user:
        await user.execute(statement.encode())
        yield user


async def begun(stage: Harness, update: str, **fields: Any) -> WorkflowUpdateHandle[Answer]:
    """Send an update that will take a while, and return once it has been accepted."""
    handle: WorkflowUpdateHandle[Answer] = await stage.handle.start_update(
        update, {"actor": "tester", **fields}, wait_for_stage=WorkflowUpdateStage.ACCEPTED, result_type=Answer
    )
    return handle
