"""Reconciliation: the schedule that compares both versions through the overlap, and what goes to and fro about it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pgduet.acts import Message
from pgduet.measured import Parity
from pgduet.messages import Reference

PREFIX = "reconcile/"
BY_US = "pgduet: "
"""How a schedule's note begins where we paused it: `resume` ends no pause of somebody else's."""

MAKES_SAFE = frozenset({"undo_shift", "undo_cutover"})
"""The undos that give reads and authority back; no comparison may be in their way."""
MOST_BYTES = 64 * 1024

Want = Literal["on", "held", "gone"]
Told = Annotated[str, Field(max_length=2000)]


def _plausible(parity: Parity) -> Parity:
    if parity.checked_at.tzinfo is None or len(parity.model_dump_json()) > MOST_BYTES:
        message = "no comparison of ours looks like that"
        raise ValueError(message)
    return parity


def schedule_id(database: str, name: str) -> str:
    """Give the id of a migration's schedule; the workflows that it starts have it too, with the time behind."""
    return f"{PREFIX}{database}/{name}"


class ReconcileInput(Message):
    """Input of the Reconcile workflow: what to compare, and which workflow is told."""

    reference: Reference
    workflow_id: str


class Tend(ReconcileInput):
    """Bring a migration's schedule into a state: there and at work, there but held, or not there."""

    want: Want
    every_s: float


class Tended(Message):
    """What became of it; `why_not` says why there can be no schedule here."""

    why_not: str | None = None


class MayReconcile(Message):
    """Whether there is something to compare now."""

    why_not: str | None = None


class Reconciled(Message):
    """What a Reconcile workflow found; as a signal it can come from anybody, so that it is news and no evidence."""

    parity: Annotated[Parity, AfterValidator(_plausible)] | None = None
    failing: Told | None = None
    skipped: Told | None = None
    heard: bool = True
    """False where no workflow looks after the migration."""


class LastComparison(Message):
    """The comparison that the database keeps."""

    parity: Parity | None = None


def seconds_between(every_s: float) -> int:
    """Round what a plan says to what a schedule can do: whole seconds, at least one."""
    return max(1, round(every_s))
