"""A migration among others: what it asks of the version chain before it goes back, publishes or contracts.

A rollback is decided in the database (`claim_rollback`), where the start of a later migration looks too; only then does the
workflow turn. With `cascade` this workflow has the later ones rolled back by theirs, and takes nothing away before they are gone.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Abort, Act, Outcome
    from pgduet.neighbours import Claim, Pending
    from pgduet.workflows.anchors import anchor
    from pgduet.workflows.calls import call, innermost
    from pgduet.workflows.clerk import Clerk
    from pgduet.workflows.desk import ENDED, reason_of, refusal
    from pgduet.workflows.patches import in_chain

FIRST_LOOK_S = 0.5
LOOK_EVERY_S = 30.0
CANCEL_LOOK_EVERY_S = 300.0
GROWTH = 1.3
DECIDED_AT_ONCE = 5
ANY_NUMBER = 1_000_000
"""A cancellation cannot be refused, and there is only one."""


CANCELLED = Abort(actor="temporal", reason="the workflow was cancelled")


class Chained(Clerk):
    """Decisions that concern neighbours in the chain."""

    cancelling: "asyncio.Task[None] | None" = None

    async def go_back(self, raw: object, *, at_most: int = DECIDED_AT_ONCE) -> str:
        """Decide on a rollback, where nothing stands in the way; tells what becomes of it.

        One is decided after the other, and only a few wait: each asks the database, and the first may make the others idle.

        Raises:
            ApplicationError: of type ActRefused or BuiltUpon, with the reason.
        """
        abort = self.desk.check("abort", raw)
        assert isinstance(abort, Abort)  # noqa: S101  (by the desk's own rules)
        if not in_chain():
            self.desk.take("abort", abort)
            return "rolling back"
        if self.deciding >= at_most:
            raise refusal("other aborts are being decided already")
        self.deciding += 1
        try:
            await workflow.wait_condition(lambda: self.opened is not None or self.status.state in ENDED)
            async with self.decision:
                self.desk.check("abort", abort)
                later = await self.claim(abort)
                self.desk.take("abort", abort)
        finally:
            self.deciding -= 1
        return "rolling back" + (f", after {', '.join(later)}" if later else "")

    async def claim(self, abort: Abort) -> list[str]:
        """Write the decision down before anything is undone; gives the later migrations that go first.

        Raises:
            ApplicationError: it is not possible, with the reason.
        """
        claim = Claim(reference=self.reference_for(abort.actor, abort.reason), abort=abort)
        try:
            outcome = await call("claim_rollback", claim, Outcome, "decide to roll back")
        except ActivityError as error:
            cause = error.cause
            if not isinstance(cause, ApplicationError):
                raise refusal(f"it could not be decided: {innermost(error)}") from None
            raise ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True) from None
        self.status.audit_head = outcome.audit_head or self.status.audit_head
        anchor(outcome.audit_head)
        return list(outcome.evidence.get("later", []))

    async def go_on_back(self, decided: Abort | None) -> None:
        """Take a rollback up that another workflow had begun, or that this one was started for."""
        start = self.start
        asked = Abort(actor=start.actor, reason=start.reason or "adopted", force=start.force, cascade=start.cascade)
        if in_chain() and (decided is None or (start.mode == "rollback" and (start.force or start.cascade))):
            await self.claim(asked)
        if decided is not None:
            more = {"force": asked.force or decided.force, "cascade": asked.cascade or decided.cascade}
            asked = decided.model_copy(update=more)
        self.desk.hear("abort", asked)

    async def rolls_back_because(self, reason: str) -> bool:
        """Decide on a rollback as the plan's criteria say; where a later migration stands in the way, a person decides."""
        abort = Abort(actor="pgduet", reason=reason)
        try:
            if in_chain():
                await self.claim(abort)
        except ApplicationError as error:
            self.desk.decided(f"no automatic rollback ({reason}): {reason_of(error)}")
            return False
        self.desk.hear("abort", abort)
        return True

    # A Temporal cancellation

    def cancel_asked(self) -> None:
        """Begin to act on a cancellation, which cannot be refused: what cannot be rolled back yet is held until it can."""
        if in_chain():
            self.cancelling = asyncio.create_task(self.cancel())
        else:
            self.desk.hear("abort", CANCELLED)

    async def cancel(self) -> None:
        """Roll back; while later migrations stand in the way, hold, and look again until they are gone or somebody resumes."""
        pause_s = FIRST_LOOK_S
        while not self.cancel_waits or self.desk.paused:
            try:
                await self.go_back(CANCELLED, at_most=ANY_NUMBER)
            except ApplicationError as error:
                if error.type != "BuiltUpon":
                    self.give_cancel_up(reason_of(error))
                    break
                self.hold_for_later(reason_of(error))
            else:
                break
            await self.awake(pause_s)
            pause_s = min(CANCEL_LOOK_EVERY_S, pause_s * GROWTH)
        self.cancel_waits = False
        self.announce()

    def hold_for_later(self, why: str) -> None:
        """Pause until later migrations are gone: nobody has said that they may be taken back too."""
        if not self.cancel_waits:
            self.desk.decided(f"cancelled, but {why}")
        self.cancel_waits = True
        name = self.plan.name
        self.desk.hold(
            Act(actor="temporal", reason="the workflow was cancelled"),
            "later",
            f"later migrations to go, to be rolled back as it was cancelled: {why}",
            f"pgduet rollback {name} --cascade",
            f"pgduet resume {name}",
        )
        self.announce()

    def give_cancel_up(self, why: str) -> None:
        """Note a cancellation that cannot be acted on any more; what was held for it waits for a person."""
        self.desk.ignored(why)
        if self.cancel_waits and self.desk.paused:
            detail = f"somebody to resume it; the cancellation came too late: {why}"
            self.desk.wait_for("paused", detail, f"pgduet resume {self.plan.name}")

    async def awake(self, seconds: float) -> None:
        """Sleep, but not past the end of a pause or the decision to roll back."""
        over = timedelta(seconds=seconds)
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: not self.desk.paused or self.desk.abort is not None, timeout=over)

    # Waiting for neighbours

    async def until_later_are_gone(self) -> None:
        """Have later migrations rolled back first, and wait for them: until then everything that they stand on stays."""
        if self.desk.abort is None or not self.desk.abort.cascade:
            return
        pause_s = FIRST_LOOK_S
        while True:
            claim = Claim(reference=self.reference, abort=self.desk.abort)
            pending = await self.insist("press_later", claim, Pending, "have later migrations rolled back")
            if not pending.waits_for:
                break
            commands = [f"pgduet status {each.name}" for each in pending.waits_for]
            self.desk.wait_for("later", f"later plans to be rolled back first: {pending.told}", *commands)
            self.announce()
            await workflow.sleep(timedelta(seconds=pause_s))
            pause_s = min(LOOK_EVERY_S, pause_s * GROWTH)
            self.hand_over_if_long()
        self.desk.go_on()

    async def until_earlier_are_published(self) -> None:
        """Wait for the versions upon which this one's is going to stand."""
        pause_s = FIRST_LOOK_S
        while in_chain():
            await self.checkpoint()
            pending = await self.ask("earlier_unpublished", self.reference, Pending, "are earlier versions published?")
            if not pending.waits_for:
                break
            self.wait_for_earlier(pending)
            self.announce()
            await workflow.sleep(timedelta(seconds=pause_s))
            pause_s = min(LOOK_EVERY_S, pause_s * GROWTH)
            self.hand_over_if_long()
        self.desk.go_on()

    def wait_for_earlier(self, pending: Pending) -> None:
        """Say that earlier migrations must come further first."""
        commands = [f"pgduet status {each.name}" for each in pending.waits_for]
        self.desk.wait_for("earlier", f"earlier plans: {pending.told}", *commands, f"pgduet rollback {self.plan.name}")
