"""Tracing in a client: a span for each start, signal and update, carried to the workflow. Queries are not traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry.trace import SpanKind
from temporalio.client import (
    Interceptor,
    OutboundInterceptor,
    SignalWorkflowInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)

from pgduet.telemetry import carrier, subject
from pgduet.telemetry.spans import told_failures, tracer


class ClientTracing(Interceptor):
    """Goes into `interceptors` of `Client.connect`; does nothing in a process without a tracer provider."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
        """Trace what the client asks for."""
        return _Outbound(super().intercept_client(next))


class _Going(Protocol):
    id: str
    headers: carrier.Headers


class _Outbound(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002
        with _going(f"StartWorkflow:{input.workflow}", input):
            return await super().start_workflow(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:  # noqa: A002
        with _going(f"SignalWorkflow:{input.signal}", input):
            await super().signal_workflow(input)

    async def start_workflow_update(self, input: StartWorkflowUpdateInput) -> WorkflowUpdateHandle[Any]:  # noqa: A002
        with _going(f"StartWorkflowUpdate:{input.update}", input):
            return await super().start_workflow_update(input)


@contextmanager
def _going(name: str, going: _Going) -> Iterator[None]:
    attributes = {**subject.of_workflow(going.id).marks(), "temporalWorkflowID": going.id}
    with tracer().start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        going.headers = carrier.added(going.headers, carrier.carrier(made))
        with told_failures(made):
            yield
