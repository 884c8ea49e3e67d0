"""The machinery under the runbook: phases with their gates and undos, failures that wait for a person, side errands, abort.

`run` in `migration.py` starts `forward` as a task of its own. The root waits for it, or for an abort outside critical sections,
and then compensates in reverse order. A Temporal cancellation is an abort; none is ever acted on in a critical section, and the
compensation of a step is pushed before the step, so whatever a step did is undone exactly once.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from pgduet.messages import (
        BackfillReport,
        Carried,
        Opened,
        Outcome,
        Part,
        Record,
        Reference,
        Start,
        Status,
        Timing,
        WaitingFor,
    )
    from pgduet.phases import Phase, State
    from pgduet.plan.checksum import checksum
    from pgduet.plan.load import parse_plan
    from pgduet.plan.models import Plan
    from pgduet.plan.policy import Policy
    from pgduet.workflows.anchors import anchor
    from pgduet.workflows.board import show
    from pgduet.workflows.calls import M, call, innermost
    from pgduet.workflows.desk import Desk
    from pgduet.workflows.handlers import Handlers
    from pgduet.workflows.patches import in_chain, moves_end_holds
    from pgduet.workflows.slots import Slots

INSIST_FIRST_S = 1.0
INSIST_EVERY_S = 30.0


class ContinueAsNewNeeded(Exception):
    """The history is long enough: the run should hand over to a fresh one."""


class Machine(Handlers):
    """Phases, errands and compensations; what each phase does stands in `Migration`."""

    refused: ApplicationError | None
    opened: Opened | None
    shown: tuple[object, ...]

    def open_machine(self, start: Start, plan: Plan) -> None:
        """Begin, or go on where the run before handed over."""
        carried = start.carried
        self.start = start
        self.take_plan(plan, start.plan)
        if carried and carried.opened.plan:
            self.take_plan(parse_plan(carried.opened.plan), carried.opened.plan)
            plan = self.plan
        status = (
            carried.status
            if carried
            else Status(
                name=plan.name,
                database=plan.database,
                workflow_id=workflow.info().workflow_id,
                phase=Phase.PREFLIGHT,
                state=State.RUNNING,
                from_version=plan.version.from_,
                to_version=plan.version.to,
                plan_checksum=checksum(plan),
            )
        )
        self.status = status
        self.desk = Desk(status, plan.policy, self.now)
        self.desk.abort = carried.abort if carried else None
        self.desk.advanced = carried.advanced if carried else None
        self.opened = carried.opened if carried else None
        self.resume_at: Phase | None = carried.phase if carried else None
        self.at_gate: Phase | None = carried.phase if carried and carried.at_gate else None
        self.held: WaitingFor | None = carried.held if carried else None
        self.compensations: list[str] = list(carried.compensations) if carried else []
        self.cancelled = carried.cancelled if carried else False
        self.cancel_waits = carried.cancel_waits if carried else False
        self.soak_started_at: datetime | None = carried.soak_started_at if carried else None
        self.next_parity_at: datetime | None = carried.next_parity_at if carried else None
        self.passed_parity_at: datetime | None = carried.passed_parity_at if carried else None
        self.reports: dict[tuple[str, int], BackfillReport] = {}
        self.children: list[str] = []
        self.ranges: dict[tuple[str, int], int] = {}
        self.deciding = 0
        self.decision = asyncio.Lock()
        self.parts: list[Part] = []
        self.sharing = asyncio.Lock()
        self.slots = Slots(plan.policy.backfill.parallelism)
        self.critical = False
        self.going_back = False
        self.shown = ()
        if carried:
            self.desk.paused = carried.paused
            self.desk.no_return = carried.no_return
            self.desk.before_pause = carried.before_pause

    def take_plan(self, plan: Plan, raw: dict[str, Any]) -> None:
        """Go by a plan: the one that came with the start, or the one with which a migration that was found had begun."""
        self.plan = plan
        self.raw_plan = raw

    def refuse(self, error: ApplicationError) -> None:
        """Take no plan, but stay answerable: `run` fails with the reason, queries tell it, acts are refused."""
        info = workflow.info()
        _, _, rest = info.workflow_id.partition("/")
        database, _, name = rest.rpartition("/")
        self.refused = error
        self.raw_plan = {}
        self.opened = None
        self.reports, self.ranges = {}, {}
        self.status = Status(
            name=name or info.workflow_id,
            database=database or "unknown",
            workflow_id=info.workflow_id,
            phase=Phase.PREFLIGHT,
            state=State.FAILED,
            failure=error.message,
        )
        self.desk = Desk(self.status, Policy(), self.now)
        self.shown = ()

    # Small words for the runbook

    def now(self) -> datetime:
        """Tell the workflow's time."""
        return workflow.now()

    @property
    def reference(self) -> Reference:
        """Name this migration for an activity, in the name of whoever acted last."""
        actor = self.desk.abort or self.start
        return self.reference_for(actor.actor, actor.reason)

    def reference_for(self, actor: str, reason: str | None) -> Reference:
        """Name this migration for an activity in somebody's name."""
        assert self.opened is not None  # noqa: S101  (nothing acts before preflight)
        return Reference(
            database=self.plan.database,
            name=self.plan.name,
            migration_id=self.opened.migration_id,
            actor=actor,
            reason=reason,
        )

    def announce(self) -> None:
        """Show the state in the Temporal UI."""
        status = self.status
        shown = (status.phase, status.state, status.read_percent)
        # Each change of a search attribute is an event: only real changes may be.
        changed = shown != self.shown and self.opened is not None and self.opened.search_attributes
        show(status, self.desk.next_commands(), attributes=changed)
        self.shown = shown if changed else self.shown

    async def ask(self, name: str, argument: BaseModel, result: type[M], summary: str) -> M:
        """Run an activity on the way forward; once a rollback is asked for, go no further.

        An activity that ends well although it was cancelled swallows the cancellation: so it is looked for again here.
        """
        if self.going_back or self.desk.no_return:
            return await self.insist(name, argument, result, summary)
        self.turn_back_if_asked()
        answer = await call(name, argument, result, summary)
        self.turn_back_if_asked()
        return answer

    async def insist(self, name: str, argument: BaseModel, result: type[M], summary: str) -> M:
        """Run an activity until it has succeeded: on the way back, and past the point of no return, nothing is given up."""
        pause_s = INSIST_FIRST_S
        while True:
            try:
                answer = await call(name, argument, result, summary)
            except ActivityError as error:
                reason = f"{name}: {innermost(error)}"
                if reason != self.status.failure:
                    self.desk.decided(reason)
                self.status.failure = reason
                self.desk.wait_for("error", reason, f"pgduet advance {self.plan.name}")
                self.announce()
                pause_s = INSIST_FIRST_S if await self.nap(pause_s) else min(INSIST_EVERY_S, pause_s * 2)
                self.desk.go_on()
                self.hand_over_if_long()
            else:
                self.status.failure = None
                return answer

    def turn_back_if_asked(self) -> None:
        """End the way forward where a rollback has been asked for, but never in a critical section."""
        if self.desk.abort and not self.critical and not self.going_back:
            raise asyncio.CancelledError

    async def step(self, name: str, summary: str) -> Outcome:
        """Run one of the migration's activities."""
        outcome = await self.ask(name, self.reference, Outcome, summary)
        self.status.audit_head = outcome.audit_head or self.status.audit_head
        return outcome

    async def hold(self, kind: str, detail: str, *commands: str) -> None:
        """Wait until somebody advances; or, where reads are what it is about, moves them by hand."""
        self.turn_back_if_asked()
        self.desk.wait_for(kind, detail, *commands)
        self.held, reads = self.status.waiting_for, self.status.read_percent
        self.announce()
        await self.until_told(
            lambda: (
                self.desk.advanced is not None
                or (kind == "criteria" and self.status.read_percent != reads and moves_end_holds())
            )
        )
        self.held = None
        self.desk.go_on()
        self.announce()

    async def until_told(self, condition: Callable[[], bool]) -> None:
        """Wait for people. Each of their messages is in the history: when it has grown long, a fresh run waits on."""
        await workflow.wait_condition(lambda: condition() or (in_chain() and self.is_long()))
        if not condition():
            raise ContinueAsNewNeeded

    async def nap(self, seconds: float) -> bool:
        """Wait for a while; tells whether somebody advanced meanwhile."""
        try:
            await workflow.wait_condition(lambda: self.desk.advanced is not None, timeout=timedelta(seconds=seconds))
        except TimeoutError:
            return False
        return True

    async def checkpoint(self) -> None:
        """Go no further when a rollback has been asked for; wait when the migration is paused."""
        self.turn_back_if_asked()
        while self.desk.paused:
            self.desk.say_paused()
            self.announce()
            # A pause can be long, and what happens meanwhile makes the history longer.
            await workflow.wait_condition(lambda: not self.desk.paused or (in_chain() and self.is_long()))
            if self.desk.paused:
                self.hand_over_if_long()
            self.announce()

    # A phase

    async def phase(self, phase: Phase, step: Callable[[], Awaitable[None]], undo: str | None = None) -> None:
        """Go through one phase: gate, record, step; a failure waits for a person, who advances (again) or rolls back."""
        if self.resume_at is not None and phase.position < self.resume_at.position:
            return
        if self.resume_at is phase and self.at_gate is None:
            self.resume_at = None
            if held := self.held:
                await self.hold(held.kind, held.detail, *held.next_commands)
        else:
            self.resume_at, self.at_gate = None, phase
            await self.checkpoint()
            await self.gate(phase)
            self.at_gate = None
        entered = self.status.phase is phase and (undo is None or undo in self.compensations)
        while True:
            await self.checkpoint()
            try:
                if not entered:
                    await self.enter(phase, undo)
                    entered = True
                await step()
            except FailureError as error:
                self.critical = False
                if is_cancelled_exception(error) and self.desk.abort:
                    raise
                await self.failed(phase, error)
            else:
                break
        if self.status.timings:
            self.status.timings[-1].ended_at = self.now()

    async def gate(self, phase: Phase) -> None:
        """Wait for the person or the persons that the policy asks for before a phase."""
        if self.plan.policy.gate(phase) == "auto":
            return
        needed = self.plan.policy.approvals_needed(phase)
        if not needed:
            await self.hold("gate", f"somebody to open the gate before {phase}", f"pgduet advance {self.plan.name}")
        while not self.desk.approved(phase):
            given = self.status.approvals.get(phase, [])
            self.desk.wait_for(
                "approval",
                f"approval of {phase}: {len(given)} of {needed}" + (f" ({', '.join(given)})" if given else ""),
                f"pgduet approve {self.plan.name} --gate {phase}",
                f"pgduet rollback {self.plan.name}",
            )
            self.announce()
            await self.until_approved_beyond(phase, len(given))
        self.desk.go_on()

    async def until_approved_beyond(self, phase: Phase, count: int) -> None:
        """Wait for one more approval."""
        await self.until_told(lambda: len(self.status.approvals.get(phase, [])) > count)

    async def enter(self, phase: Phase, undo: str | None) -> None:
        """Push the undo, then write down where the migration stands."""
        if undo and undo not in self.compensations:
            self.compensations.append(undo)
        self.status.phase = phase
        self.status.timings = [*self.status.timings, Timing(phase=phase, started_at=self.now())]
        self.announce()
        await self.record(f"enter {phase}")

    async def record(self, action: str | None, end: tuple[Phase, State] | None = None) -> None:
        """Write state and compensations beside the data, with an entry in the audit log where the act has none yet."""
        phase, state = end or (self.status.phase, self.status.state)
        record = Record(
            reference=self.reference,
            phase=phase,
            state=state,
            compensations=self.compensations,
            action=action,
            approvals=self.status.approvals,
            left_at=next((t.ended_at for t in reversed(self.status.timings) if t.ended_at), None),
        )
        outcome = await self.ask("record", record, Outcome, action or "write down what is left")
        self.status.audit_head = outcome.audit_head or self.status.audit_head
        anchor(self.status.audit_head)

    async def failed(self, phase: Phase, error: FailureError) -> None:
        """Say what went wrong and wait: nothing is given up, nothing is lost."""
        reason = innermost(error)
        self.status.failure = reason
        self.desk.decided(f"{phase} stopped: {reason}")
        await self.hold("error", reason, f"pgduet advance {self.plan.name}", f"pgduet rollback {self.plan.name}")
        self.status.failure = None

    # The root

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, taking a Temporal cancellation for an abort."""
        while True:
            try:
                await workflow.wait_condition(condition)
            except asyncio.CancelledError:
                self.cancelled = True
                self.cancel_asked()
            else:
                return

    @abstractmethod
    def cancel_asked(self) -> None:
        """Begin to act on a Temporal cancellation."""

    async def see_through(self, task: "asyncio.Task[None]") -> BaseException | None:
        """Wait for a task to its end whatever happens; returns what it raised."""
        await self.until(task.done)
        return None if task.cancelled() else task.exception()

    def hand_over_if_long(self) -> None:
        """Ask for a fresh run where the history has grown long."""
        if self.is_long():
            raise ContinueAsNewNeeded

    def is_long(self) -> bool:
        """Tell whether a fresh run should take over; not while somebody's word to advance is unheard."""
        return workflow.info().is_continue_as_new_suggested() and self.desk.advanced is None

    def carried(self) -> Carried:
        """Pack the state for the next run."""
        assert self.opened is not None  # noqa: S101  (only long phases hand over)
        return Carried(
            opened=self.opened,
            status=self.status,
            phase=self.at_gate or self.status.phase,
            at_gate=self.at_gate is not None,
            held=None if self.at_gate else self.held,
            advanced=self.desk.advanced,
            compensations=self.compensations,
            abort=self.desk.abort,
            cancelled=self.cancelled,
            cancel_waits=self.cancel_waits,
            paused=self.desk.paused,
            no_return=self.desk.no_return,
            before_pause=self.desk.before_pause,
            soak_started_at=self.soak_started_at,
            next_parity_at=self.next_parity_at,
            passed_parity_at=self.passed_parity_at,
        )
