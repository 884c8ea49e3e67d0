"""Migrations that run side by side, each in a lane of its own: a database, and workers of which each is killed."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgduet.local import EmbeddedPostgres
from support.harness import Harness, schema_dump
from support.processes import killed_at

WATCH_EVERY_S = 0.1

Connection = psycopg.AsyncConnection[Any]


@dataclass
class Lane:
    """One database with one migration, whose worker is killed again and again."""

    stage: Harness
    conn: Connection
    bin_dir: Path
    left: dict[str, int]
    killed: list[str] = field(default_factory=list)
    dumps: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def workers(self) -> AsyncIterator[None]:
        """Have a worker at all times; what breaks here breaks the test's body off."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep())
            yield
            keeper.cancel()

    async def _keep(self) -> None:
        """Start a worker after each that was killed.

        A worker counts from its start. What the ones before it have passed is lost with them: each is asked for one time less.
        """
        while True:
            lives = len(self.killed)
            instructions = ",".join(f"{name}=kill@{max(1, turn - lives)}" for name, turn in self.left.items())
            with self.stage.worker_process(instructions) as worker:
                while worker.process.poll() is None:
                    await self.watch()
                    await asyncio.sleep(WATCH_EVERY_S)
            assert worker.process.returncode == -signal.SIGKILL, worker.log.read_text()[-3000:]
            self.killed.append(killed_at(worker.log))
            del self.left[self.killed[-1]]

    async def watch(self) -> None:
        """Look at it while a worker is at work."""

    def dump(self) -> str:
        """Dump the schema of everything that is not the product's."""
        return schema_dump(self.bin_dir, self.stage.dsn)


@asynccontextmanager
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """Create a database for a lane."""
    name = f"lane_{secrets.token_hex(6)}"
    async with await psycopg.AsyncConnection.connect(postgres.dsn(), autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield postgres.dsn(name)
        finally:
            await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
