"""Live traffic on the flights table, in a process of its own so that a stall that it measures is the database's.

Mechanism: `Traffic` starts this module as a program and talks to it in lines of JSON: what to do goes to its standard input,
an answer to each comes from its standard output. The end of input ends it, so it never outlives who started it. The DSN goes
the same way, and is neither in the arguments nor in the environment.

Two old services (one by the table itself, one by public_v1 once that is there) and two new ones (each with its own router)
have two connections each. Limits: all clients share one event loop; `own_delay_ms` of the report says how late it ever was.
"""

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pgduet.errors import PgduetError
from pgduet.local.clients import Client, Controls, NewClient, OldClient
from pgduet.local.measures import GROUPS, Recorder, Report
from pgduet.routing import AsyncRouter

OLD_SERVICES = ("billing", "timetable")
NEW_SERVICES = ("flights-api", "gate-board")
CONNECTIONS = 2
LEASE_S = 3.0
_LINE_LIMIT = 1 << 28
_ANSWER_LIMIT_S = 60.0
_TICK_S = 0.01


class Traffic:
    """The traffic as its starter sees it: `async with Traffic(dsn, migration, log) as traffic`."""

    def __init__(self, dsn: str, migration: str, log_path: Path) -> None:
        self._given = {"dsn": dsn, "migration": migration}
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start it; the clients are at work on return."""
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pgduet.local.traffic"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_LIMIT,
                start_new_session=True,
            )
        try:
            await self._ask("start", **self._given)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        await self._end()

    async def mark(self, phase: str) -> None:
        """Count what follows under this phase."""
        await self._ask("mark", phase=phase)

    async def v1_is_there(self) -> None:
        """Let the service that uses version schemas begin to."""
        await self._ask("v1")

    async def hold(self) -> Report:
        """Let every client finish what it does, and wait; nothing is written until `go`."""
        await self._ask("hold")
        return await self.report()

    async def go(self) -> None:
        """Let the clients work again."""
        await self._ask("go")

    async def deploy(self) -> None:
        """Bring the old services back with the new version's code."""
        await self._ask("deploy")

    async def report(self) -> Report:
        """Tell what was done and met until now."""
        return Report.model_validate(await self._ask("report"))

    async def stop(self) -> Report:
        """End all clients in order; the last report."""
        return Report.model_validate(await self._ask("stop"))

    async def _ask(self, what: str, **given: Any) -> Any:
        process = self._process
        assert process is not None  # noqa: S101  only inside the block
        assert process.stdin is not None  # noqa: S101  we asked for a pipe
        assert process.stdout is not None  # noqa: S101  we asked for a pipe
        async with self._turn:
            process.stdin.write(json.dumps({"do": what, **given}).encode() + b"\n")
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                await process.stdin.drain()
                answer = await asyncio.wait_for(process.stdout.readline(), _ANSWER_LIMIT_S)
        if not answer:
            tail = self._log_path.read_text(errors="replace").splitlines()[-10:]
            message = "The traffic's process has ended or does not answer: " + "\n".join(tail)
            raise PgduetError(message)
        return json.loads(answer)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


# The process


class Fleet:
    """All clients, and what each request does with them."""

    def __init__(self, dsn: str, migration: str) -> None:
        self.dsn = dsn
        self.migration = migration
        self.recorder = Recorder(time.perf_counter())
        self.controls = Controls()
        self.routers: list[AsyncRouter] = []
        self.clients: list[Client] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open routers, connect, and begin."""
        for name in OLD_SERVICES:
            for given in self._numbered(name):
                self.clients.append(OldClient(*given, by_view=name == OLD_SERVICES[1]))
        for name in NEW_SERVICES:
            router = await AsyncRouter.open(self.dsn, service=name, lease_s=LEASE_S)
            self.routers.append(router)
            for given in self._numbered(name):
                self.clients.append(NewClient(*given, router=router, migration=self.migration))
        for client in self.clients:
            await client.connect()
        # The first full collection would stop all clients for a while; what is there now stays anyway.
        gc.collect()
        gc.freeze()
        self.tasks = [asyncio.create_task(client.run()) for client in self.clients]
        self.controls.running.set()

    def _numbered(self, name: str) -> Iterator[tuple[str, str, Recorder, Controls, int]]:
        for _ in range(CONNECTIONS):
            yield name, self.dsn, self.recorder, self.controls, len(self.clients)

    async def hold(self) -> None:
        """Wait until every client has finished what it does."""
        self.controls.running.clear()
        for client in self.clients:
            await client.idle.wait()

    async def stop(self) -> None:
        """End clients and routers in order."""
        self.controls.stopping = True
        self.controls.running.set()
        await asyncio.gather(*self.tasks)
        for router in self.routers:
            await router.close()

    def report(self) -> Report:
        """Sum everything up."""
        recorder = self.recorder
        groups = {group: recorder.group(group) for group in GROUPS}
        for client in self.clients:
            of = groups[client.group]
            of.acknowledged += client.ledger.writes
            of.in_doubt += len(client.ledger.in_doubt)
            of.rows.update(client.ledger.rows)
        return Report(
            groups=groups,
            errors=recorder.errors,
            slowest=recorder.slow(),
            own_delay_ms=recorder.own_delay_ms,
        )

    async def obey(self, request: dict[str, Any]) -> Any:
        """Do what a request says; gives what to answer."""
        match request["do"]:
            case "start":
                await self.start()
            case "mark":
                self.recorder.phase = request["phase"]
            case "v1":
                self.controls.v1_is_there = True
            case "deploy":
                self.controls.deployed = True
            case "hold":
                await self.hold()
            case "go":
                self.controls.running.set()
            case "stop":
                await self.stop()
        return self.report().model_dump(mode="json") if request["do"] in {"report", "stop"} else True

    async def watch_own_delay(self) -> None:
        """Note when this process itself is late: then its measurements are not the database's."""
        while True:
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.recorder.late(due, time.perf_counter())


async def _requests(source: IO[bytes]) -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    while line := await reader.readline():
        yield json.loads(line)
    transport.close()


async def serve() -> None:
    """Obey until the input ends."""
    fleet: Fleet | None = None
    watching: asyncio.Task[None] | None = None
    async for request in _requests(sys.stdin.buffer):
        if fleet is None:
            fleet = Fleet(request["dsn"], request["migration"])
            watching = asyncio.create_task(fleet.watch_own_delay())
        sys.stdout.write(json.dumps(await fleet.obey(request)) + "\n")
        sys.stdout.flush()
    if watching:
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(serve())
