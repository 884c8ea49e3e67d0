"""What came of a router's reads of one migration, from any thread: latencies, and of shadow reads counts and a few mismatches."""

import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from pgduet.compared import Compared

KEPT = 50
"""Mismatches that wait for the next report; of more, the newest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One mismatch, without its values unless the service shows them."""

    read: str
    key: str
    place: str
    kind: str
    shown: str | None
    answered: str


@dataclass(slots=True)
class Tally:
    """Totals since the router was opened, and mismatches since the last report that arrived."""

    compares: bool = False
    """Whether there are shadow reads to count; a service that only records its reads is none that compares."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: Compared = field(default_factory=Compared)
    _samples: deque[tuple[int, Sample]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _seen: int = 0

    def answered(self, seconds: float, *, is_new: bool) -> None:
        """Count a read that its caller waited for."""
        with self._lock:
            self._counts.latency["answered_new" if is_new else "answered_old"].add(seconds)

    def count(self, name: str) -> None:
        """Add one to a count."""
        with self._lock:
            setattr(self._counts, name, getattr(self._counts, name) + 1)

    def repeated(self, seconds: float, *, is_new: bool) -> None:
        """Count a read off the caller's path that answered."""
        side = "new" if is_new else "old"
        with self._lock:
            self._counts.latency[f"shadow_{side}"].add(seconds)
            setattr(self._counts, f"seconds_{side}", getattr(self._counts, f"seconds_{side}") + seconds)

    def compared(self, sample: Sample | None) -> None:
        """Count a comparison, and keep its mismatch if there is one."""
        with self._lock:
            self._counts.compared += 1
            if sample:
                self._counts.mismatches += 1
                self._seen += 1
                self._samples.append((self._seen, sample))

    def calibrated(self, *, differed: bool) -> None:
        """Count a comparison of the old side with itself."""
        with self._lock:
            self._counts.calibrated += 1
            self._counts.noise += differed

    def totals(self) -> Compared:
        """Give a copy of the counts."""
        with self._lock:
            copy = Compared()
            copy.add(self._counts)
            return copy

    def report(self) -> tuple[dict[str, Any], int]:
        """Give what is to be reported, and the number of the last mismatch in it, for `delivered`."""
        with self._lock:
            written = self._counts.written()
            if not self.compares:
                return {"latency": written["latency"]}, self._seen
            samples = [asdict(sample) for _, sample in self._samples]
            return {**written, "samples": samples}, self._seen

    def delivered(self, last: int) -> None:
        """Forget the mismatches up to one: the database has them."""
        with self._lock:
            while self._samples and self._samples[0][0] <= last:
                self._samples.popleft()
