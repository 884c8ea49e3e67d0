"""The fixture that gives a test a harness around its migration."""

from collections.abc import AsyncIterator
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
