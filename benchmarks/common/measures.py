"""Single transactions of clients, told apart by phase: how many, the p99, the longest, and how many failed. Pure.

A transaction belongs to the phase in which it ended. What overlaps a moment in which the benchmark itself held the table, to
end clients in order, is counted as work and not as a wait.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgduet.local.measures import summed


@dataclass(frozen=True, slots=True)
class Taken:
    """One transaction of one client; `at` is when it ended, in seconds since the epoch, `ms` counts from when it was due.

    `lag_ms` of that passed before it was sent, since its client was still waiting for another one.
    """

    group: str
    client: int
    kind: str
    at: float
    ms: float
    lag_ms: float = 0.0
    failed: bool = False

    @property
    def own_ms(self) -> float:
        """How long it took once it was sent."""
        return self.ms - self.lag_ms


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with a name, in seconds since the epoch."""

    name: str
    begin: float
    end: float

    def has(self, moment: float) -> bool:
        """Tell whether a moment lies in it."""
        return self.begin <= moment < self.end


@dataclass(frozen=True, slots=True)
class Waits:
    """What some transactions waited: p99 from when they were due, p99 and the longest from when they were sent."""

    count: int
    p99_ms: float
    p99_sent_ms: float
    longest_ms: float
    failed: int = 0


def waits(taken: Iterable[Taken], ours: Sequence[Span] = ()) -> Waits:
    """Sum transactions up; those that overlap a span of `ours` are counted, and their wait is left out."""
    every = list(taken)
    counted = [each for each in every if not each.failed and not _overlaps(each, ours)]
    sent = summed([each.own_ms for each in counted])
    due = summed([each.ms for each in counted])
    return Waits(len(every), due.p99, sent.p99, sent.longest, sum(each.failed for each in every))


def by_phase(taken: Iterable[Taken], phases: Sequence[Span], ours: Sequence[Span] = ()) -> dict[tuple[str, str], Waits]:
    """Sum transactions up by phase and by group of clients."""
    sorted_in: dict[tuple[str, str], list[Taken]] = {}
    for each in taken:
        for phase in phases:
            if phase.has(each.at):
                sorted_in.setdefault((phase.name, each.group), []).append(each)
    return {key: waits(found, ours) for key, found in sorted_in.items()}


def _overlaps(taken: Taken, spans: Sequence[Span]) -> bool:
    begin = taken.at - taken.ms / 1000
    return any(begin < span.end and taken.at > span.begin for span in spans)
