"""Real servers: one PostgreSQL and one Temporal for each pytest worker, one fresh database for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from support.worlds import FAST, NEWEST, Servers, fresh_database

from pgduet.local import EmbeddedPostgres, LocalTemporal


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Give the PostgreSQL 18 of this worker; a test that restarts or crashes a server starts its own."""
    with EmbeddedPostgres(settings=FAST) as server:
        yield server


@pytest.fixture(scope="session")
def servers(postgres: EmbeddedPostgres) -> Iterator[Servers]:
    """Give servers by version, which all tests of this worker share."""
    with ExitStack() as until:
        yield Servers(postgres, until)


@pytest.fixture(scope="session")
def temporal() -> Iterator[LocalTemporal]:
    """Give the Temporal dev server that all tests of this worker share."""
    with LocalTemporal(ui=False) as server:
        yield server


@pytest.fixture
def dsn(request: pytest.FixtureRequest, servers: Servers) -> Iterator[str]:
    """Give the DSN of a database of this test's own: on the newest version, or (`on_each_version`) on each."""
    with fresh_database(servers(getattr(request, "param", NEWEST))) as found:
        yield found


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    """Give an autocommit connection to this test's database."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection
