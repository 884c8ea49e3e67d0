"""pgbench as clients that never retry: a script run over and over, whose every error counts."""

import asyncio
import os
import re
import signal
import subprocess
from typing import Self

from support.worlds import World

LONGEST_S = 600
PER_SECOND = 200
TIMEOUT_S = 30.0

_DONE = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


class Pgbench:
    """Some clients of one kind; their script marks each row that it inserts with `name` as the note."""

    def __init__(
        self,
        world: World,
        name: str,
        script: str,
        *,
        clients: int,
        protocol: str,
        search_path: str,
        rate: int | None = PER_SECOND,
    ) -> None:
        """Say who they are; without a `rate` they go as fast as they can."""
        self.world = world
        self.name = name
        self.script = world.stage.scratch / f"{name}.sql"
        self.script.write_text(script)
        self.log = world.stage.scratch / f"{name}.log"
        self.options: list[str] = [f"--client={clients}", f"--protocol={protocol}"]
        self.options += [f"--rate={rate}"] if rate else []
        self.search_path = search_path
        self.process: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Self:
        """Start them, and return once they have written."""
        self._start()
        await self.working()
        return self

    def _start(self) -> None:
        command = [self.world.server.bin_dir / "pgbench", "--no-vacuum", f"--time={LONGEST_S}", *self.options]
        environment = os.environ | {"PGOPTIONS": f"-c search_path={self.search_path}", "PGAPPNAME": self.name}
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, f"--file={self.script}", self.world.stage.dsn],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    async def __aexit__(self, *_: object) -> None:
        """Leave no process behind."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def errors(self) -> list[str]:
        """What they saw go wrong; a client that sees an error does not come back."""
        return [line for line in self.log.read_text().splitlines() if line.strip()]

    async def written(self) -> int:
        """Count the rows that they have inserted."""
        return int(await self.world.one("SELECT count(*) FROM public.reviews WHERE note = %s", (self.name,)))

    async def working(self, more: int = 5) -> None:
        """Wait until they have inserted so many more rows, or have seen an error: then whoever asks for errors is told."""
        wanted = await self.written() + more
        async with asyncio.timeout(TIMEOUT_S):
            while await self.written() < wanted and not self.errors:
                await asyncio.sleep(0.02)

    async def end(self) -> tuple[int, int]:
        """Let each client finish its script; gives how many runs succeeded, and how many failed.

        SIGALRM is what pgbench itself waits for at the end of its time.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGALRM)
        said, _ = await asyncio.to_thread(self.process.communicate, timeout=TIMEOUT_S)
        done, failed = _DONE.search(said), _FAILED.search(said)
        assert done, said
        assert failed, said
        return int(done[1]), int(failed[1])
