"""Every operation goes through one cycle on every PostgreSQL: start, roll back, start, complete, with both versions in use."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.cycle import Case, Cycle
from support.operations import CASES, WORLD
from support.stage import staged

from pgduet.local import EmbeddedPostgres, LocalTemporal

SETTINGS = {"fsync": "off", "full_page_writes": "off", "jit": "off", "shared_buffers": "64MB"}


@pytest.fixture(scope="module", params=[15, 16, 18], ids=lambda version: f"postgresql-{version}")
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Give one PostgreSQL after the other."""
    with EmbeddedPostgres(version=request.param, settings=SETTINGS) as found:
        yield found


@pytest.fixture
async def cycle(
    server: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> AsyncIterator[Cycle]:
    """Give a case in a database of its own."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = server.dsn(name)
    async with (
        staged(temporal, dsn, tmp_path, monkeypatch) as stage,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn,
    ):
        await conn.execute(WORLD.encode())
        if case.setup:
            await conn.execute(case.setup.encode())
        yield Cycle(stage, conn, server.bin_dir, case)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_start_roll_back_start_complete(cycle: Cycle) -> None:
    await cycle.go()
