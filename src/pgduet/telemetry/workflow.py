"""Tracing inside workflows: passes the trace on, and marks where a run began and which acts it took.

Mechanism: every run has one span without length, and so has each signal and update. Their ids are made from the run's id
and a count, never by chance, so a replay on another worker gives the same parents to the activities that follow. The spans
themselves are made outside of the sandbox by a function that the worker lends (`worker.mark`), and are exported by the
first execution only. No command depends on any of it: tracing may be switched on or off under a running migration.
Limits: a run that continued as new begins a trace of its own, linked to the run before, so that no trace grows for the weeks
of a soak. Queries are not traced: a waiting client asks several times a second.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from temporalio import workflow
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    SignalChildWorkflowInput,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from pgduet.telemetry.carrier import LINK, Carrier, Headers, added, read

EXTERN = "pgduet_mark"


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a workflow, to be exported unless it is replayed."""

    name: str
    workflow_id: str
    run_id: str
    key: str
    time_ns: int
    replayed: bool
    parent: Carrier = field(default_factory=dict)
    link: Carrier = field(default_factory=dict)


class _Headed(Protocol):
    headers: Headers


class WorkflowTracing(WorkflowInboundInterceptor):
    """What comes in: the run itself, signals, updates."""

    def __init__(self, next: WorkflowInboundInterceptor) -> None:  # noqa: A002  (the SDK's name)
        super().__init__(next)
        self.mark: Callable[[Mark], Carrier] = workflow.extern_functions()[EXTERN]
        self.run: Carrier | None = None
        self.acts = 0

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """Put the outgoing side in place."""
        super().init(_Outbound(outbound, self))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002
        """Mark that the run has begun."""
        self.here()
        return await super().execute_workflow(input)

    async def handle_signal(self, input: HandleSignalInput) -> None:  # noqa: A002
        """Mark a signal in its sender's trace, linked to the run."""
        self._act(f"HandleSignal:{input.signal}", input.headers)
        await super().handle_signal(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:  # noqa: A002
        """Mark an update that was accepted in its sender's trace, linked to the run."""
        self._act(f"HandleUpdate:{input.update}", input.headers)
        return await super().handle_update_handler(input)

    def here(self) -> Carrier:
        """Give the run's own span, which is the parent of all that it starts."""
        if self.run is None:
            info = workflow.info()
            parent, link = read(info.headers), read(info.headers, LINK)
            self.run = self._marked(f"RunWorkflow:{info.workflow_type}", "run", parent, link)
        return self.run

    def _act(self, name: str, headers: Headers) -> None:
        self.acts += 1
        sender, here = read(headers), self.here()
        self._marked(name, f"act/{self.acts}", sender or here, here if sender else {})

    def _marked(self, name: str, key: str, parent: Carrier, link: Carrier) -> Carrier:
        info = workflow.info()
        replayed = workflow.unsafe.is_replaying()
        return self.mark(Mark(name, info.workflow_id, info.run_id, key, workflow.time_ns(), replayed, parent, link))


class _Outbound(WorkflowOutboundInterceptor):
    """What goes out: activities, children and signals of this run."""

    def __init__(self, next: WorkflowOutboundInterceptor, inbound: WorkflowTracing) -> None:  # noqa: A002
        super().__init__(next)
        self.inbound = inbound

    def _head(self, going: _Headed) -> None:
        going.headers = added(going.headers, self.inbound.here())

    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002
        self._head(input)
        return super().start_activity(input)

    def start_local_activity(self, input: StartLocalActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002
        self._head(input)
        return super().start_local_activity(input)

    async def start_child_workflow(
        self,
        input: StartChildWorkflowInput,  # noqa: A002
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        self._head(input)
        return await super().start_child_workflow(input)

    async def signal_child_workflow(self, input: SignalChildWorkflowInput) -> None:  # noqa: A002
        self._head(input)
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: SignalExternalWorkflowInput) -> None:  # noqa: A002
        self._head(input)
        await super().signal_external_workflow(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:  # noqa: A002
        input.headers = added(input.headers, self.inbound.here(), LINK)
        super().continue_as_new(input)
