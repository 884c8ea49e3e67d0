"""Tracing on a worker: a span for each try of an activity, and the spans that workflows ask for.

The ids of a workflow's spans are fixed by its run. Where somebody who embeds the worker has set a tracer provider without
`FixedIds`, the workflow's own spans are left out, and activities hang below the client's span.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, SpanKind, format_span_id, format_trace_id, get_current_span
from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from pgduet.telemetry import carrier, metrics, subject
from pgduet.telemetry.spans import Budget, budgeted, told_failures, tracer, worth
from pgduet.telemetry.workflow import EXTERN, Mark, WorkflowTracing

_FIXED: ContextVar[tuple[int, int] | None] = ContextVar("pgduet_fixed_ids", default=None)


class FixedIds(RandomIdGenerator):
    """Gives ids by chance but for the spans of workflows, whose ids must be the same at every replay."""

    def generate_trace_id(self) -> int:
        """Give the id of a trace that begins."""
        fixed = _FIXED.get()
        return fixed[0] if fixed else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Give a span's id."""
        fixed = _FIXED.get()
        return fixed[1] if fixed else super().generate_span_id()


def mark(moment: Mark) -> carrier.Carrier:
    """Make a workflow's span; gives what its children carry: the span, or the parent where nothing is traced."""
    digest = hashlib.sha256(f"{moment.run_id}/{moment.key}".encode()).digest()
    fixed = int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])
    before = get_current_span(carrier.context(moment.link)).get_span_context()
    token = _FIXED.set(fixed)
    try:
        made = tracer().start_span(
            moment.name,
            context=carrier.context(moment.parent),
            kind=SpanKind.SERVER,
            links=[Link(before)] if before.is_valid else [],
            start_time=moment.time_ns,
            attributes={
                **subject.of_workflow(moment.workflow_id).marks(),
                "temporalWorkflowID": moment.workflow_id,
                "temporalRunID": moment.run_id,
            },
        )
    finally:
        _FIXED.reset(token)
    if made.get_span_context().span_id != fixed[1]:
        return moment.parent
    if not moment.replayed:
        made.end(end_time=moment.time_ns)
    return carrier.carrier(made)


class WorkerTracing(Interceptor):
    """What a worker needs for traces and for log lines that name their migration."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Trace activities."""
        return _Activities(super().intercept_activity(next))

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002
        """Trace workflows."""
        input.unsafe_extern_functions[EXTERN] = mark
        return WorkflowTracing


class _Activities(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        info = activity.info()
        about = subject.of_argument(input.args[0] if input.args else None, info.workflow_id)
        subject.work_for(about)
        traced = worth(info.attempt)
        budget = Budget() if traced else None
        parent = carrier.context(carrier.read(input.headers))
        with _activity_span(info, parent) if traced else nullcontext(trace.INVALID_SPAN) as made, budgeted(budget):
            context = (made if traced else get_current_span(parent)).get_span_context()
            if context.is_valid:
                about.trace_id, about.span_id = format_trace_id(context.trace_id), format_span_id(context.span_id)
            try:
                return await super().execute_activity(input)
            except Exception:
                metrics.failed(info.activity_type)
                raise
            finally:
                made.set_attributes(about.marks() | {"pgduet.statements": budget.seen if budget else 0})


@contextmanager
def _activity_span(info: activity.Info, parent: Any) -> Iterator[Span]:
    """Open an activity's span."""
    attributes: dict[str, str | int] = {
        "temporalWorkflowID": info.workflow_id or "",
        "temporalRunID": info.workflow_run_id or "",
        "temporalActivityID": info.activity_id,
        "temporalActivityAttempt": info.attempt,
    }
    with (
        tracer().start_as_current_span(
            f"RunActivity:{info.activity_type}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as made,
        told_failures(made),
    ):
        yield made
