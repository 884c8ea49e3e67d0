"""One trace from a command, or a client, to the statement of a batch, whatever happens to the workers in between."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.collector import Collector, Span
from support.harness import Harness
from support.plans import create_reviews
from support.wire import headers
from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.contrib.pydantic import pydantic_data_converter

from pgduet import runtime
from pgduet.client import Migrations
from pgduet.phases import Phase, State
from pgduet.plan.load import parse_plan
from pgduet.telemetry.worker import FixedIds

Connection = psycopg.AsyncConnection[Any]

ROWS = 5_000
BATCH = 'UPDATE "public"."reviews"'
FROM_BATCH_TO_WORKFLOW = [
    BATCH,
    "backfill batch",
    "RunActivity:fill_slice",
    "RunWorkflow:Backfill",
    "RunWorkflow:Migration",
    "StartWorkflow:Migration",
]


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Trace what happens in this process, as a worker that was started with an exporter does."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(id_generator=FixedIds(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def a_batch(collector: Collector) -> Span:
    """Find the statement of a batch: probes write to the table too."""
    return next(
        span
        for span in collector.named(BATCH)
        if any(parent.name == "backfill batch" for parent in collector.chain(span))
    )


def twice_exported(collector: Collector, *prefixes: str) -> list[str]:
    """Name the spans of workflows that came more than once."""
    counted = Counter((span.name, span.span_id) for prefix in prefixes for span in collector.named(prefix))
    return [name for (name, _), times in counted.items() if times > 1]


async def test_one_trace_leads_from_the_command_to_the_statement_of_a_batch(
    stage: Harness, collector: Collector
) -> None:
    telling = collector.environment("traces", "logs")
    with stage.worker_process(PGDUET_LOG_FORMAT="json", **telling) as worker:
        await stage.start_by_command(stage.plan(gates={"verify": "manual"}), **telling)
        await stage.waits("gate", Phase.BACKFILL)
        await collector.until(lambda: collector.named("RunActivity:backfill_outcome") and collector.named(BATCH))
        await collector.until(lambda: any("enter backfill" in text for text, _, _ in collector.lines))
        written = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
        travelled = await headers(stage.handle)
    chain = collector.chain(a_batch(collector))
    assert [span.name for span in chain] == [*FROM_BATCH_TO_WORKFLOW, "pgduet start"]
    assert [span.service for span in chain] == ["pgduet-worker"] * 5 + ["pgduet-cli"] * 2
    assert {span.trace_id for span in collector.spans} == {chain[0].trace_id}
    about = {"pgduet.database": stage.database, "pgduet.migration": "review-stars", "pgduet.phase": "backfill"}
    assert about.items() <= chain[0].attributes.items()
    assert about.items() <= chain[1].attributes.items()
    assert sum(span.attributes["pgduet.rows"] for span in collector.named("backfill batch")) == ROWS
    assert not [span.name for span in collector.spans if span.failed]
    _lines_name_what_they_are_about(collector, written, about, chain[0].trace_id)
    assert {name for name, _ in travelled} == {"_tracer-data"}, "nothing else travels"
    assert {tuple(json.loads(payload)) for _, payload in travelled} == {("traceparent",)}
    print(collector.tree(chain[0].trace_id))  # noqa: T201  (what the documentation shows)


def _lines_name_what_they_are_about(
    collector: Collector, written: list[dict[str, str]], about: dict[str, str], trace_id: str
) -> None:
    """Check a line of the worker's log, and the same line as it was sent by OTLP."""
    (entered,) = [line for line in written if line["message"] == "backfill, running: enter backfill"]
    assert {f"pgduet.{name}": entered[name] for name in ("database", "migration", "phase")} == about
    assert entered["trace_id"] == trace_id
    assert entered["span_id"] in {span.span_id for span in collector.named("RunActivity:record")}
    (sent,) = [line for line in collector.lines if line[0] == entered["message"]]
    assert sent[1:] == (about, trace_id)


async def test_the_trace_goes_on_with_another_worker_and_past_one_that_does_not_trace(
    stage: Harness, conn: Connection, collector: Collector
) -> None:
    await conn.execute("INSERT INTO public.reviews (rating) SELECT '3' FROM generate_series(1, 15000)")
    telling = collector.environment("traces")
    slow = {"parallelism": 1, "pause_ms": 500}
    with stage.worker_process("batch.after_commit=kill@2", **telling) as first:
        await stage.start_by_command(
            stage.plan(gates={"verify": "manual", "shadow": "manual"}, backfill=slow), **telling
        )
        await first.killed()
    killed_after = len(collector.named("backfill batch"))
    assert killed_after, "the first worker has told of its batches"
    async with runtime.worker(stage.client, queue=stage.queue):
        await stage.waits("gate", Phase.BACKFILL, 40)
        untold = len(collector.spans)
    with stage.worker_process(**telling):
        await stage.act("advance")
        await stage.waits("gate", Phase.VERIFY, 40)
        await collector.until(lambda: collector.named("RunActivity:publish"))
    published = collector.chain(collector.named("RunActivity:publish")[0])
    assert [span.name for span in published[1:]] == ["RunWorkflow:Migration", "StartWorkflow:Migration", "pgduet start"]
    assert published[0].trace_id == a_batch(collector).trace_id
    assert not [span for span in collector.spans[:untold] if span.name == "RunActivity:backfill_outcome"]
    assert twice_exported(collector, "RunWorkflow", "Handle") == []
    assert len({span.span_id for span in collector.named("RunWorkflow:Migration")}) == 1


async def test_an_act_is_part_of_its_sender_s_trace_and_linked_to_the_run(stage: Harness, collector: Collector) -> None:
    telling = collector.environment("traces")
    with stage.worker_process(**telling):
        await stage.start_by_command(stage.plan(gates={"backfill": "manual", "shadow": "manual"}), **telling)
        await stage.waits("gate", Phase.DUAL_WRITE)
        done = await stage.command("pause", "review-stars", "--database", stage.database, **telling)
        assert done.returncode == 0, done.stderr
        await stage.handle.signal("resume", {"actor": "a client that does not trace"})
        await collector.until(lambda: collector.named("HandleUpdate:pause") and collector.named("HandleSignal:resume"))
    run = collector.named("RunWorkflow:Migration")[0]
    paused = collector.chain(collector.named("HandleUpdate:pause")[0])
    assert [span.name for span in paused] == ["HandleUpdate:pause", "StartWorkflowUpdate:pause", "pgduet pause"]
    assert paused[0].trace_id != run.trace_id
    assert paused[0].links == (run.span_id,)
    resumed = collector.named("HandleSignal:resume")[0]
    assert (resumed.parent_id, resumed.links) == (run.span_id, ()), "without a sender's trace it is part of the run's"


def parents(recorded: InMemorySpanExporter, span: ReadableSpan) -> list[str]:
    """Name a span's parents up to the root."""
    known = {each.context.span_id: each for each in recorded.get_finished_spans() if each.context}
    names = []
    while span.parent and span.parent.span_id in known:
        span = known[span.parent.span_id]
        names.append(span.name)
    return names


async def test_the_python_client_s_trace_goes_on_in_the_worker_s(
    stage: Harness, recorded: InMemorySpanExporter
) -> None:
    migrations = await Migrations.connect(stage.address, task_queue=stage.queue)
    async with stage.worker():
        with trace.get_tracer("a service").start_as_current_span("deploy"):
            await migrations.start(parse_plan(stage.plan(gates={"verify": "manual"})), actor="deployer")
        stage.handles.append(stage.client.get_workflow_handle(f"migration/{stage.database}/review-stars"))
        await stage.waits("gate", Phase.BACKFILL)
    chains = [parents(recorded, span) for span in recorded.get_finished_spans() if span.name == BATCH]
    assert [*FROM_BATCH_TO_WORKFLOW[1:], "deploy"] in chains


async def test_a_client_with_temporal_s_own_interceptor_is_understood(
    stage: Harness, recorded: InMemorySpanExporter
) -> None:
    theirs = await Client.connect(
        stage.address, data_converter=pydantic_data_converter, interceptors=[TracingInterceptor()]
    )
    async with stage.worker():
        stage.client, ours = theirs, stage.client
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        stage.client = ours
        await stage.waits("gate", Phase.DUAL_WRITE)
        await stage.handle.signal("pause")
        await stage.until(lambda status: status.state is State.PAUSED)
    (run,) = [span for span in recorded.get_finished_spans() if span.name == "RunWorkflow:Migration"]
    (act,) = [span for span in recorded.get_finished_spans() if span.name == "HandleSignal:pause"]
    assert parents(recorded, run) == ["StartWorkflow:Migration"]
    assert parents(recorded, act) == ["SignalWorkflow:pause"]


async def test_a_header_that_cannot_be_read_fails_nothing(stage: Harness) -> None:
    from temporalio.api.common.v1 import Payload  # noqa: PLC0415
    from temporalio.client import Interceptor, OutboundInterceptor, StartWorkflowInput  # noqa: PLC0415

    class Stranger(Interceptor):
        def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
            class Outbound(OutboundInterceptor):
                async def start_workflow(self, input: StartWorkflowInput) -> Any:  # noqa: A002
                    input.headers = {"_tracer-data": Payload(data=b"\xff\x00 no JSON")}
                    return await super().start_workflow(input)

            return Outbound(next)

    stage.client = await Client.connect(
        stage.address, data_converter=pydantic_data_converter, interceptors=[Stranger()]
    )
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)


async def test_replay_exports_nothing_and_needs_no_tracing(stage: Harness, recorded: InMemorySpanExporter) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"verify": "manual"}))
        await stage.waits("gate", Phase.BACKFILL)
        await stage.handle.signal("pause")
        await stage.until(lambda status: status.state is State.PAUSED)
        histories = [await stage.handle.fetch_history()]
        child = stage.client.get_workflow_handle(f"{stage.handle.id}/backfill/0")
        histories.append(await child.fetch_history())
    live = recorded.get_finished_spans()
    assert {"RunWorkflow:Migration", "RunWorkflow:Backfill", "HandleSignal:pause"} <= {span.name for span in live}
    recorded.clear()
    for history in histories:
        await runtime.replayer().replay_workflow(history)
        await runtime.replayer(interceptors=[]).replay_workflow(history)
    assert recorded.get_finished_spans() == ()


async def test_a_big_backfill_costs_few_spans(stage: Harness, conn: Connection, recorded: InMemorySpanExporter) -> None:
    await conn.execute(
        "INSERT INTO public.reviews (rating, note) SELECT '3', repeat('x', 800) FROM generate_series(1, 15000)"
    )
    tiny = {"batch_target_ms": 1, "pause_ms": 0, "parallelism": 1}
    async with stage.worker():
        await stage.start(stage.plan(gates={"verify": "manual"}, backfill=tiny))
        await stage.waits("gate", Phase.BACKFILL, 40)
    (batches,) = await (await conn.execute("SELECT batches FROM pgduet.backfill_range")).fetchone() or (0,)
    traced = [span for span in recorded.get_finished_spans() if span.name == "backfill batch"]
    assert batches > 64
    assert len(traced) <= 4 + batches.bit_length()
    below = {span.get_span_context().span_id for span in traced}
    statements = [s for s in recorded.get_finished_spans() if s.parent and s.parent.span_id in below]
    assert len(statements) <= 6 * len(traced)


async def test_a_run_that_continued_as_new_has_a_trace_of_its_own_linked_to_the_one_before(
    forgetful: Harness, recorded: InMemorySpanExporter
) -> None:
    def runs() -> list[Any]:
        return [span for span in recorded.get_finished_spans() if span.name == "RunWorkflow:Migration"]

    async with forgetful.worker():
        await forgetful.start(forgetful.plan(soak={"window_s": 3600, "legacy_idle_s": 0}))
        forgetful.handles.append(forgetful.client.get_workflow_handle(forgetful.handle.id))
        await forgetful.until(lambda _: len(runs()) > 1, 40)
        await forgetful.until(
            lambda _: any(
                span.name == "RunActivity:census" and span.context.trace_id == runs()[1].context.trace_id
                for span in recorded.get_finished_spans()
            )
        )
    first, second = runs()[:2]
    assert second.context.trace_id != first.context.trace_id
    assert second.parent is None
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
