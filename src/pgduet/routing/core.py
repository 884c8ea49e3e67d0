"""The part that the sync and the async router share: what was last heard, how long it holds, and what was counted.

`path` does no I/O and takes no lock: it reads one reference to what was last heard, which the router's background swaps
as a whole.
"""

import functools
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from psycopg.types.json import Jsonb

from pgduet.errors import UnknownMigration
from pgduet.routing.decision import BUCKETS, Choice, bucket, choices
from pgduet.routing.model import BASE_TABLES, Path, Route, RouteUnavailable, Stage, stage_of
from pgduet.routing.overrides import WISH_HELD_S, WISHES, Overrides, against, granted, wished
from pgduet.routing.tally import Tally

CLOCK: Callable[[], float] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Seconds that go on while the machine sleeps, where its system counts them: the database's leases go on as well."""

SHORTEST_S, LONGEST_S = 0.1, 604_800.0
"""Bounds of a lease: with a shorter one a router asks without a pause, a longer one the database does not take."""

REFUSED = "Have it know a version that is there: the new one from the end of verify, the old one until contract."


class Sweeps(Protocol):
    """A migrator, as far as a router knows it."""

    def sweep(self) -> None:
        """Give up what takes too long; before each report."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the database last said, and until when (on the router's clock) it holds."""

    choices: Mapping[str, Choice]
    holds_until: float


class Unheard(Mapping[str, Choice]):
    """What a child of `fork` knows: whoever looks has to ask."""

    def __init__(self, ask: Callable[[], Mapping[str, Choice]]) -> None:
        self._ask = ask

    def __getitem__(self, migration: str) -> Choice:
        """Give a migration's choice."""
        return self._ask()[migration]

    def __iter__(self) -> Iterator[str]:
        """Give the migrations' names."""
        return iter(self._ask())

    def __len__(self) -> int:
        """Count them."""
        return len(self._ask())


@dataclass(slots=True)
class Counts:
    """What a service recorded for one migration since the router was opened; a failed read is a read and an error."""

    reads_old: int = 0
    reads_new: int = 0
    errors_old: int = 0
    errors_new: int = 0
    seconds_old: float = 0.0
    seconds_new: float = 0.0


@dataclass(slots=True)
class Ledger:
    """The counts of all migrations, from any thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counts: dict[str, Counts] = field(default_factory=dict)

    def add(self, migration: str, seconds: float, *, is_new: bool, error: bool) -> None:
        """Count one read."""
        with self._lock:
            counts = self._counts.get(migration) or self._counts.setdefault(migration, Counts())
            if is_new:
                counts.reads_new += 1
                counts.errors_new += error
                counts.seconds_new += seconds
            else:
                counts.reads_old += 1
                counts.errors_old += error
                counts.seconds_old += seconds

    def totals(self, migration: str) -> dict[str, float]:
        """Give one migration's totals as they are at one moment."""
        with self._lock:
            return asdict(self._counts.get(migration) or Counts())


class RouterCore:
    """Decide from what was last heard. `Router` and `AsyncRouter` add the hearing.

    Args:
        service: the name that the census shows.
        version: the only version that the service has code for; None: it has both, and follows the route.
        lease_s: how long what was heard holds when nothing more is heard; after that the last known authority answers.
        overrides: versions that the service, or clients of some releases, are to have instead; see `overrides`.
        clock: monotonic seconds, those in which the machine slept among them.
    """

    def __init__(
        self,
        *,
        service: str,
        version: str | None = None,
        lease_s: float = 10.0,
        overrides: Overrides | None = None,
        clock: Callable[[], float] = CLOCK,
    ) -> None:
        if not SHORTEST_S <= lease_s <= LONGEST_S:
            message = f"lease_s is from {SHORTEST_S:g} to {LONGEST_S:g} seconds"
            raise ValueError(message)
        self.service = service
        self.version = version
        self.lease_s = lease_s
        self.poll_s = lease_s / 3
        self._clock = clock
        self._sweeping: list[Sweeps] = []
        self._has_routes = False
        self.knows_pairs = False
        """Whether the database takes what came of shadow reads, and remembers paired writes, as last heard."""
        self._overrides = overrides or Overrides()
        self._service_wishes = dict(self._overrides.service)
        self._begin()

    def _begin(self) -> None:
        """Know of nobody and nothing: in a process that begins with this router, or that has inherited it."""
        self.client_id = f"{self.service}/{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
        self._heard = Heard({}, self._clock())
        self._asked_at = self._clock()
        self._ledger = Ledger()
        self._tallies: dict[str, Tally] = {}
        self._wanted: dict[str, tuple[str | None, float]] = {}  # against the route: the version, and when last
        self._told: dict[str, str] = {}  # the versions that the database knows us to use

    def begin_anew(self) -> None:
        """In a child of `fork`: share nothing with the parent, whose lease is not the child's."""
        self._begin()

    def path(self, migration: str, key: object) -> Path:
        """Give the path of a key's reads. No I/O; the same key keeps its path until the percentage changes.

        A migration that the database does not know gives `BASE_TABLES`.

        Raises:
            RouteUnavailable: the service knows one version only, and that is not published yet, or has gone.
        """
        heard = self._heard
        choice = heard.choices.get(migration)
        if choice is None:
            return BASE_TABLES
        if choice.refusal is not None:
            raise RouteUnavailable(choice.refusal, hint=REFUSED)
        fresh = self._clock() < heard.holds_until
        if fresh and (self._service_wishes or WISHES.get() is not None):
            path = self._wished(choice)
            if path is not None:
                return path
        threshold = choice.within if fresh else choice.past
        if threshold <= 0:
            return choice.old
        if threshold >= BUCKETS or bucket(key, choice.seed) < threshold:
            return choice.new
        return choice.old

    def using(self, migration: str, *, version: str) -> AbstractContextManager[None]:
        """Have a migration's reads in this context go to a version, while it can be had. Safe with threads and tasks."""
        return wished(self.client_id, request={migration: version})

    def serving(self, client: str) -> AbstractContextManager[None]:
        """Tell the release of the client that this context works for, such as `ios/4.2`; `Overrides.clients` says what follows."""
        return wished(self.client_id, client=self._overrides.of(client))

    def _wished(self, choice: Choice) -> Path | None:
        migration = choice.route.migration
        wishes = WISHES.get()
        version = (wishes and wishes.version(self.client_id, migration)) or self._service_wishes.get(migration)
        path = granted(choice, version) if version else None
        if path is None or not against(choice, path):
            return path
        # Noted before it is asked for: `reports` looks the other way round, so neither misses the other.
        self._wanted[migration] = (path.version, self._clock())
        return path if self._told.get(migration) == path.version else None

    def record(self, migration: str, path: Path, seconds: float, *, error: bool = False) -> None:
        """Count a read that took a path; the totals go out with the next report. What failed says nothing of latency."""
        seconds = seconds if 0 < seconds < LONGEST_S else 0.0
        self._ledger.add(migration, seconds, is_new=path.is_new, error=error)
        if not error:
            self.tally(migration).answered(seconds, is_new=path.is_new)

    def choice(self, migration: str) -> Choice | None:
        """Give a migration's choice as last heard; None for one that the database does not know."""
        return self._heard.choices.get(migration)

    def both(self, migration: str) -> tuple[Path, Path] | None:
        """Give the old and the new path while one may be read for the other's sake; None where not, or not any more."""
        heard = self._heard
        choice = heard.choices.get(migration)
        if choice is None or not choice.compares or self._clock() >= heard.holds_until:
            return None
        return choice.old, choice.new

    def tally(self, migration: str) -> Tally:
        """Give the tally of a migration's reads, which all its migrators of this router share."""
        return self._tallies.get(migration) or self._tallies.setdefault(migration, Tally())

    def stage(self, migration: str) -> Stage:
        """Tell the stage of a migration as last heard; OFF for one that the database does not know."""
        choice = self._heard.choices.get(migration)
        return stage_of(choice.route if choice else None)

    def route(self, migration: str) -> Route:
        """Give the route as last heard."""
        choice = self._heard.choices.get(migration)
        if choice is None:
            message = f"The database has no route of the name {migration}."
            raise UnknownMigration(message)
        return choice.route

    @property
    def fresh(self) -> bool:
        """Tell whether the lease holds."""
        return self._clock() < self._heard.holds_until

    def hear(self, routes: Iterable[Route], asked_at: float) -> None:
        """Follow these routes from now on. The lease stays as it is until the database has been told: see `acknowledged`."""
        self._asked_at = asked_at
        self._heard = Heard(choices(routes, self.version), self._heard.holds_until)

    def reports(self) -> list[dict[str, Any]]:
        """Give what `pgduet.report_client` is to be told, for each route."""
        for migrator in list(self._sweeping):
            migrator.sweep()
        return [self._report(choice) for choice in self._heard.choices.values()]

    def delivered(self, reports: Iterable[dict[str, Any]]) -> None:
        """Note that the database has been told, so that no mismatch is told twice."""
        for report in reports:
            if self.knows_pairs and report["compared"] is not None:
                self._tallies[report["migration"]].delivered(report["last_sample"])

    def acknowledged(self, reports: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        """Take note that the database was told; gives the epochs by migration.

        Only now the lease goes on, from when the routes were asked for: what the engine waits for is the lease that the
        database knows of, which began later.
        """
        self._heard = Heard(self._heard.choices, self._asked_at + self.lease_s)
        self._told = {report["migration"]: report["version"] for report in reports}
        return {report["migration"]: report["epoch"] for report in reports}

    def _report(self, choice: Choice) -> dict[str, Any]:
        migration = choice.route.migration
        path = self._held(choice)
        tally = self._tallies.get(migration)
        compared, last_sample = tally.report() if tally else (None, 0)
        return {
            "client_id": self.client_id,
            "migration": migration,
            "who": self.service,
            "side": choice.side if path is None else "new" if path.is_new else "old",
            "version": choice.version if path is None else path.version or "",
            "epoch": choice.route.epoch,
            "lease_s": self.lease_s,
            "compared": None if compared is None else Jsonb(compared),
            "last_sample": last_sample,
            **self._ledger.totals(migration),
        }

    def _held(self, choice: Choice) -> Path | None:
        """Give the path that this service is to be counted on because of wishes: what goes against the route comes first."""
        migration = choice.route.migration
        version, _ = self._wanted.get(migration, (None, 0.0))
        asked = granted(choice, version) if version else None
        if asked is not None and against(choice, asked):
            if self._wants(migration):
                return asked
            told = self._told.pop(migration, None)
            if self._wants(migration):  # meanwhile
                self._told.update({migration: told} if told else {})
                return asked
        service = self._service_wishes.get(migration)
        return granted(choice, service) if service else None

    def _wants(self, migration: str) -> bool:
        """Tell whether somebody went against the route not long ago."""
        _, when = self._wanted[migration]
        return self._clock() - when < max(WISH_HELD_S, self.lease_s)


OPENED: weakref.WeakSet[RouterCore] = weakref.WeakSet()
"""Routers that a child of `fork` would inherit."""


def _forked() -> None:
    for router in list(OPENED):
        router.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
