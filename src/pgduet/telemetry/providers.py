"""Starts and stops OpenTelemetry in a process of ours: worker or command line.

Only what the environment asks for is made: without an exporter there is no provider, no thread and no socket, and the calls in
the engine end in OpenTelemetry's no-operation objects. Who embeds the Python client or the worker sets providers of their own,
and these calls end there.
Limits: what a collector does not take in time is lost, and nothing waits for it: not a batch, and not a process that ends.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pgduet.telemetry.environment import SIGNALS, exporters, wanted
from pgduet.telemetry.logs import export_logs
from pgduet.telemetry.worker import FixedIds

PATIENCE_S = 2.0
"""A process that ends does not wait longer than this for a collector that does not answer."""


class _Provider(Protocol):
    def force_flush(self, timeout_millis: int = ...) -> bool: ...
    def shutdown(self) -> Any: ...


@dataclass(slots=True)
class Providers:
    """What was started, to be stopped at the end."""

    started: list[_Provider] = field(default_factory=list)

    def stop(self) -> None:
        """Send what is still held and end the exporters' threads, all of it in little more than `PATIENCE_S`.

        Flushing takes a time limit and does not keep to it, so it runs in threads that the process does not wait for.
        """
        _at_once([provider.force_flush for provider in self.started], PATIENCE_S)
        _at_once([provider.shutdown for provider in self.started], PATIENCE_S / 4)
        self.started.clear()


def _at_once(jobs: list[Callable[[], Any]], limit_s: float) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    ends = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))


def start(service: str, *, only_traces: bool = False) -> Providers:
    """Start what the environment asks for; once in a process.

    Raises:
        PgduetError: an exporter is asked for that is not installed, or that cannot be set up as the environment says.
    """
    running = Providers()
    if not any(wanted(signal) for signal in SIGNALS):
        return running
    resource = _resource(service)
    if spans := exporters("traces"):
        tracers = TracerProvider(resource=resource, id_generator=FixedIds(), shutdown_on_exit=False)
        for exporter in spans:
            tracers.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(tracers)
        running.started.append(tracers)
    if only_traces:
        return running
    if readers := [_reader(made) for made in exporters("metrics")]:
        meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
        running.started.append(meters)
    if lines := exporters("logs"):
        running.started.append(export_logs(lines, resource))
    return running


def _resource(service: str) -> Resource:
    """Name the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES does."""
    named = os.environ.get("OTEL_SERVICE_NAME") or SERVICE_NAME in OTELResourceDetector().detect().attributes
    return Resource.create({} if named else {SERVICE_NAME: service})


def _reader(made: Any) -> MetricReader:
    return made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)
