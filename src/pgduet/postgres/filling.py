"""The face of what fills one range of a table, batch by batch: rows in place, a shadow, merged groups. A protocol only."""

from typing import Protocol

from pgduet.messages import SliceResult
from pgduet.postgres.pace import Pace


class Filling(Protocol):
    """One range, from its cursor to its end. What counts is the cursor in `pgduet.backfill_range`, which commits with the batch."""

    async def open(self) -> None:
        """Read the cursor, and make the session one that batches may run in."""

    @property
    def finished(self) -> bool:
        """Tell whether the range is done."""

    def result(self, held: str | None = None) -> SliceResult:
        """Tell where the range stands."""

    async def next(self, pace: Pace) -> None:
        """Do the next batch, and wait for no client; the pause after it is the caller's."""
