"""A harness around a migration for each test, and a world on every PostgreSQL for each scenario."""

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from support.stage import stage, staged
from support.worlds import VERSIONS, Servers, World, fresh_database

from pgduet.local import LocalTemporal

__all__ = ["stage"]


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def version(request: pytest.FixtureRequest) -> int:
    """Give one version of PostgreSQL after the other; `on_newest` keeps a test to the last of them."""
    found: int = request.param
    return found


@pytest.fixture
async def world(
    version: int, servers: Servers, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """Give a database of this test's own on that version."""
    server = servers(version)
    with fresh_database(server) as dsn:
        async with (
            staged(temporal, dsn, tmp_path, monkeypatch) as harness,
            await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="pgduet-router/test") as conn,
        ):
            yield World(harness, conn, server)
