"""What a report rests on: measurements and recorded decisions, as a worker reads them from the database and Temporal tells them.

Nothing here is estimated but `Attempt.estimate`, which is what was expected at the start. No field holds a row's values; keys
of rows that differ are those of the audit log. Lists that grow with a migration's life are cut, and say how long they were.
"""

from datetime import datetime
from typing import Any

from pgduet.acts import Message
from pgduet.measured import Aggregated
from pgduet.messages import Status
from pgduet.phases import Authority, Phase


class ReportInput(Message):
    """Input of the Report workflow: which migration, in which database."""

    database: str
    name: str


class Decision(Message):
    """What somebody decided: who, when, why."""

    at: datetime
    actor: str
    what: str
    reason: str | None = None


class PhaseTime(Message):
    """How long a phase's work took, and how long its gate was waited for; seconds."""

    phase: Phase
    entered_at: datetime
    waited_s: float | None = None
    """Between the end of the phase before and this one's beginning."""
    left_at: datetime | None = None
    worked_s: float | None = None


class TableLock(Message):
    """A transaction that locked tables: which, how strongly, after how many tries; milliseconds."""

    at: datetime
    step: str
    locks: dict[str, str]
    tries: int
    waited_ms: float
    """Until all locks were held, the pauses between tries included: clients have the table then."""
    held_ms: float | None = None
    """From then on until the commit was answered; None where the locks were not had. A client waits for at most one try's
    lock_timeout, while the try queues, and this."""


class Filled(Message):
    """What the backfill did."""

    rows: int
    batches: int
    pages_done: int
    pages: int
    began_at: datetime | None = None
    ended_at: datetime | None = None
    held_s: dict[str, float] = {}
    """Seconds for which it held back, by reason, summed over parallel ranges."""
    server_wal_mb: float | None = None
    """What the whole server wrote meanwhile, clients included."""
    pages_after: int | None = None


class Comparison(Message):
    """A full comparison of both representations."""

    at: datetime
    actor: str
    rows: int
    mismatches: int
    violations: int
    repaired: int
    examples: list[dict[str, Any]] = []
    aggregates: list[Aggregated] = []

    @property
    def off(self) -> list[Aggregated]:
        """Give the declared aggregates that differed."""
        return [each for each in self.aggregates if each.differing]


class Sampled(Message):
    """Reads of sampled keys through both versions; medians in milliseconds."""

    at: datetime
    comparable: bool = True
    samples: int = 0
    mismatches: int = 0
    old_ms: float | None = None
    new_ms: float | None = None


class Baked(Message):
    """What a step of the shift showed while it baked."""

    at: datetime
    read_percent: int
    routers: int
    reads_old: int
    reads_new: int
    errors_old: int
    errors_new: int
    old_ms: float | None = None
    new_ms: float | None = None


class Routed(Message):
    """A change of the route."""

    at: datetime
    actor: str
    step: str
    read_percent: int
    authority: Authority


class Probe(Message):
    """A row sent through the sync and rolled back, by table."""

    at: datetime
    step: str
    seen: dict[str, str]


class Turn(Message):
    """A rollback: who asked for it and why, when the old version was in charge again, when the new one was gone."""

    at: datetime
    actor: str
    reason: str | None = None
    phase: Phase | None = None
    safe_s: float | None = None
    withdrawn_s: float | None = None


class Drift(Message):
    """Rows that needed a person's eye, counted by kind."""

    relation: str
    kind: str
    rows: int
    open: int
    first_at: datetime
    last_at: datetime


class Kept(Message):
    """Values that the archive holds, counted; `side` is the representation that alone had them."""

    attempt: int
    relation: str
    side: str
    saved: int
    restored: int


class KeptTable(Message):
    """A whole table in the archive."""

    attempt: int
    name: str
    of: str
    bytes: int


class Attempt(Message):
    """One run of the plan, from its start to its end."""

    number: int
    checksum: str
    from_version: str
    to_version: str
    phase: Phase
    state: str
    authority: Authority
    started_at: datetime
    ended_at: datetime | None = None
    actor: str = "unknown"
    reason: str | None = None
    description: str = ""
    owners: dict[str, str] = {}
    operations: list[str] = []
    risks: list[dict[str, str]] = []
    milestones: dict[str, str] = {}
    """Due date (ISO) by name."""
    lock_timeout_ms: int = 50
    window_s: float = 0.0
    unmappable: str = "refuse"
    hazards: list[str] = []
    estimate: dict[str, Any] = {}
    decisions: list[Decision] = []
    phases: list[PhaseTime] = []
    locks: list[TableLock] = []
    locks_total: int = 0
    filled: Filled | None = None
    comparisons: list[Comparison] = []
    comparisons_total: int = 0
    probes: list[Probe] = []
    sampled: list[Sampled] = []
    baked: list[Baked] = []
    routed: list[Routed] = []
    routed_total: int = 0
    turn: Turn | None = None
    archived: int = 0
    """Values of the new version (and rows of tables that it brought) that the rollback saved."""
    restored: int = 0
    """Values of earlier attempts that publication brought back."""
    contracted: int = 0
    """Old values that contract saved, since `down` does not give them back."""
    dropped: list[str] = []
    drift: list[Drift] = []

    @property
    def ended(self) -> bool:
        """Tell whether it is over."""
        return self.ended_at is not None


class SeenClient(Message):
    """Who used which version, as routers reported and the census saw; counters are a router's own, since it began."""

    kind: str
    who: str
    side: str
    version: str
    via: str
    sessions: int
    reads_old: int
    reads_new: int
    errors_old: int
    errors_new: int
    first_at: datetime
    last_at: datetime


class TableNow(Message):
    """How a table is when the report is made; rows are the statistics' own figures."""

    label: str
    bytes: int
    live: int
    dead: int
    vacuumed_at: datetime | None = None
    analysed_at: datetime | None = None
    invalid_indexes: list[str] = []
    not_validated: list[str] = []
    without_statistics: list[str] = []
    leftovers: list[str] = []
    """Columns and triggers of ours that are on it."""


class ReportFacts(Message):
    """All that a database knows about the migrations of one name."""

    name: str
    database: str
    read_at: datetime
    postgres: str = ""
    attempts: list[Attempt] = []
    """The oldest first."""
    attempts_total: int = 0
    kept: list[Kept] = []
    kept_tables: list[KeptTable] = []
    clients: list[SeenClient] = []
    tables: list[TableNow] = []
    schemas: list[str] = []
    """Version schemas that are there now."""
    builds_on_it: list[str] = []
    """Later migrations that have not ended."""
    audit_entries: int = 0
    audit_head: str | None = None


class Report(Message):
    """The facts of a migration: from the database, and from its workflow where Temporal still knows it."""

    facts: ReportFacts
    status: Status | None = None

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.facts.attempts[-1] if self.facts.attempts else None
