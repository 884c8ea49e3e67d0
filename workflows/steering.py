"""shift: reads move to the new version by steps, steered by what is measured, and by hand.

A step bakes for `bake_s`. Meanwhile it is looked at again and again: what routers report, the engine's own probe, and what
scheduled comparisons find. A breach is acted on when it is seen. Then the plan says what is done: roll back
(`rollback.automatic_on`), go back to the step before (`shift.on_breach: slow_down`), or send the reads back and wait for a person.
Each such decision is in the audit log with what was measured. A step that ended with fewer reads than `min_samples` is not passed
while routers are there: it bakes on, and says so.

`route` moves reads up or down at any time: what it sets bakes as a step of its own, and ends a wait for a person.
Down to 0 it holds the shift.
"""

from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Note, Outcome, Traffic, TrafficRequest
    from pgduet.plan.policy import Shadow
    from pgduet.workflows.calls import call
    from pgduet.workflows.ending import Ending
    from pgduet.workflows.judge import (
        Breach,
        judge_compared,
        judge_failed,
        judge_look,
        judge_traffic,
        may_be_chance,
        short_of_reads,
        too_few,
    )
    from pgduet.workflows.patches import blames_fairly, misses_routers, moves_end_holds, steers

LOOK_LEAST_S = 1.0
LOOK_MOST_S = 30.0
LOOKS = 60
LOOKS_MOST = 500
"""A bake of weeks is not looked at more often: each look is in the history."""
SHADOW_LOOK_S = 2.0
STANDING = 2
"""So many looks in a row must find reads slow before a bake's end: a moment is not a version."""
SLOW_DOWNS = 2
"""How often a step may fail and be come back to; then a person decides."""


def look_every_s(bake_s: float) -> float:
    """Tell how often a bake is looked at."""
    return max(LOOK_LEAST_S, min(LOOK_MOST_S, bake_s / LOOKS), bake_s / LOOKS_MOST)


class Steering(Ending):
    """Moves reads."""

    async def shift(self) -> None:
        """Move reads by steps, each baked against its criteria."""
        if steers():
            await self.steer()
            return
        for percent in self.plan.policy.shift.steps:
            if percent <= self.status.read_percent and percent < 100:
                continue
            await self.checkpoint()
            await self.route(percent)
            await self.bake(percent)

    async def steer(self) -> None:
        """Go from step to step; what is found set, by hand or by a run before, is baked before it goes on."""
        baked = 0
        failures: dict[int, int] = {}
        while baked < 100:
            await self.checkpoint()
            self.hand_over_if_long()
            percent = self.status.read_percent
            if percent <= baked:
                await self.prove_again_if_stale()
                percent = next(step for step in self.plan.policy.shift.steps if step > baked)
                await self.route(percent)
            breach = await self.watch_step(percent)
            if self.status.read_percent != percent:
                baked = await self.moved_by_hand(baked)
            elif breach:
                failures[percent] = failures.get(percent, 0) + 1
                baked = await self.breached_at(percent, breach, failures[percent])
            else:
                baked = percent

    async def watch_step(self, percent: int) -> Breach | None:
        """Watch a step until it has baked, with enough reads, or a criterion is breached, or somebody moves the reads."""
        bake_s = self.plan.policy.shift.bake_s
        ends = self.now() + timedelta(seconds=bake_s)
        begins = TrafficRequest(reference=self.reference, settled=True)
        since = await self.ask("traffic", begins, Traffic, "traffic before the bake")
        standing, over = 0, False
        while not over and (left := (ends - self.now()).total_seconds()) > 0:
            self.say_baking("bake", f"bake of the {percent} % step, {left:.0f} s left")
            over = await self.step_nap(percent, min(left, look_every_s(bake_s)))
            if self.is_turned(percent):
                return await self.turned(percent)
            if not over and ends > self.now():
                breach = await self.look(since)
                standing = standing + 1 if breach else 0
                if breach and (standing >= STANDING or breach.criterion != "latency"):
                    self.desk.go_on()
                    return breach
        breach = await self.final(since)
        while breach is None and not over and (short := self.too_few(since)):
            self.say_baking("samples", f"{short} at the {percent} % step")
            over = await self.step_nap(percent, max(1.0, min(LOOK_MOST_S, bake_s)))
            if self.is_turned(percent):
                return await self.turned(percent)
            self.hand_over_if_long()
            breach = await self.look(since)
            if over or not self.too_few(since):
                breach = await self.final(since)
        self.desk.go_on()
        await self.take_census(self.plan.policy.soak.legacy_idle_s)
        return breach

    async def look(self, since: Traffic) -> Breach | None:
        """Look at a step that bakes: what cannot be chance is a breach already."""
        now = await self.ask("traffic", TrafficRequest(reference=self.reference), Traffic, "traffic, while it bakes")
        self.status.traffic, breach = judge_look(since, now, self.plan.policy)
        return breach

    async def final(self, since: Traffic) -> Breach | None:
        """Judge a step at its end, by all that it brought; that is recorded."""
        ended = TrafficRequest(reference=self.reference, since=since)
        now = await self.ask("traffic", ended, Traffic, "traffic of the bake")
        self.status.traffic, breach = judge_traffic(since, now, self.plan.policy)
        return breach

    def say_baking(self, kind: str, detail: str) -> None:
        """Say what a step waits for."""
        name, below = self.plan.name, self.step_below(self.status.read_percent)
        slower = f"pgduet route {name} --read-percent {below}"
        self.desk.wait_for(kind, detail, f"pgduet advance {name}", slower, f"pgduet rollback {name}")
        self.announce()

    async def step_nap(self, percent: int, seconds: float) -> bool:
        """Wait for a while, but not past news of drift or of a person; tells whether somebody ended the bake."""
        try:
            await workflow.wait_condition(
                lambda: self.desk.advanced is not None or self.desk.paused or self.is_turned(percent),
                timeout=timedelta(seconds=seconds),
            )
        except TimeoutError:
            return False
        ended = self.desk.advanced is not None
        if not self.is_turned(percent):
            await self.checkpoint()
        return ended

    def is_turned(self, percent: int) -> bool:
        """Tell whether the step is no longer what it was: reads were moved by hand, or the versions have drifted apart."""
        return self.alarmed or self.status.read_percent != percent

    async def turned(self, percent: int) -> Breach | None:
        """Give the drift, where that is what turned it."""
        self.desk.go_on()
        self.turn_back_if_asked()
        moved = self.status.read_percent != percent
        return None if moved else Breach("drift", self.status.drift or "both versions have drifted apart")

    async def moved_by_hand(self, baked: int) -> int:
        """Follow a person who moved the reads: what is set is baked next; at 0 % it waits. Gives the step that counts as baked."""
        name = self.plan.name
        self.desk.decided(f"the shift goes on from {self.status.read_percent} %, as set by hand")
        if self.status.read_percent == 0:
            detail = "reads are at 0 %, as set by hand: somebody to move them, or to go on from the first step"
            again = f"pgduet route {name} --read-percent {self.plan.policy.shift.steps[0]}"
            await self.hold("criteria", detail, f"pgduet advance {name}", again, f"pgduet rollback {name}")
            return 0
        return min(baked, self.status.read_percent - 1)

    async def breached_at(self, percent: int, breach: Breach, failures: int) -> int:
        """Move reads back at once, write down why, then do what the plan says; gives the step that counts as baked from here on."""
        policy, name = self.plan.policy, self.plan.name
        below = self.step_below(percent)
        automatic = breach.criterion in policy.rollback.automatic_on and not self.may_be_chance(breach)
        slows = policy.shift.on_breach == "slow_down" and below > 0 and failures <= SLOW_DOWNS
        slows = slows and not automatic and breach.criterion != "drift"
        await self.route(below if slows else 0)
        then = "roll back" if automatic else f"slow down to {below} %" if slows else "wait"
        await self.note_breach(percent, breach, then)
        if automatic and await self.rolls_back_because(breach.detail):
            await self.checkpoint()
        if slows:
            return below - 1
        if breach.criterion == "drift":
            await self.checkpoint()
        elif not (self.status.read_percent and moves_end_holds()):  # else somebody has moved them meanwhile
            await self.hold("criteria", breach.detail, f"pgduet advance {name}", f"pgduet rollback {name}")
        if self.status.read_percent == 0:
            await self.route(percent)
        return min(percent, self.status.read_percent) - 1

    def may_be_chance(self, breach: Breach) -> bool:
        """Tell whether a breach is not sure to be the new version's: then reads go back, and a person decides about the rest."""
        seen = self.status.traffic
        return seen is not None and may_be_chance(breach, seen, self.plan.policy) and blames_fairly()

    def too_few(self, since: Traffic) -> str | None:
        """Say that a step has brought too few reads while routers are there, or were when it began: they may have crashed."""
        seen, policy = self.status.traffic, self.plan.policy
        if (short := too_few(seen, policy)) or seen is None or seen.routers_new or not since.routers_new:
            return short
        short = short_of_reads(seen, policy)
        return short if short and misses_routers() else None

    async def note_breach(self, percent: int, breach: Breach, then: str) -> None:
        """Write a decision about a step down, with what was measured."""
        measured = self.status.traffic.model_dump(mode="json") if self.status.traffic else {}
        evidence = {
            "read_percent": percent,
            "now": self.status.read_percent,
            "criterion": breach.criterion,
            "detail": breach.detail,
            "then": then,
            "traffic": measured,
        }
        await self.note("breach", evidence, f"{breach.criterion} at {percent} %: {then}")
        self.desk.decided(f"{breach.criterion} at the {percent} % step: {breach.detail}; {then}")

    async def shadow_by_routers(self, policy: Shadow) -> None:
        """shadow: wait until routers have compared enough reads, and they agree; the callers get the old answer."""
        begun: Traffic | None = await self.ask(
            "traffic", TrafficRequest(reference=self.reference), Traffic, "traffic before shadow reads"
        )
        while True:
            await self.checkpoint()
            now = await self.ask(
                "traffic", TrafficRequest(reference=self.reference), Traffic, "shadow reads of routers"
            )
            seen = now.since(begun or now)
            begun = begun or now
            self.status.traffic = seen.told()
            enough = seen.compared >= policy.min_samples
            breach = judge_compared(seen, policy.max_mismatch_ratio, early=not enough)
            breach = breach or judge_failed(seen, self.plan.policy.shift.max_error_ratio, early=not enough)
            if breach:
                await self.note_breach(0, breach, "wait")
                await self.hold(
                    "shadow", breach.detail, f"pgduet advance {self.plan.name}", f"pgduet rollback {self.plan.name}"
                )
                begun = None  # what was compared until somebody has said that it is mended counts no more
                continue
            if enough:
                break
            self.desk.wait_for(
                "samples",
                f"reads to be compared by routers: {seen.compared} of {policy.min_samples}",
                f"pgduet advance {self.plan.name}",
                f"pgduet rollback {self.plan.name}",
            )
            self.announce()
            if await self.nap(SHADOW_LOOK_S):
                break
            self.hand_over_if_long()
        self.desk.go_on()
        evidence = self.status.traffic.model_dump(
            mode="json", include={"compared", "mismatches", "calibrated", "noise", "failed"}
        )
        await self.note("shadow_routers", evidence, "shadow reads of routers")

    async def note(self, action: str, evidence: dict[str, Any], summary: str) -> None:
        """Write down what was decided, with its evidence."""
        note = Note(reference=self.reference_for("pgduet", None), action=action, evidence=evidence)
        outcome = await call("note", note, Outcome, summary)
        self.status.audit_head = outcome.audit_head or self.status.audit_head

    def step_below(self, percent: int) -> int:
        """Give the step before a percentage; 0 where there is none."""
        return max((step for step in self.plan.policy.shift.steps if step < percent), default=0)
