"""One migration on real servers: start it, watch it, act on it, and kill its worker."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, ScheduleHandle, WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

from pgduet import runtime
from pgduet.messages import Answer, Start, Status, workflow_id
from pgduet.phases import Phase
from pgduet.reconciling import schedule_id
from support.facts import facts
from support.plans import plan

TIMEOUT_S = 60.0
"""Patience, of which a machine with nothing else to do needs a second or two."""
POLL_S = 0.05
LONGEST_POLL_S = 0.2
PATIENT = 8
"""Who has waited for so many times the pause asks less often: each question costs the machine what the answer waits for."""
ROOT = Path(__file__).parents[2]

_UNANSWERED = {
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
}
"""How a query ends that no worker answers; the SDK calls its own time limit CANCELLED."""

Wanted = Phase | Callable[[Status], bool]


class WorkerProcess:
    """A worker in a process of its own, to be killed."""

    def __init__(self, stage: "Harness", process: subprocess.Popen[bytes], log: Path) -> None:
        self.stage = stage
        self.process = process
        self.log = log

    async def killed(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the worker has died of SIGKILL, as its barrier says."""
        try:
            code = await asyncio.to_thread(self.process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            raise await self.stage.in_vain(f"its barrier was not reached in {timeout_s:g} s") from None
        assert code == -signal.SIGKILL, self.log.read_text()[-3000:]


class Harness:
    """A database's migration, with a task queue of its own."""

    def __init__(self, client: Client, address: str, dsn: str, scratch: Path) -> None:
        self.client = client
        self.address = address
        self.dsn = dsn
        self.scratch = scratch
        self.database = f"shop-{secrets.token_hex(4)}"
        self.queue = f"test-{secrets.token_hex(6)}"
        self.handles: list[WorkflowHandle[Any, Any]] = []

    @classmethod
    async def open(cls, address: str, dsn: str, scratch: Path) -> "Harness":
        """Connect to Temporal; the worker's environment is the caller's to set (`variable`)."""
        return cls(await Client.connect(address, data_converter=pydantic_data_converter), address, dsn, scratch)

    @property
    def variable(self) -> str:
        """The environment variable in which a worker finds the DSN."""
        return "PGDUET_DATABASE_" + self.database.upper().replace("-", "_")

    @property
    def environment(self) -> dict[str, str]:
        """Give the environment of a process that talks to this harness's server and queue."""
        return os.environ | {"TEMPORAL_ADDRESS": self.address, "PGDUET_TASK_QUEUE": self.queue}

    async def command(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the command line in a process of its own."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "pgduet.cli.main", *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def start_by_command(self, wanted: dict[str, Any], *words: str, **environment: str) -> None:
        """Start a migration as people do, from a file."""
        file = self.scratch / "plan.json"
        file.write_text(json.dumps(wanted))
        done = await self.command("start", str(file), *words, **environment)
        assert done.returncode == 0, done.stderr
        self.handles.append(
            self.client.get_workflow_handle(workflow_id(self.database, wanted["name"]), result_type=Status)
        )

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        """The run that was started last."""
        return self.handles[-1]

    def plan(self, *operations: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Write a plan for this harness's database."""
        return plan(*operations, database=self.database, **options)

    async def start(self, wanted: dict[str, Any], *, actor: str = "tester") -> None:
        """Start a migration."""
        handle = await self.client.start_workflow(
            "Migration",
            Start(plan=wanted, actor=actor),
            id=workflow_id(self.database, wanted["name"]),
            task_queue=self.queue,
            result_type=Status,
        )
        self.handles.append(handle)

    async def status(self) -> Status:
        """Ask where it stands."""
        return await self.handle.query("status", result_type=Status)

    async def until(self, wanted: Wanted, timeout_s: float = TIMEOUT_S, poll_s: float = POLL_S) -> Status:
        """Wait for a phase to be entered, or for anything that a status can show."""
        began = time.monotonic()
        ends = began + timeout_s
        while True:
            status = await self._status_if_answered()
            if status and (wanted.reached(status.phase) if isinstance(wanted, Phase) else wanted(status)):
                return status
            now = time.monotonic()
            if now > ends:
                raise await self.in_vain(f"{wanted} not reached in {timeout_s:g} s")
            await asyncio.sleep(max(poll_s, min(LONGEST_POLL_S, (now - began) / PATIENT)))

    async def _status_if_answered(self) -> Status | None:
        """Ask where it stands; a worker that was killed does not answer, and the next one not at once."""
        try:
            return await self.status()
        except RPCError as error:
            if error.status in _UNANSWERED:
                return None
            raise

    async def waits(self, kind: str, phase: Phase, timeout_s: float = TIMEOUT_S) -> Status:
        """Wait until the migration waits for something in a phase."""

        def waiting(status: Status) -> bool:
            return status.phase is phase and status.waiting_for is not None and status.waiting_for.kind == kind

        return await self.until(waiting, timeout_s)

    async def gets_to(self, kind: str, phase: Phase, timeout_s: float = TIMEOUT_S) -> Status:
        """Wait as `waits` does, but not for what will not come: where it stops at an error or drift, or fails, say so at once."""

        def there(status: Status) -> bool:
            waiting = status.waiting_for
            assert status.failure is None, status.failure
            assert waiting is None or waiting.kind not in {"error", "drift"}, waiting
            return status.phase is phase and waiting is not None and waiting.kind == kind

        return await self.until(there, timeout_s)

    async def act(self, update: str, **fields: Any) -> Answer:
        """Act by update, which is answered or refused."""
        return await self.handle.execute_update(update, {"actor": "tester", **fields}, result_type=Answer)

    async def forget(self) -> None:
        """Have Temporal forget the run that was started last, as it does when retention is over."""
        execution = WorkflowExecution(workflow_id=self.handle.id)
        request = DeleteWorkflowExecutionRequest(namespace=self.client.namespace, workflow_execution=execution)
        await self.client.workflow_service.delete_workflow_execution(request)
        async with asyncio.timeout(2 * TIMEOUT_S):
            while await self._is_known():
                await asyncio.sleep(POLL_S)

    async def _is_known(self) -> bool:
        try:
            await self.client.get_workflow_handle(self.handle.id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def result(self, timeout_s: float = TIMEOUT_S) -> Status:
        """Wait for the end; what fails the workflow is raised."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.handle.result()
        except TimeoutError:
            raise await self.in_vain(f"no end in {timeout_s:g} s") from None

    async def in_vain(self, what: str) -> AssertionError:
        """Make the error of a test that waited in vain, with all that is known now."""
        return AssertionError(
            f"{what}\n{await facts(self.handles[-1] if self.handles else None, self.dsn, self.scratch)}"
        )

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Run a worker in this process."""
        async with runtime.worker(self.client, queue=self.queue):
            try:
                yield
            finally:
                await self._end()

    async def _end(self) -> None:
        """Leave no run behind that would ask for a worker that has gone."""
        for handle in self.handles:
            with suppress(RPCError):
                if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                    await handle.terminate("the test is over")
                    await self.schedule(handle).delete()

    def schedule(self, handle: WorkflowHandle[Any, Any] | None = None) -> ScheduleHandle:
        """Give the schedule of a migration's comparisons, which may not be there."""
        _, database, name = (handle or self.handle).id.split("/", 2)
        return self.client.get_schedule_handle(schedule_id(database, name))

    @contextmanager
    def worker_process(
        self, barriers: str = "", program: Path = ROOT / "worker.py", **environment: str
    ) -> Iterator[WorkerProcess]:
        """Run a worker in a process of its own; `barriers` as PGDUET_BARRIERS, and what else its environment has."""
        log = self.scratch / f"worker-{secrets.token_hex(3)}.log"
        known = self.environment | {"PGDUET_BARRIERS": barriers, self.variable: self.dsn} | environment
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, program], stdout=out, stderr=out, env=known)
        try:
            yield WorkerProcess(self, process, log)
        finally:
            process.kill()
            process.wait()


async def pgduet(stage: Harness, *arguments: str) -> tuple[int, str]:
    """Run a command; gives its exit code and what it printed, or where that is nothing, its errors."""
    environment = os.environ | {"TEMPORAL_ADDRESS": stage.address, "PGDUET_TASK_QUEUE": stage.queue}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pgduet.cli.main", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    said, notes = await process.communicate()
    return process.returncode or 0, said.decode() or notes.decode()


def schema_dump(bin_dir: Path, dsn: str) -> str:
    """Dump the schema of everything that is not pgduet's own."""
    ours = ("pgduet", "pgduet_views", "pgduet_archive", "*_v[0-9]*", "*_vwith_version_schema")
    without = [part for name in ours for part in ("-N", name)]
    command = [str(bin_dir / "pg_dump"), "-s", "--restrict-key=x", *without, dsn]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout
