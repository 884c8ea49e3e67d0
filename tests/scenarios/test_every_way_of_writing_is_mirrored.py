"""Scenario 11: SET col = NULL, a primary key update, DELETE, TRUNCATE, COPY, ON CONFLICT and MERGE are mirrored or refused.

During the backfill, in rows that are filled already and in rows that are not; after publication and after cutover, through the base
table and both versions' views. What PostgreSQL does not do through a view (COPY, TRUNCATE, before 17 MERGE) is refused as ever,
before commit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.holding import held_at
from support.mutants import WAY_BACK_LOOKS, Clause, Code, Mutant, must_fail
from support.plans import NAME, replace
from support.worlds import World, on_newest

from pgduet.operations import design, sync
from pgduet.operations.names import physical_column
from pgduet.phases import Phase

ROWS = 3_000
STARS = sql.Identifier(physical_column(NAME, "stars"))
TABLES = """
CREATE TABLE public.reviews (id bigint PRIMARY KEY, rating text DEFAULT '3', note text);
INSERT INTO public.reviews SELECT i, (i % 5 + 1)::text, repeat('n', 100) FROM generate_series(1, {rows}) i;
CREATE TABLE public.trash (id bigint PRIMARY KEY, rating text DEFAULT '3');
INSERT INTO public.trash SELECT i, '1' FROM generate_series(1, 100) i;
"""
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

Change = dict[int, int | None]


@dataclass(frozen=True)
class Way:
    """One statement, and what it does: `change` gets the first of the keys that it may touch, and of the new ones."""

    text: str
    change: Callable[[int, int], Change]
    gone: int | None = None


def was(key: int) -> int:
    return key % 5 + 1


WAYS = [
    Way("UPDATE reviews SET {column} = NULL WHERE id = {at}", lambda at, _: {at: None}),
    Way("UPDATE reviews SET {column} = NULL WHERE id = {at} + 1", lambda at, _: {at + 1: None}),
    Way("UPDATE reviews SET {column} = '4' WHERE id = {at} + 1", lambda at, _: {at + 1: 4}),
    Way("UPDATE reviews SET id = {new} WHERE id = {at} + 2", lambda at, new: {new: was(at + 2)}, gone=2),
    Way("UPDATE reviews SET id = {new} + 1, {column} = '1' WHERE id = {at} + 3", lambda _, new: {new + 1: 1}, gone=3),
    Way("DELETE FROM reviews WHERE id = {at} + 4", lambda *_: {}, gone=4),
    Way(
        "INSERT INTO reviews (id, {column}) VALUES ({at} + 5, '2'), ({new} + 2, '3')"
        " ON CONFLICT (id) DO UPDATE SET {column} = excluded.{column}",
        lambda at, new: {at + 5: 2, new + 2: 3},
    ),
    Way(
        "INSERT INTO reviews (id, {column}) VALUES ({at} + 6, '9'), ({new} + 3, '4') ON CONFLICT DO NOTHING",
        lambda _, new: {new + 3: 4},
    ),
    Way("INSERT INTO reviews (id, {column}) VALUES ({new} + 4, NULL)", lambda _, new: {new + 4: None}),
]
MERGES = [
    Way(
        "MERGE INTO reviews r USING (SELECT {at} + 7 AS id UNION ALL SELECT {new} + 5) s ON r.id = s.id"
        " WHEN MATCHED THEN UPDATE SET {column} = '5' WHEN NOT MATCHED THEN INSERT (id, {column}) VALUES (s.id, '1')",
        lambda at, new: {at + 7: 5, new + 5: 1},
    ),
    Way(
        "MERGE INTO reviews r USING (SELECT {at} + 8 AS id) s ON r.id = s.id WHEN MATCHED THEN DELETE",
        lambda *_: {},
        gone=8,
    ),
]


@dataclass
class Writer:
    """Writes in every way, and knows what must be there."""

    conn: psycopg.AsyncConnection[Any]
    version: int
    known: Change = field(default_factory=lambda: {key: was(key) for key in range(1, ROWS + 1)})
    touched: set[int] = field(default_factory=set)

    async def write(self, schema: str, at: int, new: int) -> None:
        """Write as a client of a schema: rows from `at` on, and new ones from `new` on."""
        column = "stars" if schema == "public_v2" else "rating"
        await self.conn.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
        for way in WAYS:
            await self._one(way, column, at, new)
        for way in MERGES:
            if schema == "public" or self.version >= 17:
                await self._one(way, column, at, new)
            else:
                await self._refused(way.text.format(column=column, at=at, new=new))
        if schema == "public":
            await self._copy(new + 6, column)
            await self.conn.execute("TRUNCATE trash; INSERT INTO trash (id, rating) VALUES (1, '5'), (2, NULL)")
        else:
            with pytest.raises(errors.WrongObjectType):
                await self._copy(new + 6, column)
            await self._refused("TRUNCATE reviews")
        await self.conn.execute("RESET search_path")

    async def _one(self, way: Way, column: str, at: int, new: int) -> None:
        await self.conn.execute(way.text.format(column=column, at=at, new=new).encode())
        change = way.change(at, new)
        if way.gone is not None:
            del self.known[at + way.gone]
        self.known |= change
        self.touched |= change.keys()

    async def _copy(self, key: int, column: str) -> None:
        query = sql.SQL("COPY reviews (id, {}) FROM STDIN").format(sql.Identifier(column))
        async with self.conn.cursor().copy(query) as copy:
            await copy.write(f"{key}\t2\n{key + 1}\t\\N\n")
        self.known |= {key: 2, key + 1: None}
        self.touched |= {key, key + 1}

    async def _refused(self, text: str) -> None:
        with pytest.raises((errors.WrongObjectType, errors.FeatureNotSupported)):
            await self.conn.execute(text.encode())


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
