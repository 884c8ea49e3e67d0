"""Scenario 11, for a table that gets another shape: every way of writing reaches the other side, or is refused.

While rows are copied, of rows that are copied already and of rows that are not; after publication and after cutover, through the
table and both versions' views.
"""

from typing import Any

import pytest
from support.holding import held_at
from support.mutants import Clause, Mutant, must_fail
from support.ways import ROWS, TABLES, Writer
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

POLICY: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0},
    "gates": {"verify": "manual", "shadow": "manual"},
}
NOT_MIRRORED = "a write is not mirrored"
MENDED = "parity had to mend what was not noted"

BOTH_KEYS = Clause(
    "a row that changes its key is noted under both",
    "journal",
    "noted",
    "TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {key_changed}",
    "TG_OP = 'INSERT'",
)
TRUNCATED = Clause(
    "TRUNCATE is heard",
    "shadow",
    "truncate_published",
    "WHERE NOT EXISTS (SELECT",
    "WHERE false AND NOT EXISTS (SELECT",
)
FORTH_AND_BACK = Clause(
    "a new client's change is written to the table",
    "shadow",
    "write_keyless",
    "UPDATE {relation} AS o SET {assign_keyless} WHERE {o_is_old};",
    "PERFORM;",
)


def shadow(table: str) -> dict[str, Any]:
    """Give a table another shape: numbers in the place of texts."""
    return {
        "shadow_table": {
            "table": f"public.{table}",
            "columns": [{"name": "stars", "type": "int", "up": "rating::int"}],
            "replaces": ["rating"],
            "down": {"rating": "stars::text"},
        }
    }


async def both_sides(world: World, old: str, new: str) -> dict[int, tuple[int | None, int | None]]:
    """Read all rows, as each side has them."""
    rows = await world.rows(f"SELECT id, rating::int FROM {old}")
    found: dict[int, tuple[int | None, int | None]] = {key: (rating, -1) for key, rating in rows}
    for key, stars in await world.rows(f"SELECT id, stars FROM {new}"):
        found[key] = (found.get(key, (-1, -1))[0], stars)
    return found


async def written_in_every_way(world: World) -> None:
    """Write in every way while rows are copied, after publication and after cutover; both sides must know."""
    stage = world.stage
    await world.conn.execute(TABLES.format(rows=ROWS).encode())
    writer = Writer(world.conn, world.server.version)
    async with stage.worker():
        async with held_at("batch.after_commit") as there:
            await stage.start(stage.plan(shadow("reviews"), shadow("trash"), **POLICY))
            await there()
            await writer.write("public", 10, 50_000)
            await writer.write("public", ROWS - 20, 50_100)
        await stage.gets_to("gate", Phase.BACKFILL)
        await writer.write("public", 60, 50_200)
        await stage.act("advance")
        await stage.gets_to("gate", Phase.VERIFY)
        parity = (await stage.status()).parity
        assert parity is not None
        assert parity.repaired == 0, MENDED
        await all_is_mirrored(world, writer)
        await written_through_all(world, writer, at=100)
        await stage.act("advance")
        await stage.gets_to("window", Phase.SOAK)
        await written_through_all(world, writer, at=200)
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
        assert dict(await world.rows("SELECT id, rating::int FROM public.reviews")) == writer.known, NOT_MIRRORED


async def written_through_all(world: World, writer: Writer, at: int) -> None:
    """Write through the table and both versions, and look at all of it."""
    await world.conn.execute("INSERT INTO public.trash VALUES (50, '4')")  # until the next TRUNCATE
    for number, schema in enumerate(("public", "public_v1", "public_v2")):
        await writer.write(schema, at + 20 * number, 1000 * (at + number))
        await all_is_mirrored(world, writer)
    trash = await both_sides(world, "public.trash", "public_v2.trash")
    assert trash == {1: (5, 5), 2: (None, None)}, NOT_MIRRORED
    assert (await world.stage.act("verify")).message.startswith("0 of ")


async def all_is_mirrored(world: World, writer: Writer) -> None:
    """Compare every row with what must be there, on both sides."""
    wanted = {key: (value, value) for key, value in writer.known.items()}
    assert await both_sides(world, "public.reviews", "public_v2.reviews") == wanted, NOT_MIRRORED


async def test_every_way_of_writing_reaches_the_shadow_and_the_table_or_is_refused(world: World) -> None:
    await written_in_every_way(world)


@on_newest
@pytest.mark.parametrize(
    ("mutant", "says"),
    [(BOTH_KEYS, MENDED), (TRUNCATED, NOT_MIRRORED), (FORTH_AND_BACK, NOT_MIRRORED)],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_without_the_clause_a_way_is_missed(world: World, mutant: Mutant, says: str) -> None:
    await must_fail(written_in_every_way(world), mutant, says=says)
