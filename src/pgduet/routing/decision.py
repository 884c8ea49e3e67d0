"""Which path a key takes: pure, deterministic, the same in every process and on every machine.

A key falls into one of 10,000 buckets by a hash of the migration's name and the key, and takes the new path while its
bucket lies below `read_percent * 100`. So a key keeps its path until the percentage changes, and raising it only moves
keys from old to new.

The hash is CRC-32 of the key's UTF-8, begun with CRC-32 of the migration's name, spread by Knuth's multiplier
2654435761 (The Art of Computer Programming, vol. 3, 6.4) because a CRC's own residues are uneven on serial numbers. It
is a spread, not a secret: who chooses keys can choose the path.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from pgduet.routing.model import Path, Route, Stage, stage_of
from pgduet.versions import version_schema

BUCKETS = 10_000

Side = Literal["old", "new"]

_BYTES = (bytes, bytearray, memoryview)


def seed(migration: str) -> int:
    """Give the migration's part of the hash; different migrations spread the same keys differently."""
    return crc32(migration.encode())


def bucket(key: object, begun: int) -> int:
    """Give the key's bucket, 0 to 9999. Keys other than bytes count as their `str`: 7, "7" and b"7" are one key."""
    return ((crc32(raw(key), begun) * 2654435761 & 0xFFFFFFFF) * BUCKETS) >> 32


def raw(key: object) -> bytes:
    """Give a key's bytes. What keys mostly are comes first: this is most of a decision's time."""
    if type(key) is str:
        return key.encode("utf-8", "surrogatepass")
    if type(key) is int:
        return b"%d" % key
    if isinstance(key, _BYTES):
        return bytes(key)
    return str(key).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Choice:
    """A route as it concerns one service: both paths, and the bucket below which a key goes to the new one.

    `within` holds while the lease does; `past` is what the last known authority says (0 or 10,000). `refusal` stands
    instead of both when the service knows only a version that is not there.
    """

    route: Route
    seed: int
    old: Path
    new: Path
    within: int
    past: int
    refusal: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the service knows one version only."""
        return self.old is self.new

    @property
    def compares(self) -> bool:
        """Whether both sides may be read for one answer: published, no version about to go, and both versions known."""
        comparing = self.route.comparing and stage_of(self.route) in {Stage.SHADOW, Stage.LIVE}
        return comparing and not self.pinned and self.refusal is None

    @property
    def side(self) -> Side:
        """The representation that this service may be using: `new` as soon as any read can go there."""
        return "new" if self.within > 0 and self.refusal is None else "old"

    @property
    def version(self) -> str:
        """The version that goes with the side."""
        path = self.new if self.side == "new" else self.old
        return path.version or ""


def choose(route: Route, version: str | None, later: Collection[str] = (), there: Collection[str] = ()) -> Choice:
    """Work out a service's choice; `version` is the only one it knows, None if it follows the route.

    `later` names the versions after the route's new one, `there` all that live. A service that knows one of the later ones,
    or one before the route's old one, is always sent to its own version, and counts as new or old.
    """
    if version is None:
        within = route.read_percent * BUCKETS // 100 if route.published else 0
        past = BUCKETS if route.published and route.authority == "new" else 0
        old, new = _path(route, route.old_version, is_new=False), _path(route, route.new_version, is_new=True)
        return Choice(route, seed(route.migration), old, new, within, past)
    is_new = version == route.new_version or version in later
    only = _path(route, version, is_new=is_new)
    threshold = BUCKETS if is_new else 0
    return Choice(
        route, seed(route.migration), only, only, threshold, threshold, _refusal(route, version, there, is_new=is_new)
    )


def writes(stage: Stage) -> tuple[Side, ...]:
    """Tell which sides a service that writes in code writes to, in order; the first one's answer is the answer.

    LaunchDarkly's order: the side that reads rely on first, so that nothing is written where that has failed.
    """
    match stage:
        case Stage.OFF:
            return ("old",)
        case Stage.DUALWRITE | Stage.SHADOW:
            return ("old", "new")
        case Stage.LIVE | Stage.RAMPDOWN:
            return ("new", "old")
        case Stage.COMPLETE:
            return ("new",)


def may_miss(stage: Stage) -> bool:
    """Tell whether a second write that fails concerns nobody yet: the new side, before any read goes there."""
    return stage in {Stage.DUALWRITE, Stage.SHADOW}


def _refusal(route: Route, version: str, there: Collection[str], *, is_new: bool) -> str | None:
    """Refuse a version that is not there: PostgreSQL would pass over its schema, and the tables themselves would answer.

    When a migration has ended, its tables have no older version, even where a migration before it is still in overlap.
    """
    if version in there and (is_new or stage_of(route) is not Stage.COMPLETE):
        return None
    why = "not published" if is_new else "not there"
    return f"{route.migration}: this service knows only version {version}, which is {why}."


def choices(routes: Iterable[Route], version: str | None) -> dict[str, Choice]:
    """Work out a service's choices for all routes of a database."""
    known = list(routes)
    follows = {route.old_version: route.new_version for route in known if route.old_version != route.new_version}
    there = {route.old_version for route in known} | {route.new_version for route in known if route.published}
    return {route.migration: choose(route, version, _later(route.new_version, follows), there) for route in known}


def _later(version: str, follows: Mapping[str, str]) -> set[str]:
    """Walk the chain of versions on from one."""
    found: set[str] = set()
    while version in follows and follows[version] not in found | {version}:
        version = follows[version]
        found.add(version)
    return found


def _path(route: Route, version: str, *, is_new: bool) -> Path:
    return Path(version=version, search_path=search_path(route.schemas, version), is_new=is_new, epoch=route.epoch)


def search_path(schemas: Sequence[str], version: str) -> str:
    """Name the version schemas of a version, then the schemas of the tables, where functions and types are."""
    return ", ".join(_quoted(name) for name in (*(version_schema(schema, version) for schema in schemas), *schemas))


def _quoted(name: str) -> str:
    """Quote a name where it may need it; that a quoted one might have done without does no harm."""
    if name == "public" or re.fullmatch(r"[a-z_][a-z0-9_]*_v[0-9]+", name):
        return name
    return '"' + name.replace('"', '""') + '"'
