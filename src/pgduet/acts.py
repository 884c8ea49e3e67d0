"""Acts: what a person may ask of a migration. Signals and updates take the same models.

Every field has a default, so that a signal without an argument is one too.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pgduet.phases import Phase


class Message(BaseModel):
    """A message; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


Actor = Annotated[str, Field(min_length=1, max_length=200)]


class Act(Message):
    """Somebody's decision: who, and why."""

    actor: Actor = "unknown"
    reason: str | None = Field(default=None, max_length=2000)


class Approve(Act):
    """Approve the gate before a phase."""

    gate: Phase


class Abort(Act):
    """Roll back; `force` withdraws the new version although clients still use it."""

    force: bool = False
    cascade: bool = False


class Route(Act):
    """Set the share of reads on the new path, in percent."""

    read_percent: int = Field(ge=0, le=100)


class Throttle(Act):
    """Change the backfill's pace; what is not given stays."""

    batch_target_ms: float | None = Field(default=None, ge=1, le=250)
    pause_ms: float | None = Field(default=None, ge=0, le=60_000)
    max_replica_lag_s: float | None = Field(default=None, gt=0)


class VerifyNow(Act):
    """Run full parity now; `repair` gives drifted rows what the authority says."""

    repair: bool = False
