"""The metrics of a worker: every instrument in one table, and a function for each thing that happens.

Attributes are the database's logical name, the migration's, and closed sets of words, so that the number of series is bounded
by the migrations that a worker has met. Gauges tell what this worker saw last: with several workers, take the one whose
`pgduet.migration.seen` is newest.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from pgduet.phases import Authority, Phase, SyncMode
from pgduet.telemetry import subject

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
WAITS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
TRIES = (1, 2, 3, 5, 10, 20, 50, 100, 500)
RATE_WINDOW_S = 15


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric, as the reference page lists it."""

    name: str
    kind: Literal["counter", "gauge", "observed", "histogram"]
    unit: str
    text: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus, as the exporter makes it of name and unit."""
        suffix = {"s": "_seconds", "{row}/s": "_per_second"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind == "counter" else "")


INSTRUMENTS = (
    Instrument("pgduet.migration.phase", "gauge", "{phase}", "Position of the phase in the journey, preflight is 0"),
    Instrument("pgduet.migration.seen", "gauge", "s", "When this worker last worked for the migration, Unix time"),
    Instrument("pgduet.migration.authority", "gauge", "1", "1 where the new version has authority, else 0"),
    Instrument("pgduet.sync.mode", "gauge", "{mode}", "Form of the triggers: 0 none, 1 fill, 2 both, 3 enforce"),
    Instrument("pgduet.read.percent", "gauge", "%", "Share of reads that routers send to the new version"),
    Instrument("pgduet.parity.rows", "gauge", "{row}", "Rows that the last full comparison read"),
    Instrument("pgduet.drift.rows", "gauge", "{row}", "Rows that differed in the last full comparison"),
    Instrument(
        "pgduet.drift.groups",
        "gauge",
        "{group}",
        "Groups of declared aggregates that differed in the last full comparison",
    ),
    Instrument("pgduet.drift.limit", "gauge", "{row}", "Rows that may differ, as the plan says"),
    Instrument("pgduet.parity.checked", "gauge", "s", "When the last full comparison began, Unix time"),
    Instrument(
        "pgduet.comparisons",
        "counter",
        "{comparison}",
        "Full comparisons that this worker made: `same`, or `drift` beyond what the plan bears",
        ("outcome",),
    ),
    Instrument("pgduet.backfill.rows", "counter", "{row}", "Rows written by the backfill"),
    Instrument(
        "pgduet.backfill.rate", "observed", "{row}/s", f"Rows written per second, over the last {RATE_WINDOW_S} s"
    ),
    Instrument(
        "pgduet.backfill.batch.duration", "histogram", "s", "Time of a batch, without the pause", ("outcome",), SECONDS
    ),
    Instrument("pgduet.backfill.holds", "counter", "{hold}", "Times that the backfill held back", ("reason",)),
    Instrument("pgduet.backfill.held", "counter", "s", "Time that ranges of the backfill were held back", ("reason",)),
    Instrument("pgduet.lock.waits", "counter", "{try}", "Tries for a table lock that gave way to clients"),
    Instrument("pgduet.lock.wait.duration", "histogram", "s", "From the first try to the lock", (), WAITS),
    Instrument("pgduet.lock.tries", "histogram", "{try}", "Tries that a table lock took", (), TRIES),
    Instrument("pgduet.activity.failures", "counter", "{failure}", "Tries of activities that failed", ("activity",)),
)

_MODES = {None: 0, SyncMode.FILL: 1, SyncMode.BOTH: 2, SyncMode.ENFORCE: 3}
_meter = metrics.get_meter("pgduet")
_counters = {i.name: _meter.create_counter(i.name, i.unit, i.text) for i in INSTRUMENTS if i.kind == "counter"}
_gauges = {i.name: _meter.create_gauge(i.name, i.unit, i.text) for i in INSTRUMENTS if i.kind == "gauge"}
_histograms = {
    i.name: _meter.create_histogram(i.name, i.unit, i.text, explicit_bucket_boundaries_advisory=i.buckets)
    for i in INSTRUMENTS
    if i.kind == "histogram"
}


class Rates:
    """Rows of the last seconds for each migration."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = Lock()  # a reader asks from a thread of its own
        self.written: dict[tuple[str, str], deque[tuple[float, int]]] = {}

    def add(self, about: subject.Subject, rows: int) -> None:
        """Count rows that were written now."""
        with self.lock:
            self.written.setdefault((about.database, about.migration), deque()).append((self.clock(), rows))
            self._forget()

    def observe(self, options: CallbackOptions | None = None) -> Iterable[Observation]:
        """Tell the rates, over the window or since the first row; nothing of a migration whose last row is older."""
        del options
        with self.lock:
            self._forget()
            now, written = self.clock(), {key: list(batches) for key, batches in self.written.items()}
        for (database, migration), batches in written.items():
            rows = sum(rows for _, rows in batches)
            about = subject.Subject(database=database, migration=migration)
            yield Observation(rows / max(1.0, now - batches[0][0]), about.attributes())

    def _forget(self) -> None:
        oldest = self.clock() - RATE_WINDOW_S
        for key, batches in list(self.written.items()):
            while batches and batches[0][0] < oldest:
                batches.popleft()
            if not batches:
                del self.written[key]


RATES = Rates()
for _observed in (i for i in INSTRUMENTS if i.kind == "observed"):
    _meter.create_observable_gauge(_observed.name, [RATES.observe], _observed.unit, _observed.text)


def bears(drift_rows: int) -> None:
    """Record how many rows may differ."""
    _gauges["pgduet.drift.limit"].set(drift_rows, subject.current().attributes())


def stands(phase: Phase, authority: Authority | None = None, mode: SyncMode | None = None) -> None:
    """Record where the migration stands, as its database has it."""
    about = subject.current().attributes()
    _gauges["pgduet.migration.phase"].set(phase.position, about)
    _gauges["pgduet.migration.seen"].set(round(time.time()), about)
    if authority is not None:
        _gauges["pgduet.migration.authority"].set(int(authority is Authority.NEW), about)
        _gauges["pgduet.sync.mode"].set(_MODES[mode], about)


def routed(percent: int) -> None:
    """Record the share of reads on the new version."""
    _gauges["pgduet.read.percent"].set(percent, subject.current().attributes())


def compared(rows: int, mismatches: int, groups: int = 0, *, checked_at: float | None = None) -> None:
    """Record the last full comparison."""
    about = subject.current().attributes()
    _gauges["pgduet.parity.rows"].set(rows, about)
    _gauges["pgduet.drift.rows"].set(mismatches, about)
    _gauges["pgduet.drift.groups"].set(groups, about)
    if checked_at is not None:
        _gauges["pgduet.parity.checked"].set(round(checked_at), about)


def comparison(*, drifted: bool) -> None:
    """Count a full comparison."""
    outcome = "drift" if drifted else "same"
    _counters["pgduet.comparisons"].add(1, subject.current().attributes() | {"outcome": outcome})


def batched(rows: int, seconds: float, outcome: str) -> None:
    """Record a batch of the backfill."""
    about = subject.current()
    _histograms["pgduet.backfill.batch.duration"].record(seconds, about.attributes() | {"outcome": outcome})
    if rows:
        _counters["pgduet.backfill.rows"].add(rows, about.attributes())
        RATES.add(about, rows)


def held(reason: str) -> None:
    """Record that the backfill held back, by one of a few reasons."""
    _counters["pgduet.backfill.holds"].add(1, subject.current().attributes() | {"reason": reason})


def held_for(reason: str, seconds: float) -> None:
    """Record for how long the backfill held back."""
    _counters["pgduet.backfill.held"].add(seconds, subject.current().attributes() | {"reason": reason})


def locked(seconds: float, tries: int) -> None:
    """Record how a table lock was got."""
    about = subject.current().attributes()
    _histograms["pgduet.lock.wait.duration"].record(seconds, about)
    _histograms["pgduet.lock.tries"].record(tries, about)


def gave_way() -> None:
    """Record a try for a table lock that did not get it."""
    _counters["pgduet.lock.waits"].add(1, subject.current().attributes())


def failed(activity: str) -> None:
    """Record a try of an activity that failed."""
    _counters["pgduet.activity.failures"].add(1, subject.current().attributes() | {"activity": activity})
