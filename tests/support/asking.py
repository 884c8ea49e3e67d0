"""Asking for what should be refused: gives the refusal, or None where nobody refuses, for a scenario to judge."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import psycopg

from pgduet.client import Migrations
from pgduet.errors import PgduetError
from pgduet.plan.load import parse_plan
from support.harness import Harness

Connection = psycopg.AsyncConnection[Any]


async def one(conn: Connection, query: str, values: Sequence[Any] | None = None) -> Any:
    """Ask for one value."""
    row = await (await conn.execute(query.encode(), values)).fetchone()
    assert row is not None
    return row[0]


async def blocked(conn: Connection, pid: int) -> None:
    """Wait until a session waits for a lock."""
    async with asyncio.timeout(10):
        while not await one(conn, "SELECT cardinality(pg_blocking_pids(%s))", (pid,)):
            await asyncio.sleep(0.01)


async def refusal(doing: Awaitable[object]) -> PgduetError | None:
    """Do something of ours."""
    try:
        await doing
    except PgduetError as error:
        return error
    return None


async def client_error(conn: Connection, query: str, values: Sequence[Any] | None = None) -> psycopg.Error | None:
    """Run a client's statement."""
    try:
        await conn.execute(query.encode(), values)
    except psycopg.Error as error:
        return error
    return None


async def refused_by_check_and_start(stage: Harness, wanted: dict[str, Any]) -> PgduetError | None:
    """Have a plan checked and started: both refuse it and say the same, or neither does."""
    plan, migrations = parse_plan(wanted), Migrations(stage.client, task_queue=stage.queue)
    checked = await refusal(migrations.check(plan))
    started = await refusal(_begun(stage, migrations, wanted))
    assert str(started) == str(checked), f"check says {checked}, start says {started}"
    return checked


async def _begun(stage: Harness, migrations: Migrations, wanted: dict[str, Any]) -> None:
    plan = parse_plan(wanted)
    begun = await migrations.start(plan, actor="tester")
    stage.handles.append(stage.client.get_workflow_handle(begun.workflow_id))
    await migrations.begun(plan.name, plan.database)
