"""Reads a table piece by piece; beside clients in small pieces, with most of the time left to them between two.

A comparison or an archive reads every row in one snapshot. Done in one go it takes a processor for as long as that lasts, and every
client has one less. So before each piece it is asked whether any client runs a statement (five looks back: one alone sees
a moment). Limits: the snapshot is held for longer, so the rests together are bounded, and after that they are as long as the work.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from pgduet.postgres.brakes import IN_A_SNAPSHOT_S, UNBRAKED, Unbraked
from pgduet.postgres.busy import running
from pgduet.postgres.session import Connection

PIECE, SMALL_PIECE = 2048, 256
"""Pages: about a tenth, and a hundredth, of a second."""
RESTS = 4.0
"""Beside clients it rests for so many times as long as a piece took."""
MOST_REST_S = 60.0
"""After so many seconds of rest, which delay vacuum, it rests only for as long as it reads."""
LOOKS = 5
BESIDE_MS = 10.0
"""Beside clients a statement aims at so many milliseconds."""


class Gently:
    """One long read of a session, which holds a snapshot."""

    def __init__(self, conn: Connection, brakes: Unbraked = UNBRAKED) -> None:
        """Take the session that reads, and what brakes it."""
        self.conn = conn
        self.brakes = brakes
        self.rested_s = 0.0
        self.seen: deque[int] = deque(maxlen=LOOKS)

    async def pieces(self, pages: int) -> AsyncIterator[tuple[int, int]]:
        """Give the pieces of a heap of so many pages, as page numbers from and up to; the last reaches to the end."""
        first = 0
        while first < pages:
            self.seen.append(await running(self.conn))
            beside = any(self.seen)
            last = min(pages, first + (SMALL_PIECE if beside else PIECE))
            began = time.monotonic()
            yield first, last
            if last < pages:
                await self._rest(time.monotonic() - began, beside=beside)
            first = last

    async def _rest(self, worked_s: float, *, beside: bool) -> None:
        rests = self.rested_s < MOST_REST_S
        rest_s = worked_s * (RESTS if rests else 1.0) if beside else 0.0
        most_s = max(rest_s, IN_A_SNAPSHOT_S) if rests else worked_s
        began = time.monotonic()
        await self.brakes.rest(worked_s, least_s=rest_s, most_s=most_s, in_snapshot=True)
        self.rested_s += max(rest_s, time.monotonic() - began)


class Turns:
    """Short statements of several sessions, none of which holds a snapshot for long: beside clients they take turns, and rest.

    Without clients all work at once. The rests are not bounded: nothing is held back meanwhile.
    """

    def __init__(self, brakes: Unbraked = UNBRAKED) -> None:
        """Begin as if nobody were there."""
        self.brakes = brakes
        self.seen: deque[int] = deque(maxlen=LOOKS)
        self.turn = asyncio.Lock()

    @property
    def beside(self) -> bool:
        """Tell whether clients were at work lately."""
        return any(self.seen)

    async def step(
        self, conn: Connection, work: Callable[[], Awaitable[bool]], over: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Do a piece of work, look whether clients are there, and rest as that says if there is more to do.

        Where nobody is, the rest begins when the heavy part of the work was `over`.
        """
        if not self.beside:
            worked_s, more = await self._worked(conn, work)
            if more:
                await self.brakes.rest(worked_s, since=over() or None)
            return
        async with self.turn:
            worked_s, more = await self._worked(conn, work)
            if more:
                await self.brakes.rest(worked_s, least_s=worked_s * RESTS)

    async def _worked(self, conn: Connection, work: Callable[[], Awaitable[bool]]) -> tuple[float, bool]:
        began = time.monotonic()
        more = await work()
        took_s = time.monotonic() - began
        self.seen.append(await running(conn))
        return took_s, more
