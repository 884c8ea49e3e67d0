"""What came of shadow reads, in numbers that add up over routers, and the ratio of mismatches net of the old side's own noise.

Two reads of one row at two moments may differ although both paths are right: the row was changed in between, or the answer
holds a clock or a random order. How often that happens is measured by reading old against old. If noise hits a comparison
with probability ν, whether or not the new path is wrong, and the new path is wrong with probability μ, comparisons differ
with probability r = μ + ν - μν. So μ = (r - ν) / (1 - ν), and that, not below 0, is the net ratio.

Both are estimates: of n comparisons the ratio's standard error is about √(r / n), and a mismatch of one in a thousand
cannot be told from noise that was measured a hundred times.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from pgduet.sketch import Sketch

SIDES = ("answered_old", "answered_new", "shadow_old", "shadow_new")
"""Whose latencies are kept: reads that a caller waited for, and reads off its path. Only the latter are all second
reads of a row that is in memory by then, so old and new are to be compared within one kind."""


@dataclass(slots=True)
class Compared:
    """Counts of a service's shadow reads, or of several services'."""

    compared: int = 0
    """Reads of which both sides answered and were compared, old against new."""
    mismatches: int = 0
    """Those that differed."""
    calibrated: int = 0
    """Reads of the old side that were compared with a second read of the old side."""
    noise: int = 0
    """Those that differed."""
    failed_old: int = 0
    """Reads off the caller's path that raised."""
    failed_new: int = 0
    timeouts: int = 0
    """Reads off the caller's path that took longer than they may; their answers are thrown away."""
    dropped: int = 0
    """Sampled reads that were not repeated: the queue was full, or they waited in it for too long."""
    broken: int = 0
    """Comparisons that could not be made: the rules, a custom comparison or an answer's own code raised."""
    unwritten: int = 0
    """Second writes that failed where the first had been made, while nobody reads the new side."""
    seconds_old: float = 0.0
    """Time of the reads off the caller's path that answered."""
    seconds_new: float = 0.0
    latency: dict[str, Sketch] = field(default_factory=lambda: {side: Sketch() for side in SIDES})

    @property
    def mismatch_ratio(self) -> float:
        """The share of comparisons that differed, noise and all."""
        return self.mismatches / self.compared if self.compared else 0.0

    @property
    def noise_ratio(self) -> float:
        """The share of comparisons of old with old that differed."""
        return self.noise / self.calibrated if self.calibrated else 0.0

    @property
    def net_ratio(self) -> float:
        """The share of reads that the new path answers wrongly: see the formula above; 0 where all is noise."""
        noise = self.noise_ratio
        return max(0.0, (self.mismatch_ratio - noise) / (1 - noise)) if noise < 1 else 0.0

    def add(self, other: Self) -> None:
        """Add another's counts."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for side, sketch in other.latency.items():
            self.latency[side].merge(sketch)

    def since(self, earlier: Self) -> Self:
        """Give what came on top of an earlier measurement of the same routers."""
        latency = {side: self.latency[side].since(earlier.latency[side]) for side in SIDES}
        return type(self)(
            **{name: max(0, getattr(self, name) - getattr(earlier, name)) for name in COUNTS}, latency=latency
        )

    def written(self) -> dict[str, Any]:
        """Give it as JSON: what a router reports."""
        latency = {side: sketch.written() for side, sketch in self.latency.items()}
        return {name: getattr(self, name) for name in COUNTS} | {"latency": latency}

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Self:
        """Read counts from a row, and sketches from its `latency`, which may be anything."""
        latency = row["latency"] if isinstance(row.get("latency"), Mapping) else {}
        sketches = {side: Sketch.read(latency.get(side)) for side in SIDES}
        return cls(**{name: row[name] for name in COUNTS}, latency=sketches)


COUNTS = tuple(each.name for each in fields(Compared) if each.name != "latency")
