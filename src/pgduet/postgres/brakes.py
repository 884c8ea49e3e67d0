"""What brakes a comparison, as it does a backfill: an operator's pause, the plan's window, its probes, a pause after each piece.

A comparison writes next to nothing, so neither standbys nor slots nor vacuums are looked at; to clients it gives way by itself
(`gently`). The first look is on the session that compares, before it begins; the later ones are on sessions of their own, which
a comparison of half a second never opens. Whoever holds a snapshot keeps it through a hold of moments only, and begins anew
after a longer one: three times, and then a probe has it go slower instead, so that one that comes and goes cannot starve it. A
pause and a closed window know no such end.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC

from pgduet.measured import Throttled
from pgduet.postgres import store
from pgduet.postgres.gauges import Looking, Reading
from pgduet.postgres.pace import Pace
from pgduet.postgres.pressure import STEP_S, TRICKLE, Pressure, Verdict
from pgduet.postgres.probed import answer, keep_asking
from pgduet.postgres.session import Connection
from pgduet.sql import block
from pgduet.telemetry import spans

LOOK_EVERY_S = 0.5
IN_A_SNAPSHOT_S = 5.0
"""So long a hold may last before a snapshot is given up, and so long a rest within one at most."""
GIVEN_UP_AT_MOST = 3

Beside = Callable[[], AbstractAsyncContextManager[Connection]]
Tell = Callable[[Throttled | None], None]


class SnapshotGivenUp(Exception):
    """Something holds the comparison for longer than a snapshot may be kept."""


class Postponed(Exception):
    """The migration is paused, and the next comparison of the schedule is soon enough."""


class Unbraked:
    """Nothing brakes: for whoever compares or reads without a migration's word. The rests that are asked for it keeps."""

    @property
    def target_ms(self) -> float:
        """What a batch of a backfill may take now; no limit here."""
        return math.inf

    async def rest(
        self,
        worked_s: float = 0.0,
        *,
        least_s: float = 0.0,
        most_s: float = math.inf,
        in_snapshot: bool = False,
        since: float | None = None,
    ) -> None:
        """Rest after a piece of work that took so long, between `least_s` and `most_s`, and hold while something holds.

        The rest began `since` then, by the monotonic clock, or begins now.
        """
        del worked_s, in_snapshot, since
        if rest_s := min(least_s, most_s):
            await asyncio.sleep(rest_s)


@dataclass(frozen=True, slots=True)
class Asked:
    """How a comparison was asked for: by the schedule, which asks again soon, or by somebody while it was paused."""

    scheduled: bool = False
    although_paused: bool = False


UNBRAKED = Unbraked()
PLAINLY = Asked()


@dataclass
class Brakes(Unbraked, Looking):
    """The brakes of one comparison; to `Pressure` they are its gauges."""

    migration: store.Migration
    tell: Tell
    asked: Asked = PLAINLY
    reading: Reading = field(default_factory=Reading)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    looking: asyncio.Task[None] | None = None
    given_up: int = 0

    def __post_init__(self) -> None:
        """Judge by the plan's policy, as for a range of a backfill."""
        self.pressure = Pressure(self, self.migration.policy, part="")

    @property
    def pace(self) -> Pace:
        """The pace in force."""
        return self.pressure.pace

    @property
    def target_ms(self) -> float:
        """What a batch of a backfill may take now."""
        return self.pressure.pace.target_ms

    async def rest(
        self,
        worked_s: float = 0.0,
        *,
        least_s: float = 0.0,
        most_s: float = math.inf,
        in_snapshot: bool = False,
        since: float | None = None,
    ) -> None:
        """Rest as the pace says, and hold while something holds.

        Raises:
            SnapshotGivenUp: it holds for longer than a snapshot may be kept.
            Postponed: it is paused, and the schedule has asked.
        """
        began = since or time.monotonic()
        while True:
            verdict, passed_s = self._verdict(), time.monotonic() - began
            if verdict.rate:
                pause_s = self.pace.pause_ms / 1000 + worked_s * (1 / verdict.rate - 1) if worked_s else 0.0
                left_s = min(max(pause_s, least_s), most_s) - passed_s
                if left_s <= 0:
                    return
                await asyncio.sleep(min(left_s, STEP_S))
                continue
            if in_snapshot and passed_s > IN_A_SNAPSHOT_S:
                self.given_up += not verdict.stops
                raise SnapshotGivenUp
            await asyncio.sleep(STEP_S)

    def _verdict(self) -> Verdict:
        verdict = self.pressure.check()
        throttled = verdict.throttled
        if self.asked.scheduled and throttled and throttled.kind == "paused":
            raise Postponed
        if throttled and not (verdict.rate or verdict.stops) and self.given_up >= GIVEN_UP_AT_MOST:
            slower = throttled.model_copy(update={"rate": TRICKLE, "until": None})
            verdict = Verdict(TRICKLE, slower)
        self.tell(verdict.throttled)
        return verdict

    async def first_look(self, conn: Connection) -> None:
        """Look once, on the session that is about to compare."""
        await self._look(conn)
        for probe in self.migration.policy.backfill.probes:
            self.reading.probed[probe.name] = await answer(conn, probe)

    async def keep_looking(self, beside: Beside) -> None:
        """Look again and again."""
        probes = self.migration.policy.backfill.probes
        await asyncio.sleep(LOOK_EVERY_S)
        with spans.untraced():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._looks(beside))
                    if probes:
                        group.create_task(keep_asking(beside, probes, self.reading.probed.__setitem__))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None

    async def _looks(self, beside: Beside) -> None:
        async with beside() as conn:
            await conn.execute("SET statement_timeout = '5s'")
            while True:
                await self._look(conn)
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, conn: Connection) -> None:
        row = await (await conn.execute(block("pressure", "told"), {"id": self.migration.id})).fetchone()
        assert row is not None  # noqa: S101  (a SELECT without FROM has one row)
        controls = row["controls"] or {}
        if self.asked.although_paused:
            # Who asked knew of that pause; the next one holds.
            self.asked = replace(self.asked, although_paused=bool(controls.pop("paused", False)))
        reading = self.reading
        reading.at, reading.looked_s, reading.controls = row["now"].astimezone(UTC), time.monotonic(), controls
        reading.number += 1


@asynccontextmanager
async def braked(
    conn: Connection, migration: store.Migration, beside: Beside, tell: Tell, asked: Asked = PLAINLY
) -> AsyncIterator[Brakes]:
    """Look once, and go on looking for as long as the block lasts.

    Raises:
        psycopg.Error: the database could not be asked.
    """
    brakes = Brakes(migration, tell, asked)
    await brakes.first_look(conn)
    brakes.looking = asyncio.create_task(brakes.keep_looking(beside))
    try:
        yield brakes
    finally:
        await brakes.end()
