"""The fixtures that give a test a harness around its migration."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pgduet.local import LocalTemporal
from support.harness import Harness


@asynccontextmanager
async def staged(
    temporal: LocalTemporal, dsn: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Open a harness whose workers know this test's database."""
    harness = await Harness.open(temporal.address, dsn, scratch)
    monkeypatch.setenv(harness.variable, dsn)
    yield harness
    await harness._end()


@pytest.fixture
async def stage(
    dsn: str, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Give a harness on the server that most tests share."""
    async with staged(temporal, dsn, tmp_path, monkeypatch) as harness:
        yield harness


@pytest.fixture(scope="module")
def short_memory() -> Iterator[LocalTemporal]:
    """Start a server that suggests to continue as new very early."""
    config = {"limit.historyCount.suggestContinueAsNew": 150}
    with LocalTemporal(ui=False, search_attributes=False, dynamic_config=config) as server:
        yield server


@pytest.fixture
async def forgetful(
    short_memory: LocalTemporal, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Give a harness on that server."""
    async with staged(short_memory, dsn, tmp_path, monkeypatch) as harness:
        yield harness
