"""Real servers: one PostgreSQL and one Temporal for each pytest worker, one fresh database for each test."""

import secrets
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import sql

from pgduet.local import EmbeddedPostgres, LocalTemporal

FAST = {"fsync": "off", "full_page_writes": "off", "jit": "off", "shared_buffers": "64MB"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Give the PostgreSQL 18 of this worker; a test that restarts or crashes a server starts its own."""
    with EmbeddedPostgres(settings=FAST) as server:
        yield server


@pytest.fixture(scope="session")
def temporal() -> Iterator[LocalTemporal]:
    """Give the Temporal dev server that all tests of this worker share."""
    with LocalTemporal(ui=False) as server:
        yield server


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Give the DSN of a database of this test's own."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres.dsn(name)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        _release(admin, postgres, name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _release(admin: psycopg.Connection, postgres: EmbeddedPostgres, name: str) -> None:
    """Remove what keeps a database from being dropped even by force: prepared transactions and replication slots."""
    prepared = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall()
    if prepared:
        with psycopg.connect(postgres.dsn(name), autocommit=True) as inside:
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


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Give an autocommit connection to this test's database."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection
