"""Short workflows that a worker runs for the client: start one, wait for its result, give back its error as raised.

Limits: a task that no worker takes up within ten seconds is ended again and told as `WorkerMissing`; one that runs
longer than a quarter of an hour fails.
"""

import asyncio
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy

from pgduet.failures import error_from
from pgduet.observe import WorkerMissing

_PICK_UP_S = 10.0
_LIMIT = timedelta(minutes=15)

Result = TypeVar("Result", bound=BaseModel)


async def run_task(
    client: Client, given: BaseModel, result: type[Result], *, kind: str, workflow: str, task_queue: str
) -> Result:
    """Run a workflow by its name, or join the one of this id, and give its result."""
    handle = await client.start_workflow(
        kind,
        given,
        id=workflow,
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        execution_timeout=_LIMIT,
        result_type=result,
    )
    answer = asyncio.ensure_future(handle.result())
    await asyncio.wait({answer}, timeout=_PICK_UP_S)
    # Two events, started and task scheduled, mean that nobody has taken it up.
    if not answer.done() and (await handle.describe()).history_length <= 2:
        answer.cancel()
        await handle.terminate("no worker took it up")
        raise WorkerMissing(task_queue)
    try:
        return result.model_validate(await answer)
    except WorkflowFailureError as failed:
        raise error_from(failed) from None
