"""Scenario 11: SET col = NULL, a primary key update, DELETE, TRUNCATE, COPY, ON CONFLICT and MERGE are mirrored or refused.

During the backfill, in rows that are filled already and in rows that are not; after publication and after cutover, through the base
table and both versions' views. What PostgreSQL does not do through a view (COPY, TRUNCATE, before 17 MERGE) is refused as ever,
before commit.
"""

from typing import Any

import pytest
from psycopg import sql
from support.holding import held_at
from support.mutants import WAY_BACK_LOOKS, Clause, Code, Mutant, must_fail
from support.plans import NAME, replace
from support.ways import ROWS, TABLES, Writer
from support.worlds import World, on_newest

from pgduet.operations import design, sync
from pgduet.operations.names import physical_column
from pgduet.phases import Phase

STARS = sql.Identifier(physical_column(NAME, "stars"))
POLICY: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0},
    "gates": {"verify": "manual", "shadow": "manual"},
}
NOT_MIRRORED = "a write is not mirrored"

NULL_SAFE = Code(
    "a change to or from NULL is a change", design.image_differs, '"({} IS DISTINCT FROM {})"', '"({} <> {})"'
)
EMPTY_IS_MEANT = Clause(
    "what a new client leaves empty is meant, by the insert marker",
    "sync",
    "insert_mapping",
    "NEW.{marker} IS DISTINCT FROM {by_view} AND ",
)
INSERTS_FIRE = Code("inserts fire the sync as well", sync.triggers, 'sql.SQL("INSERT")', 'sql.SQL("UPDATE OF id")')


async def both_sides(world: World) -> list[tuple[int, int | None, int | None]]:
    """Read all rows, as each representation has them."""
    query = sql.SQL("SELECT id, rating::int, {} FROM public.reviews ORDER BY id").format(STARS)
    return await world.rows(query.as_string())


async def written_in_every_way(world: World) -> None:
    """Write in every way during the backfill, after publication and after cutover; both representations must know."""
    stage = world.stage
    await world.conn.execute(TABLES.format(rows=ROWS).encode())
    writer = Writer(world.conn, world.server.version)
    column = {"name": "stars", "type": "int", "up": "rating::int"}
    operations = [replace(f"public.{name}", {"rating": "stars::text"}, column) for name in ("reviews", "trash")]
    async with stage.worker():
        async with held_at("batch.after_commit") as there:
            await stage.start(stage.plan(*operations, **POLICY))
            await there()
            assert await half_way(world)
            await writer.write("public", 10, 50_000)
            await writer.write("public", ROWS - 20, 50_100)
            touched = [row for row in await both_sides(world) if row[0] in writer.touched]
            assert {key: (rating, stars) for key, rating, stars in touched} == {
                key: (writer.known[key], writer.known[key]) for key in writer.touched if key in writer.known
            }, NOT_MIRRORED
        await stage.waits("gate", Phase.BACKFILL)
        await all_is_mirrored(world, writer)
        await stage.act("advance")
        await stage.waits("gate", Phase.VERIFY)
        await written_through_all(world, writer, at=100)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await written_through_all(world, writer, at=200)


async def written_through_all(world: World, writer: Writer, at: int) -> None:
    """Write through the table and both versions, and look at all of it."""
    for number, schema in enumerate(("public", "public_v1", "public_v2")):
        await writer.write(schema, at + 20 * number, 1000 * (at + number))
    await all_is_mirrored(world, writer)
    new = await world.rows("SELECT id, stars FROM public_v2.reviews")
    assert dict(new) == writer.known, NOT_MIRRORED
    assert await world.rows("SELECT id, stars FROM public_v2.trash ORDER BY id") == [(1, 5), (2, None)]
    assert (await world.stage.act("verify")).message.startswith("0 of ")


async def half_way(world: World) -> bool:
    """Tell whether some rows are filled and some are not."""
    query = sql.SQL("SELECT count({0}) > 0 AND count({0}) < count(*) FROM public.reviews").format(STARS)
    return bool(await world.one(query.as_string()))


async def all_is_mirrored(world: World, writer: Writer) -> None:
    """Compare every row with what must be there, in both representations."""
    wanted = sorted((key, value, value) for key, value in writer.known.items())
    assert await both_sides(world) == wanted, NOT_MIRRORED


async def test_every_way_of_writing_reaches_the_other_version_or_is_refused(world: World) -> None:
    await written_in_every_way(world)


@on_newest
@pytest.mark.parametrize("mutant", [NULL_SAFE, EMPTY_IS_MEANT, INSERTS_FIRE], ids=lambda mutant: mutant.name)
async def test_without_the_clause_a_way_is_missed(world: World, mutant: Mutant) -> None:
    await must_fail(written_in_every_way(world), mutant, WAY_BACK_LOOKS, says=NOT_MIRRORED)
