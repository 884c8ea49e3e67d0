"""Where all subjects are measured: one PostgreSQL with settings as in production, one Temporal, a fresh database each time.

The settings are the same for every subject and stand in each result. They are durable: fsync, full_page_writes and
synchronous_commit are on. Checkpoints are far apart, and one is made before each measurement, so that none falls into a short
one.
"""

import asyncio
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgduet.local import EmbeddedPostgres, LocalTemporal

Connection = psycopg.AsyncConnection[Any]

SETTINGS = {
    "shared_buffers": "1GB",
    "effective_cache_size": "4GB",
    "wal_level": "replica",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "autovacuum": "on",
    "log_lock_waits": "off",
}


@dataclass(frozen=True, slots=True)
class Ground:
    """The servers that run, and a directory for what is needed meanwhile."""

    postgres: EmbeddedPostgres
    temporal: LocalTemporal
    scratch: Path
    settings: Mapping[str, str]
    """Of PostgreSQL, as they stand in the result."""

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Give the DSN of a fresh database, which goes away with whoever is still connected to it."""
        name = sql.Identifier(f"bench_{secrets.token_hex(5)}")
        admin = self.postgres.dsn()
        await _execute(admin, sql.SQL("CREATE DATABASE {}").format(name))
        try:
            yield self.postgres.dsn(name.as_string().strip('"'))
        finally:
            await _execute(admin, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    async def versions(self) -> dict[str, str]:
        """Tell with what it is measured."""
        (server,) = await one(self.postgres.dsn(), "SHOW server_version")
        said = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return {
            "pgduet": version("pgduet"),
            f"PostgreSQL {self.postgres.version}": f"{server.split()[0]}, {said}",
            "Python": platform.python_version(),
            "Temporal": f"dev server, SDK {version('temporalio')}",
            "machine": machine(),
        }


@contextmanager
def ground(postgres_version: int, own: Mapping[str, str] | None = None) -> Iterator[Ground]:
    """Start the servers, with a benchmark's own settings; they and all that is theirs end with the block, or with this process."""
    settings = {**SETTINGS, **(own or {})}
    scratch = Path(tempfile.mkdtemp(prefix="pgduet-bench-"))
    scratch.chmod(0o755)
    try:
        with (
            EmbeddedPostgres(version=postgres_version, settings=settings) as postgres,
            LocalTemporal(ui=False) as temporal,
        ):
            yield Ground(postgres, temporal, scratch, settings)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def machine() -> str:
    """Describe the machine, as far as figures depend on it."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory_gb:.0f} GB, {platform.system()} {platform.machine()}"


async def connect(dsn: str) -> Connection:
    """Connect, each statement a transaction."""
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="benchmark")


async def one(dsn: str, query: LiteralString, *values: object) -> tuple[Any, ...]:
    """Ask for one row."""
    async with await connect(dsn) as conn:
        row = await (await conn.execute(query, values or None)).fetchone()
    if row is None:
        message = "the database gave no row"
        raise LookupError(message)
    return tuple(row)


async def settle(dsn: str, table: str = "users") -> None:
    """Leave nothing to do that another subject's measurement has left behind: statistics, dead rows, dirty pages."""
    async with await connect(dsn) as conn:
        await conn.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
        await conn.execute("CHECKPOINT")
    await asyncio.to_thread(os.sync)


async def _execute(dsn: str, statement: sql.Composed) -> None:
    async with await connect(dsn) as conn:
        await conn.execute(statement)
