"""Run a program to its end, within a time, and never let it outlive us.

A session of its own keeps a terminal's Ctrl-C from it: we end it then.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

NICE = 10
_TAIL = 2000


class ProgramFailed(Exception):
    """A program ended otherwise than it should."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended."""

    code: int
    said: str
    seconds: float


async def run(
    command: Sequence[str | Path],
    *,
    limit_s: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    may_fail: bool = False,
) -> Ran:
    """Run it to its end; gives what it said, and how long it took.

    Raises:
        ProgramFailed: it ended with an error (unless it may), or not in time.
    """
    began = time.perf_counter()
    async with running(command, cwd=cwd, environment=environment) as process:
        try:
            said, _ = await asyncio.wait_for(process.communicate(), limit_s)
        except TimeoutError:
            message = f"{Path(command[0]).name} took longer than {limit_s:g} s"
            raise ProgramFailed(message) from None
    took = time.perf_counter() - began
    ran = Ran(process.returncode or 0, said.decode(errors="replace"), took)
    if ran.code and not may_fail:
        message = f"{Path(command[0]).name} ended with {ran.code}: {ran.said[-_TAIL:]}"
        raise ProgramFailed(message)
    return ran


def aside(pid: int | None) -> None:
    """Give a process, all its threads, the lower priority of something that has a machine of its own in production."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), NICE)


@asynccontextmanager
async def running(
    command: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have it run while the block does; its errors come with its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
