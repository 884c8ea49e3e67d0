"""How workflows call activities: by name, with heartbeats, retried until they succeed or say that they never will."""

from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.wire import Unreadable, problems

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
        if not isinstance(raw, Unreadable):
            return model.model_validate({} if raw is None else raw)
        wrong = raw.reason
    except ValidationError as error:
        wrong = problems(error, "input")
    raise unfit(f"the input is no {model.__name__}: {wrong}")


def unfit(reason: str) -> ApplicationError:
    """Make the error that ends a workflow whose input makes no sense."""
    return ApplicationError(reason, type="InvalidInput", non_retryable=True)


async def call(name: str, argument: BaseModel, result: type[M], summary: str, *, within_s: float | None = None) -> M:
    """Run an activity to its end, or all its tries for so long; when cancelled, wait until it has really stopped."""
    done: M = await workflow.execute_activity(
        name,
        argument,
        result_type=result,
        summary=summary.encode()[:SUMMARY_BYTES].decode(errors="ignore"),
        start_to_close_timeout=FOREVER,
        schedule_to_close_timeout=timedelta(seconds=within_s) if within_s else None,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    return done


def innermost(error: BaseException) -> str:
    """Give the reason at the bottom of a failure, without Temporal's wrapping."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        return cause.message
    return str(cause)
