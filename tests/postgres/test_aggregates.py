"""Declared aggregates come out the same on both sides, in one snapshot; groups that do not are named."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgduet.operations.aggregates import Aggregate, Measured, differences
from pgduet.operations.expressions import Expression

Connection = psycopg.AsyncConnection[Any]


def of(text: str) -> Expression:
    return Expression(source=text, canonical=text, alias="r")


def measured(table: str, value: str | None = None, kind: str = "", *groups: str) -> Measured:
    return Measured(
        relation=("public", table), value=of(value) if value else None, type=kind, groups=tuple(of(g) for g in groups)
    )


async def make(conn: Connection) -> None:
    await conn.execute("CREATE TABLE old (id int PRIMARY KEY, cents int, shop text, ratio float8, at timestamptz)")
    await conn.execute(
        'CREATE TABLE new (id int PRIMARY KEY, "am %s.ount" numeric(10,2), shop text, ratio float8, at timestamptz)'
    )
    await conn.execute(
        """INSERT INTO old SELECT i, i * 3, CASE i % 4 WHEN 0 THEN NULL ELSE 'shop ' || i % 4 END, 1e16 / i,
        '2026-01-01'::timestamptz + i * interval '1 h' FROM generate_series(1, 100) i"""
    )
    await conn.execute("INSERT INTO new SELECT id, cents / 100.0, shop, ratio, at FROM old ORDER BY id DESC")


async def differing(conn: Connection, aggregate: Aggregate, limit: int = 20) -> list[tuple[Any, ...]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(differences(aggregate, limit))
        return [(row["groups"], row["old"], row["new"]) for row in await cursor.fetchall()]


COUNT = Aggregate(name="rows", measure="count", old=measured("old"), new=measured("new"))
BY_SHOP = Aggregate(
    name="rows of a shop",
    measure="count",
    old=measured("old", None, "", "r.shop"),
    new=measured("new", None, "", "r.shop"),
)
SUM = Aggregate(
    name="turnover",
    measure="sum",
    old=measured("old", "r.cents / 100.0", "numeric", "r.shop"),
    new=measured("new", 'r."am %s.ount"', "numeric", "r.shop"),
)
RATIO = Aggregate(
    name="ratios",
    measure="sum",
    old=measured("old", "r.ratio", "double precision"),
    new=measured("new", "r.ratio", "double precision"),
)
LAST = Aggregate(
    name="last",
    measure="max",
    old=measured("old", "r.at", "timestamp with time zone", "r.shop"),
    new=measured("new", "r.at", "timestamp with time zone", "r.shop"),
)
FIRST = LAST.model_copy(update={"measure": "min"})
ALL = (COUNT, BY_SHOP, SUM, RATIO, LAST, FIRST)


async def test_sides_that_agree_have_no_group_that_differs(conn: Connection) -> None:
    await make(conn)
    for aggregate in ALL:
        assert await differing(conn, aggregate) == [], aggregate.name
    await conn.execute("TRUNCATE old, new")
    for aggregate in ALL:
        assert await differing(conn, aggregate) == [], aggregate.name


async def test_the_groups_that_differ_are_named_with_what_each_side_has(conn: Connection) -> None:
    await make(conn)
    await conn.execute('UPDATE new SET "am %s.ount" = "am %s.ount" + 0.01 WHERE id = 1')
    assert [groups for groups, _, _ in await differing(conn, SUM)] == [["shop 1"]]
    await conn.execute("DELETE FROM new WHERE id IN (2, 4)")
    assert await differing(conn, COUNT) == [([], "100", "98")]
    assert await differing(conn, BY_SHOP) == [([None], "25", "24"), (["shop 2"], "25", "24")]
    await conn.execute("UPDATE new SET at = at + interval '1 us' WHERE id = 99")
    assert [groups for groups, _, _ in await differing(conn, LAST)] == [["shop 3"]]
    await conn.execute("UPDATE old SET ratio = ratio + 1e14 WHERE id = 50")
    assert len(await differing(conn, RATIO)) == 1


async def test_a_group_that_one_side_lacks_differs_even_if_nothing_is_measured_in_it(conn: Connection) -> None:
    await make(conn)
    await conn.execute("INSERT INTO old (id, shop) VALUES (1000, 'closed')")
    await conn.execute("INSERT INTO new (id, shop) VALUES (1001, NULL), (1002, 'opened')")
    assert await differing(conn, SUM) == [(["closed"], None, None), (["opened"], None, None)]
    assert await differing(conn, SUM, 1) == [(["closed"], None, None)]


async def test_groups_are_the_same_whatever_their_scale_or_integer_type(conn: Connection) -> None:
    await conn.execute("CREATE TABLE old (g numeric(10,2), h int)")
    await conn.execute("CREATE TABLE new (g numeric(10,4), h bigint)")
    await conn.execute("INSERT INTO old VALUES (1.5, 7), (NULL, NULL)")
    await conn.execute("INSERT INTO new SELECT * FROM old")
    both = (measured(table, None, "", "r.g", "r.h") for table in ("old", "new"))
    assert await differing(conn, Aggregate(name="n", measure="count", old=next(both), new=next(both))) == []


async def test_a_wrong_up_and_down_that_agree_with_each_other_are_found(conn: Connection) -> None:
    await make(conn)
    await conn.execute('UPDATE new SET "am %s.ount" = (SELECT cents FROM old WHERE old.id = new.id) / 1000.0')
    assert len(await differing(conn, SUM)) == 4
