"""The census: who uses which version, as far as the database can tell.

Routers report themselves. Other clients are seen by the locks that a running transaction holds on a version's views, by the
search_path with which their sessions begin (set for their role, or for the database), or by the last statement of a session, where
that names the old version and the worker's role may see it (`pg_read_all_stats`, which `pg_monitor` has).

What a session has prepared is seen by nobody else, nor is a DISCARD ALL. So a backend that was seen at an old version's view, or
with such a statement, counts until it ends, or until it is seen at the new version: pooled connections move on that way when their
service does. So does one that began with either version's search_path: it keeps that when its role is set to another.

Limits: a transaction between two samples leaves only its last statement behind, and `COMMIT` says nothing. Who names base tables,
and no column that only the old version has, is remembered for as long as the plan says, and not by backend. One that moved on may
still hold what it prepared before; it counts again when it is seen to use that. An idle client that has the new version by a
startup option is taken for an old one where its last statement names a table and a word that was its column. What calls itself
`pgduet/…`, `pgduet-router/…` or like a tool of PostgreSQL's is taken at its word.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pgduet.messages import CensusResult, Client
from pgduet.operations.design import Design, TableDesign
from pgduet.postgres import chain, store
from pgduet.postgres.readers import old_readers
from pgduet.postgres.session import Connection
from pgduet.postgres.statements import note_statements
from pgduet.sql import block

PIDS_TOLD = 5
CLIENTS_TOLD = 200
"""Of each side. A census is in the history each time, and what is larger than 2 MB no activity can answer."""

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
    await conn.execute(block("census", "forget_ended"), {"migration": migration.name})
    await conn.execute(
        block("census", "sample_sessions"),
        {
            "migration": migration.name,
            "base": sides.base,
            "schemas": [schema.name for schema, _ in known],
            "versions": [schema.version for schema, _ in known],
            "sides": [side for _, side in known],
            "patterns": [_word(schema.name) for schema, _ in known],
            **_tables(migration.design, sides.base),
            **_only_old(migration.design),
        },
    )
    rows = await _rows(conn, "clients", {"migration": migration.name, "idle_s": idle_s})
    result = CensusResult(clients=_merged(rows))
    for row in rows:
        behind, acting = row["behind"], row["acting"]
        if row["missed"]:
            result.old_left.append(
                f"{row['who']} (gone since before the new version took over: it may wake, and not know)"
            )
            continue
        if row["side"] == "new" or behind or acting:
            result.new_left.append(_reason(row["who"], behind=behind, acting=acting))
        if row["side"] == "old" or behind or (acting and leaving == "old"):
            result.old_left.append(_reason(row["who"], behind=behind, acting=acting and row["side"] == "new"))
    result.new_left, result.old_left = list(dict.fromkeys(result.new_left)), list(dict.fromkeys(result.old_left))
    # A migration that has not published may have no route yet.
    routes = await store.run(conn, "route", {"migration": migration.name}) if leaving == "old" else []
    share = max((100 - route["read_percent"] for route in routes), default=0)
    if share and any(row["there"] for row in rows):
        result.old_left.append(f"{share} % of the reads of routers (pgduet route {migration.name} --read-percent 100)")
    await _add_lingering(conn, migration, result)
    result.hidden = (await _rows(conn, "hidden", {}))[0]["sessions"]
    result.set_to = await set_to(conn, [each.name for each in (sides.new if leaving == "new" else sides.old)])
    # Not a client, but what clients' writes run into: it speaks the old version's language all the same.
    readers = await old_readers(conn, migration.design)
    result.old_left += [f"{reader}: replace it" for reader in readers]
    if leaving == "old":
        result.old_left = list(dict.fromkeys([*result.old_left, *await _remembered(conn, migration, sides)]))
    if leaving:
        left = left_on(result, leaving)
        left += [each for each in await _astray(conn, migration, leaving) if each not in left]
    return bounded(result)


async def note_counted(conn: Connection, migration: store.Migration) -> None:
    """Note roles that have run statements of the old version since the last census, where something counts them."""
    old = (await chain.sides(conn, migration)).old
    await note_statements(conn, migration.name, [each.version for each in old], [_word(each.name) for each in old])


def left_on(result: CensusResult, leaving: Literal["old", "new"]) -> list[str]:
    """Say who is left on a version that is about to go."""
    return result.old_left if leaving == "old" else result.new_left


async def set_to(conn: Connection, schemas: Sequence[str]) -> list[str]:
    """Name the roles whose search_path leads to version schemas, whether they are there or not."""
    return [row["who"] for row in await _rows(conn, "set_to", {"schemas": list(schemas)})]


def _merged(rows: Sequence[dict[str, Any]]) -> list[Client]:
    """Give each client once, whichever of its routers have heard."""
    found: dict[tuple[str, ...], Client] = {}
    for row in rows:
        one = Client(**{key: row[key] for key in ("who", "version", "side", "via", "last_seen", "sessions")})
        known = found.setdefault((one.side, one.who, one.version, one.via), one)
        if known is not one:
            last_seen, sessions = max(known.last_seen, one.last_seen), known.sessions + one.sessions
            found[one.side, one.who, one.version, one.via] = one.model_copy(
                update={"last_seen": last_seen, "sessions": sessions}
            )
    return list(found.values())


def bounded(result: CensusResult) -> CensusResult:
    """Name so many of a side as a person can read and a history can hold, and count the others."""
    sides = ([each for each in result.clients if each.side == side] for side in ("old", "new"))
    told = {
        name: [*left[:CLIENTS_TOLD], *([f"{len(left) - CLIENTS_TOLD:,} more"] if len(left) > CLIENTS_TOLD else [])]
        for name in ("old_left", "new_left", "lingering", "set_to")
        if (left := getattr(result, name))
    }
    clients = [each for side in sides for each in side[:CLIENTS_TOLD]]
    return result.model_copy(update={"clients": clients, "old_count": len(result.old_left), **told})


async def _rows(conn: Connection, name: str, values: dict[str, object]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("census", name), values)).fetchall()


async def _add_lingering(conn: Connection, migration: store.Migration, result: CensusResult) -> None:
    """Add the backends that were seen at a version, or began with it, and are connected still: one entry for each client."""
    backends = defaultdict(list)
    for row in await _rows(conn, "lingering", {"migration": migration.name}):
        backends[row["side"], row["who"]].append(row)
    known = {(client.side, client.who) for client in result.clients}
    told: dict[str, list[str]] = {"old": [], "new": []}
    for (side, who), rows in backends.items():
        last = max(rows, key=lambda row: row["last_seen"])
        if (side, who) not in known:
            facts = {key: last[key] for key in ("who", "side", "version", "via", "last_seen")}
            result.clients.append(Client(**facts, sessions=len(rows)))
        at = f"{last['last_seen']:%Y-%m-%d %H:%M:%S %Z}"
        told[side].append(f"{who} ({_backends(row['pid'] for row in rows)}, last seen at it {at})")
    result.lingering = [*told["old"], *told["new"]]
    result.old_left = [*told["old"], *(left for left in result.old_left if ("old", left) not in backends)]
    result.new_left = [*told["new"], *(left for left in result.new_left if ("new", left) not in backends)]


def _backends(pids: Iterable[int]) -> str:
    found = list(pids)
    named = ", ".join(str(pid) for pid in found[:PIDS_TOLD]) + (" …" if len(found) > PIDS_TOLD else "")
    return f"connected as backend {named}" if len(found) == 1 else f"connected as {len(found)} backends: {named}"


def _word(name: str) -> str:
    """Write the pattern, for PostgreSQL, of a name as a word of a statement."""
    begins, ends = ("\\m" if name[:1].isalnum() or name[:1] == "_" else ""), ("\\M" if name[-1:].isalnum() else "")
    return begins + re.sub(r"([^\w])", r"\\\1", name) + ends


def _only_old(design: Design) -> dict[str, list[str]]:
    """Give the words by which a statement is an old client's: a table's name, and a name that only the old version has."""
    found = [(table.table, name) for table in design.tables for name in _gone(table)]
    found += [(table.table, table.table) for table in design.tables if table.new_name]
    found += [(table.table, table.table) for table in design.dropped]
    return {"old_tables": [_word(table) for table, _ in found], "old_names": [_word(name) for _, name in found]}


def _gone(table: TableDesign) -> list[str]:
    renamed = {alias.name for alias in table.aliases}
    return sorted(({column.name for column in table.old_columns} | renamed) - set(table.new_names))


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
