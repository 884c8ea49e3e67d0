"""Latencies as a sketch: counts in buckets whose bounds grow by a fixed factor, so that those of many processes add up.

This is DDSketch (Masson, Rim and Lee, VLDB 2019) with bounds that never move: bucket i holds what is above γ^(i-1) and at
most γ^i microseconds, γ = (1 + α) / (1 - α), and stands for 2 γ^i / (γ + 1), which is at most α = 5 % away. Bucket 0 is
everything up to 1 µs, the last one everything above 1,000 s. The routing library fills it and the engine adds it up, so the bounds
are a promise between releases.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

ACCURACY = 0.05
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
LAST = math.ceil(math.log(1e9) / math.log(GAMMA))
SURE = 3.0
"""Standard deviations within which a quantile is taken to be: one in a thousand lies beyond on a side."""


def bucket_of(seconds: float) -> int:
    """Give the bucket of a latency."""
    microseconds = seconds * 1e6
    return 0 if microseconds <= 1 else min(LAST, math.ceil(math.log(microseconds) / math.log(GAMMA)))


@dataclass(slots=True)
class Sketch:
    """How many latencies fell into each bucket."""

    counts: dict[int, int] = field(default_factory=dict)

    def add(self, seconds: float) -> None:
        """Count one latency."""
        bucket = bucket_of(seconds)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: Self) -> None:
        """Add another sketch's counts to this one's."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def since(self, earlier: Self) -> Self:
        """Give what was counted after an earlier state of this sketch."""
        grown = {bucket: count - earlier.counts.get(bucket, 0) for bucket, count in self.counts.items()}
        return type(self)({bucket: count for bucket, count in grown.items() if count > 0})

    @property
    def total(self) -> int:
        """How many latencies there are."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float | None:
        """Give the latency, in seconds, that `share` (0 to 1) of all do not exceed, to 5 %; None if there is none."""
        return self._ranked(max(1, math.ceil(share * self.total)))

    def surely(self, share: float) -> tuple[float | None, float | None]:
        """Give what a quantile of all latencies, of which these are some, is above and below; None where these are too few.

        How many of n latencies lie below the quantile q is binomial, so its rank is n q within some √(n q (1 - q)),
        whatever the distribution: a few wild ones move nothing.
        """
        middle, spread = share * self.total, SURE * math.sqrt(self.total * share * (1 - share))
        return self._ranked(math.floor(middle - spread)), self._ranked(math.ceil(middle + spread) + 1)

    def _ranked(self, rank: int) -> float | None:
        """Give the latency of a rank from 1 on; None where there is no such rank."""
        if rank < 1:
            return None
        for bucket in sorted(self.counts):
            rank -= self.counts[bucket]
            if rank <= 0:
                return 2 * GAMMA**bucket / (GAMMA + 1) / 1e6
        return None

    def written(self) -> dict[str, int]:
        """Give it as JSON."""
        return {str(bucket): count for bucket, count in self.counts.items()}

    @classmethod
    def read(cls, raw: object) -> Self:
        """Read what `written` gave; what is no bucket or no count is left out, for any role can have reported it."""
        found = raw.items() if isinstance(raw, Mapping) else ()
        return cls({int(bucket): count for bucket, count in found if _is_bucket(bucket) and _is_count(count)})


def _is_bucket(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 4 and int(name) <= LAST


def _is_count(count: Any) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and count > 0
