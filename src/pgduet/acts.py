"""Acts: what a person may ask of a migration. Signals and updates take the same models.

Every field has a default, so that a signal without an argument is one too.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from pgduet.phases import Phase
from pgduet.texts import one_line, some_lines


class Message(BaseModel):
    """A message; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


Actor = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(one_line)]
"""Who acts: it goes into the audit log, into log lines and onto screens as it is, so it has to be plain."""
Reason = Annotated[str, StringConstraints(max_length=2000), AfterValidator(some_lines)]
"""Why, in any number of lines."""


class Act(Message):
    """Somebody's decision: who, and why."""

    actor: Actor = "unknown"
    reason: Reason | None = None


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
    max_replica_lag_s: float | None = Field(default=None, gt=0, le=86_400)
    parallelism: int | None = Field(default=None, ge=1, le=64)
    """So many ranges are filled at the same time."""


class VerifyNow(Act):
    """Run full parity now; `repair` gives drifted rows what the authority says."""

    repair: bool = False
