"""What fills one range of a table, batch by batch: rows in place, a shadow, merged groups; each tells alike where it stands."""

from abc import ABC, abstractmethod

from pgduet.messages import SliceResult
from pgduet.postgres.pace import Pace


class Filling(ABC):
    """One range, from its cursor to its end. What counts is the cursor in `pgduet.backfill_range`, which commits with the batch."""

    def __init__(self) -> None:
        """Begin with nothing known: `open` reads where the range stands."""
        self.first = self.end = self.cursor = 0
        self.rows = self.rows_before = self.batches = 0

    @abstractmethod
    async def open(self) -> None:
        """Read the cursor, and make the session one that batches may run in."""

    @property
    def finished(self) -> bool:
        """Tell whether the range is done."""
        return self.cursor >= self.end

    def result(self, held: str | None = None) -> SliceResult:
        """Tell where the range stands."""
        span = max(1, self.end - self.first)
        return SliceResult(
            cursor_block=self.cursor,
            finished=self.finished,
            rows=self.rows,
            rows_total=self.rows_before + self.rows,
            batches=self.batches,
            blocks_done=self.cursor - self.first,
            percent=100.0 if self.finished else 100.0 * (self.cursor - self.first) / span,
            throttled_by=held,
        )

    @abstractmethod
    async def next(self, pace: Pace) -> None:
        """Do the next batch, and wait for no client; the pause after it is the caller's."""
