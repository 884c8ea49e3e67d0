"""Starts and stops OpenTelemetry in a process of ours: worker or command line.

Only what the environment asks for is made: without an exporter there is no provider, no thread and no socket, and the calls in
the engine end in OpenTelemetry's no-operation objects. Who embeds the Python client or the worker sets providers of their own,
and these calls end there.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pgduet.telemetry.environment import disabled, exporters
from pgduet.telemetry.logs import export_logs
from pgduet.telemetry.worker import FixedIds

FLUSH_MS = 3000
"""A command does not wait longer than this for a collector that does not answer."""


class _Provider(Protocol):
    def force_flush(self, timeout_millis: int = ...) -> bool: ...
    def shutdown(self) -> Any: ...


@dataclass(slots=True)
class Providers:
    """What was started, to be stopped at the end."""

    started: list[_Provider] = field(default_factory=list)

    def flush(self) -> None:
        """Send what is still held."""
        for provider in self.started:
            provider.force_flush(FLUSH_MS)

    def stop(self) -> None:
        """Send what is still held, and end the exporters' threads."""
        for provider in self.started:
            provider.force_flush(FLUSH_MS)
            provider.shutdown()
        self.started.clear()


def start(service: str, *, only_traces: bool = False) -> Providers:
    """Start what the environment asks for; once in a process.

    Raises:
        PgduetError: an exporter is asked for that is not installed.
    """
    running = Providers()
    if disabled():
        return running
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service})
    if spans := list(exporters("traces")):
        tracers = TracerProvider(resource=resource, id_generator=FixedIds())
        for exporter in spans:
            tracers.add_span_processor(BatchSpanProcessor(exporter()))
        trace.set_tracer_provider(tracers)
        running.started.append(tracers)
    if only_traces:
        return running
    if readers := [_reader(found()) for found in exporters("metrics")]:
        meters = MeterProvider(metric_readers=readers, resource=resource)
        metrics.set_meter_provider(meters)
        running.started.append(meters)
    if lines := list(exporters("logs")):
        running.started.append(export_logs([made() for made in lines], resource))
    return running


def _reader(made: Any) -> MetricReader:
    return made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)
