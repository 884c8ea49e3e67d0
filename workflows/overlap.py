"""The overlap: while both versions live, a Temporal Schedule compares them; what it finds holds the journey, or turns it back.

The schedule is made by an activity after publication, held while the migration is paused, and taken away before contract and before
the new version is withdrawn. A Reconcile workflow signals each result. The signal can come from anybody, so it is news: what is
decided (drift found, drift gone) rests on the comparison that the database keeps. Limits: where there can be no schedule, or the
run began before there were any, soak compares by a timer of its own, and nothing compares in shadow and shift.
"""

from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Note, Outcome, Parity, Reconciliation, Reference
    from pgduet.phases import Phase
    from pgduet.reconciling import LastComparison, Reconciled, Tend, Tended, Want, schedule_id, seconds_between
    from pgduet.texts import shown
    from pgduet.workflows.calls import call, innermost
    from pgduet.workflows.chained import Chained
    from pgduet.workflows.desk import ENDED
    from pgduet.workflows.judge import describe, drifted, stands_in_the_way
    from pgduet.workflows.patches import reconciles

SUMMARIES: dict[Want, str] = {
    "on": "schedule comparisons",
    "held": "hold scheduled comparisons",
    "gone": "take the schedule of comparisons away",
}
CLOCKS_DIFFER = timedelta(minutes=5)
PATIENCE_S: dict[Want, float] = {"on": 30.0, "held": 5.0, "gone": 30.0}


class Overlap(Chained):
    """Looks after the schedule, and acts on what it finds."""

    news: Reconciled | None = None
    judged = False
    """The drift that stands has been decided about."""

    # The schedule

    async def keep_reconciling(self) -> None:
        """Have a schedule in the phases that need one: of a migration that was adopted, or began before there were any."""
        overlap = Phase.SHADOW.reached(self.status.phase) and not Phase.CONTRACT.reached(self.status.phase)
        if overlap and self.status.reconciliation is None and not self.desk.no_return:
            await self.begin_reconciling()

    async def begin_reconciling(self) -> None:
        """Make the schedule, or find it; held where the migration is paused."""
        if reconciles():
            await self.tend("on")
            if self.desk.paused:
                await self.tend("held")

    async def hold_reconciling(self) -> None:
        """Let no comparison be in the way of the undos that make safe."""
        if reconciles():
            await self.tend("held")

    async def go_on_reconciling(self) -> None:
        """Compare again while a rollback waits for clients: until they have left, both versions live."""
        known = self.status.reconciliation
        if known and known.held and not known.why_not:
            await self.tend("on")

    async def end_reconciling(self) -> None:
        """Take the schedule away; safe to run again."""
        if reconciles():
            await self.tend("gone")
            self.status.reconciliation = self.status.drift = None

    async def tend(self, want: Want, reference: Reference | None = None) -> None:
        """Bring the schedule into a state; where that is not possible, or not soon, say why and go on.

        Nothing waits for a schedule, least of all what makes safe: one that could not be taken away takes itself away.
        """
        every_s = seconds_between(self.plan.policy.verify.reconcile_every_s)
        request = Tend(
            reference=reference or self.reference,
            workflow_id=workflow.info().workflow_id,
            want=want,
            every_s=every_s,
        )
        alone = reference is None and not self.going_back
        if alone:
            self.turn_back_if_asked()
        try:
            tended = await call("tend_reconciliation", request, Tended, SUMMARIES[want], within_s=PATIENCE_S[want])
            why_not = tended.why_not
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            why_not = innermost(error)
        if alone:
            self.turn_back_if_asked()
        known = self.status.reconciliation
        if why_not and (known is None or known.why_not is None):
            self.desk.decided(f"no scheduled comparisons: {why_not}")
        self.status.reconciliation = Reconciliation(
            every_s=every_s,
            schedule_id=schedule_id(self.plan.database, self.plan.name),
            why_not=why_not,
            held=want == "held",
            failing=known.failing if known else None,
        )
        self.announce()

    @property
    def compares_itself(self) -> bool:
        """Tell whether soak has to compare by its own timer."""
        known = self.status.reconciliation
        return known is None or known.why_not is not None

    # What is found

    def hear_reconciled(self, raw: object) -> None:
        """Take a result; it is looked at by `heed_news`, one after the other, however many come."""
        try:
            self.news = Reconciled.model_validate(raw)
        except ValidationError:
            self.desk.ignored("a comparison that cannot be read")

    async def heed_news(self) -> None:
        """Heed what the schedule finds, as long as the workflow lives."""
        while True:
            await workflow.wait_condition(lambda: self.news is not None)
            news, self.news = self.news, None
            self.deciding += 1
            try:
                if news and self.status.reconciliation and self.status.state not in ENDED:
                    await self.heed(news)
            except FailureError as error:
                self.desk.decided(f"a comparison was not heeded: {innermost(error)}")
            finally:
                self.deciding -= 1
            self.announce()

    async def heed(self, news: Reconciled) -> None:
        """Take a result for the status; where it is about drift, read what the database keeps, and decide."""
        if self.status.reconciliation and (news.failing or news.parity):
            self.status.reconciliation.failing = shown(news.failing) if news.failing else None
        parity = news.parity
        if parity is None or not self.is_newer(parity):
            return
        # A date of the future would have every true one after it be old news.
        odd = parity.checked_at > self.now() + CLOCKS_DIFFER
        if odd or drifted(parity, self.plan.policy) or self.status.drift:
            kept = await call("last_comparison", self.reference_for("pgduet", None), LastComparison, "what was found?")
            parity = kept.parity
        if parity and self.is_newer(parity):
            self.found(parity)
            if self.status.drift and not self.judged and not (self.desk.abort or self.desk.no_return):
                await self.judge(parity)

    def is_newer(self, parity: Parity) -> bool:
        """Tell whether a comparison is newer than the one that is known."""
        return self.status.parity is None or parity.checked_at > self.status.parity.checked_at

    def found(self, parity: Parity) -> None:
        """Remember a comparison, and whether it is beyond what the plan bears."""
        self.status.parity = parity
        self.status.drift = describe(parity) if drifted(parity, self.plan.policy) else None
        self.judged = self.judged and self.status.drift is not None

    async def judge(self, parity: Parity) -> None:
        """Decide about new drift: roll back as the plan says, else the next checkpoint waits for a person."""
        self.judged = True
        policy = self.plan.policy
        automatic = "drift" in policy.rollback.automatic_on
        evidence = {
            "checked_at": parity.checked_at.isoformat(),
            "mismatches": parity.mismatches,
            "max_drift_rows": policy.verify.max_drift_rows,
            "aggregates": [each.name for each in parity.off],
            "then": "roll back" if automatic else "wait",
        }
        note = Note(reference=self.reference_for("pgduet", None), action="drift", evidence=evidence)
        outcome = await call("note", note, Outcome, "drift beyond what the plan bears")
        self.status.audit_head = outcome.audit_head or self.status.audit_head
        self.desk.decided(f"drift: {describe(parity)}")
        async with self.decision:
            if automatic and not (self.desk.abort or self.desk.no_return):
                await self.rolls_back_because(describe(parity))

    # What waits for it

    @property
    def alarmed(self) -> bool:
        """Tell whether drift stands in the way of going on, since nobody has advanced past it."""
        if self.status.reconciliation is None or self.status.drift is None or self.status.parity is None:
            return False
        return not (self.going_back or self.desk.no_return) and self.passed_parity_at != self.status.parity.checked_at

    async def checkpoint(self) -> None:
        """Go no further while the migration is paused, or while drift stands in the way."""
        await super().checkpoint()
        while self.alarmed:
            await self.until_drift_is_gone()
            await super().checkpoint()

    async def until_drift_is_gone(self) -> None:
        """Wait until a newer comparison finds less, or somebody advances past this one."""
        seen = self.status.parity
        self.desk.wait_for("drift", self.status.drift or "", *self.drift_commands())
        self.announce()
        await self.until_told(
            lambda: self.desk.advanced is not None or self.status.parity is not seen or self.desk.paused
        )
        if self.desk.advanced is not None and seen:
            self.passed_parity_at = seen.checked_at
        if self.desk.advanced is not None or not self.alarmed:
            self.desk.go_on()
        self.announce()

    async def nap(self, seconds: float) -> bool:
        """Wait for a while, but not past news of drift; tells whether somebody advanced meanwhile."""
        over = timedelta(seconds=seconds)
        try:
            await workflow.wait_condition(lambda: self.desk.advanced is not None or self.alarmed, timeout=over)
        except TimeoutError:
            return False
        return self.desk.advanced is not None

    def drift_commands(self) -> list[str]:
        """Name what can be done about drift."""
        name = self.plan.name
        return [f"pgduet verify {name} --repair", f"pgduet advance {name}", f"pgduet rollback {name}"]

    async def prove(self) -> None:
        """Compare now, and wait while what is found stands in the way."""
        await self.compare()
        await self.until_in_step()

    async def until_in_step(self) -> None:
        """Wait while what the last comparison found stands in the way; whoever advances has it looked at anew."""
        while (parity := self.status.parity) and stands_in_the_way(parity, self.plan.policy):
            await self.hold("drift", describe(parity), *self.drift_commands())
            await self.compare()

    async def prove_again_if_stale(self) -> None:
        """Compare again where the last comparison has gone stale meanwhile: neither step may rest on an old one."""
        if reconciles() and self.status.parity:
            age_s = (self.now() - self.status.parity.checked_at).total_seconds()
            if age_s > self.plan.policy.verify.fresh_for_s:
                await self.prove()
