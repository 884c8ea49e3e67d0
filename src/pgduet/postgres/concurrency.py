"""How much longer clients' statements take because of a backfill, told from the number of them that run at a time. Pure.

By Little's law (J. D. C. Little, 1961) the mean number of statements in progress is their rate times the mean time that one
takes. Clients send at the rate that they need; so when more statements are in progress while batches run than while none does,
they take longer, whatever the reason: processors, disk, memory or locks. The backfill is its own control: it rests for a
moment and counts, works for a while and counts again, and keeps the share of the time in which both differ by less than the
plan allows.

Where nobody is at work it does not rest at all. Limits: a client who is held up elsewhere counts as in progress as well, but
at rest too; what changes within a few seconds by itself can be taken for ours, and costs a step of the rate, no more.
"""

from collections import deque
from enum import Enum

LOOK_S, ALONE_LOOK_S = 0.02, 0.05
"""How often to count: while clients are at work, and while none is."""
REST_S, SETTLE_S = 1.0, 0.2
"""A rest, and how much of it passes before what is left of the work has drained."""
WORK_S, CALM_WORK_S = 4.0, 20.0
"""How long it works between two rests: while it gives way, and while it need not."""
RESTS = 4
"""What is usual is the mean of about so many rests: of one alone it is half as much, or twice."""
FIRST_SHARE, LEAST_SHARE = 0.1, 0.02
"""Where it begins when clients are at work, and where it never falls below: so it ends, fifty times as late at most."""
CUT, GROWTH, FIRST_GROWTH = 0.5, 1.4, 2.0
"""What its share is multiplied by: when clients take longer, when they do not, and when they never have since they came."""
EARLY_LOOKS = 8
"""After so many looks at work that show more than twice the limit, it does not wait for the end of the stretch."""
NOBODY = 0.1
"""Fewer statements at a time than this are nobody to give way to."""
ALLOWANCE = 0.15
"""What two counts of the same may differ by."""
FEW = 3


class Stretch(Enum):
    """What it does now."""

    ALONE = "alone"
    RESTING = "resting"
    WORKING = "working"


class Concurrency:
    """The share of its time in which a backfill may work; all ranges of a process share one."""

    def __init__(self) -> None:
        """Begin without knowing anybody."""
        self.share = 1.0
        self.usual: float | None = None
        """Statements of clients in progress while no batch runs."""
        self.beside = 0.0
        """The same while batches run."""
        self.limit = 1.0
        self.stretch = Stretch.ALONE
        self.until_s = 0.0
        self._seen: deque[int] = deque(maxlen=10)
        self._sum = self._count = self._rests = 0
        self._growth = FIRST_GROWTH

    @property
    def look_s(self) -> float:
        """When to count again."""
        return ALONE_LOOK_S if self.stretch is Stretch.ALONE else LOOK_S

    @property
    def gives_way(self) -> bool:
        """Tell whether it works at less than its full rate."""
        return self.share < 1

    def rests_s(self, now_s: float) -> float:
        """Tell how much longer no batch may begin."""
        return max(0.0, self.until_s - now_s) if self.stretch is Stretch.RESTING else 0.0

    def note(self, running: int, now_s: float, limit: float) -> None:
        """Take a count of clients' statements that run; `limit` is by which factor they may take longer."""
        self.limit = limit
        if self.stretch is Stretch.ALONE:
            self._seen.append(running)
            if sum(map(bool, self._seen)) >= (1 if len(self._seen) <= FEW else 2):
                self._rest(now_s)
            return
        settling = self.stretch is Stretch.RESTING and now_s < self.until_s - (REST_S - SETTLE_S)
        if not settling:
            self._sum += running
            self._count += 1
        if self.stretch is Stretch.RESTING and now_s >= self.until_s:
            self._rested(now_s)
        elif self.stretch is Stretch.WORKING and (now_s >= self.until_s or self._far_beyond()):
            self._worked(now_s)

    def _mean(self) -> float:
        return self._sum / max(1, self._count)

    def _most(self, limit: float) -> float:
        return limit * (self.usual or 0.0) + ALLOWANCE

    def _begin(self, stretch: Stretch, until_s: float) -> None:
        self.stretch, self.until_s = stretch, until_s
        self._sum = self._count = 0

    def _rest(self, now_s: float) -> None:
        self._begin(Stretch.RESTING, now_s + REST_S)

    def _rested(self, now_s: float) -> None:
        found = self._mean()
        self._rests = min(RESTS, self._rests + 1)
        self.usual = found if self.usual is None else self.usual + (found - self.usual) / self._rests
        if max(found, self.beside) < NOBODY:
            self.share, self.usual, self.beside, self._rests = 1.0, None, 0.0, 0
            self._seen.clear()
            self._seen.extend([0] * FEW)
            self._begin(Stretch.ALONE, now_s)
            return
        if self._rests == 1:
            self.share, self._growth = FIRST_SHARE, FIRST_GROWTH
        self._begin(Stretch.WORKING, now_s + (WORK_S if self.gives_way else CALM_WORK_S))

    def _far_beyond(self) -> bool:
        return self._count >= EARLY_LOOKS and self._mean() > 2 * self._most(self.limit)

    def _worked(self, now_s: float) -> None:
        self.beside = self._mean()
        if self.beside > self._most(self.limit):
            self.share = max(LEAST_SHARE, self.share * CUT)
            self._growth = GROWTH
        elif self.beside < self._most((1 + self.limit) / 2):
            self.share = min(1.0, self.share * self._growth)
        self._rest(now_s)
