"""What a migration does while it watches and waits: opening, bakes, censuses, windows, the withdrawal."""

import asyncio
import math
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import (
        Act,
        CensusRequest,
        CensusResult,
        Opened,
        OpenRequest,
        Outcome,
        Reference,
        RouteRequest,
        Traffic,
        TrafficRequest,
    )
    from pgduet.phases import Authority, Phase, State
    from pgduet.plan.load import parse_plan
    from pgduet.workflows.anchors import anchor
    from pgduet.workflows.calls import call, innermost
    from pgduet.workflows.judge import describe, drifted, judge_traffic
    from pgduet.workflows.overlap import Overlap
    from pgduet.workflows.pace import CENSUS_EVERY_S
    from pgduet.workflows.patches import reconciles, steers

WITHDRAW_CENSUS_S = 0.5
WITHDRAW_IDLE_S = 10.0
HIDDEN = "hidden from the worker's role"
SET_TO = "by their search_path, there or not, on version"


class Watch(Overlap):
    """The long waits of the journey, so that `Migration` can read as the runbook."""

    changed: tuple[str, ...] = ()
    """What somebody has changed of tables, and contract would lose, as the last census saw it."""

    named: frozenset[str] | set[str] = frozenset()
    """Roles set to a version that is to go, as this run has named them: a line with many of them is cut."""

    async def until_opened(self) -> None:
        """preflight: open the migration, or find it open (adopted), or done; a refusal fails the workflow with its reason."""
        if self.opened is not None:
            return
        opening = asyncio.create_task(self.open())
        error = await self.see_through(opening)
        if isinstance(error, ActivityError | ApplicationError):
            self.status.state = State.FAILED
            self.status.failure = innermost(error)
            self.desk.dismiss("preflight refused the plan")
            self.announce()
            await self.until(workflow.all_handlers_finished)
            cause = error.cause if isinstance(error, ActivityError) else error
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, *cause.details, type=cause.type, non_retryable=True) from None
        if error is not None:
            raise error
        self.announce()

    async def open(self) -> None:
        """Run preflight (or, to adopt what a lost workflow left, find it)."""
        plan, start = self.plan, self.start
        if start.mode == "rollback":
            reference = Reference(
                database=plan.database, name=plan.name, migration_id=0, actor=start.actor, reason=start.reason
            )
            opened = await call("find", reference, Opened, "find what is left")
        else:
            request = OpenRequest(
                plan=start.plan, actor=start.actor, reason=start.reason, workflow_id=workflow.info().workflow_id
            )
            opened = await call("preflight", request, Opened, "check the plan against the database")
        self.take_up(opened)
        if opened.phase in {Phase.DONE, Phase.ROLLED_BACK}:
            self.status.state = State(opened.phase)
        elif opened.rolling_back or start.mode == "rollback":
            await self.go_on_back(opened.going_back if opened.rolling_back else None)

    def take_up(self, opened: Opened) -> None:
        """Begin where the migration stands; one that was found keeps the plan, and the policy, with which it was started."""
        if opened.plan:
            if self.start.plan.get("policy") != opened.plan.get("policy"):
                self.desk.decided("it keeps the policy with which it was started")
            self.take_plan(parse_plan(opened.plan), opened.plan)
            self.status.from_version, self.status.to_version = self.plan.version.from_, self.plan.version.to
            self.desk.policy = self.plan.policy
        self.opened = opened
        self.compensations = list(opened.compensations)
        self.status.plan_checksum = opened.checksum
        self.status.audit_head = opened.audit_head
        anchor(opened.audit_head)
        self.status.backfill.rows_total = opened.rows_estimate
        self.status.authority = opened.authority
        self.status.read_percent = opened.read_percent
        self.desk.no_return = opened.no_return and opened.phase is not Phase.DONE
        if opened.phase is not Phase.PREFLIGHT:
            self.status.phase = opened.phase
            self.resume_at = opened.phase if self.start.mode == "forward" else None
            self.desk.decided(f"adopted in {opened.phase}")
        if opened.paused and self.start.mode == "forward":
            # What runs reads it in the database: to go on without a word would be to wait for ever.
            self.desk.take("pause", Act(actor=self.start.actor, reason="it was paused when its workflow was lost"))

    async def route(self, percent: int) -> None:
        """Set the share of reads on the new path."""
        request = RouteRequest(reference=self.reference, read_percent=percent)
        await self.ask("set_route", request, Outcome, f"{percent} % of reads to version {self.plan.version.to}")
        self.status.read_percent = percent
        self.announce()

    async def bake(self, percent: int) -> None:
        """Watch a step until it has baked; on a breach of the criteria send the reads back, and roll back or wait."""
        policy = self.plan.policy
        ends = self.now() + timedelta(seconds=policy.shift.bake_s)
        since = await self.ask("traffic", TrafficRequest(reference=self.reference), Traffic, "traffic before the bake")
        while (left := (ends - self.now()).total_seconds()) > 0:
            self.desk.wait_for(
                "bake",
                f"bake of the {percent} % step, {left:.0f} s left",
                f"pgduet advance {self.plan.name}",
                f"pgduet route {self.plan.name} --read-percent 1",
                f"pgduet rollback {self.plan.name}",
            )
            self.announce()
            over = await self.nap(min(left, max(1.0, policy.shift.bake_s / 10)))
            await self.checkpoint()
            if over:
                break
        ended = TrafficRequest(reference=self.reference, since=since)
        now = await self.ask("traffic", ended, Traffic, "traffic of the bake")
        self.status.traffic, breach = judge_traffic(since, now, policy)
        self.desk.go_on()
        await self.take_census(policy.soak.legacy_idle_s)
        if breach:
            await self.breached(breach.criterion, breach.detail, percent)

    async def breached(self, criterion: str, detail: str, percent: int) -> None:
        """Send reads back, then roll back or wait, as the policy says."""
        await self.route(0)
        if criterion in self.plan.policy.rollback.automatic_on and await self.rolls_back_because(detail):
            await self.checkpoint()
        await self.hold("criteria", detail, f"pgduet advance {self.plan.name}", f"pgduet rollback {self.plan.name}")
        await self.route(percent)
        await self.bake(percent)

    async def take_census(self, idle_s: float, leaving: Literal["old", "new"] | None = None) -> CensusResult:
        """Ask who uses which version, and remember the answer; `leaving` is the version that is about to go."""
        request = CensusRequest(reference=self.reference, idle_s=idle_s, leaving=leaving)
        census = await self.ask("census", request, CensusResult, "census")
        self.status.census = census.clients
        self.status.no_way_back = census.no_way_back
        if (changed := tuple(census.changed)) != self.changed:
            self.changed = changed
            self.desk.decided(f"contract will not go past this: {'; '.join(self.changed) or 'nothing any more'}")
        return census

    def name_roles(self, census: CensusResult, version: str) -> None:
        """Say which roles are set to a version that is to go: once it has, their search_path leads to what follows in it."""
        told = [line for line in self.status.decisions if SET_TO in line]
        known = {each for each in census.set_to if any(f"`{each}`" in line for line in told)} | self.named
        new = [f"`{each}`" for each in census.set_to if each not in known]
        self.named = known | set(census.set_to)
        if new:
            self.desk.decided(f"{SET_TO} {version}, which is to go: {', '.join(new)} (ALTER ROLE … RESET search_path)")

    def say_hidden(self, census: CensusResult) -> None:
        """Say once that the census is blind in one eye: whoever grants the right in soak has it see before contract."""
        if census.hidden and steers() and not any(HIDDEN in line for line in self.status.decisions):
            self.desk.decided(f"the last statements of {census.hidden} sessions are {HIDDEN}: grant pg_monitor")

    @property
    def parity_every(self) -> timedelta:
        """How often soak compares by its own timer."""
        return timedelta(seconds=max(1.0, self.plan.policy.verify.reconcile_every_s))

    @property
    def parity_due_s(self) -> float:
        """How long until soak compares by its own timer; never, where a schedule does."""
        due = None if not self.compares_itself else self.next_parity_at
        return (due - self.now()).total_seconds() if due else math.inf

    async def reconcile_if_due(self) -> None:
        """Compare again where there is no schedule; drift rolls back where the policy says so, else it is shown."""
        if self.parity_due_s > 0:
            return
        parity = await self.compare()
        if drifted(parity, self.plan.policy) and reconciles():
            if not self.judged:
                await self.judge(parity)
            await self.checkpoint()
        elif drifted(parity, self.plan.policy):
            if "drift" in self.plan.policy.rollback.automatic_on and await self.rolls_back_because(describe(parity)):
                await self.checkpoint()
            await self.hold("drift", describe(parity), *self.drift_commands())
        self.next_parity_at = self.now() + self.parity_every

    async def soak_nap(self, ends: datetime, census: CensusResult, pause_s: float) -> bool:
        """Wait for the window's end or the next census; tells whether somebody ended the window."""
        left = (ends - self.now()).total_seconds()
        if left > 0:
            self.desk.wait_for(
                "window",
                f"the deprecation window, until {ends:%Y-%m-%d %H:%M:%S} UTC",
                f"pgduet advance {self.plan.name}",
                f"pgduet rollback {self.plan.name}",
            )
        else:
            who = ", ".join(census.old_left)
            detail = f"clients of version {self.plan.version.from_} to leave: {who}"
            self.desk.wait_for("census", detail, *self.census_commands())
        self.announce()
        return await self.nap(pause_s)

    def census_commands(self) -> list[str]:
        """Name what can be done where old clients are left."""
        name = self.plan.name
        past = [f"pgduet advance {name} --force"] if steers() else []
        return [f"pgduet status {name}", *past, f"pgduet rollback {name}"]

    async def until_new_clients_left(self) -> None:
        """Withdraw nothing under a client's feet: wait for routers, leases and sessions, and name them."""
        idle_s = min(WITHDRAW_IDLE_S, self.plan.policy.soak.legacy_idle_s)
        pause = WITHDRAW_CENSUS_S
        while True:
            census = await self.take_census(idle_s, leaving="new")
            self.name_roles(census, self.plan.version.to)
            if not census.new_left or self.is_forced():
                break
            self.desk.wait_for(
                "clients",
                f"clients of version {self.plan.version.to} to leave: {', '.join(census.new_left)}",
                f"pgduet rollback {self.plan.name} --force",
            )
            self.announce()
            await self.go_on_reconciling()
            with suppress(TimeoutError):
                await workflow.wait_condition(self.is_forced, timeout=timedelta(seconds=pause))
            pause = min(CENSUS_EVERY_S, pause * 1.2)
            self.hand_over_if_long()
        self.desk.go_on()

    def is_forced(self) -> bool:
        """Tell whether somebody has said not to wait for clients."""
        return self.desk.abort is not None and self.desk.abort.force

    def made_safe(self) -> None:
        """Note that the old version is in charge."""
        self.status.safe = True
        self.status.authority = Authority.OLD
        self.status.read_percent = 0
        self.announce()
