"""One migration, from preflight to done or back: read `forward` as the runbook, and `backward` as the way home."""

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pydantic_core import to_json

    from pgduet.describe import plain
    from pgduet.errors import PgduetError
    from pgduet.messages import (
        Backfill,
        BackfillInput,
        Part,
        PartList,
        ShadowRequest,
        ShadowResult,
        SliceResult,
        Start,
        Status,
        Timing,
    )
    from pgduet.phases import Authority, Phase, State
    from pgduet.plan.load import parse_plan
    from pgduet.plan.policy import Shadow
    from pgduet.reconciling import MAKES_SAFE
    from pgduet.texts import bounded, cut, shown
    from pgduet.workflows.anchors import memo
    from pgduet.workflows.calls import read, unfit
    from pgduet.workflows.chained import FIRST_LOOK_S, GROWTH, LOOK_EVERY_S
    from pgduet.workflows.machine import ContinueAsNewNeeded
    from pgduet.workflows.patches import ask_at_once, in_chain, reconciles, steers
    from pgduet.workflows.slots import Slots
    from pgduet.workflows.steering import Steering

SHADOW_CHUNK = 1000
PLAN_BYTES = 512 * 1024
"""A plan goes into the history several times, and each time has to fit into a message; it is checked within two seconds."""


@workflow.defn(name="Migration")
class Migration(Steering):
    """A migration of one database."""

    @workflow.init
    def __init__(self, raw: object = None) -> None:
        """Read the input, so that signals and queries find a migration even before it runs."""
        self.refused: ApplicationError | None = None
        try:
            start = taken(raw)
            self.open_machine(start, parse_plan(start.plan))
        except ApplicationError as error:
            self.refuse(error)
        except PgduetError as error:
            told, name = cut(error.render()), type(error).__name__
            self.refuse(ApplicationError(told, bounded(error.facts()), type=name, non_retryable=True))
        except Exception as error:  # noqa: BLE001  (whatever it is, to raise it here would be to try again for ever)
            self.refuse(unfit(f"the plan cannot be taken: {shown(str(error)) or type(error).__name__}"))

    @workflow.run
    async def run(self, raw: object = None) -> Status:
        """Go forward; on an abort, by whatever way it came, go back. Either way the end is clean."""
        del raw
        self.announce()
        if self.refused:
            raise self.refused
        ask_at_once()
        self.desk.takes_force = steers()
        await self.until_opened()
        if self.cancel_waits:
            self.cancel_asked()
        if self.deciding:  # an abort came first: begin nothing that would have to be undone
            await self.until(lambda: not self.deciding)
        self.clerking = asyncio.create_task(self.run_errands())
        heeding = asyncio.create_task(self.heed_news())
        if not self.desk.abort and self.status.state not in {State.DONE, State.ROLLED_BACK}:
            ahead = asyncio.create_task(self.forward())
            await self.until(lambda: ahead.done() or (self.desk.abort is not None and not self.critical))
            if not ahead.done():
                ahead.cancel()
            await self.hand_over_or_raise(await self.see_through(ahead))
        if self.desk.abort and self.status.phase not in {Phase.DONE, Phase.ROLLED_BACK}:
            back = asyncio.create_task(self.backward())
            await self.hand_over_or_raise(await self.see_through(back))
        await self.until(lambda: workflow.all_handlers_finished() and not self.desk.errands)
        self.clerking.cancel()
        heeding.cancel()
        if self.cancelled and self.status.phase is Phase.ROLLED_BACK:
            raise asyncio.CancelledError
        return self.status

    async def forward(self) -> None:
        """The runbook."""
        await self.keep_reconciling()
        await self.phase(Phase.EXPAND, self.expand, undo="undo_expand")
        await self.phase(Phase.DUAL_WRITE, self.dual_write, undo="undo_dual_write")
        await self.phase(Phase.BACKFILL, self.backfill, undo="undo_backfill")
        await self.phase(Phase.VERIFY, self.verify, undo="undo_verify")
        await self.phase(Phase.SHADOW, self.shadow)
        await self.phase(Phase.SHIFT, self.shift, undo="undo_shift")
        await self.phase(Phase.CUTOVER, self.cutover, undo="undo_cutover")
        await self.phase(Phase.SOAK, self.soak)
        await self.phase(Phase.CONTRACT, self.contract)
        await self.finish(Phase.DONE, State.DONE)

    async def backward(self) -> None:
        """The way home: first make safe, then withdraw once nobody is left, then take everything away, in reverse order."""
        self.going_back = True
        self.at_gate = self.held = None
        self.status.state = State.ROLLING_BACK
        self.status.safe = not MAKES_SAFE & set(self.compensations)
        self.desk.go_on()
        if self.resume_at is None:
            await self.record(None if in_chain() else "abort")
        self.resume_at = None
        await self.stop_errand()
        if MAKES_SAFE & set(self.compensations):
            await self.hold_reconciling()
        while self.compensations:
            undo = self.compensations[-1]
            if undo not in MAKES_SAFE:
                self.made_safe()
                await self.until_later_are_gone()
            if undo == "undo_verify":
                await self.until_new_clients_left()
                await self.end_reconciling()
            outcome = await self.step(undo, undo.replace("_", " "))
            self.status.archived += int(outcome.evidence.get("archived", 0))
            self.compensations.pop()
            await self.record(None)
        self.made_safe()
        await self.until_later_are_gone()
        await self.finish(Phase.ROLLED_BACK, State.ROLLED_BACK)

    # What the phases do

    async def expand(self) -> None:
        """Add the new columns."""
        await self.step("expand", "add the new columns")

    async def dual_write(self) -> None:
        """Have old clients' writes reach the new columns."""
        await self.step("dual_write", "install sync triggers, old to new")

    async def backfill(self) -> None:
        """Fill existing rows: a child for each range, as many at once as there are slots."""
        plan = await self.ask("plan_backfill", self.reference, PartList, "cut the table into ranges")
        self.parts = parts = plan.parts
        self.slots = Slots(plan.parallelism)
        self.status.backfill.parallelism = plan.parallelism
        self.status.backfill.limits = plan.limits
        self.reports = {}
        self.ranges = {(part.relation, part.part): part.block_to - part.block_from for part in parts}
        self.children = [f"{workflow.info().workflow_id}/backfill/{number}" for number in range(len(parts))]
        began = self.now()
        # A large table has many ranges; however many, the parent hears of them about a hundred times.
        report_percent = float(max(10, len(parts)))
        fills = (self.fill(number, part, report_percent) for number, part in enumerate(parts))
        results = await asyncio.gather(*fills, return_exceptions=True)
        self.children = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
        outcome = await self.step("backfill_outcome", "is no row left to fill?")
        seconds = (self.now() - began).total_seconds()
        rows = int(outcome.evidence.get("rows", 0))
        self.status.backfill = Backfill(
            rows_done=rows,
            rows_total=rows,
            percent=100.0,
            rows_per_second=rows / max(seconds, 0.001),
            eta_s=0.0,
            batches=int(outcome.evidence.get("batches", 0)),
            seconds=seconds,
            parallelism=self.slots.wide,
        )

    async def fill(self, number: int, part: Part, report_percent: float) -> SliceResult:
        """Run one Backfill child, once there is a slot for it."""
        while not self.slots.free:
            await workflow.wait_condition(lambda: self.slots.free)
        self.slots.enter(number)
        try:
            done = await self.fill_after_others(number, part, report_percent)
        except ChildWorkflowError:
            self.slots.leave(number)
            if not self.desk.abort:  # the others go on to their end, those that are held for its sake included
                await self.share_out()
            raise
        self.slots.leave(number)
        await self.share_out()
        return done

    async def fill_after_others(self, number: int, part: Part, report_percent: float) -> SliceResult:
        """Run the child, once that of a lost workflow, which ends with it but not at once, has ended."""
        pause_s = FIRST_LOOK_S
        while True:
            try:
                return await self.fill_range(number, part, report_percent)
            except WorkflowAlreadyStartedError:
                if pause_s == FIRST_LOOK_S:
                    self.desk.decided(f"range {number} waits until the lost workflow's child has ended")
                    self.announce()
                with suppress(FailureError):  # it may have ended meanwhile
                    await workflow.get_external_workflow_handle(self.children[number]).cancel()
                await workflow.sleep(timedelta(seconds=pause_s))
                pause_s = min(LOOK_EVERY_S, pause_s * GROWTH)

    async def fill_range(self, number: int, part: Part, report_percent: float) -> SliceResult:
        """Run the child to its end."""
        task = BackfillInput(
            reference=self.reference,
            part=part,
            slice_s=2.0,
            parent_id=workflow.info().workflow_id,
            paused=self.desk.paused,
            report_percent=report_percent,
        )
        done: SliceResult = await workflow.execute_child_workflow(
            "Backfill",
            task,
            id=self.children[number],
            result_type=SliceResult,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
            static_summary=f"{plain(part.relation)}, pages {part.block_from} to {part.block_to}",
        )
        return done

    async def verify(self) -> None:
        """Prove parity, then publish the new version."""
        if (await self.compare()).mismatches:
            await self.compare(repair=True)
        await self.until_in_step()
        await self.until_earlier_are_published()
        await self.prove_again_if_stale()
        outcome = await self.step("publish", "open the new version's schema, sync both ways")
        self.status.restored = int(outcome.evidence.get("restored", 0))
        await self.begin_reconciling()

    async def shadow(self) -> None:
        """Have enough reads go through both versions, and agree: the engine's of sampled keys, or services' own."""
        policy = self.plan.policy.shadow
        if policy.mode == "skip":
            self.desk.decided("shadow reads skipped, as the plan says")
            return
        if policy.mode in {"engine", "both"}:
            await self.shadow_by_engine(policy)
        if policy.mode in {"routers", "both"}:
            await self.shadow_by_routers(policy)

    async def shadow_by_engine(self, policy: Shadow) -> None:
        """Read sampled keys through both versions."""
        total = ShadowResult()
        while total.samples < policy.min_samples:
            await self.checkpoint()
            wanted = min(SHADOW_CHUNK, policy.min_samples - total.samples)
            found = await self.ask(
                "shadow", ShadowRequest(reference=self.reference, samples=wanted), ShadowResult, "compare reads"
            )
            if not found.comparable:
                self.desk.decided("nothing to compare: no table that both versions have is changed")
                return
            self.status.shadow = total = merged(total, found)
            if total.mismatches > policy.max_mismatch_ratio * total.samples:
                detail = f"{total.mismatches} of {total.samples} shadow reads differ: {total.examples[:3]}"
                await self.hold("shadow", detail, *self.drift_commands())
                total = ShadowResult()
            elif not found.samples:
                await self.hold("samples", "rows to compare: the tables are empty", f"pgduet advance {self.plan.name}")
                return

    async def cutover(self) -> None:
        """Fresh parity, then constraints, then, shielded, the flip."""
        if self.status.authority is Authority.NEW:
            return
        await self.prove()
        await self.checkpoint()
        await self.step("prepare_cutover", "prove the way back, declare constraints")
        await self.prove_again_if_stale()
        if reconciles():
            await self.checkpoint()
        self.critical = True
        await self.step("flip", "authority: new")
        self.status.authority = Authority.NEW
        self.status.read_percent = 100
        self.critical = False
        await self.checkpoint()

    async def finish(self, phase: Phase, state: State) -> None:
        """Write down the end, then say so: who is told that it has ended may start again at once."""
        await self.record(str(state), end=(phase, state))
        self.status.phase, self.status.state = phase, state
        self.status.timings = [*self.status.timings, Timing(phase=phase, started_at=self.now(), ended_at=self.now())]
        self.desk.go_on()
        self.status.census = []
        self.announce()

    async def hand_over_or_raise(self, error: BaseException | None) -> None:
        """End a task's story: hand over to a fresh run where it asked for one, raise what it raised."""
        if (
            self.desk.abort
            and not isinstance(error, ContinueAsNewNeeded)
            and self.status.state is not State.ROLLING_BACK
        ):
            return  # the step that was under way was cancelled; whatever it did is undone
        if isinstance(error, ContinueAsNewNeeded):
            await self.until(lambda: workflow.all_handlers_finished() and not self.desk.errands and not self.deciding)
            workflow.continue_as_new(self.start.model_copy(update={"carried": self.carried()}), memo=memo())
        if error is not None:
            raise error


def taken(raw: object) -> Start:
    """Read a run's input, by rules that need no look into the plan.

    Raises:
        ApplicationError: of type InvalidInput.
    """
    start = read(Start, raw)
    if start.carried:
        if workflow.info().continued_run_id is None:
            raise unfit("the input is no Start: `carried` is for a run that goes on from another")
        return start
    size = len(to_json(start.plan))
    if size > PLAN_BYTES:
        raise unfit(f"the plan has {size:,} bytes of JSON, and at most {PLAN_BYTES:,} are taken")
    return start


def merged(one: ShadowResult, other: ShadowResult) -> ShadowResult:
    """Add two results up; the later latencies count."""
    return ShadowResult(
        samples=one.samples + other.samples,
        mismatches=one.mismatches + other.mismatches,
        old_ms=other.old_ms or one.old_ms,
        new_ms=other.new_ms or one.new_ms,
        examples=[*one.examples, *other.examples][:20],
    )
