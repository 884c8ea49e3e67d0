"""How a router talks to the database: connection settings, its few statements, and the pace of reconnecting.

Works with any role: routes are readable by PUBLIC and presence is told through one function. A transaction-mode pooler
in between loses notifications; the poll still brings every change within a third of the lease. The address must be the
primary's: a standby neither listens nor takes reports.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL

from pgduet import sql
from pgduet.routing.model import Route, RouteUnavailable

LISTEN = sql.block("routing", "listen")
HAS_ROUTES = sql.block("routing", "has_routes")
READ_ROUTES = sql.block("routing", "read_routes")
REPORT = sql.block("routing", "report")
REPORT_COMPARED = sql.block("routing", "report_compared")
FORGET_PAIRED_WRITES = sql.block("routing", "forget_paired_writes")

LONGEST_S = 32_767
"""What Linux takes for `keepalives_idle`; with more, no connection comes about."""
LONGEST_PAUSE_S = 5.0
ACKNOWLEDGED_WITHIN_S = 0.25
"""A change is heard at once, and acknowledged within this time, or a thirtieth of the lease: many routers hear of it in the same
instant, and an acknowledgement, which is a write, costs the server far more than a look."""


def settings(dsn: str, service: str, lease_s: float) -> dict[str, Any]:
    """Give the connection's settings; what the DSN says itself wins, but for the name under which the router is seen.

    A peer that vanished without a word is given up within about a lease. No prepared statements, so that any pooler
    will do.
    """
    seconds = min(max(2, int(lease_s)), LONGEST_S)
    ours: dict[str, Any] = {
        "connect_timeout": seconds,
        "keepalives_idle": seconds,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    return {
        **ours,
        **parts(dsn),
        "application_name": f"pgduet-router/{service}",
        "autocommit": True,
        "prepare_threshold": None,
    }


def parts(dsn: str) -> dict[str, Any]:
    """Take an address apart.

    Raises:
        RouteUnavailable: it cannot be read. libpq's message, which quotes it with its password, goes no further.
    """
    with contextlib.suppress(psycopg.ProgrammingError):
        return conninfo_to_dict(dsn)
    raise RouteUnavailable(
        "The address of the database cannot be read.",
        hint="In a URI a password's special characters are percent-encoded; in `key=value` a value with spaces is quoted.",
    )


def routes(rows: Iterable[tuple[Any, ...]]) -> list[Route]:
    """Read the rows of `read_routes`."""
    return [Route(*row) for row in rows]


def statements(
    reports: Sequence[dict[str, Any]], *, knows_pairs: bool
) -> Iterator[tuple[SQL, Sequence[dict[str, Any]]]]:
    """Give what a round says: each statement with its parameters, once for each set of them.

    A database that an earlier release has set up is told nothing of shadow reads.
    """
    plain: list[dict[str, Any]] = []
    rich: list[dict[str, Any]] = []
    for report in reports:
        (rich if knows_pairs and report["compared"] is not None else plain).append(report)
    if plain:
        yield REPORT, plain
    if rich:
        yield REPORT_COMPARED, rich
        yield FORGET_PAIRED_WRITES, [{}]


def pause_s(failures: int, lease_s: float) -> float:
    """Tell how long to wait after failures in a row: doubling, with jitter, at most a third of the lease or 5 s."""
    longest = min(LONGEST_PAUSE_S, lease_s / 3)
    return min(longest, 0.05 * 2.0 ** min(failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311  spreads reconnects


def acknowledge_in_s(lease_s: float) -> float:
    """Tell how long a router that has heard of a change lets others hear of it before it reports: drawn, so that reports spread."""
    return min(ACKNOWLEDGED_WITHIN_S, lease_s / 30) * random.uniform(0.2, 1.0)  # noqa: S311  spreads reports


def described(error: BaseException) -> str:
    """Name an error for the log without its message, which may quote the DSN."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} {state}" if state else type(error).__name__
