"""What a router hears and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pgduet.errors import PgduetError


class RouteUnavailable(PgduetError):
    """The router has no path that this service could use."""

    code = "PD-5001"


class ExtraMissing(PgduetError, ImportError):
    """A library that the adapter needs is not installed."""

    code = "PD-5002"


class NotRoutable(PgduetError):
    """The connection cannot follow a path as it is."""

    code = "PD-5003"


@dataclass(frozen=True, slots=True)
class Path:
    """Which version a read goes to.

    Attributes:
        version: the version's name; None when there is no migration of that name.
        search_path: quoted, fit for `SET LOCAL search_path TO …`: the version schemas, joined by commas; None: leave it
            alone.
        is_new: whether it is the migration's new version (or a later one).
        epoch: the state of the route that decided.
    """

    version: str | None
    search_path: str | None
    is_new: bool
    epoch: int = 0


BASE_TABLES = Path(version=None, search_path=None, is_new=False)
"""No migration of that name: use base tables, as before there was one."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of `pgduet.route`: where a migration's reads may go."""

    migration: str
    old_version: str
    new_version: str
    schemas: Sequence[str]
    published: bool
    authority: str
    read_percent: int
    epoch: int
    comparing: bool = False
    """Routers may read the side that does not answer, to compare; not while a version is about to go."""


class Stage(StrEnum):
    """LaunchDarkly's six stages of a migration, in order; each says what a client's own migration code may do."""

    OFF = "off"
    """Read old, write old: there is no route."""
    DUALWRITE = "dualwrite"
    """The database keeps both in step, or is about to; clients read and write the old version."""
    SHADOW = "shadow"
    """Published: clients may read both and compare; the old answer wins."""
    LIVE = "live"
    """Reads move to the new version by percent; the old one has authority."""
    RAMPDOWN = "rampdown"
    """The new version has authority; the old one is kept in step."""
    COMPLETE = "complete"
    """The old version has gone: the route names the new version on both sides."""


def stage_of(route: Route | None) -> Stage:
    """Tell the stage that a route stands for."""
    if route is None:
        return Stage.OFF
    if route.old_version == route.new_version:
        return Stage.COMPLETE
    if not route.published:
        return Stage.DUALWRITE
    if route.authority == "new":
        return Stage.RAMPDOWN
    return Stage.LIVE if route.read_percent > 0 else Stage.SHADOW
