"""A plan's policy: how careful, how fast, and who must agree. Every key is optional.

`gates` and `approvals` lay what is given over the defaults, so that opening one gate does not open another. What this
version cannot do yet is refused when asked for, never ignored.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pgduet.phases import GATED, Phase
from pgduet.plan.aggregates import Aggregates
from pgduet.plan.names import later, one_of
from pgduet.plan.probes import Probes
from pgduet.plan.problems import Problem, did_you_mean, refuse
from pgduet.windows import Window

DAY_S = 86_400
_GATED = [phase.value for phase in GATED]

Gate = Literal["manual", "auto"]
DEFAULT_GATES: dict[Phase, Gate] = {Phase.CUTOVER: "manual", Phase.CONTRACT: "manual"}
DEFAULT_APPROVALS: dict[Phase, int] = {Phase.CUTOVER: 1, Phase.CONTRACT: 2}


class Part(BaseModel):
    """A part of a plan: it never changes, and knows every key it may have."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _whole(least: int, most: int) -> Any:
    return Field(strict=True, ge=least, le=most)


def _number(least: float, most: float) -> Any:
    return Field(strict=True, ge=least, le=most)


Seconds = Annotated[float, _number(0, 3650 * DAY_S)]
Ratio = Annotated[float, _number(0, 1)]


def _gated(value: object) -> object:
    if isinstance(value, str) and value not in _GATED:
        refuse(Problem(f"`{value}` has no gate: expected {one_of(_GATED)}{did_you_mean(value, _GATED)}", on_key=True))
    return value


GatedPhase = Annotated[Phase, BeforeValidator(_gated), WithJsonSchema({"enum": _GATED})]


def _over(defaults: Mapping[Phase, object]) -> BeforeValidator:
    """Lay what is given over the defaults."""
    return BeforeValidator(lambda given: {**defaults, **given} if isinstance(given, dict) else given)


def _not_yet(what: str) -> BeforeValidator:
    """Refuse anything but the empty default."""

    def check(given: object) -> object:
        if given not in (None, [], ()):
            refuse(later(what, instead="Delete the key."))
        return given

    return BeforeValidator(check)


NOTHING = WithJsonSchema({"type": "array", "maxItems": 0})


class Backfill(Part):
    """How existing rows are filled: batch size follows `batch_target_ms`, pace follows what the server can bear."""

    batch_target_ms: Annotated[int, _whole(1, 250)] = 25
    pause_ms: Annotated[int, _whole(0, 600_000)] = 2
    parallelism: Annotated[int, _whole(1, 64)] = 2
    max_replica_lag_s: Seconds = 5.0
    max_wal_retained_mb: Annotated[int, _whole(1, 1_000_000_000)] = 4096
    max_vacuum_wait_s: Seconds = 60.0
    max_client_slowdown: Annotated[float, Field(strict=True, ge=1.05, le=1_000_000)] = 1.25
    max_hold_s: Seconds = 3600.0
    window: Window | None = None
    probes: Probes = ()


class Verify(Part):
    """When parity counts as proved, and for how long."""

    max_drift_rows: Annotated[int, _whole(0, 2**63 - 1)] = 0
    fresh_for_s: Seconds = 86_400.0
    reconcile_every_s: Seconds = 3600.0
    aggregates: Aggregates = ()


def _sample_percent(percent: float) -> float:
    if percent != 10.0:
        refuse(later("`shadow.sample_percent`, which is for shadow reads by routers,", instead="Delete the key."))
    return percent


class Shadow(Part):
    """How reads through both versions are compared. Zero samples never pass, so `min_samples` is at least 1."""

    mode: Literal["engine", "routers", "both", "skip"] = "engine"
    sample_percent: Annotated[float, Field(strict=True, gt=0, le=100), AfterValidator(_sample_percent)] = 10.0
    min_samples: Annotated[int, _whole(1, 1_000_000_000)] = 1000
    max_mismatch_ratio: Ratio = 0.0


def _ascending(steps: tuple[int, ...]) -> tuple[int, ...]:
    if any(following <= step for step, following in pairwise(steps)):
        refuse(Problem(f"expected steps that only rise, got {list(steps)}"))
    if steps[-1] != 100:
        refuse(
            Problem(f"expected a last step of 100, got {steps[-1]}", at=(len(steps) - 1,), hint="Add 100 at the end.")
        )
    return steps


class Shift(Part):
    """The steps, in percent, by which reads move to the new version, and what each must hold while it bakes."""

    steps: Annotated[tuple[Annotated[int, _whole(1, 100)], ...], Field(min_length=1), AfterValidator(_ascending)] = (
        1,
        10,
        50,
        100,
    )
    bake_s: Seconds = 600.0
    max_error_ratio: Ratio = 0.001
    max_latency_ratio: Annotated[float, Field(strict=True, gt=0, le=1000)] = 1.25
    max_latency_ms: Annotated[float, Field(strict=True, gt=0, le=3_600_000)] | None = None
    max_mismatch_ratio: Ratio = 0.0
    min_samples: Annotated[int, _whole(0, 1_000_000_000)] = 100
    on_breach: Literal["stop", "slow_down"] = "stop"


class Cutover(Part):
    """How clients who name a table come to its new shape, where it has one: at contract, or by a change of names at cutover."""

    mode: Literal["route", "swap"] = "route"


class Soak(Part):
    """How long the old version lives on after cutover, and how long nobody may have used it before it goes."""

    window_s: Seconds = 1_209_600.0
    legacy_idle_s: Seconds = 604_800.0
    census_every_s: Seconds = 300.0


class Rollback(Part):
    """On what the migration rolls back by itself."""

    automatic_on: tuple[Literal["drift", "error_ratio", "latency", "mismatch"], ...] = (
        "drift",
        "error_ratio",
        "latency",
    )


class Policy(Part):
    """How one migration is run; `start --policy FILE` overlays it per environment."""

    lock_timeout_ms: Annotated[int, _whole(1, 60_000)] = 50
    lock_deadline_s: Annotated[float, _number(0, 30 * DAY_S)] = 3600.0
    unmappable: Literal["refuse", "archive"] = "refuse"
    user_triggers: Literal["suppress", "fire"] = "suppress"
    backfill: Backfill = Backfill()
    verify: Verify = Verify()
    shadow: Shadow = Shadow()
    shift: Shift = Shift()
    cutover: Cutover = Cutover()
    soak: Soak = Soak()
    gates: Annotated[dict[GatedPhase, Gate], _over(DEFAULT_GATES)] = DEFAULT_GATES
    approvals: Annotated[dict[GatedPhase, Annotated[int, _whole(0, 100)]], _over(DEFAULT_APPROVALS)] = DEFAULT_APPROVALS
    rollback: Rollback = Rollback()
    slo: Annotated[tuple[Any, ...], _not_yet("`slo`"), NOTHING] = ()

    @model_validator(mode="after")
    def _approvals_are_asked(self) -> "Policy":
        """Refuse approvals before a phase whose gate nobody named: they would never be asked for."""
        problems = [
            Problem(
                f"approvals before `{phase.value}` would never be asked for: its gate is auto",
                at=("approvals", phase.value),
                hint=f"Add `{phase.value}: manual` to `gates`.",
            )
            for phase, needed in self.approvals.items()
            if needed and phase not in self.gates
        ]
        if problems:
            refuse(*problems)
        return self

    def gate(self, phase: Phase) -> Gate:
        """Tell whether a person must open the phase."""
        return self.gates.get(phase, "auto")

    def approvals_needed(self, phase: Phase) -> int:
        """Count the distinct actors who must approve before the phase; 0 where its gate is auto."""
        return self.approvals.get(phase, 0) if self.gate(phase) == "manual" else 0
