"""A Temporal dev server for `pgduet dev`, the demo and the tests.

Mechanism: `temporal server start-dev` on ports that were free, with its queues' poll limits raised (at the default one
activity after another takes some 90 ms each, of which most is waiting, and a timer is up to 1 s late). State is in
memory unless `db_file` is given. The server ends with the process that started it (see `guard.py`). Started is what
answers: the namespace can be described and our search attributes are listed, asked over gRPC.

Limits: `start()` blocks; inside an event loop call it by `asyncio.to_thread`. The server also takes a few internal
ports that cannot be chosen; when any port was taken meanwhile, the start is tried again with others.
"""

import asyncio
import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from pgduet.errors import ServerMissing
from pgduet.local.ports import free_ports
from pgduet.local.process import GuardedProcess
from pgduet.local.temporal_binary import Say, find_temporal, silent

SEARCH_ATTRIBUTES = {
    "PgduetDatabase": "Keyword",
    "PgduetPhase": "Keyword",
    "PgduetState": "Keyword",
    "PgduetReadPercent": "Int",
}
# Measured. An activity: 102 ms without the first, 18 to 28 with it (three runs). A timer of 1 ms: fired after 1 s without the other
# two, after 3 ms with them.
_DYNAMIC_CONFIG = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxPollRPS": "2000",
    "history.timerProcessorMaxTimeShift": '"1ms"',
}
_START_LIMIT_S = 60.0
_SILENCE_LIMIT_S = 5.0
_PORT_TRIES = 5
_PORT_TAKEN = ("address already in use", "can't set ")


class LocalTemporal:
    """A Temporal dev server of our own: `with LocalTemporal() as server: await Client.connect(server.address)`.

    `search_attributes` registers pgduet's own at the start; `say` hears about a download or a build that takes long.
    """

    def __init__(
        self,
        ui: bool = True,  # noqa: FBT001, FBT002 - the one flag that everyone sets
        db_file: Path | None = None,
        namespace: str = "default",
        *,
        search_attributes: bool = True,
        dynamic_config: Mapping[str, object] | None = None,
        say: Say = silent,
    ) -> None:
        self._dynamic_config = {**_DYNAMIC_CONFIG, **(dynamic_config or {})}
        self.namespace = namespace
        self._ui = ui
        self._db_file = db_file.absolute() if db_file else None
        self._search_attributes = SEARCH_ATTRIBUTES if search_attributes else {}
        self._say = say
        self._own_dir: Path | None = None
        self._process: GuardedProcess | None = None
        self._ports: list[int] = []

    @property
    def address(self) -> str:
        """What clients connect to, as `127.0.0.1:PORT`; it stays the same over a restart."""
        return f"127.0.0.1:{self._port(0)}"

    @property
    def metrics(self) -> str:
        """The URL of the server's own metrics, for Prometheus."""
        return f"http://127.0.0.1:{self._port(1)}/metrics"

    @property
    def ui_url(self) -> str | None:
        """The URL of the Temporal UI; None when it was not asked for."""
        return f"http://127.0.0.1:{self._port(3)}" if self._ui else None

    @property
    def pid(self) -> int | None:
        """The process id of the server while it runs."""
        return self._process.pid if self._process else None

    def _port(self, index: int) -> int:
        if not self._ports:
            raise ServerMissing("The Temporal dev server has not been started.")
        return self._ports[index]

    def __enter__(self) -> Self:
        """Start the server, and leave nothing behind when that fails."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.stop()

    def start(self) -> None:
        """Start the server and return once it answers; does nothing when it runs."""
        if self._process is not None and self._process.running():
            return
        binary = find_temporal(self._say)
        atexit.register(self.stop)
        if self._own_dir is None:
            self._own_dir = Path(tempfile.mkdtemp(prefix="pgduet-temporal-"))
        first_start = not self._ports
        for _ in range(_PORT_TRIES):
            if first_start:
                self._ports = free_ports(4)
            if self._launch(binary, self._own_dir):
                return
        raise ServerMissing("The Temporal dev server found no free port.")

    def stop(self) -> None:
        """End the server; what it held in memory is gone. `start()` brings it back at the same address."""
        self._end(GuardedProcess.stop)

    def kill(self) -> None:
        """Crash: the server ends at once; with a `db_file`, the next `start()` goes on from what it holds."""
        self._end(GuardedProcess.kill)

    def _end(self, how: Callable[[GuardedProcess], None]) -> None:
        atexit.unregister(self.stop)
        if self._process is not None:
            how(self._process)
            self._process = None
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)
            self._own_dir = None

    def _command(self, binary: Path) -> list[str]:
        port, metrics_port, http_port, ui_port = (str(each) for each in self._ports)
        command = [
            *(str(binary), "server", "start-dev", "--ip", "127.0.0.1", "--log-level", "error"),
            *("--port", port, "--metrics-port", metrics_port, "--http-port", http_port),
            *(("--ui-port", ui_port) if self._ui else ("--headless",)),
            *("--namespace", self.namespace),
        ]
        if self._db_file is not None:
            command += ["--db-filename", str(self._db_file)]
        for key, value in self._dynamic_config.items():
            command += ["--dynamic-config-value", f"{key}={value}"]
        for key, value in self._search_attributes.items():
            command += ["--search-attribute", f"{key}={value}"]
        return command

    def _launch(self, binary: Path, own_dir: Path) -> bool:
        """Try once; False when a port was taken meanwhile."""
        log_path = own_dir / "temporal.log"
        log_path.unlink(missing_ok=True)
        process = GuardedProcess(
            self._command(binary),
            log_path=log_path,
            stop_signals=["SIGTERM"],
            death_signal="SIGKILL",
            grace_s=5.0,
            remove=[own_dir],
        )
        try:
            if self._answers(process):
                self._process = process
                return True
        finally:
            if self._process is not process:
                process.stop()
        log = log_path.read_text(errors="replace")
        if any(words in log for words in _PORT_TAKEN):
            return False
        message = f"The Temporal dev server did not start ({binary}): {process.log_tail()}"
        raise ServerMissing(message)

    def _answers(self, process: GuardedProcess) -> bool:
        """Ask until the server answers; in a thread, since the caller may be inside an event loop."""
        question = _answer(self.address, self.namespace, set(self._search_attributes), process)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, question).result()


async def _answer(address: str, namespace: str, attributes: set[str], process: GuardedProcess) -> bool:
    # A runtime of its own: the SDK's default one is for the program to configure, once.
    runtime = Runtime(telemetry=TelemetryConfig())
    deadline = time.monotonic() + _START_LIMIT_S
    while process.running() and time.monotonic() < deadline:
        try:
            await _announced(process)
            client = await Client.connect(address, namespace=namespace, runtime=runtime)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
            request = ListSearchAttributesRequest(namespace=namespace)
            listed = await client.operator_service.list_search_attributes(request)
            if attributes <= set(listed.custom_attributes):
                return process.running()
        except (RuntimeError, RPCError):
            pass
        await asyncio.sleep(0.05)
    return False


async def _announced(process: GuardedProcess) -> None:
    """Wait until the server says that it is up: until then another server may be what answers at a port it lost.

    One that says nothing is believed after a while; one that lost a port has ended long before.
    """
    deadline = time.monotonic() + _SILENCE_LIMIT_S
    while process.running() and time.monotonic() < deadline:
        if "Server:" in process.log_tail(20):
            return
        await asyncio.sleep(0.02)
