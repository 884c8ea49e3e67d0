"""A table in another shape compared whole at somebody's request; with a repair, and the comparison that follows it.

A comparison belongs to a request: who comes with the same again goes on where it was, also from a repair to the comparison that
follows it. Declared aggregates are compared last, over what is there then.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypedDict, Unpack

from psycopg import sql

from pgduet.messages import Reference
from pgduet.operations.aggregates import Aggregate
from pgduet.postgres import counterpart, suspects
from pgduet.postgres.brakes import UNBRAKED, Unbraked
from pgduet.postgres.counterpart import Compared, Progress
from pgduet.postgres.session import Connection

DRAIN_S = 30.0
"""For how long a comparison goes on emptying a journal whose rows clients hold; what is left counts as not in step."""
REST_S = 0.05


class How(TypedDict, total=False):
    """Whom it tells how far it is, and what brakes it."""

    progress: Progress
    brakes: Unbraked


class Whole(ABC):
    """One shape, compared and repaired on sessions that are given."""

    reading: sql.Composable | None = None
    """What an aggregate of the new version reads, where that is no table."""

    def __init__(self, sessions: Sequence[Connection], reference: Reference, **how: Unpack[How]) -> None:
        """Take the sessions, of which the first also settles and repairs."""
        self.sessions = sessions
        self.conn = sessions[0]
        self.reference = reference
        self.progress = how.get("progress", _silent)
        self.brakes = how.get("brakes", UNBRAKED)

    async def whole(self, request: str, *, aggregates: Sequence[Aggregate] = (), repair: bool = False) -> Compared:
        """Compare all of it; with `repair`, mend what differs as the authority says, and compare again.

        Raises:
            GateRefused: rows cannot be told apart by the key, or too many cannot be mapped.
        """
        if repair and await suspects.begun(self.conn, self.reference.migration_id, again(request)):
            found = await self.compared(again(request), 0)  # a try before this one had repaired
        else:
            found = await self.compared(request, 0)
            if repair and found.mismatches:
                await self.repair(found.parts)
                found = await self.compared(again(request), found.mismatches)
        found.aggregates = await counterpart.measured(
            self.conn, self.reference.migration_id, aggregates, self.reading, self.brakes
        )
        return found

    @abstractmethod
    async def compared(self, request: str, before: int) -> Compared:
        """Compare once; `before` is how many rows differed before a repair that this follows."""

    @abstractmethod
    async def repair(self, parts: Sequence[int]) -> suspects.Repaired:
        """Mend what a comparison has confirmed, by the way that is safe now."""


def _silent(_: str) -> None:
    """Tell nobody."""


def again(request: str) -> str:
    """Name the comparison that follows a repair."""
    return f"{request}/again"
