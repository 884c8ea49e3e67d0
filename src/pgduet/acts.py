"""Acts: what a person may ask of a migration. Signals and updates take the same models.

Every field has a default, so that a signal without an argument is one too.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from pgduet.phases import Phase
from pgduet.texts import one_line, some_lines
from pgduet.windows import Window, read_window


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


class Advance(Act):
    """Go on; `force` goes past clients that still use the old version, and past nothing else."""

    force: bool = False


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


def _window(given: object) -> object:
    return read_window(given) if isinstance(given, str) else given


class Throttle(Act):
    """Change the backfill's pace; what is not given stays. `reset` first takes everything back to the plan's."""

    batch_target_ms: float | None = Field(default=None, ge=1, le=250)
    pause_ms: float | None = Field(default=None, ge=0, le=600_000)
    max_replica_lag_s: float | None = Field(default=None, gt=0, le=86_400)
    parallelism: int | None = Field(default=None, ge=1, le=64)
    """So many ranges are filled at the same time."""
    max_wal_retained_mb: float | None = Field(default=None, ge=1, le=1_000_000_000)
    max_client_slowdown: float | None = Field(default=None, ge=1.05, le=1_000_000)
    window: Annotated[Window | Literal["none"] | None, BeforeValidator(_window)] = None
    """When it may work, also as the command line has it; `none`: at any time."""
    reset: bool = False

    PACE: ClassVar[tuple[str, ...]] = (
        "batch_target_ms",
        "pause_ms",
        "parallelism",
        "max_replica_lag_s",
        "max_wal_retained_mb",
        "max_client_slowdown",
        "window",
    )

    def limits(self) -> dict[str, Any]:
        """Give what it sets, as it is kept and shown."""
        return self.model_dump(mode="json", exclude={"actor", "reason", "reset"}, exclude_none=True)


class VerifyNow(Act):
    """Run full parity now; `repair` gives drifted rows what the authority says."""

    repair: bool = False
