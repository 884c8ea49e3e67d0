"""The Python client: `Migrations` starts migrations, looks at them, waits for them and acts on them.

Mechanism: everything goes through Temporal: workflows by name, acts as updates, facts as queries. The client holds no
DSN and opens no connection to PostgreSQL; what needs the database (`setup`, `check`, `verify`, audit) runs on a worker.
Limits: acts and the status of a running migration need a worker on the task queue; `WorkerMissing` says so.
"""

import os
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

from pydantic import BaseModel
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from pgduet import messages
from pgduet.audit_client import AuditLogs
from pgduet.describe import details, summary, what_differs
from pgduet.errors import ActRefused, PlanChanged, ServerMissing, UnknownMigration
from pgduet.failures import error_from
from pgduet.finding import MIGRATION, newest_runs, unknown
from pgduet.messages import Answer, CheckInput, CheckResult, SetupInput, SetupResult, Start, Status
from pgduet.observe import Look, WorkerMissing, describe, started_with
from pgduet.phases import Phase, State
from pgduet.plan.checksum import checksum
from pgduet.plan.load import parse_plan
from pgduet.plan.models import Plan
from pgduet.report.facts import Report, ReportFacts, ReportInput
from pgduet.tasks import Result, run_task
from pgduet.telemetry.client import ClientTracing
from pgduet.watching import StillWaiting, Watching, as_words

__all__ = ["DEFAULT_ADDRESS", "Look", "Migrations", "Started", "StillWaiting", "WorkerMissing"]

DEFAULT_ADDRESS = "localhost:7233"
ANYBODY = messages.Act()
"""An act in nobody's name."""


@dataclass(frozen=True, slots=True)
class Started:
    """A migration that runs: a new run, or the run of the same plan that was `joined`."""

    name: str
    database: str
    workflow_id: str
    run_id: str | None
    checksum: str
    joined: bool = False
    done: bool = False
    same_policy: bool = True


class Migrations(Watching, AuditLogs):
    """Migrations seen through one Temporal namespace.

    `migrations = await Migrations.connect()`, or `Migrations(client)` with a client whose data converter is
    `temporalio.contrib.pydantic.pydantic_data_converter`.
    """

    def __init__(self, client: Client, *, task_queue: str | None = None) -> None:
        self.client = client
        self.task_queue = task_queue or os.environ.get("PGDUET_TASK_QUEUE") or messages.TASK_QUEUE

    @classmethod
    async def connect(cls, address: str | None = None, *, task_queue: str | None = None) -> Self:
        """Connect by the SDK's environment configuration (TEMPORAL_ADDRESS, NAMESPACE, API_KEY, TLS, profiles).

        Raises:
            ServerMissing: no Temporal server answers there, or the configuration cannot be read.
        """
        try:
            config = ClientConfig.load_client_connect_config()
        except RuntimeError as wrong:
            msg = f"Temporal's configuration cannot be read: {wrong}"
            raise ServerMissing(msg) from wrong
        config["target_host"] = target = address or config.get("target_host") or DEFAULT_ADDRESS
        try:
            client = await Client.connect(
                **config, data_converter=pydantic_data_converter, interceptors=[ClientTracing()]
            )
        except (RuntimeError, RPCError, ValueError) as wrong:
            msg = f"no Temporal server answers at {target}"
            raise ServerMissing(
                msg,
                hint="Start one with `pgduet dev`, or set TEMPORAL_ADDRESS to the one you have.",
            ) from wrong
        return cls(client, task_queue=task_queue)

    # Starting

    async def start(self, plan: Plan, *, actor: str, reason: str | None = None) -> Started:
        """Start a migration, or join the run of the same plan.

        Raises:
            PlanChanged: a migration of this name runs, or is done, with other versions or operations.
        """
        mark = checksum(plan)
        workflow = messages.workflow_id(plan.database, plan.name)
        if (ended := await self._done(workflow)) and (await self.check(plan)).standing == "done":
            # A run that only said so would stand in front of the one that did the work.
            return Started(plan.name, plan.database, workflow, ended, mark, joined=True, done=True)
        begin = Start(plan=_wire(plan), actor=actor, reason=reason)
        try:
            handle = await self._start(plan, begin)
        except WorkflowAlreadyStartedError:
            running = parse_plan((await started_with(self.client, workflow)).plan)
        else:
            return Started(plan.name, plan.database, workflow, handle.result_run_id, mark)
        if checksum(running) != mark:
            msg = f"`{plan.name}` runs with another plan: {what_differs(running, plan)}"
            raise PlanChanged(
                msg,
                hint=f"Go on with the plan as it was, or put it back first: `pgduet rollback {plan.name}`.",
            )
        found = await describe(self.client, workflow)
        same = running.policy == plan.policy
        return Started(plan.name, plan.database, workflow, found.run_id, mark, joined=True, same_policy=same)

    async def _done(self, workflow: str) -> str | None:
        """Give the newest run's id where it ended as done."""
        try:
            run = await describe(self.client, workflow)
        except UnknownMigration:
            return None
        if run.status is not WorkflowExecutionStatus.COMPLETED:
            return None
        return run.run_id if (await self._look(workflow, heartbeats=False)).status.state is State.DONE else None

    async def begun(self, name: str, database: str | None = None, *, timeout_s: float = 10.0) -> Status:
        """Wait until a migration has passed preflight or waits for somebody; raises what preflight refused."""

        def settled(seen: Look) -> bool:
            # A run that has just failed answers before it is closed: its error is there a moment later.
            passed = seen.status.phase is not Phase.PREFLIGHT or seen.status.state not in {State.RUNNING, State.FAILED}
            return passed and seen.error is None

        return await self._poll(await self.find(name, database), settled, timeout_s, "passed preflight")

    async def _start(self, plan: Plan, begin: Start) -> WorkflowHandle[Any, Any]:
        return await self.client.start_workflow(
            MIGRATION,
            begin,
            id=messages.workflow_id(plan.database, plan.name),
            task_queue=self.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=summary(plan),
            static_details=details(plan),
        )

    # Acting

    async def update(
        self, name: str, update: str, act: messages.Act = ANYBODY, *, database: str | None = None
    ) -> Answer:
        """Act by one of the workflow's updates: advance, approve, abort, pause, resume, throttle, route, verify.

        Raises:
            ActRefused: it is not possible where the migration stands.
        """
        return await self._update(await self._look(await self.find(name, database), heartbeats=False), update, act)

    async def _update(self, seen: Look, update: str, act: messages.Act) -> Answer:
        name, verb = seen.status.name, "roll back" if update == "abort" else update
        if seen.closed:
            message = f"`{name}` has ended as {as_words(seen.status.state)}: there is nothing to {verb}"
            raise ActRefused(message)
        handle = self.client.get_workflow_handle(seen.status.workflow_id)
        try:
            answer = await handle.execute_update(update, act, result_type=Answer)
        except WorkflowUpdateFailedError as refused:
            told = error_from(refused.cause)
            if isinstance(told, ActRefused):
                raise told from None
            raise ActRefused(told.message, place=told.place, snippet=told.snippet, hint=told.hint) from None
        except RPCError as wrong:
            if wrong.status is RPCStatusCode.NOT_FOUND:
                message = f"`{name}` has just ended: there is nothing to {verb}"
                raise ActRefused(message) from None
            raise
        return Answer.model_validate(answer)

    async def signal(self, name: str, signal: str, act: messages.Act = ANYBODY, *, database: str | None = None) -> None:
        """Send one of the workflow's signals: the same acts without an answer; no worker is needed."""
        handle = self.client.get_workflow_handle(await self.find(name, database))
        await handle.signal(signal, act)

    async def verify(self, name: str, act: messages.VerifyNow, *, database: str | None = None) -> tuple[Answer, Status]:
        """Run full parity now; the status has the exact keys of rows that differ."""
        answer = await self.update(name, "verify", act, database=database)
        return answer, await self.status(name, database)

    async def rollback(
        self, name: str, abort: messages.Abort, *, database: str | None = None, plan: Plan | None = None
    ) -> Answer:
        """Begin to put everything back; a run that was lost or terminated is adopted to do so.

        `plan` serves where Temporal no longer knows the migration. `wait_safe` waits for the first step, and
        `wait(name, "rolled_back")` for the second.

        Raises:
            ActRefused: the migration is past the point of no return.
        """
        try:
            seen = await self.look(name, plan.database if plan else database)
        except UnknownMigration:
            if plan is None:
                raise
            return await self._adopt(plan, abort)
        if seen.status.state is State.ROLLING_BACK and not seen.closed and not abort.force:
            return Answer(message=f"{name} is being rolled back already", phase=seen.status.phase)
        if not seen.closed:
            return await self._update(seen, "abort", abort)
        if seen.status.state is State.DONE:
            msg = f"`{name}` is done: contract is the point of no return"
            raise ActRefused(msg)
        if seen.status.state is State.ROLLED_BACK:
            return Answer(message=f"{name} was rolled back before", phase=Phase.ROLLED_BACK)
        begun = await started_with(self.client, seen.status.workflow_id)
        return await self._adopt(plan or parse_plan(begun.plan), abort)

    async def _adopt(self, plan: Plan, abort: messages.Abort) -> Answer:
        await self._start(plan, Start(plan=_wire(plan), mode="rollback", **abort.model_dump()))
        return Answer(message="the lost run is adopted, to be rolled back", phase=Phase.PREFLIGHT)

    # Tasks on a worker

    async def setup(self, database: str, *, print_sql: bool = False, actor: str = "unknown") -> SetupResult:
        """Create pgduet's schema in a database and register search attributes; safe to run again."""
        given = SetupInput(database=database, print_sql=print_sql, actor=actor)
        return await self._run("Setup", f"setup/{database}", given, SetupResult)

    async def check(self, plan: Plan) -> CheckResult:
        """Check a plan against the catalogue of its database; raises what a start would be refused for."""
        workflow = f"check/{plan.database}/{uuid4().hex}"
        return await self._run("Check", workflow, CheckInput(plan=_wire(plan)), CheckResult)

    async def report(self, name: str, database: str | None = None) -> Report:
        """Give what is known of a migration and all its attempts, wherever it stands; see `pgduet.report`.

        Where Temporal has forgotten it, `database` says which database's own records to read.

        Raises:
            UnknownMigration: neither Temporal nor the database knows it.
        """
        try:
            status = await self.status(name, database)
        except UnknownMigration as missing:
            if database is None:
                missing.hint = f"{missing.hint or ''} Where Temporal has forgotten it, name its `--database`.".strip()
                raise
            status = None
        where = ReportInput(database=status.database if status else database or "", name=name)
        facts = await self._run("Report", f"report/{where.database}/{uuid4().hex}", where, ReportFacts)
        if status is None and not facts.attempts:
            raise unknown(name, await newest_runs(self.client), database)
        return Report(facts=facts, status=status)

    async def _run(self, kind: str, workflow: str, given: BaseModel, result: type[Result]) -> Result:
        return await run_task(self.client, given, result, kind=kind, workflow=workflow, task_queue=self.task_queue)


def _wire(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(mode="json", by_alias=True)
