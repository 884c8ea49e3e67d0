"""The fixture that gives a test a harness around its migration."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pgduet.local import LocalTemporal
from support.harness import Harness


@pytest.fixture
async def stage(
    dsn: str, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Harness]:
    """Give a harness whose workers know this test's database."""
    harness = await Harness.open(temporal.address, dsn, tmp_path)
    monkeypatch.setenv(harness.variable, dsn)
    yield harness
    await harness._end()
