"""Telemetry is off unless it is asked for, off by one switch, and in nobody's way when it cannot deliver."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.collector import Collector
from support.harness import ROOT, Harness
from support.plans import create_reviews
from support.wire import headers

from pgduet.client import Migrations
from pgduet.local.ports import free_ports
from pgduet.phases import Phase
from pgduet.plan.load import parse_plan
from pgduet.telemetry.providers import PATIENCE_S

Connection = psycopg.AsyncConnection[Any]

ALL = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp,prometheus",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
}

STARTED = """
import os, threading
from opentelemetry import metrics, trace
from pgduet.telemetry import providers
before = threading.active_count()
providers.start("test")
sockets = [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")
           and os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")]
with trace.get_tracer("x").start_as_current_span("y") as span:
    print(threading.active_count() - before, len(sockets), span.is_recording(), type(metrics.get_meter_provider()).__name__)
"""


def started(**environment: str) -> list[str]:
    """Tell what starting telemetry adds: threads, sockets, whether spans record, which meter provider."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", STARTED], env=known | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("environment", [{}, ALL | {"OTEL_SDK_DISABLED": "true"}])
def test_what_is_not_asked_for_starts_no_thread_and_opens_no_socket(environment: dict[str, str]) -> None:
    assert started(**environment) == ["0", "0", "False", "_ProxyMeterProvider"]


def test_what_is_asked_for_starts_threads_and_opens_a_socket() -> None:
    threads, sockets, recording, meters = started(**ALL)
    assert (int(threads) >= 4, sockets, recording, meters) == (True, "1", "True", "MeterProvider")


async def test_with_the_switch_off_nothing_is_sent_and_the_wire_is_as_without_telemetry(
    stage: Harness, conn: Connection, collector: Collector
) -> None:
    await create_reviews(conn, 500)
    (port,) = free_ports(1)
    off = collector.environment("traces", "metrics", "logs") | {
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "PGDUET_TEMPORAL_METRICS": f"127.0.0.1:{free_ports(1)[0]}",
        "OTEL_SDK_DISABLED": "true",
    }
    with stage.worker_process(**off) as worker:
        await stage.start_by_command(stage.plan(gates={"verify": "manual"}), **off)
        await stage.waits("gate", Phase.BACKFILL)
        assert _listening(worker.process.pid) == 0
        assert await headers(stage.handle) == []
    assert bytes(collector.raw) == b""


async def test_by_default_no_header_travels(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    migrations = await Migrations.connect(stage.address, task_queue=stage.queue)
    async with stage.worker():
        await migrations.start(parse_plan(stage.plan(gates={"verify": "manual"})), actor="tester")
        stage.handles.append(stage.client.get_workflow_handle(f"migration/{stage.database}/review-stars"))
        await stage.waits("gate", Phase.BACKFILL)
        assert await headers(stage.handle) == []


@pytest.fixture
def hole() -> Iterator[str]:
    """Give the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_collector_that_does_not_answer_holds_up_nobody(stage: Harness, conn: Connection, hole: str) -> None:
    await create_reviews(conn, 2_000)
    lost = {f"OTEL_{name}_EXPORTER": "otlp" for name in ("TRACES", "METRICS", "LOGS")}
    lost |= {"OTEL_EXPORTER_OTLP_ENDPOINT": hole, "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    with stage.worker_process(**lost) as worker:
        began = time.monotonic()
        await stage.start_by_command(stage.plan(gates={"verify": "manual"}))
        usual_s = time.monotonic() - began
        await stage.waits("gate", Phase.BACKFILL)
        began = time.monotonic()
        done = await stage.command("advance", "review-stars", "--database", stage.database, **lost)
        took_s = time.monotonic() - began
        assert done.returncode == 0
        assert not re.search("Traceback|[Ee]xport", done.stderr)
        assert took_s < usual_s + PATIENCE_S + 5
        await stage.until(Phase.SHIFT)
        began = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
        assert time.monotonic() - began < PATIENCE_S + 8


NOT_INSTALLED = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


async def test_an_exporter_that_is_not_installed_is_a_clear_error(stage: Harness) -> None:
    done = await stage.command("status", **NOT_INSTALLED)
    assert done.returncode == 1
    assert done.stderr.startswith("failed  PD-1000")
    assert "otlp_proto_grpc" in done.stderr
    assert "pip install 'pgduet[telemetry]'" in done.stderr
    assert "Traceback" not in done.stderr
    done = await stage.command("status", "--json", OTEL_TRACES_EXPORTER="zipkin")
    assert done.returncode == 1
    assert "zipkin" in json.loads(done.stdout)["error"]["message"]


def test_a_worker_that_cannot_tell_as_it_is_asked_says_so_and_ends(stage: Harness, hole: str) -> None:
    taken = hole.removeprefix("http://")
    for environment, named in (
        (NOT_INSTALLED, "pgduet[telemetry]"),
        ({"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": taken.split(":")[1]}, "prometheus"),
        ({"PGDUET_TEMPORAL_METRICS": "nonsense"}, "PGDUET_TEMPORAL_METRICS"),
    ):
        done = subprocess.run(
            [sys.executable, ROOT / "worker.py"],
            env=stage.environment | {"OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1"} | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, environment
        assert named in done.stderr
        assert "Traceback" not in done.stderr, done.stderr


async def test_a_command_s_answer_stays_alone_on_stdout_with_the_console_exporter(
    stage: Harness, conn: Connection
) -> None:
    await create_reviews(conn, 100)
    async with stage.worker():
        await stage.start(stage.plan(gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        done = await stage.command(
            *("pause", "review-stars", "--database", stage.database, "--json"), OTEL_TRACES_EXPORTER="console"
        )
    assert json.loads(done.stdout)
    assert '"name": "pgduet pause"' in done.stderr


def _listening(pid: int) -> int:
    """Count the TCP sockets on which a process listens."""
    inodes = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]]
    return sum(row[3] == "0A" and f"socket:[{row[9]}]" in inodes for row in rows)
