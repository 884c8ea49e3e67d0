"""How a router talks to the database: connection settings, the three statements, and the pace of reconnecting.

Works with any role: routes are readable by PUBLIC and presence is told through one function. A transaction-mode pooler
in between loses notifications; the poll still brings every change within a third of the lease. The address must be the
primary's: a standby neither listens nor takes reports.
"""

import random
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgduet import sql
from pgduet.routing.model import Route

LISTEN = sql.block("routing", "listen")
HAS_ROUTES = sql.block("routing", "has_routes")
READ_ROUTES = sql.block("routing", "read_routes")
REPORT = sql.block("routing", "report")

LONGEST_PAUSE_S = 5.0


def settings(dsn: str, service: str, lease_s: float) -> dict[str, Any]:
    """Give the connection's settings; what the DSN says itself wins, but for the name under which the router is seen.

    A peer that vanished without a word is given up within about a lease. No prepared statements, so that any pooler
    will do.
    """
    seconds = max(2, int(lease_s))
    ours: dict[str, Any] = {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    return {
        **ours,
        **conninfo_to_dict(dsn),
        "application_name": f"pgduet-router/{service}",
        "autocommit": True,
        "prepare_threshold": None,
    }


def routes(rows: Iterable[tuple[Any, ...]]) -> list[Route]:
    """Read the rows of `read_routes`."""
    return [Route(*row) for row in rows]


def pause_s(failures: int, lease_s: float) -> float:
    """Tell how long to wait after failures in a row: doubling, with jitter, at most a third of the lease or 5 s."""
    longest = min(LONGEST_PAUSE_S, lease_s / 3)
    return min(longest, 0.05 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  spreads reconnects


def described(error: BaseException) -> str:
    """Name an error for the log without its message, which may quote the DSN."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} {state}" if state else type(error).__name__
