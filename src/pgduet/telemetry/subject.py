"""Which migration the running code works for: told once for an activity, read by spans, metrics and log lines."""

from contextvars import ContextVar
from dataclasses import dataclass

from pgduet.messages import workflow_id

_PREFIX = workflow_id("", "").split("/")[0]
MIGRATION, DATABASE, PHASE = "pgduet.migration", "pgduet.database", "pgduet.phase"


@dataclass(slots=True)
class Subject:
    """A migration as telemetry names it; the phase and the trace become known on the way."""

    database: str = ""
    migration: str = ""
    phase: str = ""
    trace_id: str = ""
    span_id: str = ""

    def attributes(self) -> dict[str, str]:
        """Name it on a metric: few values, each of them known to the plan."""
        return {DATABASE: self.database, MIGRATION: self.migration}

    def marks(self) -> dict[str, str]:
        """Name it on a span."""
        found = {DATABASE: self.database, MIGRATION: self.migration, PHASE: self.phase}
        return {key: value for key, value in found.items() if value}


NOBODY = Subject()
_CURRENT: ContextVar[Subject] = ContextVar("pgduet_subject", default=NOBODY)


def current() -> Subject:
    """Give the subject of the running code; an empty one outside of activities."""
    return _CURRENT.get()


def work_for(subject: Subject) -> None:
    """Say for which migration this task works from here to its end."""
    _CURRENT.set(subject)


def in_phase(phase: str) -> None:
    """Say in which phase the migration is, as the database has it."""
    if (subject := _CURRENT.get()) is not NOBODY:
        subject.phase = phase


def of_workflow(workflow: str | None) -> Subject:
    """Read the subject out of a workflow's id, children included: `migration/<database>/<name>…`."""
    parts = (workflow or "").split("/")
    if len(parts) < 3 or parts[0] != _PREFIX:
        return Subject()
    return Subject(database=parts[1], migration=parts[2])


def of_argument(argument: object, workflow: str | None) -> Subject:
    """Read the subject out of an activity's input, or else out of its workflow's id."""
    reference = getattr(argument, "reference", argument)
    database, name = getattr(reference, "database", None), getattr(reference, "name", None)
    if isinstance(database, str):
        return Subject(database=database, migration=name if isinstance(name, str) else "")
    plan = getattr(argument, "plan", None)
    if isinstance(plan, dict):
        return Subject(database=str(plan.get("database", "")), migration=str(plan.get("name", "")))
    return of_workflow(workflow)
