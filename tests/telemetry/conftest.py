"""A harness around a migration for each test, and a collector for what its processes tell."""

from collections.abc import Iterator

import pytest
from support.collector import Collector
from support.stage import forgetful, short_memory, stage

__all__ = ["forgetful", "short_memory", "stage"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Give a collector on a port of its own."""
    with Collector() as started:
        yield started
