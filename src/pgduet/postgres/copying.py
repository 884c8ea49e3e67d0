"""Fills a shadow: the copy by page ranges, then its key, then the journal emptied; and reads what hangs on an anchor (ADR 28).

A batch of the copy is one INSERT … SELECT over some pages and the move of the cursor, in one transaction. It locks no row, so
nobody waits for it. It cannot be done twice: it goes on only from the cursor that it began with. Where the anchor was rewritten
meanwhile (VACUUM FULL, TRUNCATE), page numbers mean nothing any more: all its keys are put into the journal instead, which
carries every row over. One range has that to do for all, by batches as well: its cursor goes through the pages of the table as
it is then, and begins anew where that is rewritten, too. A key may stand in the journal twice.
"""

import time
from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import Error, errors, sql

from pgduet.barriers import reach
from pgduet.operations import shadow, shadow_reverse, shadow_rows, shadow_sync
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.operations.shadow_final import Hung, HungConstraint, Numbering
from pgduet.operations.statement import Statement
from pgduet.postgres import store
from pgduet.postgres.emptied import surplus_noted
from pgduet.postgres.executor import is_transient
from pgduet.postgres.filling import Filling
from pgduet.postgres.pace import Pace, growth
from pgduet.postgres.session import Connection
from pgduet.sql import block
from pgduet.telemetry import batches

FIRST_PAGES, MOST_PAGES = 64, 8192
FIRST_KEYS, MOST_KEYS = 500, 20_000
LOCK_WAIT = "10ms"
IDENTITIES = 170000
"""From this PostgreSQL on a partitioned table can number its rows itself."""


class _Elsewhere(Exception):
    """The cursor is not where this batch began, or the anchor was rewritten."""


class Copying(Filling):
    """One range of pages of an anchor, or of a partition of it, from its cursor to its end."""

    def __init__(
        self, conn: Connection, migration_id: int, design: ShadowDesign, heap: sql.Identifier, part: int
    ) -> None:
        super().__init__()
        self.conn = conn
        self.migration_id = migration_id
        self.design = design
        self.heap = heap
        self.where = {"id": migration_id, "relation": heap.as_string(None), "part": part}
        self.pages = FIRST_PAGES
        self.journals = False
        """The table was rewritten: keys are written down, and no rows."""

    async def open(self) -> None:
        """Read the cursor, and make the session one that batches may run in."""
        await self._read()
        # Losing the last batches in a crash loses their cursor with them.
        await self.conn.execute("SET synchronous_commit = off")
        await see_all(self.conn)
        await self.conn.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(LOCK_WAIT)))

    async def next(self, pace: Pace) -> None:
        """Copy the next pages; the pause after it is the caller's."""
        last = min(self.cursor + self.pages, self.end)
        began = time.monotonic()
        try:
            with batches.batch(self.batches + 1, self.design.label, self.cursor, last) as told:
                told.rows = copied = await self._batch(last)
        except _Elsewhere:
            await self._read()
            return
        except errors.LockNotAvailable:
            return
        self.rows += copied
        self.batches += 1
        self.cursor = last
        factor = growth(pace.target_ms, (time.monotonic() - began) * 1000)
        self.pages = min(MOST_PAGES, max(1, round(self.pages * factor)))

    async def _batch(self, last: int) -> int:
        if self.journals:
            return await self._journal(last)
        try:
            return await self._copy(last, safe=False)
        except Error as error:
            if is_transient(error) or not self.design.guarded:
                raise
        return await self._copy(last, safe=True)

    async def _copy(self, last: int, *, safe: bool) -> int:
        async with self.conn.transaction():
            await self.conn.execute(shadow_rows.lock_anchor(self.design, self.heap))
            query = shadow_rows.copy(self.design, self.heap, self.cursor, last, safe=safe)
            copied = (await self.conn.execute(query)).rowcount
            if safe:
                await self._note_unmapped(last)
            await self._advance(last, copied)
            await reach("batch.before_commit")
        await reach("batch.after_commit")
        return copied

    async def _note_unmapped(self, last: int) -> None:
        query = shadow_rows.unmapped(self.design, self.heap, self.cursor, last, 100)
        for row in await (await self.conn.execute(query)).fetchall():
            await store.note_drift(
                self.conn, self.migration_id, self.design.label, row["key"], "unmapped", row["error"]
            )

    async def _advance(self, last: int, count: int) -> None:
        values = {**self.where, "from": self.cursor, "block": last, "rows": count}
        if not (await self.conn.execute(block("shadow", "advance"), values)).rowcount:
            raise _Elsewhere

    async def _journal(self, last: int) -> int:
        """Leave the rows of some pages to the journal: none of them has been copied."""
        async with self.conn.transaction():
            await self.conn.execute(shadow_rows.lock_anchor(self.design, self.heap))
            await self.conn.execute(shadow_rows.journal_all(self.design, self.heap, self.cursor, last))
            await self._advance(last, 0)
            await reach("batch.before_commit")
        await reach("batch.after_commit")
        return 0

    async def _read(self) -> None:
        found = (await store.run(self.conn, "range", self.where))[0]
        if found["relfilenode"] != found["filenode_now"]:
            rewritten = {**self.where, "filenode": found["filenode_now"], "blocks": found["blocks_now"]}
            await self.conn.execute(block("shadow", "range_rewritten"), rewritten)
            found = (await store.run(self.conn, "range", self.where))[0]
        self.first, self.end, self.cursor = found["block_from"], found["block_to"], found["cursor_block"]
        self.journals = found["journals"]
        self.rows_before = found["rows_done"] - self.rows


class Drain:
    """Empties the journal of a shadow, batch by batch, never waiting for a client."""

    def __init__(self, conn: Connection, design: ShadowDesign) -> None:
        self.conn = conn
        self.design = design
        self.most = FIRST_KEYS
        self.place = shadow_rows.START
        self.keys = 0
        self.passed = 0
        self.held = False
        """Clients hold all that was tried last."""
        self.finished = False

    async def open(self) -> None:
        """Make the session one that batches may run in."""
        await see_all(self.conn)
        await self.conn.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(LOCK_WAIT)))

    async def next(self, pace: Pace) -> None:
        """Carry over the next keys. It is finished once a whole pass finds none; clients that hold rows make it go on."""
        began = time.monotonic()
        try:
            row = await (await self.conn.execute(shadow_rows.drain(self.design, self.most, self.place))).fetchone()
            assert row is not None  # noqa: S101  (a function gives one row)
            over = not row["taken_keys"] and (self.place == shadow_rows.START or not self.passed)
            # Last, since no client can begin to empty the anchor before a pass, and be done behind this.
            self.finished = over and not await surplus_noted(self.conn, self.design)
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure):
            # A row that has just moved to another partition is the last of these.
            self.held = True
            return
        taken, left = int(row["taken_keys"]), int(row["left_keys"])
        self.held = 0 < taken == left
        self.keys += taken - left
        self.passed += taken
        if not taken:
            self.place, self.passed = shadow_rows.START, 0
            return
        self.place = row["place"]
        factor = growth(pace.target_ms, (time.monotonic() - began) * 1000)
        self.most = min(MOST_KEYS, max(10, round(self.most * factor)))


async def see_all(conn: Connection) -> None:
    """Let the shadow's policies be, which hide nothing but bind its owner, too: elsewhere the engine refuses to be filtered."""
    await conn.execute("SET row_security = on")


async def give_key(
    conn: Connection, design: ShadowDesign, plan: str, migration_id: int, before: Sequence[Statement] = ()
) -> bool:
    """Build the shadow's key and have the trigger write it, in one transaction; tells whether that was to be done.

    `before` says what the key's index is to have, and what stands on the shadow before anybody uses it.
    """
    await see_all(conn)
    async with conn.transaction():
        found = await (await conn.execute(block("shadow", "has_key"), {"relation": design.shadow_label})).fetchone()
        if found and found["there"]:
            return False
        await conn.execute(shadow_rows.clear_journalled(design))
        for statement in (
            *before,
            *shadow.key(design),
            shadow_rows.drain_function(design, migration_id),
            *shadow_reverse.policies(design),
            *shadow_sync.functions(design, plan, migration_id, shadow_sync.Form.MIRROR),
        ):
            await conn.execute(statement.sql)
        await reach("batch.before_commit")
    return True


async def hung(conn: Connection, design: ShadowDesign) -> Hung:
    """Read what hangs on an anchor, as it is now; definitions speak of the table by the name that clients know."""
    named = {"schema": design.schema_name, "table": design.anchor_name}
    early = conn.info.server_version < IDENTITIES
    (about,) = await _rows(conn, "about", named)
    oid = {"oid": about["oid"]}
    found: dict[str, list[HungConstraint]] = {"inbound": [], "outbound": [], "check": []}
    for row in await _rows(conn, "constraints", oid):
        constraint = HungConstraint(
            schema_name=row["schema"],
            table=design.table if (row["schema"], row["table"]) == tuple(named.values()) else row["table"],
            name=row["name"],
            definition=_of(design, row, " REFERENCES ", "written", "(")
            if row["kind"] == "inbound"
            else row["definition"],
            valid=row["valid"],
            target=(row["target_schema"], row["target"]) if row["target"] else None,
            refers_to=tuple(row["refers_to"]),
        )
        found[row["kind"]].append(constraint)
    return Hung(
        owner=about["owner"],
        key=about["key"],
        comment=about["comment"],
        inbound=tuple(found["inbound"]),
        outbound=(*found["check"], *found["outbound"]),
        triggers=tuple(
            (row["name"], _of(design, row, " ON ", "relation", " "), row["enabled"])
            for row in await _rows(conn, "triggers", oid)
        ),
        numbering=tuple(
            Numbering(
                column=row["column"],
                identity=row["identity"].strip(),
                schema_name=row["schema"],
                name=row["name"],
                step=row["step"],
                cache=row["cache"],
                start=row["start"],
                smallest=row["smallest"],
                largest=row["largest"],
                cycle=row["cycle"],
                by_default=bool(row["identity"].strip()) and design.partition_by is not None and early,
            )
            for row in await _rows(conn, "sequence", oid)
        ),
    )


def _of(design: ShadowDesign, row: dict[str, Any], before: str, name: str, behind: str) -> str:
    """Give a definition with the anchor's present name, which PostgreSQL has written there, replaced by its own."""
    return str(row["definition"]).replace(f"{before}{row[name]}{behind}", f"{before}{design.label}{behind}", 1)


async def _rows(conn: Connection, name: LiteralString, values: dict[str, Any]) -> list[dict[str, Any]]:
    return await (await conn.execute(block("shadow_final", name), values)).fetchall()
