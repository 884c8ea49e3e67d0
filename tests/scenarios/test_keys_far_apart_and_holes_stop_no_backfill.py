"""Scenario 8: ids {1, 100000}, empty ranges, a range that is filled already, the last id deleted; all filled, no early stop.

Besides, mid-way: a table that is truncated, and one that is rewritten; and one that was empty from the start. All in one plan.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from psycopg import sql
from support.mutants import Clause, Code, must_fail
from support.plans import NAME
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.operations.names import physical_column
from pgduet.phases import Phase
from pgduet.postgres.batches import FIRST_PAGES, Batches

ROWS = 3_000
"""About 100 pages: more than the first batch reads, and the first hole is wider than that."""
HOLE = 1_500
STARS = sql.Identifier(physical_column(NAME, "stars"))
TABLES = ("far", "holes", "filled", "last_gone", "nothing", "emptied", "rewritten")
SETUP = """
DELETE FROM far WHERE id > 2;
UPDATE far SET id = 100000 WHERE id = 2;
DELETE FROM holes WHERE id <= {hole} OR id BETWEEN 2000 AND 2500;
DELETE FROM rewritten WHERE id <= {hole};
TRUNCATE nothing;
"""
MIDWAY = {
    "last_gone": ("DELETE FROM last_gone WHERE id > 2500", "VACUUM last_gone"),
    "emptied": ("TRUNCATE emptied", "INSERT INTO emptied (id, rating) SELECT i, '2' FROM generate_series(1, 50) i"),
    "rewritten": ("VACUUM FULL rewritten",),
}
LEFT = {"far": 2, "holes": 999, "filled": 3000, "last_gone": 2500, "nothing": 0, "emptied": 50, "rewritten": 1500}
POLICY: dict[str, Any] = {"backfill": {"parallelism": 1}, "gates": {"backfill": "manual", "verify": "manual"}}

GOES_ON = Code(
    "a batch with nothing to fill is no end",
    Batches._committed,
    "self.cursor = last",
    "self.cursor = last if count else self.end",
)
KNOWS_ITS_FILE = Clause(
    "a cursor holds for the file that it was counted in only",
    "store",
    "range_advance",
    "WHEN relfilenode = pg_relation_filenode({relation}::regclass)",
    "WHEN true",
)
SKIPPED = "rows were skipped"


@dataclass
class Midway:
    """Does to each table what is to be done between two of its batches, once."""

    world: World
    done: list[str] = field(default_factory=list)

    async def __call__(self) -> None:
        """Look which tables are half way."""
        half_way = """
            SELECT relation FROM pgduet.backfill_range WHERE cursor_block > 0 AND cursor_block < block_to ORDER BY relation
        """
        for (relation,) in await self.world.rows(half_way):
            name = relation.split(".")[1].strip('"')
            if name in MIDWAY and name not in self.done:
                self.done.append(name)
                for statement in MIDWAY[name]:
                    await self.world.conn.execute(statement.encode())


async def made(world: World) -> None:
    """Create the tables; the fillfactor leaves room, so that rows stay on their pages."""
    for name in TABLES:
        table = sql.Identifier("public", name)
        await world.conn.execute(
            sql.SQL(
                "CREATE TABLE {} (id bigint PRIMARY KEY, rating text NOT NULL, note text) WITH (fillfactor = 70)"
            ).format(table)
        )
        await world.conn.execute(
            sql.SQL(
                "INSERT INTO {} SELECT i, (i % 5 + 1)::text, repeat('n', 150) FROM generate_series(1, {}) i"
            ).format(table, ROWS)
        )
    await world.conn.execute(SETUP.format(hole=HOLE).encode())


async def unfilled(world: World) -> dict[str, list[int]]:
    """Find rows without stars, by table."""
    query = sql.SQL("SELECT id FROM {} WHERE {} IS DISTINCT FROM rating::int ORDER BY id LIMIT 5")
    found = {name: await world.rows(query.format(sql.Identifier("public", name), STARS).as_string()) for name in TABLES}
    return {name: [row[0] for row in rows] for name, rows in found.items() if rows}


async def all_shapes_are_filled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backfill all tables, three of which change under way."""
    await made(world)
    midway = Midway(world)
    monkeypatch.setitem(barriers.HOOKS, "batch.after_commit", midway)
    column = {"name": "stars", "type": "int", "up": "rating::int"}
    operations = [{"add_column": {"table": f"public.{name}", "column": column}} for name in TABLES]
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(*operations, **POLICY))
        await world.stage.waits("gate", Phase.DUAL_WRITE)
        await world.conn.execute("UPDATE filled SET note = note WHERE id <= %s", (HOLE,))
        await world.stage.act("advance")
        await world.stage.waits("gate", Phase.BACKFILL)
    assert sorted(midway.done) == sorted(MIDWAY), f"a table has no more than {FIRST_PAGES} pages"
    assert await unfilled(world) == {}, SKIPPED
    assert {name: await world.one(f"SELECT count(*) FROM public.{name}") for name in TABLES} == LEFT
    written = "SELECT rows_done FROM pgduet.backfill_range WHERE relation LIKE %s"
    assert await world.one(written, ("%filled%",)) == ROWS - HOLE, "what is filled is not written again"


async def test_every_row_is_filled_whatever_the_keys_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await all_shapes_are_filled(world, monkeypatch)


@on_newest
@pytest.mark.parametrize("mutant", [GOES_ON, KNOWS_ITS_FILE], ids=lambda mutant: mutant.name)
async def test_without_the_clause_rows_are_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch, mutant: Clause | Code
) -> None:
    await must_fail(all_shapes_are_filled(world, monkeypatch), mutant, says=SKIPPED)
