"""A worker that is new to a migration and is asked about it first: what it makes of an act must be what a replay makes of it."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
from support.harness import POLL_S, Harness
from support.mutants import Code, must_fail
from support.plans import create_reviews
from temporalio.api.enums.v1 import EventType
from temporalio.workflow import NondeterminismError

from pgduet import cold, runtime
from pgduet.phases import Phase

Connection = psycopg.AsyncConnection[Any]
SOON: dict[str, Any] = {"shift": {"bake_s": 0}, "soak": {"window_s": 3600, "legacy_idle_s": 6.0}}
"""A soak in which a timer fires some seconds after a worker has gone.

Who watches is sent to the next worker when the killed one has been waited for, and so is the workflow task, as much later as the
timer fired: what is done in between is the race. It must fire while the killed one is waited for, which `WAITED_FOR` does longer.
"""
STUCK = "no worker can replay it"
WAITED_FOR = Path(__file__).parents[1] / "support" / "waited_for_worker.py"


async def watched_while_a_worker_is_killed(stage: Harness, conn: Connection) -> None:
    """Have somebody watch while a worker is killed and a timer fires; then act at the next worker."""
    await create_reviews(conn, 10)
    with stage.worker_process(program=WAITED_FOR):
        await stage.start(stage.plan(**SOON))
        await stage.waits("window", Phase.SOAK, 60)
        next_one = runtime.worker(stage.client, queue=stage.queue)
    watched = asyncio.create_task(stage.status())  # no workflow task is due, so a worker is asked outside of one
    async with asyncio.timeout(30):
        while (await events(stage))[-1].event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED:
            await asyncio.sleep(POLL_S)
    async with next_one:
        await watched
        await stage.act("pause")
        try:
            await runtime.replayer().replay_workflow(await stage.handle.fetch_history())
        except NondeterminismError as error:
            raise AssertionError(f"{STUCK}: {error}") from error
        await stage.handle.terminate("the test is over")


async def events(stage: Harness) -> Any:
    return (await stage.handle.fetch_history()).events


async def test_who_watches_while_a_worker_is_killed_does_not_have_a_migration_stuck(
    stage: Harness, conn: Connection
) -> None:
    await watched_while_a_worker_is_killed(stage, conn)


async def test_without_the_order_of_a_replay_it_would_be(stage: Harness, conn: Connection) -> None:
    mutant = Code("no event before its workflow task", cold._Ordered.activate, "if self.early:", "if False:")
    await must_fail(watched_while_a_worker_is_killed(stage, conn), mutant, says=STUCK)
