"""The census: who uses which version, as far as the database can tell.

Routers report themselves. Other clients are seen by the locks that a running transaction holds on a version's views, or by a role
whose search_path names a version schema. Limits: a transaction between two samples is not seen, so a client counts as gone only
after it was not seen for as long as the plan says; an idle session that would use `SET LOCAL` is not seen at all.
"""

from typing import Literal

from pgduet.messages import CensusResult, Client
from pgduet.operations.design import Design
from pgduet.postgres import chain, store
from pgduet.postgres.readers import old_readers
from pgduet.postgres.session import Connection
from pgduet.sql import block

Leaving = Literal["old", "new"] | None


async def take(conn: Connection, migration: store.Migration, idle_s: float, leaving: Leaving = None) -> CensusResult:
    """Sample sessions, then tell who was seen within `idle_s` and which routers live.

    `leaving` is the version that is about to go: other migrations' routes are led past it, and their routers
    counted until they follow. Routers' shadow reads of a new version that goes are stopped: they would be seen as clients for ever.
    """
    if leaving == "new":
        await store.set_comparing(conn, migration.name, comparing=False)
    sides = await chain.sides(conn, migration)
    known = [(each, "old") for each in sides.old] + [(each, "new") for each in sides.new]
    await conn.execute(
        block("census", "sample_sessions"),
        {
            "migration": migration.name,
            "schemas": [schema.name for schema, _ in known],
            "versions": [schema.version for schema, _ in known],
            "sides": [side for _, side in known],
            **_tables(migration.design, sides.base),
        },
    )
    rows = await (
        await conn.execute(block("census", "clients"), {"migration": migration.name, "idle_s": idle_s})
    ).fetchall()
    # A migration that has not published may have no route yet.
    found = await store.run(conn, "route", {"migration": migration.name})
    route = found[0] if found else {"epoch": 0, "age_s": 0.0}
    result = CensusResult(
        clients=[
            Client(**{key: row[key] for key in ("who", "version", "side", "via", "last_seen", "sessions")})
            for row in rows
        ]
    )
    for row in rows:
        behind = row["kind"] == "router" and (row["epoch"] or 0) < route["epoch"]
        # What a router decided before the last change may be acted upon until its lease is over.
        acting = row["kind"] == "router" and route["age_s"] <= row["lease_s"]
        if row["side"] == "new" or behind or acting:
            result.new_left.append(_reason(row["who"], behind=behind, acting=acting))
        if row["side"] == "old" or behind:
            result.old_left.append(_reason(row["who"], behind=behind, acting=False))
    # Not a client, but what clients' writes run into: it speaks the old version's language all the same.
    readers = await old_readers(conn, migration.design)
    result.old_left += [f"{reader}: replace it" for reader in readers]
    if leaving == "old":
        result.old_left += [each for each in await _remembered(conn, migration, sides) if each not in result.old_left]
    if leaving:
        left = left_on(result, leaving)
        left += [each for each in await _astray(conn, migration, leaving) if each not in left]
    return result


def left_on(result: CensusResult, leaving: Literal["old", "new"]) -> list[str]:
    """Say who is left on a version that is about to go."""
    return result.old_left if leaving == "old" else result.new_left


def _tables(design: Design, base: str) -> dict[str, list[str]]:
    """Give the tables that clients may name, and of which version those are: of the oldest, unless the name shows the new shape.

    What only refers to a shadow's anchor is the same table in both versions.
    """
    referring = frozenset[str]().union(*(shadow.inbound for shadow in design.shadows))
    referring -= {table.label for table in (*design.tables, *design.whole, *design.created, *design.dropped)}
    names = sorted(design.touched - referring)
    swapped = frozenset[str]().union(*(shadow.shown for shadow in design.shadows if shadow.swapped))
    return {
        "relations": names,
        "table_sides": ["new" if name in swapped else "old" for name in names],
        "table_versions": [design.to_version if name in swapped else base for name in names],
    }


async def _remembered(conn: Connection, migration: store.Migration, sides: chain.Sides) -> list[str]:
    """Name clients of older versions that earlier migrations remember, for as long as those promise to."""
    versions = [each.version for each in sides.old]
    found: list[str] = []
    for other in await chain.before(conn, migration.id):
        idle_s = other.plan["policy"]["soak"]["legacy_idle_s"]
        values = {"migration": other.name, "versions": versions, "idle_s": idle_s}
        rows = await (await conn.execute(block("census", "remembered"), values)).fetchall()
        found += [f"{row['who']} (as {other.name} has seen)" for row in rows]
    return found


async def _astray(conn: Connection, migration: store.Migration, leaving: Literal["old", "new"]) -> list[str]:
    """Lead other migrations' routes past the version that is about to go; tell which routers may still go there."""
    gone, stays = migration.design.from_version, migration.design.to_version
    if leaving == "new":
        gone, stays = stays, gone
    routes = {"migration": migration.name, "leaving": gone, "instead": stays}
    async with conn.transaction():
        for changed in await store.run(conn, "route_retarget", routes):
            await store.run(conn, "route_notify", {"migration": changed["migration"]})
    rows = await (await conn.execute(block("census", "astray"), routes)).fetchall()
    return [_reason(row["who"], behind=row["behind"], acting=not row["behind"]) for row in rows]


def _reason(who: str, *, behind: bool, acting: bool) -> str:
    if behind:
        return f"{who} (has not heard of the last change)"
    return f"{who} (its lease runs)" if acting else who
