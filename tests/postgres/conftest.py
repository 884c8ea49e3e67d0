"""What the adapters of the routing library are tried on."""

import pytest
from support.two_versions import build


@pytest.fixture
def shop(dsn: str) -> str:
    """Give the address of a database with two versions of a table."""
    return build(dsn)
