"""What is told of a backfill: its batches as spans and metrics, and why it holds back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from opentelemetry.trace import INVALID_SPAN

from pgduet.telemetry import metrics
from pgduet.telemetry.spans import Budget, budgeted, span, worth

REASONS = {
    "paused": "somebody paused it",
    "parallelism": "fewer ranges may be filled at once than were begun",
    "replica_lag": "a standby is further behind than `max_replica_lag_s`",
    "wal_retained": "slots keep more WAL than `max_wal_retained_mb`",
    "slot_at_risk": "a slot is about to be lost to `max_slot_wal_keep_size`",
    "vacuum": "a vacuum of the table is given way to",
    "probe": "a probe of the plan is above its `max`, or failed",
    "window": "the time is outside the window",
    "late": "the server could not be looked at for seconds",
    "row_locks": "clients hold rows of the batch; it is tried again",
    "cut_off": "a batch took longer than it may, and was cut off and made smaller",
    "other": "anything else",
}
OUTCOMES = {
    "written": "committed",
    "row_locks": REASONS["row_locks"],
    "cut_off": REASONS["cut_off"],
    "rewritten": "the table was rewritten (VACUUM FULL); the range begins again",
    "cancelled": "the step was cancelled",
    "failed": "an error",
}
_OUTCOME_BY_ERROR = {
    "LockNotAvailable": "row_locks",
    "DeadlockDetected": "row_locks",
    "QueryCanceled": "cut_off",
    "_Rewritten": "rewritten",
    "_Elsewhere": "rewritten",
    "CancelledError": "cancelled",
}


@dataclass(slots=True)
class Told:
    """What a batch has to tell when it is over."""

    rows: int = 0
    row_locks: bool = False


@contextmanager
def batch(number: int, relation: str, first: int, last: int) -> Iterator[Told]:
    """Record the nth try of a batch in a range; by `worth`, not each of them gets a span."""
    told, began, outcome = Told(), time.monotonic(), "failed"
    traced = worth(number)
    opened = (
        span("backfill batch", relation=relation, first_page=first, pages=last - first)
        if traced
        else nullcontext(INVALID_SPAN)
    )
    with opened as made, budgeted(Budget() if traced else None):
        try:
            yield told
            outcome = "row_locks" if told.row_locks else "written"
        except BaseException as error:
            outcome = _OUTCOME_BY_ERROR.get(type(error).__name__, "failed")
            raise
        finally:
            seconds = time.monotonic() - began
            made.set_attributes({"pgduet.rows": told.rows, "pgduet.ms": 1000 * seconds, "pgduet.outcome": outcome})
            metrics.batched(told.rows, seconds, outcome)
            if outcome in {"row_locks", "cut_off"}:
                metrics.held(outcome)


def held(reason: str, seconds: float, *, again: bool = False) -> None:
    """Record that the backfill holds back, and for how long; `again`: for the same reason as just before."""
    reason = reason if reason in REASONS else "other"
    if not again:
        metrics.held(reason)
    metrics.held_for(reason, seconds)
