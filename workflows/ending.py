"""How a migration ends: the soak, and contract, which refuses while anybody is left on the old version.

`advance --force` is a person's word to go past them: past the clients that the census names at that moment, and past nothing else,
so not past approvals, drift or other migrations. Soak and contract ask for it each; past whom it went is in the audit log.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Advance, CensusResult, Note, Outcome
    from pgduet.neighbours import Pending
    from pgduet.workflows.calls import call
    from pgduet.workflows.pace import CENSUS_EVERY_S, CensusPace
    from pgduet.workflows.patches import forgets_force, in_chain, looks_again, steers
    from pgduet.workflows.watch import Watch

NAMED = 50
"""So many of those whom it goes past are named in the audit log."""


class Ending(Watch):
    """Soak and contract."""

    override: Advance | None = None
    """Somebody's word to go past the clients that are left."""

    async def soak(self) -> None:
        """Keep both versions alive for the deprecation window, until nobody is left on the old one."""
        await self.keep_reconciling()
        policy = self.plan.policy
        self.soak_started_at = self.soak_started_at or self.now()
        self.status.window_ends_at = self.status.window_ends_at or self.soak_started_at + timedelta(
            seconds=policy.soak.window_s
        )
        self.next_parity_at = self.next_parity_at or self.now() + self.parity_every
        pace = CensusPace(policy.soak)
        while True:
            await self.checkpoint()
            census = await self.take_census(policy.soak.legacy_idle_s)
            self.name_roles(census, self.plan.version.from_)
            self.say_hidden(census)
            await self.reconcile_if_due()
            ends = self.status.window_ends_at
            if self.now() >= ends and (not census.old_left or await self.overridden(census)):
                break
            pause_s = pace.pause_s(census, (ends - self.now()).total_seconds())
            if await self.soak_nap(ends, census, min(pause_s, self.parity_due_s)):
                self.status.window_ends_at = min(ends, self.now())
                self.hear_override()
                self.desk.go_on()
            if self.override is None:
                self.hand_over_if_long()
        self.forget_override()
        self.desk.go_on()

    async def contract(self) -> None:
        """Drop the old representation, unless somebody still uses it: after this there is no way back."""
        while not self.desk.no_return:
            if await self.may_contract():
                break
            self.announce()
            await self.until_next_census(min(CENSUS_EVERY_S, self.plan.policy.soak.legacy_idle_s or 1))
            if self.override is None:
                self.hand_over_if_long()
        self.desk.go_on()
        self.desk.no_return = self.critical = True
        await self.until_errands_done()
        await self.end_reconciling()
        await self.step("contract", "drop the old representation")

    async def may_contract(self) -> bool:
        """Pass the point of no return, or say who is in the way: clients, or earlier migrations."""
        await self.checkpoint()
        reads = self.status.read_percent
        census = await self.take_census(self.plan.policy.soak.legacy_idle_s, leaving="old")
        if census.old_left and not await self.overridden(census):
            detail = f"clients of version {self.plan.version.from_} or older to leave: {', '.join(census.old_left)}"
            self.desk.wait_for("census", detail, *self.census_commands())
            return False
        self.forget_override()
        self.say_hidden(census)
        moving = self.status.read_percent != reads or any(errand.act == "route" for errand in self.desk.errands)
        if (self.desk.paused or self.alarmed or moving) and looks_again():
            return await self.may_contract()  # held for days, maybe: who has come meanwhile is looked for again
        await self.checkpoint()
        return await self.begin_contract() if in_chain() else True

    async def begin_contract(self) -> bool:
        """Pass the point of no return, or wait for earlier migrations."""
        self.contracting = True
        try:
            pending = await self.ask("begin_contract", self.reference, Pending, "pass the point of no return")
        except BaseException:
            self.contracting = False
            raise
        self.contracting = not pending.waits_for
        if pending.waits_for:
            self.wait_for_earlier(pending)
        return self.contracting

    async def until_next_census(self, pause_s: float) -> None:
        """Wait for the time of the next census, or for somebody's word to go past what the last one found."""
        if not steers():
            await workflow.sleep(timedelta(seconds=pause_s))
        elif await self.nap(pause_s):
            self.hear_override()
            self.desk.go_on()

    def hear_override(self) -> None:
        """Remember a word to go past the clients that are left: it holds for the next census."""
        if self.desk.advanced and self.desk.advanced.force:
            self.override = self.desk.advanced

    def forget_override(self) -> None:
        """Forget a word that found nobody to go past: those who come later were not meant."""
        if self.override is not None and forgets_force():
            self.override = None

    async def overridden(self, census: CensusResult) -> bool:
        """Go past those who are left, where somebody has said so, and write down past whom."""
        act, self.override = self.override, None
        if act is None:
            return False
        count = census.old_count or len(census.old_left)
        evidence = {"phase": self.status.phase, "left": census.old_left[:NAMED], "count": count}
        note = Note(reference=self.reference_for(act.actor, act.reason), action="override", evidence=evidence)
        outcome = await call("note", note, Outcome, f"go past {count} clients of the old version")
        self.status.audit_head = outcome.audit_head or self.status.audit_head
        self.desk.decided(
            f"{self.status.phase} goes past clients by the word of {act.actor}: {', '.join(census.old_left)}"
        )
        return True
