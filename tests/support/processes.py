"""Other processes: whether they are gone, and waiting until something is so."""

import os
import time
from collections.abc import Callable

import psycopg

from pgduet.local import EmbeddedPostgres


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def within(limit_s: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; tells whether it did in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def ask(server: EmbeddedPostgres, query: str) -> object:
    """Ask a server for one value."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
