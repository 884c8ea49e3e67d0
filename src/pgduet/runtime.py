"""Wires the parts together; the only module that knows them all."""

import asyncio
import logging
import os
import signal
from datetime import timedelta

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

from pgduet.activities import build
from pgduet.messages import TASK_QUEUE
from pgduet.postgres.databases import Databases
from pgduet.workflows import WORKFLOWS

GRACE_S = 10.0


def task_queue() -> str:
    """Name the task queue: `PGDUET_TASK_QUEUE`, else `pgduet`."""
    return os.environ.get("PGDUET_TASK_QUEUE", TASK_QUEUE)


def worker(client: Client, databases: Databases | None = None, queue: str | None = None) -> Worker:
    """Make a worker that runs every workflow and activity of pgduet."""
    return Worker(
        client,
        task_queue=queue or task_queue(),
        workflows=list(WORKFLOWS),
        activities=build(databases or Databases()),
        graceful_shutdown_timeout=timedelta(seconds=GRACE_S),
        # A worker that was killed is not waited for longer than this before its workflows go to another one.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
        default_heartbeat_throttle_interval=timedelta(seconds=0.5),
    )


async def connect() -> Client:
    """Connect as the SDK's standard environment configuration says (`TEMPORAL_ADDRESS`, profiles, API key, TLS)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, data_converter=pydantic_data_converter)


async def serve() -> None:
    """Run a worker until SIGINT or SIGTERM, then let running batches finish."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    databases = Databases()
    async with worker(await connect(), databases):
        known = ", ".join(sorted(databases.known())) or "none yet"
        logging.getLogger("pgduet").info("worker on task queue %s; databases: %s", task_queue(), known)
        await stop.wait()


def main() -> None:
    """Run a worker in the foreground."""
    logging.basicConfig(
        level=os.environ.get("PGDUET_LOG", "INFO").upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    asyncio.run(serve())
