"""Where a migration stands: phases, states, authority, and the one table of legal transitions."""

from enum import StrEnum


class Phase(StrEnum):
    """A phase of the journey, in order; `rolled_back` is the other way to end."""

    PREFLIGHT = "preflight"
    EXPAND = "expand"
    DUAL_WRITE = "dual_write"
    BACKFILL = "backfill"
    VERIFY = "verify"
    SHADOW = "shadow"
    SHIFT = "shift"
    CUTOVER = "cutover"
    SOAK = "soak"
    CONTRACT = "contract"
    DONE = "done"
    ROLLED_BACK = "rolled_back"

    @property
    def position(self) -> int:
        """How far along the journey this phase is, counted from 0."""
        return JOURNEY.index(self)

    def reached(self, current: "Phase") -> bool:
        """Tell whether a migration now in `current` has entered this phase."""
        if self is Phase.ROLLED_BACK or current is Phase.ROLLED_BACK:
            return self is current
        return current.position >= self.position


JOURNEY: tuple[Phase, ...] = tuple(Phase)

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    phase: frozenset({JOURNEY[index + 1], Phase.ROLLED_BACK} if phase is not Phase.CONTRACT else {Phase.DONE})
    for index, phase in enumerate(JOURNEY[:-2])
} | {Phase.DONE: frozenset(), Phase.ROLLED_BACK: frozenset()}
"""The phases that may follow each phase. From contract on there is no way back."""

GATED: tuple[Phase, ...] = JOURNEY[1 : JOURNEY.index(Phase.DONE)]
"""Phases before which a plan may ask for a person (`policy.gates`)."""


class State(StrEnum):
    """What a migration is doing in its phase."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    DONE = "done"


class Authority(StrEnum):
    """Which representation wins when both could: repair, parity and routing follow it."""

    OLD = "old"
    NEW = "new"


class SyncMode(StrEnum):
    """Which form the sync triggers of a table have; each belongs to a stretch of the journey."""

    FILL = "fill"
    """dual_write to verify: old to new only, and every row that is touched is filled."""
    BOTH = "both"
    """From publication: both ways; a value that cannot be mapped for an old client is left empty and counted."""
    ENFORCE = "enforce"
    """From cutover: both ways; the new contract binds everyone."""
