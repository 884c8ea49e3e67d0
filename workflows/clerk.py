"""The clerk: carries out what the desk took (pause, throttle, route, verify), compares, and adds up what children report.

Acts are carried out one after the other, in the order in which they came; comparisons in a row of their own, since one may be held
by what another act takes away.
"""

import asyncio
from abc import abstractmethod
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from pgduet.describe import limits_told
    from pgduet.messages import (
        Act,
        ControlsRequest,
        Note,
        Outcome,
        Parity,
        ParityRequest,
        Reference,
        Route,
        RouteRequest,
        Throttle,
        VerifyNow,
    )
    from pgduet.phases import Phase
    from pgduet.reconciling import Want
    from pgduet.workflows.calls import call, innermost
    from pgduet.workflows.desk import Errand
    from pgduet.workflows.machine import Machine
    from pgduet.workflows.patches import keeps_reads

BESIDE = "comparisons-beside"
"""The patch since which a comparison keeps no other act waiting."""
WAKES = "throttle-wakes"
"""The patch since which children are told when the window may have changed."""
NOTED = frozenset({"advance", "approve"})
"""Acts that have had their effect when they are taken; what is left is to write them down."""


class Clerk(Machine):
    """Works beside the phase."""

    clerking: "asyncio.Task[None]"
    comparing: "asyncio.Task[None] | None" = None
    contracting = False
    """The census has decided; what it rests on stays as it is."""

    async def run_errands(self) -> None:
        """Carry out what the desk took, as long as the workflow lives."""
        while True:
            await workflow.wait_condition(lambda: self.next_errand() is not None)
            errand = self.next_errand()
            assert errand is not None  # noqa: S101  (waited for)
            if errand.compares and workflow.patched(BESIDE):
                errand.begun = True
                self.comparing = asyncio.create_task(self.carry_out(errand))
            else:
                await self.carry_out(errand)

    def next_errand(self) -> Errand | None:
        """Give the next errand that may begin: one comparison at a time, and one of the others."""
        compares = any(errand.begun and errand.compares for errand in self.desk.errands)
        may = (errand for errand in self.desk.errands if not (errand.begun or (errand.compares and compares)))
        return next(may, None)

    async def carry_out(self, errand: Errand) -> None:
        """Carry one out, and say what became of it."""
        errand.begun = True
        try:
            told = await self.errand(errand.act, errand.message)
        except (FailureError, asyncio.CancelledError) as error:
            told = self.became(errand, error)
        self.done_with(errand, told)

    def done_with(self, errand: Errand, told: str) -> None:
        """Say what became of an errand."""
        self.desk.errands.remove(errand)
        errand.told = told
        self.announce()

    async def stop_errand(self) -> None:
        """End what a rollback finds under way, but for a mere entry in the audit log: no undo may overlap it."""
        under_way = [errand for errand in self.desk.errands if errand.begun and errand.act not in NOTED]
        for errand in under_way:
            errand.stopped = True
        for errand in under_way:
            if errand.told is None:  # it may have ended while another one was waited for
                await self.stopped(errand, self.beside(errand) or self.clerking)

    async def stopped(self, errand: Errand, task: "asyncio.Task[None]") -> None:
        """End the task that carries an errand out, and wait until it is known what became of it."""
        task.cancel()
        await workflow.wait_condition(lambda: errand.told is not None or task.done())
        if errand.told is None:  # it had not come to its first step
            self.done_with(errand, f"{errand.act} was stopped: it is rolling back")

    def beside(self, errand: Errand) -> "asyncio.Task[None] | None":
        """Give the task of its own that an errand has, if it has one."""
        found = self.comparing if errand.compares else None
        return found if found and not found.done() else None

    async def until_errands_done(self) -> None:
        """Let what was accepted be carried out, before the step after which it would make no sense."""
        if self.desk.errands:
            acts = ", ".join(errand.act for errand in self.desk.errands)
            self.desk.wait_for("acts", f"acts under way to be carried out: {acts}", f"pgduet status {self.plan.name}")
            self.announce()
            await workflow.wait_condition(lambda: not self.desk.errands)
            self.desk.go_on()

    def became(self, errand: Errand, error: BaseException) -> str:
        """Say what became of an errand that failed, which stops nothing else, or that a rollback stopped.

        Raises:
            CancelledError: nobody stopped it: the workflow itself leaves the worker.
        """
        if errand.stopped and is_cancelled_exception(error):
            return f"{errand.act} was stopped: it is rolling back"
        if isinstance(error, asyncio.CancelledError):
            raise error
        told = f"{errand.act} failed: {innermost(error)}"
        self.desk.decided(told)
        return told

    async def errand(self, act: str, message: BaseModel) -> str:
        """Carry one out."""
        actor = self.reference_for(getattr(message, "actor", "unknown"), getattr(message, "reason", None))
        if act in NOTED:
            given = message.model_dump(mode="json", exclude={"actor", "reason"}, exclude_defaults=True)
            note = Note(reference=actor, action=act, evidence=given)
            return (await call("note", note, Outcome, f"{act} by {actor.actor}")).summary
        if self.desk.abort:
            return f"{act} was not done: it is rolling back"
        if isinstance(message, Route):
            if self.contracting and keeps_reads():
                return f"{act} was not done: contract is beginning"
            outcome = await call(
                "set_route", RouteRequest(reference=actor, read_percent=message.read_percent), Outcome, act
            )
            self.status.read_percent = message.read_percent
            return outcome.summary
        if isinstance(message, VerifyNow):
            parity = await self.compare(repair=message.repair, reference=actor, although_paused=self.desk.paused)
            told = f"{parity.mismatches} of {parity.rows} rows differ, {parity.repaired} repaired"
            return "; ".join([told, *(each.told for each in parity.off)])
        if isinstance(message, Throttle):
            return await self.throttle(message, actor)
        for number in range(len(self.children)):
            if act == "pause" or number not in self.slots.held:
                await self.tell_child(number, act)
        await call("set_controls", ControlsRequest(reference=actor, controls={"paused": act == "pause"}), Outcome, act)
        if self.status.reconciliation:
            await self.tend("held" if act == "pause" else "on", actor)
        return act + "d"

    async def throttle(self, message: Throttle, actor: Reference) -> str:
        """Change the pace: slices read it in the database; children that wait for the window are told."""
        limits, filled = message.limits(), self.status.backfill
        reset = list(Throttle.PACE) if message.reset else []
        await call("set_controls", ControlsRequest(reference=actor, controls=limits, reset=reset), Outcome, "throttle")
        filled.limits = limits if reset else {**filled.limits, **limits}
        wide = message.parallelism or (self.plan.policy.backfill.parallelism if reset else None)
        if wide:
            self.slots.wide = wide
            filled.parallelism = wide if self.children or message.parallelism else 0
            await self.share_out()
        if (message.window or reset) and workflow.patched(WAKES):
            for number in range(len(self.children)):
                await self.tell_child(number, "throttle")
        told = [*(["the pace is the plan's again"] if reset else []), *limits_told(limits)]
        late = " (the backfill is over: this is for comparisons)" if Phase.VERIFY.reached(self.status.phase) else ""
        return ", ".join(told) + late

    async def share_out(self) -> None:
        """Hold the ranges for which there is no slot, and let those go on for which there is one again."""
        async with self.sharing:  # one after the other: what is written last is what holds
            known = set(self.slots.held)
            moves = self.slots.moves()
            if moves:
                held = [self.parts[number].label for number in sorted(self.slots.held)]
                request = ControlsRequest(reference=self.reference, controls={"held": held})
                try:
                    await call("set_controls", request, Outcome, f"hold {len(held)} ranges")
                except BaseException:
                    self.slots.held = known  # nobody has been told
                    raise
            for number, act in moves:
                if not self.desk.paused:
                    await self.tell_child(number, act)

    async def tell_child(self, number: int, act: str) -> None:
        """Signal a range's child; a running slice reads what it needs to know in the database."""
        with suppress(FailureError):  # a range that is done, or has not begun, has no child
            await workflow.get_external_workflow_handle(self.children[number]).signal(act, Act())

    async def compare(
        self, *, repair: bool = False, reference: Reference | None = None, although_paused: bool = False
    ) -> Parity:
        """Compare all rows by what is in force, and remember the result."""
        request = ParityRequest(reference=reference or self.reference, repair=repair, although_paused=although_paused)
        summary = "compare all rows" + (", repair" if repair else "")
        # An errand runs beside the way forward, and is stopped in its own way.
        compare = call if reference else self.ask
        parity = await compare("parity", request, Parity, summary)
        self.found(parity)
        self.announce()
        return parity

    @abstractmethod
    def found(self, parity: Parity) -> None:
        """Remember a comparison."""

    @abstractmethod
    async def tend(self, want: Want, reference: Reference | None = None) -> None:
        """Bring the schedule of comparisons into a state."""

    def tally(self) -> None:
        """Add the Backfill children's reports up."""
        reports = list(self.reports.values())
        blocks = max(1, sum(self.ranges.values()))
        done = sum(report.blocks_done for report in reports)
        began = next((t.started_at for t in reversed(self.status.timings) if t.phase is Phase.BACKFILL), self.now())
        seconds = max(0.001, (self.now() - began).total_seconds())
        known = self.status.backfill
        rows = sum(report.rows for report in reports)
        known.rows_done, known.batches = rows, sum(report.batches for report in reports)
        known.percent = round(min(100.0, 100.0 * done / blocks), 1)
        known.rows_per_second, known.seconds = rows / seconds, seconds
        known.eta_s = seconds * (blocks - done) / done if done else None
        known.throttled_by = next((report.throttled_by for report in reports if report.throttled_by), None)
        known.throttle = next((report.throttle for report in reports if report.throttle), None)
