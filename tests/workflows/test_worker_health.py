"""What probes hear of a worker: it lives while its event loop turns, and is ready while Temporal lists it as asking for work."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import within
from temporalio.client import Client

from pgduet import health, runtime
from pgduet.errors import PgduetError
from pgduet.local import LocalTemporal
from pgduet.local.ports import free_ports

LONG_S = 60.0
COMMAND = [sys.executable, "-m", "pgduet.cli.main", "worker"]
LAUNCHER = [sys.executable, Path(__file__).parents[2] / "worker.py"]


@pytest.fixture(scope="module")
def own_temporal() -> Iterator[LocalTemporal]:
    """Start a server of this module's own, to be stopped."""
    with LocalTemporal(ui=False) as server:
        yield server


class Probed:
    """A worker process, and the answers of its probes."""

    def __init__(self, temporal: LocalTemporal, command: list[str], scratch: Path) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.log = scratch / "worker.log"
        self.environment = os.environ | {
            "TEMPORAL_ADDRESS": temporal.address,
            "PGDUET_TASK_QUEUE": f"health-{self.address}",
            "PGDUET_HEALTH": self.address,
        }
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)

    def ask(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=LONG_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused) if refused.code == 503 else None

    def probe(self) -> subprocess.CompletedProcess[str]:
        """Run the probe as the container image does."""
        command = [sys.executable, "-m", "pgduet.health"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def ready(self) -> bool:
        return self.probe().returncode == 0


@pytest.fixture
def worker(own_temporal: LocalTemporal, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Probed]:
    own_temporal.start()
    started = Probed(own_temporal, getattr(request, "param", COMMAND), tmp_path)
    try:
        assert within(LONG_S, started.ready), started.log.read_text()
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@pytest.mark.parametrize("worker", [COMMAND, LAUNCHER], ids=["command", "launcher"], indirect=True)
def test_a_worker_that_asks_for_work_is_live_and_ready_and_ends_its_probes_with_itself(worker: Probed) -> None:
    assert worker.ask("/live") == (200, {"ok": True, "problem": None})
    assert worker.ask("/ready") == (200, {"ok": True, "problem": None})
    assert worker.ask("/")[0] == 404
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(LONG_S) == 0, worker.log.read_text()
    refused = worker.probe()
    assert refused.returncode == 1
    assert "Connection refused" in refused.stderr


def test_a_worker_without_temporal_lives_but_is_not_ready_until_temporal_is_back(
    own_temporal: LocalTemporal, worker: Probed
) -> None:
    own_temporal.stop()
    code, told = worker.ask("/ready")
    assert (code, told["ok"]) == (503, False)
    assert told["problem"].startswith("Temporal does not answer")
    assert worker.ask("/live")[0] == 200
    assert worker.probe().returncode == 1
    own_temporal.start()
    assert within(LONG_S, worker.ready), worker.ask("/ready")


async def test_a_worker_that_temporal_does_not_list_is_not_ready(temporal: LocalTemporal) -> None:
    client = await Client.connect(temporal.address)
    problem = await runtime.not_ready(client, "nobody-asks-here")
    assert problem == f"Temporal does not list {client.identity} among those that ask for work on nobody-asks-here"


async def test_a_loop_that_does_not_turn_is_told_by_the_thread_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.2)
    address = f"127.0.0.1:{free_ports(1)[0]}"

    async def nothing_wrong() -> None:
        return None

    with health.served(address, nothing_wrong):
        # Asked from within the loop, which cannot turn meanwhile.
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{address}/live", timeout=LONG_S)  # noqa: ASYNC210
        with refused.value as answer:
            assert json.load(answer) == {"ok": False, "problem": "the event loop does not turn"}
        assert await asyncio.to_thread(health.ask, address, "/live") == {"ok": True, "problem": None}


@pytest.mark.parametrize("address", ["8081", "localhost:", "127.0.0.1:http", ":0x1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(PgduetError, match="PGDUET_HEALTH"):
        health.place(address)
