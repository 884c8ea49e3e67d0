"""From a Temporal failure back to the error that a worker raised: same class, message, place and hint.

Mechanism: the innermost ApplicationError of the cause chain carries the class name as its type and, as its first
detail, `PgduetError.facts()`. Limits: an error that is not ours becomes a PgduetError with its text; one of ours that
came without facts keeps its class and its text, but not its place.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.exceptions import TimeoutError as TimedOut

from pgduet import errors
from pgduet.errors import PgduetError, Place, PlanInvalid
from pgduet.plan.load import PlanErrors


def error_from(failure: BaseException) -> PgduetError:
    """Give the error behind a failure of a workflow, an activity or an update."""
    chain = list(_causes(failure))
    told = [cause for cause in chain if isinstance(cause, ApplicationError)]
    if not told:
        return PgduetError(_plain(chain[-1]))
    innermost = told[-1]
    facts = innermost.details[0] if innermost.details and isinstance(innermost.details[0], Mapping) else {}
    return error_from_facts(facts, kind=innermost.type, text=innermost.message)


def error_from_facts(facts: Mapping[str, Any], *, kind: str | None = None, text: str = "") -> PgduetError:
    """Rebuild an error from `PgduetError.facts()`; `kind` is its class, else its code tells it."""
    parts = facts.get("errors")
    if parts:
        return PlanErrors([_as_plan_error(part) for part in parts])
    message, hint = (facts["message"], facts.get("hint")) if facts.get("message") else _unframed(text)
    place = (
        Place(facts["path"], facts.get("file"), facts.get("line"), facts.get("column")) if facts.get("path") else None
    )
    family = error_class(kind, facts.get("code"))
    return family(message or None, place=place, snippet=facts.get("snippet"), hint=hint)


def error_class(kind: str | None, code: str | None = None) -> type[PgduetError]:
    """Find an error class by its name, else by its code."""
    named = getattr(errors, kind or "", None)
    if isinstance(named, type) and issubclass(named, PgduetError):
        return named
    ours = (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PgduetError))
    return next((each for each in ours if code and each.code == code), PgduetError)


def _as_plan_error(facts: Mapping[str, Any]) -> PlanInvalid:
    error = error_from_facts(facts)
    return error if isinstance(error, PlanInvalid) else PlanInvalid(error.message, place=error.place, hint=error.hint)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = failure
    while current is not None:
        yield current
        current = current.__cause__


def _plain(cause: BaseException) -> str:
    match cause:
        case TimedOut():
            return f"it took longer than it may: {cause.message}"
        case TerminatedError():
            return f"the workflow was terminated from outside: {cause.message}"
        case CancelledError():
            return "the workflow was cancelled"
    return str(cause) or type(cause).__name__


def _unframed(text: str) -> tuple[str, str | None]:
    """Take the code and the indentation off an error that was sent as rendered text; the cure is its last line."""
    head, _, rest = text.partition("\n")
    if not (head.startswith("PD-") and rest):
        return text, None
    *message, last = [line.strip() for line in rest.splitlines()]
    return ("\n  ".join(message), last) if message else (last, None)
