"""What the phases do with a shadow in a session: probes, the rest of the filling, samples, the archive (ADR 28)."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from psycopg import errors, sql

from pgduet.barriers import reach
from pgduet.errors import MissingRights
from pgduet.measured import ShadowResult
from pgduet.operations import shadow_phases, shadow_rows
from pgduet.operations.design import Design
from pgduet.operations.names import version_schema
from pgduet.operations.shadow import VIEW_OWNER
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.statement import Lock, Query, Role
from pgduet.postgres import probing
from pgduet.postgres.blockers import Blockers, blockers, row_holders
from pgduet.postgres.copying import Drain, see_all
from pgduet.postgres.gently import Gently
from pgduet.postgres.heaps import heaps_of, pages_of
from pgduet.postgres.pace import Pace
from pgduet.postgres.session import Connection
from pgduet.sql import block

KEYS_PER_PAGE = 4
EXAMPLES = 20
EMPTY_PAGES = 100
FIRST_REST_S, LONGEST_REST_S = 0.02, 0.5
RESTORED = 50
LOCK_WAIT = "10ms"

Waits = Callable[[str], None]
"""Hears for whom something waits; the empty text says that it goes on."""


async def view_owner(conn: Connection) -> str:
    """Name the role that owns the new version's views: it must be one whom policies bind."""
    found = await _owner(conn)
    return VIEW_OWNER if found["unbound"] else str(found["role"])


async def create_view_owner(conn: Connection) -> None:
    """Create that role where our own will not do; it stays, since roles are the whole server's.

    Raises:
        MissingRights: the worker's role may not.
    """
    found = await check_view_owner(conn)
    if not found["unbound"]:
        return
    role = Role(VIEW_OWNER)
    if not found["there"]:
        with suppress(errors.DuplicateObject, errors.UniqueViolation):  # a worker on another database was faster
            await conn.execute(block("shadow_phases", "create_owner").format(role=role))
        found = await check_view_owner(conn)
    if not found["may_be"]:
        await conn.execute(block("shadow_phases", "be_owner").format(role=role))


async def check_view_owner(conn: Connection) -> dict[str, Any]:
    """Refuse where nobody could own the views of a shadow; gives what our role may.

    Raises:
        MissingRights: the worker's role is bound by no policy, and has none that is, nor may create one.
    """
    found = await _owner(conn)
    there, made = found["may_be"] or found["may_grant"], found["may_create"]
    if found["unbound"] and not (there if found["there"] else made):
        create = "" if found["there"] else f"CREATE ROLE {VIEW_OWNER} NOLOGIN; "
        own = sql.Identifier(found["role"]).as_string(None)
        raise MissingRights(
            f"the worker's role {found['role']} has BYPASSRLS: no policy binds it, so it cannot own the views of a shadow",
            hint=f"{create}GRANT {VIEW_OWNER} TO {own}. Or take BYPASSRLS from it.",
        )
    return found


async def _owner(conn: Connection) -> dict[str, Any]:
    query = block("shadow_phases", "owner").format(role=sql.Literal(VIEW_OWNER))
    return await _one(conn, query)


async def heaps(conn: Connection, design: ShadowDesign) -> list[sql.Identifier]:
    """Give what has the anchor's pages: the table, or its partitions."""
    return await heaps_of(conn, design.relation)


# Probes


async def probe(conn: Connection, design: ShadowDesign) -> str:
    """Update a row of the anchor, and see its key in the journal; all of it is rolled back."""
    places = [heap for heap in await heaps(conn, design) if await pages_of(conn, heap)]
    touch = shadow_phases.touch(design, places[0]) if places else None

    async def one_row() -> tuple[str, bool]:
        await see_all(conn)  # rolled back with the rest
        await conn.execute(shadow_rows.lock_whole(design))
        if touch is None:
            return probing.NOTHING if places else probing.NO_ROW, True
        row = await (await conn.execute(touch)).fetchone()
        if row is None:
            return probing.NO_ROW, True
        key = [row[column.anchor] for column in design.key]
        good = (await _one(conn, shadow_phases.noted(design, key)))["good"]
        return "one row noted and rolled back", bool(good)

    return await probing.rolled_back(conn, one_row)


async def probe_back(conn: Connection, design: ShadowDesign) -> str:
    """Write a row of the shadow as a new client does, and see it in the anchor; all of it is rolled back."""
    column = shadow_phases.given(design)

    async def one_row() -> tuple[str, bool]:
        await see_all(conn)  # rolled back with the rest
        if column is None:
            return probing.NOTHING, True
        row = await (await conn.execute(shadow_phases.some_row(design))).fetchone()
        if row is None:
            return probing.NO_ROW, True
        key = [row[each.shadow] for each in design.key]
        if not (await conn.execute(shadow_phases.lock_row(design, key))).rowcount:
            return probing.NO_FREE_ROW, True
        await conn.execute(shadow_phases.give(design, column, key))
        found = await (await conn.execute(shadow_phases.follows(design, column, key))).fetchone()
        return probing.MAPPED, bool(found and found["good"])

    return await probing.rolled_back(conn, one_row)


# Filling


async def unmapped(conn: Connection, design: ShadowDesign, migration_id: int, limit: int) -> list[dict[str, object]]:
    """Name the rows that the shadow cannot hold, as they are at one moment, once it is in step.

    Whoever leaves a row out of the shadow, be it the copy, the drain or the trigger, notes that in the same transaction. Where
    nobody has, no row was left out, and none is read again: to ask it of each row takes several times as long as the copy.
    """
    found: list[dict[str, object]] = []
    asked = {"id": migration_id, "relation": design.label}
    if not (design.guarded and (await _one(conn, block("shadow", "any_noted"), asked))["noted"]):
        return found
    gently = Gently(conn)
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await conn.execute(shadow_rows.lock_whole(design))
        for heap in await heaps(conn, design):
            async for first, last in gently.pieces(await pages_of(conn, heap)):
                query = shadow_rows.unmapped(design, heap, first, last, limit - len(found))
                rows = await (await conn.execute(query)).fetchall()
                found += [{"relation": design.label, "key": row["key"], "detail": row["error"]} for row in rows]
                if len(found) >= limit:
                    return found
    return found


async def drain(conn: Connection, design: ShadowDesign, pace: Pace, waits: Waits) -> int:
    """Empty the journal; while clients hold rows of it, rest, and say who they are. Returns the keys that were carried over."""
    emptying = Drain(conn, design)
    await emptying.open()
    rest_s = FIRST_REST_S
    while not emptying.finished:
        before = emptying.keys
        await emptying.next(pace)
        await reach("batch.after_commit")
        if not emptying.held:
            rest_s = FIRST_REST_S if emptying.keys != before else rest_s
            await asyncio.sleep(pace.pause_ms / 1000)
            continue
        # What it took stands further on in the journal now: without a rest it would follow that for ever, and write it each time.
        _say_who(design, waits, await row_holders(conn, design.relation, shadow_rows.journalled(design)))
        await asyncio.sleep(rest_s)
        rest_s = min(LONGEST_REST_S, 1.5 * rest_s)
    waits("")
    await conn.execute("SET lock_timeout = 0")
    return emptying.keys


async def owes(conn: Connection, design: ShadowDesign) -> bool:
    """Ask whether something was noted and not carried over."""
    return bool((await _one(conn, shadow_rows.owes(design)))["owes"])


async def until_writers_left(conn: Connection, design: ShadowDesign, waits: Waits) -> None:
    """Wait until every transaction that has written the anchor so far has ended."""
    query = block("shadow_phases", "writers").format(relation=sql.Literal(design.relation_label))

    async def now() -> set[str]:
        return {row["who"] for row in await (await conn.execute(query)).fetchall()}

    left, rest_s = await now(), FIRST_REST_S
    while left := left & await now():
        _say_who(design, waits, await blockers(conn, {design.relation_label: Lock.SHARE_ROW_EXCLUSIVE}))
        await asyncio.sleep(rest_s)
        rest_s = min(LONGEST_REST_S, 1.5 * rest_s)
    waits("")


def _say_who(design: ShadowDesign, waits: Waits, who: Blockers) -> None:
    waits(f"rows of {design.label} · {who.text or 'clients'}")


# Comparison


# Samples


async def sample(conn: Connection, plan: Design, design: ShadowDesign, wanted: int) -> ShadowResult:
    """Read rows of the anchor, wherever they lie, through both versions, and compare the answers."""
    result, times = ShadowResult(), _Times()
    await see_all(conn)
    shown = await _shown(conn, plan, design)
    if not {column.anchor for column in design.key} <= shown:
        return ShadowResult(comparable=False)
    places = [(heap, count) for heap in await heaps(conn, design) if (count := await pages_of(conn, heap))]
    empty, seen = 0, 0
    while places and seen < wanted and empty < EMPTY_PAGES:
        found = await _some_keys(conn, design, places)
        empty = 0 if found else empty + 1
        for key in found:
            await times.read(conn, plan, design, shown, key)
            await _compare(conn, plan, design, shown, key, result)
            seen += 1
    result.old_ms, result.new_ms = times.medians()
    return result


async def _some_keys(
    conn: Connection, design: ShadowDesign, places: Sequence[tuple[sql.Identifier, int]]
) -> list[list[Any]]:
    """Read the keys of a page, each as likely as any other."""
    [(heap, count)] = random.choices(places, [count for _, count in places])  # noqa: S311  (sampling)
    page = random.randrange(count)  # noqa: S311
    found = await (await conn.execute(shadow_phases.keys(design, heap, page, KEYS_PER_PAGE))).fetchall()
    return [[row[column.anchor] for column in design.key] for row in found]


async def _compare(
    conn: Connection, plan: Design, design: ShadowDesign, shown: frozenset[str], key: list[Any], result: ShadowResult
) -> None:
    compared = await _one(conn, shadow_phases.sample(plan, design, shown, key))
    if not compared["rows"]:
        return  # deleted meanwhile
    result.samples += 1
    if compared["mismatches"]:
        result.mismatches += 1
        if len(result.examples) < EXAMPLES:
            named = {column.anchor: str(value) for column, value in zip(design.key, key, strict=True)}
            result.examples.append({"relation": design.label, "key": named})


class _Times:
    """How long reads of single rows took, by version."""

    def __init__(self) -> None:
        self.took: dict[bool, list[float]] = {False: [], True: []}

    async def read(
        self, conn: Connection, plan: Design, design: ShadowDesign, shown: frozenset[str], key: list[Any]
    ) -> None:
        """Read a row through both versions, in either order."""
        for new in random.sample([False, True], 2):
            query = shadow_phases.read(plan, design, shown, key, new=new)
            began = time.perf_counter()
            await (await conn.execute(query)).fetchone()
            self.took[new].append(time.perf_counter() - began)

    def medians(self) -> tuple[float | None, float | None]:
        if not self.took[False]:
            return None, None
        return statistics.median(self.took[False]) * 1000, statistics.median(self.took[True]) * 1000


async def _shown(conn: Connection, plan: Design, design: ShadowDesign) -> frozenset[str]:
    """Name the columns that the old version shows."""
    view = sql.Identifier(version_schema(design.schema_name, plan.from_version), design.table).as_string(None)
    found = await (await conn.execute(block("reads", "shown"), {"view": view})).fetchall()
    return frozenset(row["name"] for row in found)


# The archive


async def restore(conn: Connection, plan: Design, design: ShadowDesign) -> int:
    """Bring archived values back into the shadow, a few at a time; a client's row is not waited for beyond a moment."""
    await see_all(conn)
    restored = 0
    for group in shadow_phases.kept(design):
        after = 0
        while ids := await _next(conn, plan, design, group.number, after):
            restored += await _restore(conn, shadow_phases.restore(plan, design, group, ids), design)
            after = ids[-1]
    return restored


async def _restore(conn: Connection, query: Query, design: ShadowDesign) -> int:
    while True:
        try:
            async with conn.transaction():
                await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_WAIT)))
                await conn.execute(block("shadow_phases", "engine").format(label=sql.Literal(design.shadow_label)))
                return (await conn.execute(query)).rowcount
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            await asyncio.sleep(FIRST_REST_S)


async def _next(conn: Connection, plan: Design, design: ShadowDesign, number: int, after: int) -> list[int]:
    values = {"migration": plan.name, "relation": design.label, "mapping": number}
    asked = {**values, "after": after, "limit": RESTORED}
    cursor = await conn.execute(block("rows", "archived_ids"), asked)
    return [row["id"] for row in await cursor.fetchall()]


async def archive(conn: Connection, queries: Sequence[Query]) -> int:
    """Save values in the caller's transaction; returns how many rows had some."""
    await conn.execute("SET LOCAL row_security = on")
    return sum([(await conn.execute(query)).rowcount for query in queries])


async def _one(conn: Connection, query: Query, values: dict[str, Any] | None = None) -> dict[str, Any]:
    row = await (await conn.execute(query, values)).fetchone()
    assert row is not None  # noqa: S101  (each of these gives one row)
    return row
