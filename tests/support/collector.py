"""A collector of OpenTelemetry's protocol over HTTP, in the test's process: what was sent, decoded, and a trace as a tree."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was sent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """The ids of linked spans."""
    failed: bool


@dataclass
class Collector:
    """What was received so far; `raw` is everything as it came, to be searched for what must not be in it."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    lines: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    metrics: dict[str, list[tuple[dict[str, Any], float]]] = field(default_factory=dict)
    """By name, the points as they were sent last: attributes and value; of a histogram, the count."""
    raw: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector._take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, *signals: str) -> dict[str, str]:
        """Give the environment of a process that sends these signals here."""
        asked = {f"OTEL_{signal.upper()}_EXPORTER": "otlp" for signal in signals}
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BLRP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        } | asked

    def _take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = attributes(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    self.spans += [_span(each, service) for each in scope.spans]
        if path == "/v1/logs":
            for entry in ExportLogsServiceRequest.FromString(body).resource_logs:
                for scope in entry.scope_logs:
                    self.lines += [
                        (line.body.string_value, attributes(line.attributes), line.trace_id.hex())
                        for line in scope.log_records
                    ]

        if path == "/v1/metrics":
            for sent in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in sent.scope_metrics:
                    self.metrics |= {metric.name: list(_points(metric)) for metric in scope.metrics}

    async def until(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        """Wait until what was received fulfils a condition: exporters send from time to time."""
        ends = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < ends, f"not received:\n{sorted({span.name for span in self.spans})}"
            await asyncio.sleep(0.02)

    def named(self, start: str) -> list[Span]:
        """Find spans by the beginning of their names."""
        return [span for span in self.spans if span.name.startswith(start)]

    def chain(self, span: Span) -> list[Span]:
        """Give a span and its parents up to the root."""
        known = {each.span_id: each for each in self.spans}
        found = [span]
        while found[-1].parent_id in known:
            found.append(known[found[-1].parent_id])
        return found

    def tree(self, trace_id: str) -> str:
        """Print a trace, two spaces for each level."""
        children: dict[str, list[Span]] = {}
        for span in self.spans:
            if span.trace_id == trace_id:
                children.setdefault(span.parent_id, []).append(span)
        return "\n".join(_lines(children, "", 0))


def _lines(children: dict[str, list[Span]], parent: str, depth: int) -> Iterator[str]:
    for span in children.get(parent, []):
        yield f"{'  ' * depth}{span.name}  [{span.service}]"
        yield from _lines(children, span.span_id, depth + 1)


def _points(metric: Any) -> Iterator[tuple[dict[str, Any], float]]:
    kind = getattr(metric, metric.WhichOneof("data"))
    for point in kind.data_points:
        value = point.count if hasattr(point, "count") else point.as_int or point.as_double
        yield attributes(point.attributes), value


def _span(sent: Any, service: str) -> Span:
    return Span(
        sent.name,
        sent.trace_id.hex(),
        sent.span_id.hex(),
        sent.parent_span_id.hex(),
        service,
        attributes(sent.attributes),
        tuple(link.span_id.hex() for link in sent.links),
        sent.status.code == 2,
    )


def attributes(sent: Any) -> dict[str, Any]:
    """Decode attributes."""
    return {each.key: _value(each) for each in sent}


def _value(each: KeyValue) -> Any:
    value: AnyValue = each.value
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
