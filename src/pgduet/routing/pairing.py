"""Paired writes, without any I/O: which sides are written, on which paths, in which order, and under which claim.

A service needs them where the new version holds what triggers cannot derive, such as a value that only its code computes.
What the database mirrors must not be written twice.

Where one database holds both, both writes are one transaction: both or none. Within it old always comes first, whatever
the stage, for two routers that heard of a step at different moments would else lock the same rows in opposite order. Where
they are apart, the stage's order holds, and the second may fail after the first was made.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgduet.errors import PgduetError
from pgduet.routing.core import RouterCore
from pgduet.routing.decision import Choice, Side, choose, may_miss, raw, writes
from pgduet.routing.model import BASE_TABLES, Path, Route, stage_of

Value = TypeVar("Value")

KEEP_S = 24 * 3600.0
"""How long a paired write is remembered unless the caller says otherwise; at most 30 days."""


class IdempotencyUnavailable(PgduetError):
    """The database has no memory of paired writes."""

    code = "PD-5004"


@dataclass(frozen=True, slots=True)
class Written(Generic[Value]):
    """What came of a paired write.

    Attributes:
        answer: what the side that the stage relies on gave; None for a repeated write.
        repeated: it had been made before, and nothing was written.
        missed: the second write failed where nobody reads it yet; parity or a backfill has to bring it.
    """

    answer: Value | None
    repeated: bool = False
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """Which sides a write goes to, in the stage's order."""

    turns: Sequence[tuple[Side, Path]]
    may_miss: bool = False
    """Whether the second write may fail without the caller's hearing of it."""

    @property
    def leads(self) -> Side:
        """Whose answer is the answer."""
        return self.turns[0][0]

    @property
    def together(self) -> list[tuple[Side, Path]]:
        """The order within one transaction."""
        return sorted(self.turns, key=lambda turn: turn[0] == "new")


def pair_of(choice: Choice | None) -> Pair:
    """Tell which sides a service writes to; one that knows one version writes there only."""
    if choice is None:
        return Pair([("old", BASE_TABLES)])
    if choice.pinned:
        return Pair([(choice.side, choice.old)])
    stage = stage_of(choice.route)
    paths: dict[Side, Path] = {"old": choice.old, "new": choice.new}
    return Pair([(side, paths[side]) for side in writes(stage)], may_miss(stage))


def begins(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Tell whether the caller's own transaction has yet to begin, which is the caller's to end.

    On a connection that is not in autocommit, a transaction block of psycopg would else be the whole transaction, and commit
    in the middle of what Django or SQLAlchemy take for theirs.
    """
    return not connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE


def heard(router: RouterCore, name: str, key: object) -> Pair:
    """Tell which sides a write goes to, as last heard.

    Raises:
        RouteUnavailable: the service knows one version only, and that is not published yet, or has gone.
    """
    router.path(name, key)
    return pair_of(router.choice(name))


def claims(router: RouterCore, name: str, key: object, idempotency_key: str | None, keep_s: float) -> dict[str, Any]:
    """Give the parameters of `write_once`.

    Raises:
        IdempotencyUnavailable: there is an idempotency key, and nowhere to keep it.
    """
    if idempotency_key is not None and not router.knows_pairs:
        raise IdempotencyUnavailable(
            hint="Run `pgduet setup` for this database with this release, then deploy the service."
        )
    return {"migration": name, "claim": claim_of(key, idempotency_key), "keep_s": keep_s}


def claim_of(key: object, idempotency_key: str | None) -> bytes | None:
    """Hash what a write is known by: the same idempotency key for another row is another write."""
    if idempotency_key is None:
        return None
    parts: Iterable[bytes] = (raw(key), idempotency_key.encode("utf-8", "surrogatepass"))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def told(router: RouterCore, name: str, key: object, row: Sequence[Any]) -> Pair | None:
    """Read what `write_once` gave: the pair by the route of this very transaction; None: the write was made before."""
    first, *route = row
    if not first:
        return None
    if router.version is not None:
        return heard(router, name, key)
    return pair_of(choose(Route(*route), None) if route[0] is not None else None)
