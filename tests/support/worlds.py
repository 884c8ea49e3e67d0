"""A database on each PostgreSQL that scenarios run on, with a harness around its migration; one server a version and session."""

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgduet.local import EmbeddedPostgres, postgres
from support.harness import Harness

FAST = {"fsync": "off", "full_page_writes": "off", "jit": "off", "shared_buffers": "64MB", "max_wal_size": "128MB"}
MEMORY = Path("/dev/shm")  # noqa: S108 - what is put there has a private directory
ROOM = 1 << 30
"""What one worker's servers need in memory, and seldom use half of."""
VERSIONS = (15, 16, 18)
NEWEST = VERSIONS[-1]

on_newest = pytest.mark.parametrize("version", [NEWEST], ids=lambda version: f"postgresql-{version}")
"""Runs a test of `world` on the newest version only: what a mutant does is no matter of versions."""

on_each_version = pytest.mark.parametrize("dsn", VERSIONS, indirect=True, ids=lambda version: f"postgresql-{version}")
"""Runs a test of `dsn` or `conn` on each version."""

Connection = psycopg.AsyncConnection[Any]


class Servers:
    """Servers by version, each started when first asked for; the session's own is one of them."""

    def __init__(self, newest: EmbeddedPostgres, until: ExitStack) -> None:
        """Take the session's own; what is started runs `until` the stack is closed."""
        self._known = {newest.version: newest}
        self._until = until

    def __call__(self, version: int) -> EmbeddedPostgres:
        """Give the server of a version."""
        if version not in self._known:
            self._known[version] = self._until.enter_context(EmbeddedPostgres(version=version, settings=FAST))
        return self._known[version]


@dataclass
class World:
    """One database: the harness of its migration, a connection, and the server that it is on."""

    stage: Harness
    conn: Connection
    server: EmbeddedPostgres

    async def rows(self, query: str, values: Any = None) -> list[tuple[Any, ...]]:
        """Ask for rows."""
        return await (await self.conn.execute(query.encode(), values)).fetchall()

    async def one(self, query: str, values: Any = None) -> Any:
        """Ask for one value."""
        ((value,),) = await self.rows(query, values)
        return value

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Connection]:
        """Connect as somebody who keeps transactions open."""
        async with await psycopg.AsyncConnection.connect(self.stage.dsn, **options) as conn:
            yield conn


def in_memory() -> None:
    """Have servers live in memory where there is room for those of all workers.

    A database is 300 files, and most tests have one of their own. Measured: 100 to 250 ms of a processor on a disk (ext4 without a
    journal passes over each inode that was freed lately), 11 ms in memory.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > workers * ROOM:
        postgres.TEMPORARY = str(MEMORY)


@contextmanager
def fresh_database(server: EmbeddedPostgres) -> Iterator[str]:
    """Create a database, give its DSN, and drop it."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield server.dsn(name)
    finally:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            _release(admin, server, name)
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _release(admin: psycopg.Connection, server: EmbeddedPostgres, name: str) -> None:
    """Remove what keeps a database from being dropped even by force: prepared transactions and replication slots."""
    prepared = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall()
    if prepared:
        with psycopg.connect(server.dsn(name), autocommit=True) as inside:
            for (gid,) in prepared:
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
    admin.execute(
        """
        SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
        WHERE database = %s AND active_pid IS NOT NULL
        """,
        [name],
    )
    admin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name])
