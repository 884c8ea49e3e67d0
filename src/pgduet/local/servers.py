"""What `dev` and the demo start besides PostgreSQL: a Temporal server, or the one that TEMPORAL_ADDRESS names, and a worker.

The worker is a process of its own, held by `guard.py`, so that it ends with whoever started it, however that ends. It hears
addresses by its environment, as a worker in production does. It is up when Temporal says that it polls.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from pgduet.errors import ServerMissing
from pgduet.local.process import GuardedProcess
from pgduet.local.temporal import LocalTemporal
from pgduet.local.temporal_binary import Say, resolve_address
from pgduet.pollers import polled
from pgduet.postgres.databases import PREFIX

_RUN = "from pgduet.leaving import leave; from pgduet.runtime import main; main(); leave(0)"
_START_LIMIT_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Temporal:
    """Where Temporal answers, and where its UI is (None: unknown, or there is none)."""

    address: str
    ui: str | None
    server: LocalTemporal | None = None

    @property
    def pid(self) -> int | None:
        """The process id of a server of ours."""
        return self.server.pid if self.server else None

    def workflow_link(self, workflow: str) -> str | None:
        """Give the address of a workflow's page in the UI."""
        return f"{self.ui}/namespaces/default/workflows/{workflow.replace('/', '%2F')}" if self.ui else None


@contextlib.contextmanager
def temporal(say: Say, db_file: Path | None = None) -> Iterator[Temporal]:
    """Start a dev server with its UI, unless the user has a server, which must answer.

    Raises:
        ServerMissing: it does not.
    """
    theirs = resolve_address()
    if theirs:
        asyncio.run(_answers(theirs))
        yield Temporal(theirs, None)
        return
    with LocalTemporal(db_file=db_file, say=say) as server:
        yield Temporal(server.address, server.ui_url, server)


def database_variable(name: str) -> str:
    """Name the variable by which a worker finds a database."""
    return PREFIX + name.upper().replace("-", "_")


class LocalWorker:
    """A worker process: `with LocalWorker(environment, queue=…, log_path=…) as worker`."""

    def __init__(self, environment: Mapping[str, str], *, queue: str, log_path: Path) -> None:
        self.queue = queue
        self.log_path = log_path
        config = Path(os.environ.get("PGDUET_CONFIG", "pgduet.toml")).absolute()
        self._environment = {"PGDUET_TASK_QUEUE": queue, "PGDUET_CONFIG": str(config), **environment}
        self._process: GuardedProcess | None = None

    def __enter__(self) -> Self:
        """Start it and return once it polls."""
        try:
            with environment(self._environment):
                self._process = process = GuardedProcess(
                    [sys.executable, "-c", _RUN],
                    log_path=self.log_path,
                    stop_signals=["SIGTERM"],
                    death_signal="SIGKILL",
                    grace_s=15.0,
                )
            asyncio.run(self._polls(process, self._environment["TEMPORAL_ADDRESS"]))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()

    def running(self) -> bool:
        """Tell whether it is still there."""
        return self._process is not None and self._process.running()

    @property
    def pid(self) -> int | None:
        """The process id of the worker while it runs."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """End it in order: running batches finish."""
        self._end(GuardedProcess.stop)

    def kill(self) -> None:
        """End it by SIGKILL, in the middle of whatever it does."""
        self._end(GuardedProcess.kill)

    def _end(self, how: Callable[[GuardedProcess], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process = None

    async def _polls(self, process: GuardedProcess, address: str) -> None:
        client = await connect(address)
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and process.running():
            if await polled(client, self.queue, process.pid):
                return
            await asyncio.sleep(_POLL_S)
        message = f"The worker did not start: {process.log_tail()}"
        raise ServerMissing(message)


async def _answers(address: str) -> None:
    try:
        await connect(address)
    except (RuntimeError, RPCError, ValueError) as wrong:
        raise ServerMissing(
            f"no Temporal server answers at {address}",
            hint="Start the one that TEMPORAL_ADDRESS names, or unset it: then one is started here.",
        ) from wrong


async def connect(address: str) -> Client:
    """Connect as the SDK's environment configuration says, to this address."""
    config = ClientConfig.load_client_connect_config()
    config["target_host"] = address
    return await Client.connect(**config)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the time in which a process is started."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
