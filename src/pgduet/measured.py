"""What a migration measures, as its status tells it: who uses which version, how both compare, where it is; all messages."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from pgduet.acts import Message
from pgduet.phases import Phase
from pgduet.sketch import Sketch


class Client(Message):
    """Somebody who uses a version (census)."""

    who: str
    version: str
    side: Literal["old", "new"]
    via: str
    last_seen: datetime
    sessions: int = 1


class CensusResult(Message):
    """Who uses which version, and whether the side in question is empty."""

    clients: list[Client] = []
    new_left: list[str] = []  # who still uses, or may still use, the new version
    old_left: list[str] = []
    old_count: int = 0  # how many they are; at most 200 are named
    lingering: list[str] = []  # those of `old_left` that count because their session is still there
    hidden: int = 0  # sessions whose last statement the worker's role may not see
    set_to: list[str] = []  # roles whose search_path leads to the version that goes, there or not
    no_way_back: str | None = None  # which later migration has taken the way back away
    changed: list[str] = []  # what somebody has changed since preflight, and contract would lose


class Aggregated(Message):
    """A declared aggregate in the last full comparison."""

    name: str
    relation: str
    measure: str
    differing: int = 0
    """In how many groups both versions differ."""
    groups: list[list[Any]] = []
    """Those groups, by what they are grouped by; at most 20. What each side has stays in the database (`pgduet.drift`)."""

    @property
    def told(self) -> str:
        """Say that it differs, and in which groups."""
        if not any(self.groups):
            return f"aggregate {self.name} ({self.measure}, {self.relation}) differs"
        named = ", ".join(" / ".join("NULL" if v is None else str(v) for v in group) for group in self.groups[:5])
        more = f" and {self.differing - 5} more" if self.differing > 5 else ""
        return (
            f"aggregate {self.name} ({self.measure}, {self.relation}) differs in {self.differing} groups: {named}{more}"
        )


class Parity(Message):
    """The last full comparison of both representations."""

    checked_at: datetime
    rows: int
    mismatches: int
    violations: int = 0
    repaired: int = 0
    fresh: bool = True
    examples: list[dict[str, Any]] = []
    """Keys of rows that differ, with the kind and PostgreSQL's reason; at most 20."""
    aggregates: list[Aggregated] = []
    """Every declared aggregate, also those that came out the same."""

    @property
    def off(self) -> list[Aggregated]:
        """Give the declared aggregates that differ."""
        return [each for each in self.aggregates if each.differing]


class ShadowResult(Message):
    """Reads through both versions, compared and timed; latencies are medians in milliseconds."""

    comparable: bool = True
    """False where no table is in both versions and changed."""
    samples: int = 0
    mismatches: int = 0
    old_ms: float | None = None
    new_ms: float | None = None
    examples: list[dict[str, Any]] = []


class Traffic(Message):
    """What routers reported since a step began, and the engine's own probe of both versions."""

    routers: int = 0
    reads_old: int = 0
    reads_new: int = 0
    errors_old: int = 0
    errors_new: int = 0
    old_ms: float | None = None
    new_ms: float | None = None
    routers_new: int = 0
    """Routers that are there and may send reads to the new version."""
    seconds_old: float = 0.0
    seconds_new: float = 0.0
    """What the reads took, all together."""
    compared: int = 0
    """Reads that routers made through both versions."""
    mismatches: int = 0
    calibrated: int = 0
    """Reads that routers made twice through the old version, to know what differs by itself."""
    noise: int = 0
    failed: int = 0
    """Reads of the new version that nobody waited for, and that raised."""
    latency_old: dict[str, int] = {}
    latency_new: dict[str, int] = {}
    """Sketches of what the reads took that a caller waited for, and that answered: see `pgduet.sketch`."""
    p50_old_ms: float | None = None
    p50_new_ms: float | None = None
    p99_old_ms: float | None = None
    p99_new_ms: float | None = None
    """What is told of the sketches."""
    examples: list[dict[str, Any]] = []
    """The newest mismatches, without values: whose, which read, of which key (as the service shows it: hashed), and where."""

    def since(self, before: "Traffic") -> "Traffic":
        """Give what came after an earlier measurement: counters and sketches grow, the engine's own latencies are as they are."""
        reads = ("reads_old", "reads_new", "errors_old", "errors_new", "seconds_old", "seconds_new")
        counters = (*reads, "compared", "mismatches", "calibrated", "noise", "failed")
        grown = {name: max(0, getattr(self, name) - getattr(before, name)) for name in counters}
        old = self.sketch_old.since(before.sketch_old).written()
        new = self.sketch_new.since(before.sketch_new).written()
        return self.model_copy(update={**grown, "latency_old": old, "latency_new": new})

    @property
    def sketch_old(self) -> Sketch:
        """Latencies of the old version."""
        return Sketch.read(self.latency_old)

    @property
    def sketch_new(self) -> Sketch:
        """Latencies of the new version."""
        return Sketch.read(self.latency_new)

    def told(self) -> "Traffic":
        """Give the same for people: quantiles in place of sketches, and examples only beside mismatches."""
        changes: dict[str, Any] = {"latency_old": {}, "latency_new": {}}
        changes |= {} if self.mismatches else {"examples": []}
        for side, sketch in (("old", self.sketch_old), ("new", self.sketch_new)):
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                seconds = sketch.quantile(share)
                changes[f"{name}_{side}_ms"] = None if seconds is None else round(1000 * seconds, 3)
        return self.model_copy(update=changes)


class Throttled(Message):
    """What holds a backfill back, or slows it down."""

    kind: Annotated[str, Field(max_length=60)]
    reason: Annotated[str, Field(max_length=300)]
    """In words, with the figure that was measured and its limit."""
    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of its full rate at which it works; 0 while it holds."""
    since: datetime | None = None
    until: datetime | None = None
    """When it goes on: at the latest, or as the window says; None where nobody can tell."""


class Backfill(Message):
    """How far the backfill is; `percent` counts pages, rows are what has been written."""

    rows_done: int = 0
    rows_total: int = 0
    """Estimated by the catalogue until the backfill ends."""
    percent: float = 0.0
    rows_per_second: float = 0.0
    eta_s: float | None = None
    throttled_by: str | None = None
    throttle: Throttled | None = None
    """The same with its figures, where it is more than a batch that is tried again."""
    holds: bool = False
    """No range goes on: each of those that are not done is held by something."""
    limits: dict[str, Any] = {}
    """What an operator has set over the plan's pace."""
    unmeasured: str | None = None
    """What the pace does not follow, because the worker's role may not see it."""
    batches: int = 0
    seconds: float = 0.0
    parallelism: int = 0
    """How many ranges may be filled at the same time; 0 until the backfill begins."""


class WaitingFor(Message):
    """What a migration waits for, since when, and which command moves it on."""

    kind: str
    detail: str
    since: datetime
    next_commands: list[str]


class Timing(Message):
    """When a phase began and ended."""

    phase: Phase
    started_at: datetime
    ended_at: datetime | None = None


class Reconciliation(Message):
    """The schedule that compares both versions while both live; the times are Temporal's, told by `pgduet status` only."""

    every_s: float
    schedule_id: str
    why_not: str | None = None
    """Why there is no schedule: then only soak compares, by a timer of its own."""
    held: bool = False
    """Paused with the migration."""
    failing: str | None = None
    """Why the last scheduled comparison came to no result."""
    paused: str | None = None
    """The note of whoever paused the schedule itself, as in the Temporal UI."""
    running: bool = False
    last_at: datetime | None = None
    next_at: datetime | None = None
