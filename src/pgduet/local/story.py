"""The demo's story: one migration under live traffic, rolled back once from soak, started again and carried to done.

Each chapter waits for what it needs and proves what it says. `Story.run` gives a verdict whatever happens on the way; only
Ctrl-C gets through. The phases that the traffic counts under follow the workflow's by some 0.2 s.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pgduet.cli.progress import watch
from pgduet.client import Migrations
from pgduet.local.doors import BASE, BASE_AFTER, V1, V2, Door
from pgduet.local.flights import FLIGHTS_COUNT
from pgduet.local.ledger import Rows, verify_archive, verify_ledger
from pgduet.local.proofs import audit, columns, count_rows, leftovers
from pgduet.local.traffic import Traffic
from pgduet.local.verdict import Verdict
from pgduet.messages import Abort, Approve, Status, VerifyNow
from pgduet.phases import Phase, State
from pgduet.plan.models import Plan

ACTOR = "demo"
BASELINE_S = 4.0
IN_SOAK_S = 2.0
AFTERWARDS_S = 2.0
POLL_S = 0.2
PHASE_LIMIT_S = 90.0
ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays."""

    dsn: str
    plan: Plan
    migrations: Migrations
    console: Console
    log_path: Path


class Story:
    """Tells it once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.verdict = Verdict()
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """Say what happens, with the time since the demo began to tell."""
        seconds = int(time.monotonic() - self.began)
        self.stage.console.print(f"{seconds // 60}:{seconds % 60:02d}  {text}", soft_wrap=True)

    async def run(self) -> Verdict:
        """Tell the story; what goes wrong ends it and is in the verdict."""
        stage = self.stage
        async with Traffic(stage.dsn, stage.plan.name, stage.log_path) as traffic:
            try:
                await self.chapters(traffic)
            except Exception as error:  # noqa: BLE001  whatever went wrong is the verdict
                self.verdict.failures.append(f"{type(error).__name__}: {error}")
                self.verdict.judge_traffic(await traffic.report())
        return self.verdict

    async def chapters(self, traffic: Traffic) -> None:
        """Tell the chapters in order."""
        self.say("clients at work: 4 know version 1 only, 4 have code for both and ask a router; none ever tries again")
        await asyncio.sleep(BASELINE_S)
        self.say("starts the migration")
        await self.start()
        async with self.shown(traffic):
            await self.forward_and_back()
        await self.prove_rollback(traffic)
        self.say("starts the same plan again")
        await self.start()
        async with self.shown(traffic):
            await self.forward_to_the_end(traffic)
        await asyncio.sleep(AFTERWARDS_S)
        await self.prove_the_end(traffic)

    async def forward_and_back(self) -> None:
        """Go as far as soak, with every read on the new version, and come back."""
        await self.reach(Phase.SOAK)
        await asyncio.sleep(IN_SOAK_S)
        self.say("in soak, the new version has authority: rolls back, under traffic")
        began = time.monotonic()
        stage = self.stage
        name, database = stage.plan.name, stage.plan.database
        await stage.migrations.rollback(name, Abort(actor=ACTOR, reason="to show it"), database=database)
        await stage.migrations.wait_safe(name, database=database, timeout_s=PHASE_LIMIT_S)
        self.verdict.safe_s = time.monotonic() - began
        ended = await self.reach(Phase.ROLLED_BACK)
        self.verdict.withdrawn_s = time.monotonic() - began
        self.verdict.archived = ended.archived

    async def prove_rollback(self, traffic: Traffic) -> None:
        """Prove that the table is as it was, with every write, and that what it cannot hold is in the archive."""
        await traffic.mark(Phase.ROLLED_BACK)
        async with self.quiet(traffic) as rows:
            await self.find_all(rows, BASE)
            await self.find_all(rows, V1)
            saved = await verify_archive(self.stage.dsn, rows, migration=self.stage.plan.name)
        self.verdict.require(saved.exact, f"the archive is not what it should be: {saved.told()}")
        self.verdict.require(saved.compared, "the rollback had nothing to archive: the new clients wrote no note")
        self.verdict.require(
            saved.compared == self.verdict.archived,
            f"{saved.compared} values are in the archive, the migration says {self.verdict.archived}",
        )
        await self.nothing_left()
        self.say(f"withdrawn: every acknowledged write found, {saved.compared:,} new-only values archived")

    async def forward_to_the_end(self, traffic: Traffic) -> None:
        """Go all the way; the old clients are deployed anew in soak, and a person opens the last gate."""
        published = await self.reach(Phase.SHADOW)
        self.verdict.restored = published.restored
        async with self.quiet(traffic) as rows:
            await self.find_all(rows, V2)
        self.verdict.require(
            published.restored == self.verdict.archived,
            f"{published.restored} of {self.verdict.archived} archived values came back",
        )
        self.say(f"published again: {published.restored:,} new-only values restored, each where it was")
        await self.reach(Phase.SOAK)
        self.say("in soak: the old clients are deployed anew, with version 2's code")
        await traffic.deploy()
        await self.until(lambda status: bool(status.waiting_for and status.waiting_for.kind == "approval"), "approval")
        await self.prove_parity()
        self.say("approves contract, the point of no return")
        act = Approve(actor=ACTOR, reason="parity is exact and nobody uses version 1", gate=Phase.CONTRACT)
        await self.stage.migrations.update(self.stage.plan.name, "approve", act, database=self.stage.plan.database)
        await self.reach(Phase.DONE)

    async def prove_parity(self) -> None:
        """Compare all rows in both representations, under traffic."""
        name, database = self.stage.plan.name, self.stage.plan.database
        _, status = await self.stage.migrations.verify(name, VerifyNow(actor=ACTOR), database=database)
        parity = status.parity
        if parity is None:
            self.verdict.failures.append("parity was not measured")
            return
        self.verdict.rows_compared = parity.rows
        self.verdict.require(not parity.mismatches, f"{parity.mismatches} of {parity.rows} rows differ")
        self.verdict.require(not parity.violations, f"{parity.violations} rows violate the new constraints")

    async def prove_the_end(self, traffic: Traffic) -> None:
        """Prove that every write is there, that nothing else is, and that the audit log is whole."""
        stage, verdict = self.stage, self.verdict
        report = await traffic.stop()
        verdict.judge_traffic(report)
        await self.find_all(report.rows, V2)
        await self.find_all(report.rows, BASE_AFTER)
        alive = sum(flight is not None for key, flight in report.rows.items() if key > FLIGHTS_COUNT)
        counted = await count_rows(stage.dsn)
        verdict.flights = counted - alive
        verdict.require(
            verdict.flights == FLIGHTS_COUNT, f"{counted} rows are there, expected {FLIGHTS_COUNT} and {alive} inserted"
        )
        await self.nothing_left()
        names = await columns(stage.dsn)
        verdict.require(
            "scheduled_departure" in names and "sched_dep_time" not in names, f"the columns are {', '.join(names)}"
        )
        status = await stage.migrations.status(stage.plan.name, stage.plan.database)
        proof = await audit(stage.dsn, status.audit_head)
        verdict.audit_entries = proof.entries
        verdict.require(not proof.wrong, f"the audit log does not verify: {'; '.join(proof.wrong[:3])}")

    # Small words

    async def start(self) -> None:
        """Start the migration, and hear what preflight says."""
        await self.stage.migrations.start(self.stage.plan, actor=ACTOR, reason="the demo")
        await self.stage.migrations.begun(self.stage.plan.name, self.stage.plan.database, timeout_s=PHASE_LIMIT_S)

    async def reach(self, phase: Phase) -> Status:
        """Wait for a phase."""
        plan = self.stage.plan
        return await self.stage.migrations.wait(plan.name, phase, PHASE_LIMIT_S, database=plan.database)

    async def until(self, condition: Callable[[Status], bool], awaited: str) -> None:
        """Wait for something that a status shows."""
        plan = self.stage.plan
        deadline = time.monotonic() + PHASE_LIMIT_S
        status = await self.stage.migrations.status(plan.name, plan.database)
        while not condition(status):
            if time.monotonic() > deadline or status.state is State.FAILED:
                what = status.waiting_for.detail if status.waiting_for else status.failure
                message = f"no {awaited} in {status.phase}: {what}"
                raise TimeoutError(message)
            await asyncio.sleep(POLL_S)
            status = await self.stage.migrations.status(plan.name, plan.database)

    async def find_all(self, rows: Rows, door: Door) -> None:
        """Require every acknowledged write to be found through a door."""
        found = await verify_ledger(self.stage.dsn, rows, via=door)
        self.verdict.lost += len(found.wrong)
        self.verdict.require(found.exact, f"not all writes are found through {door.schema}: {found.told()}")

    async def nothing_left(self) -> None:
        """Require that the table has nothing of ours."""
        left = await leftovers(self.stage.dsn)
        self.verdict.require(not left, f"left on the table: {', '.join(left)}")

    @asynccontextmanager
    async def quiet(self, traffic: Traffic) -> AsyncIterator[Rows]:
        """Hold the traffic for a moment; gives what must be stored."""
        report = await traffic.hold()
        try:
            yield report.rows
        finally:
            await traffic.go()

    @asynccontextmanager
    async def shown(self, traffic: Traffic) -> AsyncIterator[None]:
        """Show the migration while the block runs, and tell the traffic its phases; both end with the block."""
        plan = self.stage.plan
        tasks = [
            asyncio.create_task(_when_there(self.tell_phases(traffic))),
            asyncio.create_task(
                _when_there(watch(self.stage.migrations, (plan.name, plan.database), self.stage.console))
            ),
        ]
        try:
            yield
            await asyncio.wait(tasks, timeout=2.0)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def tell_phases(self, traffic: Traffic) -> None:
        """Tell the traffic which phase it lives in."""
        told = ""
        while True:
            status = await self.stage.migrations.status(self.stage.plan.name, self.stage.plan.database)
            phase = ROLLBACK if status.state is State.ROLLING_BACK else status.phase.value
            if phase != told:
                await traffic.mark(phase)
                told = phase
            if Phase.DUAL_WRITE.reached(status.phase):
                await traffic.v1_is_there()
            if status.state in {State.DONE, State.ROLLED_BACK, State.FAILED}:
                return
            await asyncio.sleep(POLL_S)


async def _when_there(job: Awaitable[object]) -> None:
    """Do what only shows; it must not end the story."""
    with contextlib.suppress(Exception):
        await job
