"""How workflows call activities: by name, with heartbeats, retried until they succeed or say that they never will."""

from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

M = TypeVar("M", bound=BaseModel)

HEARTBEAT = timedelta(seconds=5)
FOREVER = timedelta(days=3650)
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))
SUMMARY_BYTES = 200


def read(model: type[M], raw: object) -> M:
    """Validate a workflow's input; what is wrong fails the workflow at once, with the reason, and never loops.

    Raises:
        ApplicationError: of type InvalidInput, not to be retried.
    """
    try:
        return model.model_validate({} if raw is None else raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'input'}: {e['msg']}" for e in error.errors())
        raise ApplicationError(
            f"the input is no {model.__name__}: {problems}", type="InvalidInput", non_retryable=True
        ) from None


async def call(name: str, argument: BaseModel, result: type[M], summary: str) -> M:
    """Run an activity to its end; when cancelled, wait until it has really stopped."""
    done: M = await workflow.execute_activity(
        name,
        argument,
        result_type=result,
        summary=summary.encode()[:SUMMARY_BYTES].decode(errors="ignore"),
        start_to_close_timeout=FOREVER,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    return done
