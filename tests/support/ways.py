"""Every way in which a client writes rows: NULL, a change of the key, DELETE, TRUNCATE, COPY, ON CONFLICT, MERGE.

The writer knows what must be there afterwards. What PostgreSQL does not do through a view (COPY, TRUNCATE, before 17 MERGE) is
refused as ever, before commit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

ROWS = 3_000
TABLES = """
CREATE TABLE public.reviews (id bigint PRIMARY KEY, rating text DEFAULT '3', note text);
INSERT INTO public.reviews SELECT i, (i % 5 + 1)::text, repeat('n', 100) FROM generate_series(1, {rows}) i;
CREATE TABLE public.trash (id bigint PRIMARY KEY, rating text DEFAULT '3');
INSERT INTO public.trash SELECT i, '1' FROM generate_series(1, 100) i;
"""

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
