"""Whether a range of a backfill goes on, how fast, or what it waits for: the gauges' strains, an operator's word, and patience.

Nothing starves it: who has been held for `max_hold_s`, moments of work not counted, goes on at a quarter of its rate for as long
as the strain is there, and says so. The patience begins anew when it has worked unhindered for a while. Three reasons know
no patience: an operator's pause, a closed window, and a slot that is about to be lost. Clients whom a batch keeps waiting
make the next batches smaller at once, and larger again by small steps while nobody waits; those whose statements take
longer because of it leave it a share of its time.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pgduet.messages import SliceResult, Throttled
from pgduet.plan.models import Policy
from pgduet.postgres.gauges import Blocked, Reading
from pgduet.postgres.pace import Pace
from pgduet.postgres.strain import Strain, strains
from pgduet.texts import shown

NO_SLOT = "parallelism: fewer ranges at once than were begun"
STEP_S = 0.1
TRICKLE = 0.25
CALM_S = 60.0
CALM_SHARE = 0.1
"""The patience begins anew after a minute without a hold, or a tenth of itself where that is less."""
LEAST_EASE, EASED_BY, REGAINED_BY = 0.125, 0.5, 1.05
"""Batches shrink to an eighth at most: halved at each look at which a client waits, a twentieth more at each at which none does."""
UNSEEN = "replica lag, vacuums, clients at work and those who wait: the worker's role has no pg_monitor"


class Gauge(Protocol):
    """What tells how the server is."""

    turn: asyncio.Lock

    def look(self) -> Reading:
        """Give what was seen last."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a range may do now: at which share of its full rate it works, or that it holds, and whether its slice is to end."""

    rate: float = 1.0
    throttled: Throttled | None = None
    stops: bool = False


class Pressure:
    """Judges for one range, as often as there is something new."""

    def __init__(
        self,
        gauges: Gauge,
        policy: Policy,
        part: str,
        held_since: datetime | None = None,
        closed_since: datetime | None = None,
    ) -> None:
        """Take the gauges, the plan's policy, the range's label, and since when slices before were held, or the window closed."""
        self.gauges = gauges
        self.policy = policy.backfill
        self.part = part
        self.given = self.limits = self.pace = Pace.of(policy)
        self.held_since = held_since
        self.closed_since = closed_since
        self.calm_since: float | None = None
        self.ease = 1.0
        self.waiting = 0
        self.waited_ms = 0.0
        self.looked = 0
        self.unmeasured: str | None = None
        self.verdict = Verdict()

    def check(self) -> Verdict:
        """Judge by what the gauges say now.

        Raises:
            psycopg.Error: the database could not be asked.
        """
        reading, now_s = self.gauges.look(), time.monotonic()
        for looked in [each for each in reading.blocked if each.number > self.looked]:
            self._ease(looked)
        self.limits = self.given.adjusted(reading.controls)
        self.pace = self.limits.eased(self.ease) if self.ease < 1 else self.limits
        if reading.clients.gives_way:
            self.pace = self.pace.beside_clients(reading.clients.share)
        self.unmeasured = None if reading.sees_all else UNSEEN
        self.verdict = self._told(reading) or self._judged(reading, now_s)
        return self.verdict

    def applied(self, result: SliceResult) -> SliceResult:
        """Give a range's figures with what holds it."""
        throttled = self.verdict.throttled
        update = {
            "paused": self.verdict.stops and (throttled is None or throttled.kind != "window"),
            "throttled_by": throttled.reason if throttled else result.throttled_by,
            "throttle": throttled,
            "held_since": self.held_since,
            "unmeasured": self.unmeasured,
        }
        return result.model_copy(update=update)

    async def begin(self, over: Callable[[], bool]) -> None:
        """Wait out a rest of all ranges before the first batch."""
        while not (over() or self.check().stops):
            left_s = self._rests_s()
            if not left_s:
                return
            await asyncio.sleep(min(left_s, STEP_S))

    async def rest(self, worked_s: float, over: Callable[[], bool]) -> None:
        """Pause after a batch, or while the range holds; obey within a moment whatever changes the pace."""
        began, held = time.monotonic(), not self.verdict.rate
        while not over():
            rate = self.verdict.rate
            if not rate and not held:  # a batch was done, and now it is to hold: say so first
                return
            wanted_s = self.pace.pause_ms / 1000 + worked_s * (1 / rate - 1) if rate else STEP_S
            left_s = max(wanted_s - (time.monotonic() - began), self._rests_s())
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, STEP_S))
            self.check()
            if self.verdict.stops:
                return

    def turn(self) -> AbstractAsyncContextManager[object]:
        """Give the turn for a batch: while it gives way to clients, ranges work one after the other."""
        return self.gauges.turn if self.gauges.look().clients.gives_way else nullcontext()

    def _rests_s(self) -> float:
        return self.gauges.look().clients.rests_s(time.monotonic())

    def _told(self, reading: Reading) -> Verdict | None:
        """Obey an operator, or the window: nobody's patience runs meanwhile, and the slice ends."""
        opens = self.limits.window.opens_at(reading.at) if self.limits.window else None
        if reading.controls.get("paused"):
            throttled = Throttled(kind="paused", reason="paused")
        elif self.part in reading.controls.get("held", []):
            throttled = Throttled(kind="parallelism", reason=NO_SLOT)
        elif opens:
            told = f"outside its window: {self.limits.window} (opens {opens:%Y-%m-%d %H:%M} UTC)"
            self.closed_since = self.closed_since or reading.at
            throttled = Throttled(kind="window", reason=shown(told, 300), since=self.closed_since, until=opens)
        else:
            self.closed_since = None
            return None
        self.held_since = None
        return Verdict(0.0, throttled, stops=True)

    def _judged(self, reading: Reading, now_s: float) -> Verdict:
        found = strains(reading, self.limits, self.policy, now_s)
        if self.ease < 1:
            found.append(self._eased())
        worst = next(iter(found), None)
        if worst is None or not worst.holds:
            self._calm(now_s)
            return _slowed(min(found, key=lambda strain: (strain.rate, strain.kind != "blocked_clients"), default=None))
        self.calm_since = None
        self.held_since = self.held_since or reading.at
        bound = self.held_since + timedelta(seconds=self.policy.max_hold_s)
        if worst.binding:
            return Verdict(0.0, Throttled(kind=worst.kind, reason=shown(worst.text, 300), since=self.held_since))
        if reading.at < bound:
            held = Throttled(kind=worst.kind, reason=shown(worst.text, 300), since=self.held_since, until=bound)
            return Verdict(0.0, held)
        slow = Throttled(kind=worst.kind, reason=shown(worst.text, 300), rate=TRICKLE, since=bound)
        return Verdict(TRICKLE, slow)

    def _calm(self, now_s: float) -> None:
        """Count the time without a hold; after enough of it, patience begins anew."""
        self.calm_since = self.calm_since or now_s
        if now_s - self.calm_since >= min(CALM_S, CALM_SHARE * self.policy.max_hold_s):
            self.held_since = None

    def _ease(self, looked: Blocked) -> None:
        """Give way to clients who wait for a lock that one of our batches holds."""
        self.looked = looked.number
        if looked.clients:
            long = looked.longest_ms > 2 * self.limits.target_ms
            self.ease = LEAST_EASE if long else max(LEAST_EASE, self.ease * EASED_BY)
            self.waiting, self.waited_ms = looked.clients, looked.longest_ms
        else:
            self.ease = min(1.0, self.ease * REGAINED_BY)

    def _eased(self) -> Strain:
        """Say how clients who waited have changed the batches; their size and the pauses are the pace, so the rate is whole."""
        who = "1 client waited" if self.waiting == 1 else f"{self.waiting} clients waited"
        told = (
            f"{who} for rows of a batch, {self.waited_ms:.0f} ms: batches of {self.pace.target_ms:.0f} ms"
            f" (limit {self.limits.target_ms:g} ms), pauses of {self.pace.pause_ms:.0f} ms"
        )
        return Strain("blocked_clients", told, share=1 - self.ease, soft=1.0)


def _slowed(strain: Strain | None) -> Verdict:
    """Work at the rate that a strain leaves; what leaves the whole rate is told where it has changed the batches."""
    if strain is None or (strain.rate >= 1 and strain.kind != "blocked_clients"):
        return Verdict()
    told = Throttled(kind=strain.kind, reason=shown(strain.text, 300), rate=strain.rate)
    return Verdict(strain.rate, told)
