"""Signals, updates and queries of a migration: each act is both a signal (for tctl) and an update (with an answer)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from pgduet.messages import Answer, Approve, BackfillReport, Status
    from pgduet.texts import shown
    from pgduet.workflows.desk import Desk, reason_of


class Handlers(ABC):
    """What a migration answers to; the desk decides, the migration acts."""

    desk: Desk
    raw_plan: dict[str, Any]
    reports: dict[tuple[str, int], BackfillReport]
    ranges: dict[tuple[str, int], int]
    """The pages of each range that a Backfill child fills."""

    @abstractmethod
    def announce(self) -> None:
        """Show the state after an act."""

    @abstractmethod
    async def go_back(self, raw: object) -> str:
        """Decide on a rollback, where nothing stands in the way; tells what becomes of it."""

    @abstractmethod
    def hear_reconciled(self, raw: object) -> None:
        """Take what a scheduled comparison found."""

    @abstractmethod
    def tally(self) -> None:
        """Add the Backfill children's reports up."""

    async def _settled(self, act: str, raw: object) -> Answer:
        """Take an act that needs an activity, and answer with what became of it."""
        self._taken(act, raw)
        errand = self.desk.errands[-1]
        await workflow.wait_condition(lambda: errand.told is not None)
        return self.desk.answer(errand.told or "")

    def _heard(self, act: str, raw: object) -> None:
        if self.desk.hear(act, raw):
            self.announce()

    def _taken(self, act: str, raw: object) -> None:
        self.desk.take(act, raw)
        self.announce()

    @workflow.signal(name="advance")
    def signal_advance(self, raw: object = None) -> None:
        """Open a gate that asks for no approval, end a bake or a window early, or try a failed step again."""
        self._heard("advance", raw)

    @workflow.signal(name="approve")
    def signal_approve(self, raw: object = None) -> None:
        """Approve the gate before a phase."""
        self._heard("approve", raw)

    @workflow.signal(name="abort")
    async def signal_abort(self, raw: object = None) -> None:
        """Roll back."""
        try:
            await self.go_back(raw)
        except ApplicationError as error:
            self.desk.ignored(reason_of(error))
        else:
            self.announce()

    @workflow.signal(name="pause")
    def signal_pause(self, raw: object = None) -> None:
        """Hold."""
        self._heard("pause", raw)

    @workflow.signal(name="resume")
    def signal_resume(self, raw: object = None) -> None:
        """Go on."""
        self._heard("resume", raw)

    @workflow.signal(name="throttle")
    def signal_throttle(self, raw: object = None) -> None:
        """Change the backfill's pace."""
        self._heard("throttle", raw)

    @workflow.signal(name="route")
    def signal_route(self, raw: object = None) -> None:
        """Set the share of reads on the new path."""
        self._heard("route", raw)

    @workflow.signal(name="backfill_report")
    def signal_backfill_report(self, raw: object = None) -> None:
        """Hear from a Backfill child."""
        try:
            report = BackfillReport.model_validate(raw)
        except ValidationError:
            self.desk.ignored("a backfill report that cannot be read")
            return
        pages = self.ranges.get((report.relation, report.part))
        if pages is None or report.blocks_done > pages:
            self.desk.ignored("a report on a range that is not being filled")
            return
        self.reports[report.relation, report.part] = report
        self.tally()
        self.announce()

    @workflow.signal(name="reconciled")
    def signal_reconciled(self, raw: object = None) -> None:
        """Hear from a Reconcile workflow."""
        self.hear_reconciled(raw)
        self.announce()

    @workflow.signal(dynamic=True)
    def signal_unknown(self, name: str, args: Sequence[RawValue]) -> None:
        """Note a signal that means nothing here, instead of keeping it for a handler that will never come."""
        del args
        self.desk.ignored(f"there is no signal `{shown(name, 60)}`")

    @workflow.update(name="advance")
    def update_advance(self, raw: object = None) -> Answer:
        """Open a gate that asks for no approval, end a bake or a window early, or try a failed step again."""
        waited = self.desk.status.waiting_for
        self._taken("advance", raw)
        return self.desk.answer(f"advanced past: {waited.detail}" if waited else "advanced")

    @update_advance.validator
    def _check_advance(self, raw: object = None) -> None:
        self.desk.check("advance", raw)

    @workflow.update(name="approve")
    def update_approve(self, raw: object = None) -> Answer:
        """Approve the gate before a phase."""
        gate = Approve.model_validate(raw).gate
        self._taken("approve", raw)
        given = len(self.desk.status.approvals.get(gate, []))
        return self.desk.answer(f"{given} of {self.desk.policy.approvals_needed(gate)} approvals for {gate}")

    @update_approve.validator
    def _check_approve(self, raw: object = None) -> None:
        self.desk.check("approve", raw)

    @workflow.update(name="abort")
    async def update_abort(self, raw: object = None) -> Answer:
        """Roll back."""
        told = await self.go_back(raw)
        self.announce()
        return self.desk.answer(told)

    @update_abort.validator
    def _check_abort(self, raw: object = None) -> None:
        self.desk.check("abort", raw)

    @workflow.update(name="pause")
    async def update_pause(self, raw: object = None) -> Answer:
        """Hold."""
        return await self._settled("pause", raw)

    @update_pause.validator
    def _check_pause(self, raw: object = None) -> None:
        self.desk.check("pause", raw)

    @workflow.update(name="resume")
    async def update_resume(self, raw: object = None) -> Answer:
        """Go on."""
        return await self._settled("resume", raw)

    @update_resume.validator
    def _check_resume(self, raw: object = None) -> None:
        self.desk.check("resume", raw)

    @workflow.update(name="throttle")
    async def update_throttle(self, raw: object = None) -> Answer:
        """Change the backfill's pace."""
        return await self._settled("throttle", raw)

    @update_throttle.validator
    def _check_throttle(self, raw: object = None) -> None:
        self.desk.check("throttle", raw)

    @workflow.update(name="route")
    async def update_route(self, raw: object = None) -> Answer:
        """Set the share of reads on the new path."""
        return await self._settled("route", raw)

    @update_route.validator
    def _check_route(self, raw: object = None) -> None:
        self.desk.check("route", raw)

    @workflow.update(name="verify")
    async def update_verify(self, raw: object = None) -> Answer:
        """Run full parity now; repair drift where asked."""
        return await self._settled("verify", raw)

    @update_verify.validator
    def _check_verify(self, raw: object = None) -> None:
        self.desk.check("verify", raw)

    @workflow.query(name="status")
    def query_status(self, raw: object = None) -> Status:
        """Tell where the migration stands; a comparison goes stale by itself. An argument changes nothing."""
        del raw
        status = self.desk.status
        if status.parity is None:
            return status
        age_s = (workflow.now() - status.parity.checked_at).total_seconds()
        parity = status.parity.model_copy(update={"fresh": age_s <= self.desk.policy.verify.fresh_for_s})
        return status.model_copy(update={"parity": parity})

    @workflow.query(name="plan")
    def query_plan(self, raw: object = None) -> dict[str, Any]:
        """Give the plan."""
        del raw
        return self.raw_plan

    @workflow.query(name="next_commands")
    def query_next_commands(self, raw: object = None) -> list[str]:
        """Name the commands that make sense now."""
        del raw
        return self.desk.next_commands()
