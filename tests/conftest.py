"""Real servers: one PostgreSQL and one Temporal for each pytest worker, one fresh database for each test."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import psycopg
import pytest
from support.order import dealt
from support.worlds import FAST, NEWEST, Servers, fresh_database, in_memory

from pgduet.local import EmbeddedPostgres, LocalTemporal


def pytest_sessionstart() -> None:
    """Have the servers of this process in memory, where there is room."""
    in_memory()


@pytest.hookimpl(trylast=True)  # what is deselected has gone by then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what takes long begin first, on all workers; one process alone keeps the order of the files."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        early = [item for item in items if item.get_closest_marker("early")]
        items[:] = dealt(early, [item for item in items if not item.get_closest_marker("early")], workers)


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
    # Its own looks at the tables are no client's: the census leaves such sessions out.
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, application_name="pgduet-router/test"
    ) as connection:
        yield connection
