"""Other processes: whether they are gone, where they were killed, stopping them for a while, waiting until something is so."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from pgduet.barriers import LAST_WORDS
from pgduet.local import EmbeddedPostgres


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def killed_at(log: Path) -> str:
    """Name the barrier at which a worker with instructions was killed: its last words say so."""
    said = log.read_text()
    assert LAST_WORDS in said, said[-3000:]
    return said.rpartition(LAST_WORDS)[2].split()[0]


def seeded() -> random.Random:
    """Give chance that can be repeated: by `PGDUET_SEED`, which is shown with a failure."""
    seed = int(os.environ.get("PGDUET_SEED") or random.randrange(1_000_000))
    print(f"PGDUET_SEED={seed}")  # noqa: T201
    return random.Random(seed)


async def stop_reached(log: Path, barrier: str) -> None:
    """Wait until a worker has stopped itself at a barrier."""
    await until(lambda: LAST_WORDS + barrier in log.read_text())


async def come_back(pid: int, log: Path) -> None:
    """Let a stopped worker go on as if nothing had been, and wait until it has said what became of its work."""
    said = _size(log)
    os.kill(pid, signal.SIGCONT)
    await until(lambda: _size(log) > said)


def _size(path: Path) -> int:
    return path.stat().st_size


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


def within(limit_s: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; tells whether it did in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def ask(server: EmbeddedPostgres, query: str) -> object:
    """Ask a server for one value."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
