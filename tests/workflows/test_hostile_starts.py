"""Whatever a workflow is started with: it fails at once with its reason, or it runs; and it can be asked all the same."""

import asyncio
import json
from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.hostile import EMPTY, MALFORMED, ROTTEN, gathered
from support.plans import STARS, create_reviews
from support.raw import Raw, failed_tasks, payload
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from pgduet.client import Migrations
from pgduet.errors import PgduetError
from pgduet.messages import Abort, Status
from pgduet.phases import State
from pgduet.plan.models import OPERATIONS
from pgduet.workflows.migration import PLAN_BYTES

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 200)


async def ended(handle: WorkflowHandle[Any, Any], what: str) -> None:
    """Wait for a run's end, and raise what it ended with."""
    try:
        async with asyncio.timeout(30):
            await handle.result()
    except TimeoutError:
        history = [event.event_type for event in (await handle.fetch_history()).events]
        pytest.fail(f"{what} does not end: {history}")


def strange_plans(stage: Harness) -> dict[str, dict[str, Any]]:
    good = stage.plan()
    stars = STARS["replace_columns"]
    one = {"add_column": {"table": "public.reviews", "column": {"name": "mood", "type": "text"}}}
    return {
        "10,000 operations": {**good, "operations": [one] * 10_000},
        "501 operations": {**good, "operations": [one] * (OPERATIONS + 1)},
        "500 operations, each of them wrong": {**good, "operations": [{"nothing": {"x": 1}}] * OPERATIONS},
        "an expression of 1 MB": {
            **good,
            "operations": [
                {
                    "replace_columns": {
                        **stars,
                        "columns": [{"name": "stars", "type": "int", "up": "rating::int" + " + 0" * 250_000}],
                    }
                }
            ],
        },
        "an expression of 300 kB": {
            **good,
            "operations": [
                {
                    "replace_columns": {
                        **stars,
                        "columns": [{"name": "stars", "type": "int", "up": "(" * 300_000}],
                    }
                }
            ],
        },
        "a name of 100 kB": {**good, "name": "n" * 100_000},
        "a key of 100 kB": {**good, "k" * 100_000: 1},
        "40,000 unknown keys": {**good, "policy": {f"k{n}": 1 for n in range(40_000)}},
        "an operation of 100 kB": {**good, "operations": [{"o" * 100_000: {}}]},
        "a number beyond all": {**good, "policy": {"lock_timeout_ms": 10**300}},
        "a number beyond JSON": {**good, "policy": {"soak": {"window_s": float("inf")}}},
        "no number": {**good, "policy": {"lock_deadline_s": float("nan")}},
        "NUL": {**good, "description": "a\x00b"},
        "NUL in an operation": {
            **good,
            "operations": [{"add_column": {"table": "public.reviews", "column": {"name": "a\x00", "type": "text"}}}],
        },
        "another database": {**good, "database": "nowhere"},
        "operations that are none": {**good, "operations": {"a": 1}},
    }


def strange_starts(stage: Harness) -> dict[str, list[Payload]]:
    plan = stage.plan()
    carried = {"phase": "soak", "compensations": ["undo_everything"], "opened": {}, "status": {}}
    found = {f"plan: {what}": {"plan": each} for what, each in strange_plans(stage).items()}
    found |= {
        "state from outside": {"plan": plan, "carried": None} | {"carried": forged(stage, carried)},
        "an unknown mode": {"plan": plan, "mode": "sideways"},
        "an actor of two lines": {"plan": plan, "actor": "a\nb"},
        "an actor with NUL": {"plan": plan, "actor": "\x00"},
        "a reason of 10 kB": {"plan": plan, "reason": "x" * 10_000},
    }
    return EMPTY | MALFORMED | {what: [payload(json.dumps(each).encode())] for what, each in found.items()}


def forged(stage: Harness, carried: dict[str, Any]) -> dict[str, Any]:
    """Make what a workflow would hand to itself."""
    opened = {"migration_id": 1, "attempt": 1, "checksum": "x", "phase": "soak", "search_attributes": False}
    status = {
        "name": "review-stars",
        "database": stage.database,
        "workflow_id": "x",
        "phase": "soak",
        "state": "running",
    }
    return {**carried, "opened": opened, "status": status}


async def test_every_malformed_start_fails_at_once_with_its_reason_and_can_be_asked(
    stage: Harness, conn: Connection
) -> None:
    starts = strange_starts(stage)
    async with stage.worker():

        async def one(number: int, what: str, args: list[Payload]) -> None:
            raw = Raw(stage.client, f"migration/{stage.database}/bad-{number}")
            await raw.start("Migration", stage.queue, *args, header=ROTTEN)
            handle = stage.client.get_workflow_handle(raw.execution.workflow_id)
            stage.handles.append(handle)
            with pytest.raises(WorkflowFailureError) as caught:
                await ended(handle, what)
            cause = caught.value.cause
            assert isinstance(cause, ApplicationError), (what, cause)
            assert cause.non_retryable
            assert 10 < len(cause.message) < 25_000, what
            assert await failed_tasks(stage.client, raw.execution.workflow_id) == [], what
            status = await handle.query("status", result_type=Status)
            assert status.state is State.FAILED, what
            assert status.failure == cause.message, what
            assert await handle.query("next_commands") == [f"pgduet status {status.name}"]
            await handle.query("plan")

        await gathered(
            [
                lambda number=number, what=what, args=args: one(number, what, args)
                for number, (what, args) in enumerate(starts.items())
            ],
            at_once=3,
        )
        migrations = Migrations(stage.client, task_queue=stage.queue)
        for number in range(len(EMPTY | MALFORMED)):
            with pytest.raises(PgduetError):
                await migrations.rollback(f"bad-{number}", Abort(actor="tester"), database=stage.database)
    left = await conn.execute("SELECT count(*) FROM pg_class WHERE relname = 'migration' AND relkind = 'r'")
    if (await left.fetchone()) == (1,):
        rows = await conn.execute("SELECT count(*) FROM pgduet.migration")
        assert await rows.fetchone() == (0,), "nothing was opened"


@pytest.mark.parametrize("kind", ["Setup", "Check", "Backfill", "Reconcile"])
async def test_malformed_starts_of_the_other_workflows_fail_at_once(stage: Harness, kind: str) -> None:
    async with stage.worker():

        async def one(number: int, args: list[Payload]) -> None:
            raw = Raw(stage.client, f"bad/{stage.queue}/{kind}/{number}")
            await raw.start(kind, stage.queue, *args)
            handle = stage.client.get_workflow_handle(raw.execution.workflow_id)
            stage.handles.append(handle)
            with pytest.raises(WorkflowFailureError) as caught:
                await ended(handle, f"{kind} {number}")
            assert isinstance(caught.value.cause, ApplicationError)
            assert caught.value.cause.type == "InvalidInput"

        calls = [
            lambda number=number, args=args: one(number, args)
            for number, args in enumerate((EMPTY | MALFORMED).values())
        ]
        await gathered(calls, at_once=3)


async def test_a_plan_of_the_greatest_size_is_checked_within_a_workflow_task(stage: Harness) -> None:
    columns = [
        {
            "add_column": {
                "table": "public.reviews",
                "column": {"name": f"c{n}", "type": "text", "comment": "x" * (PLAN_BYTES // OPERATIONS - 120)},
            }
        }
        for n in range(OPERATIONS)
    ]
    columns[0]["add_column"]["surprise"] = 1
    async with stage.worker():
        await stage.start(stage.plan(*columns))
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert caught.value.cause.type != "InvalidInput", "it was read and checked"
        assert await failed_tasks(stage.client, stage.handle.id) == []
