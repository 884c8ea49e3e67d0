"""Wires the parts together; the only module that knows them all."""

import asyncio
import logging
import os
import signal
from datetime import timedelta
from importlib import metadata
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import Replayer, Worker

from pgduet import health
from pgduet.activities import build
from pgduet.cold import OrderedRunner
from pgduet.errors import PgduetError, ServerMissing
from pgduet.messages import TASK_QUEUE
from pgduet.pollers import pollers
from pgduet.postgres.databases import Databases
from pgduet.telemetry import environment, providers
from pgduet.telemetry.client import ClientTracing
from pgduet.telemetry.logs import write_logs
from pgduet.telemetry.worker import WorkerTracing
from pgduet.wire import tolerant
from pgduet.workflows.registered import WORKFLOWS

GRACE_S = 10.0
STICKY_S = 2.0
"""A worker that was killed is not waited for longer than this before its workflows go to another one."""


def task_queue() -> str:
    """Name the task queue: `PGDUET_TASK_QUEUE`, else `pgduet`."""
    return os.environ.get("PGDUET_TASK_QUEUE", TASK_QUEUE)


def settings() -> dict[str, Any]:
    """Give what decides how workflow code runs, the same for a worker and for a replay of its histories."""
    return {
        "workflows": list(WORKFLOWS),
        "workflow_runner": OrderedRunner(),
        "interceptors": [WorkerTracing()],
    }


def replayer(**overrides: Any) -> Replayer:
    """Make a replayer with exactly what a worker of ours has; a test may override single settings."""
    return Replayer(**{**settings(), "data_converter": tolerant(pydantic_data_converter), **overrides})


def worker(client: Client, databases: Databases | None = None, queue: str | None = None) -> Worker:
    """Make a worker that runs every workflow and activity of pgduet; it reads messages as `pgduet.wire` says."""
    config = client.config()
    config["data_converter"] = tolerant(client.data_converter)
    return Worker(
        Client(**config),
        task_queue=queue or task_queue(),
        **settings(),
        activities=build(databases or Databases()),
        # By default the SDK reads and hashes all code that is loaded: most of a second, at each start of a worker.
        build_id=f"pgduet {metadata.version('pgduet')}",
        graceful_shutdown_timeout=timedelta(seconds=GRACE_S),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=STICKY_S),
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
        default_heartbeat_throttle_interval=timedelta(seconds=0.5),
    )


async def connect() -> Client:
    """Connect as the SDK's standard environment configuration says (`TEMPORAL_ADDRESS`, profiles, API key, TLS).

    Raises:
        ServerMissing: no Temporal server answers there.
    """
    config = ClientConfig.load_client_connect_config()
    target = config.setdefault("target_host", "localhost:7233")
    try:
        return await Client.connect(**config, data_converter=pydantic_data_converter, interceptors=[ClientTracing()])
    except (RuntimeError, RPCError, ValueError) as wrong:
        raise ServerMissing(
            f"no Temporal server answers at {target}",
            hint="Set TEMPORAL_ADDRESS to the one you have; for local work `pgduet dev` starts one, and a worker with it.",
        ) from wrong


async def serve() -> None:
    """Run a worker until SIGINT or SIGTERM, then let running batches finish."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    databases = Databases()
    client = await connect()
    probed = health.served(os.environ.get(health.VARIABLE), lambda: not_ready(client, task_queue()))
    async with worker(client, databases):
        with probed:
            known = ", ".join(sorted(databases.known())) or "none yet"
            logging.getLogger("pgduet").info("worker on task queue %s; databases: %s", task_queue(), known)
            await stop.wait()


async def not_ready(client: Client, queue: str) -> str | None:
    """Say why a worker is not at work: Temporal does not answer it, or does not list it among those that ask for work."""
    try:
        async with asyncio.timeout(health.LIMIT_S / 2):
            asking = await pollers(client, queue)
    except (RPCError, TimeoutError) as wrong:
        return f"Temporal does not answer: {wrong}".removesuffix(": ")
    if client.identity in asking:
        return None
    return f"Temporal does not list {client.identity} among those that ask for work on {queue}"


def main() -> None:
    """Run a worker in the foreground; telemetry as the environment says.

    Raises:
        PgduetError: the environment asks for what is not installed.
    """
    write_logs()
    _serve_temporal_metrics()
    started = providers.start("pgduet-worker")
    try:
        asyncio.run(serve())
    finally:
        started.stop()


def _serve_temporal_metrics() -> None:
    """Serve the Temporal SDK's own metrics to Prometheus where `PGDUET_TEMPORAL_METRICS` (`host:port`) says."""
    address = os.environ.get("PGDUET_TEMPORAL_METRICS")
    if address and not environment.disabled():
        prometheus = PrometheusConfig(bind_address=address, durations_as_seconds=True, unit_suffix=True)
        try:
            Runtime.set_default(Runtime(telemetry=TelemetryConfig(metrics=prometheus)))
        except (RuntimeError, ValueError) as wrong:
            raise PgduetError(
                f"PGDUET_TEMPORAL_METRICS={address}: {wrong}", hint="HOST:PORT, and a free port."
            ) from wrong
