"""The census: who uses which version, as far as the database can tell.

Routers report themselves. Other clients are seen by the locks that a running transaction holds on a version's views, or by a role
whose search_path names a version schema. Limits: a transaction between two samples is not seen, so a client counts as gone only
after it was not seen for as long as the plan says; an idle session that would use `SET LOCAL` is not seen at all.
"""

from pgduet.messages import CensusResult, Client
from pgduet.postgres import store
from pgduet.postgres.readers import old_readers
from pgduet.postgres.session import Connection
from pgduet.sql import block


async def take(conn: Connection, migration: store.Migration, idle_s: float) -> CensusResult:
    """Sample sessions, then tell who was seen within `idle_s` and which routers live."""
    design = migration.design
    new, old = (list(design.version_schemas(version)) for version in (design.to_version, design.from_version))
    await conn.execute(
        block("census", "sample_sessions"),
        {
            "migration": migration.name,
            "new_schemas": new,
            "old_schemas": old,
            "relations": sorted(design.touched),
            "new_patterns": [f"%{name}%" for name in new],
            "old_patterns": [f"%{name}%" for name in old],
            "new_version": design.to_version,
            "old_version": design.from_version,
        },
    )
    rows = await (
        await conn.execute(block("census", "clients"), {"migration": migration.name, "idle_s": idle_s})
    ).fetchall()
    route = (await store.run(conn, "route", {"migration": migration.name}))[0]
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
    result.old_left += await old_readers(conn, design)
    return result


def _reason(who: str, *, behind: bool, acting: bool) -> str:
    if behind:
        return f"{who} (has not heard of the last change)"
    return f"{who} (its lease runs)" if acting else who
