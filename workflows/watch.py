"""What a migration does while it watches and waits: opening, bakes, censuses, windows, the withdrawal."""

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import (
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
    from pgduet.workflows.anchors import anchor
    from pgduet.workflows.calls import call
    from pgduet.workflows.clerk import Clerk
    from pgduet.workflows.judge import describe, judge_traffic
    from pgduet.workflows.machine import innermost
    from pgduet.workflows.pace import CENSUS_EVERY_S

WITHDRAW_CENSUS_S = 0.5
WITHDRAW_IDLE_S = 10.0


class Watch(Clerk):
    """The long waits of the journey, so that `Migration` can read as the runbook."""

    async def until_opened(self) -> None:
        """preflight: open the migration, or find it open (adopted), or done; a refusal fails the workflow with its reason."""
        if self.opened is not None:
            return
        opening = asyncio.create_task(self.open())
        error = await self.see_through(opening)
        if isinstance(error, ActivityError):
            self.status.state = State.FAILED
            self.status.failure = innermost(error)
            self.announce()
            cause = error.cause
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
            self.opened = await call("find", reference, Opened, "find what is left")
            self.desk.hear("abort", {"actor": start.actor, "reason": start.reason or "adopted"})
        else:
            request = OpenRequest(
                plan=start.plan, actor=start.actor, reason=start.reason, workflow_id=workflow.info().workflow_id
            )
            self.opened = await call("preflight", request, Opened, "check the plan against the database")
        self.compensations = list(self.opened.compensations)
        self.status.plan_checksum = self.opened.checksum
        self.status.audit_head = self.opened.audit_head
        anchor(self.opened.audit_head)
        self.status.backfill.rows_total = self.opened.rows_estimate
        self.status.authority = self.opened.authority
        self.status.read_percent = self.opened.read_percent
        self.desk.no_return = self.opened.no_return and self.opened.phase is not Phase.DONE
        if self.opened.rolling_back:
            self.desk.hear("abort", {"actor": start.actor, "reason": "the rollback that was under way goes on"})
        if self.opened.phase is not Phase.PREFLIGHT:
            self.status.phase = self.opened.phase
            self.resume_at = self.opened.phase if start.mode == "forward" else None
            self.desk.decided(f"adopted in {self.opened.phase}")
        if self.opened.phase is Phase.DONE:
            self.status.state = State.DONE

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
            await self.breached(breach[0], breach[1], percent)

    async def breached(self, criterion: str, detail: str, percent: int) -> None:
        """Send reads back, then roll back or wait, as the policy says."""
        await self.route(0)
        if criterion in self.plan.policy.rollback.automatic_on:
            self.roll_back_because(detail)
            await self.checkpoint()
        await self.hold("criteria", detail, f"pgduet advance {self.plan.name}", f"pgduet rollback {self.plan.name}")
        await self.route(percent)
        await self.bake(percent)

    async def take_census(self, idle_s: float) -> CensusResult:
        """Ask who uses which version, and remember the answer."""
        census = await self.ask(
            "census", CensusRequest(reference=self.reference, idle_s=idle_s), CensusResult, "census"
        )
        self.status.census = census.clients
        return census

    async def reconcile(self) -> None:
        """Compare again while both versions live; drift rolls back where the policy says so, else it is shown."""
        parity = await self.compare()
        if parity.mismatches > self.plan.policy.verify.max_drift_rows:
            if "drift" in self.plan.policy.rollback.automatic_on:
                self.roll_back_because(describe(parity))
                await self.checkpoint()
            await self.hold("drift", describe(parity), *self.drift_commands())

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
            self.desk.wait_for("census", detail, f"pgduet status {self.plan.name}", f"pgduet rollback {self.plan.name}")
        self.announce()
        return await self.nap(pause_s)

    async def until_new_clients_left(self) -> None:
        """Withdraw nothing under a client's feet: wait for routers, leases and sessions, and name them."""
        idle_s = min(WITHDRAW_IDLE_S, self.plan.policy.soak.legacy_idle_s)
        pause = WITHDRAW_CENSUS_S
        while True:
            census = await self.take_census(idle_s)
            if not census.new_left or (self.desk.abort and self.desk.abort.force):
                break
            self.desk.wait_for(
                "clients",
                f"clients of version {self.plan.version.to} to leave: {', '.join(census.new_left)}",
                f"pgduet rollback {self.plan.name} --force",
            )
            self.announce()
            await workflow.sleep(timedelta(seconds=pause))
            pause = min(CENSUS_EVERY_S, pause * 1.2)
            self.hand_over_if_long()
        self.desk.go_on()

    def drift_commands(self) -> list[str]:
        """Name what can be done about drift."""
        name = self.plan.name
        return [f"pgduet verify {name} --repair", f"pgduet advance {name}", f"pgduet rollback {name}"]

    def made_safe(self) -> None:
        """Note that the old version is in charge."""
        self.status.safe = True
        self.status.authority = Authority.OLD
        self.status.read_percent = 0
        self.announce()
