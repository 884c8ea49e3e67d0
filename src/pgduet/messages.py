"""What goes over the wire: one input and one result for each workflow, activity, signal, update and query.

All of it is JSON by pydantic and none of it holds a DSN, a password or a row's values beyond the keys of rows that a person
must look at. Fields may be added; a field that stored histories know is never renamed or removed.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from pgduet.acts import Abort, Act, Actor, Advance, Approve, Message, Reason, Route, Throttle, VerifyNow
from pgduet.measured import (
    Backfill,
    CensusResult,
    Client,
    Parity,
    Reconciliation,
    ShadowResult,
    Throttled,
    Timing,
    Traffic,
    WaitingFor,
)
from pgduet.phases import Authority, Phase, State

__all__ = [  # acts, and what is measured, are messages too
    "Abort",
    "Act",
    "Advance",
    "Approve",
    "Backfill",
    "CensusResult",
    "Client",
    "Message",
    "Parity",
    "Reconciliation",
    "Route",
    "ShadowResult",
    "Throttle",
    "Throttled",
    "Timing",
    "Traffic",
    "VerifyNow",
    "WaitingFor",
]

TASK_QUEUE = "pgduet"
SEARCH_ATTRIBUTES: dict[str, Literal["keyword", "int"]] = {
    "PgduetDatabase": "keyword",
    "PgduetPhase": "keyword",
    "PgduetState": "keyword",
    "PgduetReadPercent": "int",
}


def workflow_id(database: str, name: str) -> str:
    """Give the id under which a migration's workflow runs."""
    return f"migration/{database}/{name}"


class Answer(Message):
    """What became of an update."""

    accepted: bool = True
    message: str
    phase: Phase
    next_commands: list[str] = []


# Status


class Status(Message):
    """Everything that `pgduet status NAME --json` tells."""

    name: str
    database: str
    workflow_id: str
    phase: Phase
    state: State
    waiting_for: WaitingFor | None = None
    authority: Authority = Authority.OLD
    read_percent: int = 0
    census: list[Client] = []
    backfill: Backfill = Backfill()
    parity: Parity | None = None
    comparison: Throttled | None = None  # what holds the comparison that is under way, or slows it down
    drift: str | None = None  # what the last comparison found beyond what the plan bears
    reconciliation: Reconciliation | None = None
    shadow: ShadowResult | None = None
    traffic: Traffic | None = None
    window_ends_at: datetime | None = None
    plan_checksum: str = ""
    audit_head: str | None = None
    from_version: str = ""
    to_version: str = ""
    safe: bool = True  # false only while a rollback has begun and the old version is not yet back in charge
    no_way_back: str | None = None
    """Why it can only go on although its own contract has not begun: a later migration builds on it and is past its own."""
    timings: list[Timing] = []
    approvals: dict[str, list[str]] = {}
    decisions: list[str] = []
    archived: int = 0
    restored: int = 0
    failure: str | None = None
    rollback: str | None = None  # who rolls it back, and why


# Activities


class Reference(Message):
    """Which migration an activity works for, and in whose name."""

    database: str
    name: str
    migration_id: int
    actor: str = "pgduet"
    reason: str | None = None


class Start(Message):
    """Input of the Migration workflow; `force` and `cascade` are those of an abort, with mode `rollback`."""

    plan: dict[str, Any]
    actor: Actor = "unknown"
    reason: Reason | None = None
    mode: Literal["forward", "rollback"] = "forward"
    force: bool = False
    cascade: bool = False
    carried: "Carried | None" = None
    """State of the run before, where the workflow continued as new."""


class OpenRequest(Message):
    """Input of preflight."""

    plan: dict[str, Any]
    actor: str
    reason: str | None = None
    workflow_id: str


class Opened(Message):
    """A migration that passed preflight, or one that was found done."""

    migration_id: int
    attempt: int
    checksum: str
    phase: Phase
    search_attributes: bool
    rows_estimate: int = 0
    hazards: list[str] = []
    compensations: list[str] = []
    """What an earlier workflow of this run had done and not undone."""
    authority: Authority = Authority.OLD
    read_percent: int = 0
    rolling_back: bool = False
    going_back: Abort | None = None
    """Who decided to roll back, and how, where the rollback was under way."""
    plan: dict[str, Any] | None = None
    """Where the migration was found, the plan as it was started: its policy goes on to hold."""
    no_return: bool = False  # contract has begun: the only way is on
    paused: bool = False  # somebody had paused it, and nobody has resumed it
    audit_head: str | None = None


class Outcome(Message):
    """What a step did: evidence for the audit log, the report and the Temporal UI."""

    summary: str
    evidence: dict[str, Any] = {}
    audit_head: str | None = None


class LockWait(Message):
    """Heartbeat of an activity that waits for a table lock, or for another kind of thing that takes its time."""

    waits_for_lock: str
    since: datetime
    kind: str = "lock"
    ending: list[str] = []  # statements with which a person ends those who hold it


class Record(Message):
    """Write where the migration stands, and the decision that brought it there, in one transaction."""

    reference: Reference
    phase: Phase
    state: State
    compensations: list[str]
    action: str | None = None
    """What the audit log calls it; nothing where the step itself is in the log."""
    approvals: dict[str, list[str]] = {}
    left_at: datetime | None = None
    """When the work of the phase before ended; what follows was a wait at the gate."""


class Note(Message):
    """A person's act that needs nothing but an entry in the audit log."""

    reference: Reference
    action: str
    evidence: dict[str, Any] = {}


class Part(Message):
    """A share of a table's heap pages for one Backfill child."""

    relation: str
    part: int
    block_from: int
    block_to: int

    @property
    def label(self) -> str:
        """Name it in the controls."""
        return f"{self.relation}/{self.part}"


class PartList(Message):
    """How a backfill is shared out."""

    parts: list[Part]
    parallelism: int = 64
    """How many of them may be filled at the same time: as an operator said, or the plan."""
    limits: dict[str, Any] = {}
    """What an operator has set over the plan's pace."""


class BackfillInput(Message):
    """Input of the Backfill workflow and of each of its slices."""

    reference: Reference
    part: Part
    slice_s: float = 20.0
    parent_id: str | None = None
    paused: bool = False
    report_percent: float = 10.0
    """How far the range moves between two reports to the parent."""
    held_since: datetime | None = None
    """Since when the slices before have been held back, but for moments: no hold is without end."""
    closed_since: datetime | None = None
    """Since when the window has been closed."""


class SliceResult(Message):
    """Where a slice stopped; `rows` counts this slice's work only."""

    cursor_block: int
    finished: bool
    paused: bool = False
    rows: int = 0
    rows_total: int = 0
    batches: int = 0
    blocks_done: int = 0
    percent: float = 0.0
    throttled_by: str | None = None
    throttle: Throttled | None = None
    held_since: datetime | None = None
    unmeasured: str | None = None

    @property
    def closed_until(self) -> datetime | None:
        """Tell when the window opens that stopped the slice."""
        return self.throttle.until if self.throttle and self.throttle.kind == "window" else None


Count = Annotated[int, Field(ge=0, le=2**53)]


class BackfillReport(Message):
    """What a Backfill child tells its parent after every slice; as a signal it can come from anybody."""

    relation: str
    part: int
    blocks: Count
    blocks_done: Count
    rows: Count
    batches: Count
    throttled_by: Annotated[str, Field(max_length=300)] | None = None
    throttle: Throttled | None = None


class ParityRequest(Message):
    """Compare all rows by what is in force; `repair` follows the authority, `scheduled` takes one that is under way for its own.

    A pause that who asked knew of (`although_paused`) does not hold it.
    """

    reference: Reference
    repair: bool = False
    scheduled: bool = False
    although_paused: bool = False


class RouteRequest(Message):
    """Change the route: reads, authority, or whether the new version may be used at all."""

    reference: Reference
    read_percent: int | None = None
    authority: Authority | None = None


class ShadowRequest(Message):
    """Compare and time reads of sampled keys."""

    reference: Reference
    samples: int


class TrafficRequest(Message):
    """Measure traffic; against an earlier measurement where a bake has ended, which is recorded."""

    reference: Reference
    since: Traffic | None = None
    settled: bool = False  # first let routers tell what they did before the last change of the route


class CensusRequest(Message):
    """Take the census; `idle_s` is how long a client is remembered after it was last seen, `leaving` what is about to go."""

    reference: Reference
    idle_s: float
    leaving: Literal["old", "new"] | None = None


class ControlsRequest(Message):
    """Pace and pause, read by running slices."""

    reference: Reference
    controls: dict[str, Any]
    reset: list[str] = []  # controls that are taken away before


class SetupInput(Message):
    """Input of the Setup workflow."""

    database: str
    print_sql: bool = False
    actor: Actor = "unknown"


class SetupResult(Message):
    """What setup found and did."""

    database: str
    done: list[str] = []
    sql: str | None = None


class CheckInput(Message):
    """Input of the Check workflow: the live part of `pgduet check`."""

    plan: dict[str, Any]


class CheckResult(Message):
    """What the catalogue says about a plan."""

    checksum: str
    hazards: list[dict[str, Any]] = []
    estimate: dict[str, Any] = {}
    standing: str | None = None  # where the migration of this plan stands, if there is one: a start joins it


class Carried(Message):
    """The state that a workflow hands to itself when it continues as new."""

    opened: Opened
    status: Status
    phase: Phase
    compensations: list[str]
    abort: Abort | None = None
    cancelled: bool = False
    paused: bool = False
    cancel_waits: bool = False
    no_return: bool = False
    before_pause: WaitingFor | None = None
    soak_started_at: datetime | None = None
    next_parity_at: datetime | None = None
    passed_parity_at: datetime | None = None  # the comparison past whose drift somebody has advanced
    at_gate: bool = False  # it stands before `phase`, at its gate
    held: WaitingFor | None = None  # what it was waiting for a person to decide in `phase`; the fresh run waits on
    advanced: Advance | None = None  # the decision that came while it was handing over


Start.model_rebuild()
