"""Wishes that go before the route: of one request, of clients of some release, of a whole service. Decided without I/O.

From the strongest to the weakest:

1. the only version that the service has code for (`version` of `Router.open`): nothing goes before it;
2. the request: `with router.using("review-stars", version="1"):`;
3. the release of the client that the request comes from: `with router.serving("ios/4.2"):` and `Overrides.clients`;
4. the service: `Overrides.service`;
5. the route, as the database says.

A wish is granted while the lease holds and the version can be had: the old one until contract, the new one while it is
published. Otherwise the route decides, as it does for everybody, so no wish is an error.

Where the route sends all reads one way and a wish goes the other, the version that the wish is for could go at any
moment. So it is granted from when the database has been told that this service uses that version, which the next
report does: at the latest after a third of the lease, and for wishes of the service before the router is open. It is
counted there for `WISH_HELD_S` after the last wish: contract, or the end of a rollback, waits for it and names it.

Wishes of requests live in a context variable: they hold for the thread or the task that made them, and for tasks begun within,
and no longer than the `with`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pgduet.routing.decision import BUCKETS, Choice
from pgduet.routing.model import Path, Stage, stage_of

WISH_HELD_S = 30.0
"""How long a service is counted on a version after somebody there last wished for it against the route; never less than a lease."""

Versions = Mapping[str, str]
"""Versions by migration."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a service's configuration wishes.

    Attributes:
        service: versions by migration, for all of the service's reads.
        clients: the same by a pattern of clients' releases, such as `ios/4.*` (`*`, `?` and `[…]` as in file names). Of patterns
            that match the same release the later one counts.
    """

    service: Versions = field(default_factory=dict)
    clients: Mapping[str, Versions] = field(default_factory=dict)

    def of(self, client: str) -> dict[str, str]:
        """Give the versions that clients of a release are to have."""
        found: dict[str, str] = {}
        for pattern, versions in self.clients.items():
            if fnmatchcase(client, pattern):
                found.update(versions)
        return found


@dataclass(frozen=True, slots=True)
class Wishes:
    """What holds in one context: versions by router and migration."""

    request: Mapping[tuple[str, str], str] = field(default_factory=dict)
    client: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def version(self, router: str, migration: str) -> str | None:
        """Give the version that is wished for."""
        return self.request.get((router, migration)) or self.client.get((router, migration))


WISHES: ContextVar[Wishes | None] = ContextVar("pgduet_wishes", default=None)
"""None where nothing is wished for: then a decision costs one look more."""


@contextmanager
def wished(router: str, *, request: Versions | None = None, client: Versions | None = None) -> Iterator[None]:
    """Wish for versions within; inner wishes go before outer ones of the same kind."""
    outer = WISHES.get() or Wishes()
    token = WISHES.set(
        Wishes({**outer.request, **_keyed(router, request)}, {**outer.client, **_keyed(router, client)}),
    )
    try:
        yield
    finally:
        WISHES.reset(token)


def granted(choice: Choice, version: str) -> Path | None:
    """Give the path of a version that was wished for; None: the route decides."""
    if choice.old is choice.new or stage_of(choice.route) is Stage.COMPLETE:
        return None
    if version == choice.new.version:
        return choice.new if choice.route.published else None
    return choice.old if version == choice.old.version else None


def against(choice: Choice, path: Path) -> bool:
    """Tell whether a path leads where the route sends nobody."""
    return choice.within <= 0 if path.is_new else choice.within >= BUCKETS


def _keyed(router: str, versions: Versions | None) -> dict[tuple[str, str], str]:
    return {(router, migration): version for migration, version in (versions or {}).items()}
