"""What live clients measured: latencies by clients' version and phase, errors with their SQLSTATE, the slowest statements.

A latency is one statement's, from being sent to its last row, BEGIN and COMMIT included. A phase with few statements has no
p99 worth the name; the longest stall covers it.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from pgduet.local.doors import Flight

Group = Literal["old", "new"]
GROUPS: tuple[Group, ...] = ("old", "new")
BEFORE = "before"
MIN_SAMPLES = 200
_SLOWEST = 20
WORTH_NOTING_MS = 5.0


class ClientError(BaseModel):
    """An error, or a wrong answer (SQLSTATE empty), that a client met; nothing is ever tried again."""

    client: str
    group: Group
    phase: str
    statement: str
    sqlstate: str
    text: str


class Slow(BaseModel):
    """One of the slowest statements; `at_s` counts from the traffic's start, `own_ms` is the clients' own process's delay."""

    ms: float
    own_ms: float = 0.0
    client: str
    phase: str
    statement: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Delay:
    """The clients' process was late."""

    at_s: float
    ms: float


class Latency(BaseModel):
    """Latencies of one group in one phase, in milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float


class GroupReport(BaseModel):
    """What the clients of one version did and met."""

    transactions: int = 0
    through_new: int = 0
    acknowledged: int = 0
    in_doubt: int = 0
    errors: int = 0
    phases: dict[str, Latency] = {}
    rows: dict[int, Flight | None] = {}

    @property
    def before_ms(self) -> float:
        """The p99 before the migration began."""
        return self.phases[BEFORE].p99 if BEFORE in self.phases else 0.0

    @property
    def worst_ms(self) -> float:
        """The greatest p99 of a phase that had enough statements."""
        known = [p.p99 for name, p in self.phases.items() if name != BEFORE and p.count >= MIN_SAMPLES]
        return max(known, default=0.0)

    @property
    def stall_ms(self) -> float:
        """The slowest statement."""
        return max((phase.longest for phase in self.phases.values()), default=0.0)


class Report(BaseModel):
    """What the whole traffic did and met until now."""

    groups: dict[Group, GroupReport]
    errors: list[ClientError] = []
    slowest: list[Slow] = []
    own_delay_ms: float = 0.0
    """The longest time that the clients' own process was late by: no stall shorter than this is the database's for sure."""

    @property
    def rows(self) -> dict[int, Flight | None]:
        """Everything that must be stored."""
        return {key: flight for group in self.groups.values() for key, flight in group.rows.items()}


@dataclass
class Recorder:
    """Takes what clients measure."""

    clock_start: float
    phase: str = BEFORE
    own_delay_ms: float = 0.0
    latencies: dict[tuple[Group, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    transactions: dict[Group, int] = field(default_factory=lambda: defaultdict(int))
    through_new: dict[Group, int] = field(default_factory=lambda: defaultdict(int))
    errors: list[ClientError] = field(default_factory=list)
    slowest: list[tuple[float, int, Slow]] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    _serial: int = 0

    def took(self, group: Group, client: str, statement: str, began: float, ended: float) -> None:
        """Note a statement's latency; times are of the monotonic clock."""
        ms = (ended - began) * 1000
        self.latencies[group, self.phase].append(ms)
        if len(self.slowest) < _SLOWEST or ms > self.slowest[0][0]:
            self._serial += 1
            slow = Slow(ms=ms, client=client, phase=self.phase, statement=statement, at_s=began - self.clock_start)
            push = heapq.heappush if len(self.slowest) < _SLOWEST else heapq.heapreplace
            push(self.slowest, (ms, self._serial, slow))

    def late(self, began: float, ended: float) -> None:
        """Note that the clients' own process was late by that much."""
        delay = Delay(at_s=began - self.clock_start, ms=(ended - began) * 1000)
        self.own_delay_ms = max(self.own_delay_ms, delay.ms)
        if delay.ms > WORTH_NOTING_MS:
            self.delays.append(delay)

    def slow(self) -> list[Slow]:
        """Give the slowest statements, each with how late this process was meanwhile."""
        found = [slow for _, _, slow in sorted(self.slowest, reverse=True)]
        for slow in found:
            until_s = slow.at_s + slow.ms / 1000
            meanwhile = [d.ms for d in self.delays if d.at_s < until_s and d.at_s + d.ms / 1000 > slow.at_s]
            slow.own_ms = max(meanwhile, default=0.0)
        return found

    def done(self, group: Group, *, is_new: bool) -> None:
        """Count a transaction."""
        self.transactions[group] += 1
        self.through_new[group] += is_new

    def group(self, group: Group) -> GroupReport:
        """Sum one group up, without its ledgers."""
        return GroupReport(
            transactions=self.transactions[group],
            through_new=self.through_new[group],
            errors=sum(error.group == group for error in self.errors),
            phases={phase: summed(values) for (of, phase), values in self.latencies.items() if of == group},
        )


def summed(values: Sequence[float]) -> Latency:
    """Give percentiles by nearest rank."""
    ordered = sorted(values)
    return Latency(
        count=len(ordered), p50=_rank(ordered, 0.5), p99=_rank(ordered, 0.99), longest=ordered[-1] if ordered else 0.0
    )


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
