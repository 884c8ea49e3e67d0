"""Where the server's WAL was at which moment, noted as it is looked at: from it the lag of anybody who tells how far they are.

PostgreSQL's own `replay_lag` is the time that some WAL took when it was last acknowledged. While the replay of a standby is
paused it stands still, and when nothing is written it goes away. So the age of the oldest WAL that a standby lacks is measured
here: the time since the server's WAL was first seen beyond what the standby has replayed. Limits: exact to the interval of
looking; of what was written before the first look only the least age is known. Pure.
"""

from bisect import bisect_right
from typing import NamedTuple

MOST = 7200


class Age(NamedTuple):
    """How old the oldest missing WAL is; `least`: it may be older, nobody looked before."""

    seconds: float
    least: bool = False


class Trail:
    """Positions in the WAL, in bytes, with the moments at which they were first seen."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.moments: list[float] = []

    def mark(self, position: int, now_s: float) -> None:
        """Note where the WAL is now; another server, or one that was restored, begins anew."""
        if self.positions and position < self.positions[-1]:
            self.positions, self.moments = [], []
        if not self.positions or position > self.positions[-1]:
            self.positions.append(position)
            self.moments.append(now_s)
        if len(self.positions) > 2 * MOST:
            del self.positions[:MOST], self.moments[:MOST]

    def age(self, replayed: int, now_s: float) -> Age:
        """Tell for how long there has been WAL that somebody who is at `replayed` does not have."""
        missing = bisect_right(self.positions, replayed)
        if missing == len(self.positions):
            return Age(0.0)
        return Age(max(0.0, now_s - self.moments[missing]), least=missing == 0)
