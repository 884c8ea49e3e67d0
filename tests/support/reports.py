"""Reports made by hand, as a worker and the client would: for the pages, which need no server."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pgduet.messages import Status, WaitingFor
from pgduet.phases import Authority, Phase, State
from pgduet.report import facts

BEGAN = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
NAME = "seats"


def at(seconds: float) -> datetime:
    """Give a time so many seconds after the beginning."""
    return BEGAN + timedelta(seconds=seconds)


def attempt(**changes: Any) -> facts.Attempt:
    """Make an attempt that went to done."""
    made: dict[str, Any] = {
        "number": 1,
        "checksum": "c0ffee",
        "from_version": "1",
        "to_version": "2",
        "phase": Phase.DONE,
        "state": "done",
        "authority": Authority.NEW,
        "started_at": at(0),
        "ended_at": at(200),
        "actor": "ann",
        "operations": ["add_column public.seats: mood text"],
        "decisions": [facts.Decision(at=at(0), actor="ann", what="started", reason="it is time")],
        "phases": [
            facts.PhaseTime(phase=Phase.EXPAND, entered_at=at(1), waited_s=1.0, left_at=at(2), worked_s=1.0),
            facts.PhaseTime(phase=Phase.SOAK, entered_at=at(5), waited_s=3.0, left_at=at(105), worked_s=100.0),
        ],
        "locks": [
            facts.TableLock(
                at=at(1),
                step="expand",
                locks={'"public"."seats"': "ACCESS EXCLUSIVE"},
                tries=3,
                waited_ms=640.0,
                held_ms=4.2,
            )
        ],
        "locks_total": 1,
        "filled": facts.Filled(
            rows=1000, batches=4, pages_done=10, pages=10, began_at=at(2), ended_at=at(4), pages_after=20
        ),
        "estimate": {"rows": 990, "backfill_s": 0.5, "pages_now": 10},
        "comparisons": [compared(10)],
        "comparisons_total": 1,
    }
    return facts.Attempt(**made | changes)


def compared(seconds: float, **found: Any) -> facts.Comparison:
    """Make a comparison; without more, one that found nothing."""
    told: dict[str, Any] = {"rows": 1000, "mismatches": 0, "violations": 0, "repaired": 0}
    return facts.Comparison(at=at(seconds), actor="ann", **told | found)


def report(*attempts: facts.Attempt, status: Status | None = None, **known: Any) -> facts.Report:
    """Make a report of these attempts, or of one that is done."""
    shown = list(attempts)
    told: dict[str, Any] = {"name": NAME, "database": "shop", "read_at": at(300), "postgres": "18.4"}
    return facts.Report(
        facts=facts.ReportFacts(attempts=shown, attempts_total=len(shown), **told | known), status=status
    )


def status(phase: Phase, state: State, **more: Any) -> Status:
    """Say where the workflow stands."""
    return Status(name=NAME, database="shop", workflow_id=f"migration/shop/{NAME}", phase=phase, state=state, **more)


def waits(kind: str, detail: str, *commands: str) -> WaitingFor:
    """Say what it waits for."""
    return WaitingFor(kind=kind, detail=detail, since=at(250), next_commands=list(commands))
