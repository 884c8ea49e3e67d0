"""What counts as the same value, type by type, in both directions: what a client could tell apart is a difference."""

from typing import Any

import psycopg
from support.twins import twins

Connection = psycopg.AsyncConnection[Any]
Pair = tuple[str, str | None, str, str | None]

SAME: list[Pair] = [
    ("numeric(10,2)", "1.5", "numeric(12,4)", "1.5000"),
    ("numeric", "1.000", "numeric", "1"),
    ("int", "7", "numeric(10,3)", "7.000"),
    ("int", "7", "bigint", "7"),
    ("float8", "-0.0", "float8", "0.0"),
    ("float8", "NaN", "float8", "NaN"),
    ("float4", "0.1", "float8", "0.10000000149011612"),
    ("float8", "0.1", "float4", "0.1"),
    ("numeric", "NaN", "numeric", "NaN"),
    ("jsonb", '{"b": 1.0, "a": [1, 2]}', "jsonb", '{"a": [1, 2], "b": 1.00}'),
    ("json", '{"b": 1,  "a": 2}', "json", '{"a":2,"b":1}'),
    ("json", '{"b": 1, "a": 2}', "jsonb", '{"a": 2, "b": 1}'),
    ("json", '{"a": "\\u0000"}', "json", '{"a": "\\u0000"}'),
    ("timestamptz", "2026-07-01 12:00+02", "timestamptz", "2026-07-01 10:00+00"),
    ("timestamptz", "infinity", "timestamptz", "infinity"),
    ("timestamp(6)", "2026-07-01 12:00:00.000000", "timestamp(3)", "2026-07-01 12:00:00"),
    ("varchar(5)", "abc", "text", "abc"),
    ("char(5)", "ab", "char(5)", "ab   "),
    ('text COLLATE "C"', "é", "text", "é"),
    ("text[]", "{a,NULL,b}", "text[]", "{a,NULL,b}"),
    ("numeric[]", "{1.0,2.50}", "numeric[]", "{1,2.5}"),
    ("int[]", "{}", "bigint[]", "{}"),
    ("json[]", '{"{\\"a\\": 1}"}', "json[]", '{"{\\"a\\": 1}"}'),
    ("point", "(1,2)", "point", "(1,2)"),
    ("interval", "1 day 02:00", "interval", "1 day 2 hours"),
    ("tsvector", "'b' 'a'", "tsvector", "'a' 'b'"),
    ("bytea", "\\x00ff", "bytea", "\\x00ff"),
    ("bit(3)", "101", "bit(3)", "101"),
    ("money", "1.5", "money", "1.50"),
    ("inet", "10.0.0.1", "inet", "10.0.0.1/32"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("numrange", "[1.0,2]", "numrange", "[1,2.0]"),
    ("int4range", "[1,3]", "int4range", "[1,4)"),
    ("mood", "sad", "mood", "sad"),
    ("pair", '(1,"x")', "pair", "(1,x)"),
    ("cents", "1.50", "numeric(8,3)", "1.500"),
    ("text", None, "text", None),
    ("json", None, "json", None),
]

DIFFERENT: list[Pair] = [
    ("numeric", "1.001", "numeric", "1.002"),
    ("numeric(10,4)", "1.2345", "numeric(10,2)", "1.25"),
    ("float8", "0.1", "float8", "0.10000000000000002"),
    ("float8", "0", "float8", "NaN"),
    ("float4", "0.1", "float8", "0.1"),
    ("jsonb", '{"a": null}', "jsonb", "{}"),
    ("jsonb", "[1, 2]", "jsonb", "[2, 1]"),
    ("json", '{"a": 1}', "json", '{"a": "1"}'),
    ("timestamptz", "2026-07-01 12:00+02", "timestamptz", "2026-07-01 12:00+00"),
    ("timestamp", "2026-07-01 12:00:00.000001", "timestamp", "2026-07-01 12:00:00"),
    ("timetz", "12:00+00", "timetz", "13:00+01"),
    ("text", "a", "text", "a "),
    ("text", "", "text", None),
    ('text COLLATE "C"', "a", "text", "A"),
    ("text", "e\u0301", "text", "é"),
    ("varchar(9)", "abcdefg", "varchar(3)", "abc"),
    ("text[]", "{a,b}", "text[]", "{b,a}"),
    ("int[]", "{1,2}", "int[]", "[0:1]={1,2}"),
    ("int[]", "{}", "int[]", None),
    ("text[]", "{NULL}", "text[]", '{"NULL"}'),
    ("box", "(0,0),(2,2)", "box", "(0,0),(4,1)"),
    ("point", "(1,2)", "point", "(1,2.0000000001)"),
    ("interval", "30 days", "interval", "1 mon"),
    ("interval", "24:00", "interval", "1 day"),
    ("bytea", "\\x00", "bytea", "\\x"),
    ("boolean", "false", "boolean", None),
    ("mood", "sad", "mood", "happy"),
    ("pair", "(1,)", "pair", '(1,"")'),
    ("json", None, "json", "null"),
]


async def compared(dsn: str, conn: Connection, pairs: list[Pair]) -> list[Pair]:
    """Give the pairs that are found to differ: each has two tables of its own."""
    await conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    await conn.execute("CREATE TYPE pair AS (a int, b text)")
    await conn.execute("CREATE DOMAIN cents AS numeric(10,2)")
    differing = []
    for number, pair in enumerate(pairs):
        for table, kind, value in (("old", *pair[:2]), ("new", *pair[2:])):
            await conn.execute(f"CREATE TABLE {table}_{number} (id int PRIMARY KEY, v {kind})".encode())
            bare = kind.partition(" COLLATE")[0]
            await conn.execute(f"INSERT INTO {table}_{number} VALUES (1, %s::{bare})".encode(), (value,))
        async with twins(dsn, ("public", f"old_{number}"), ("public", f"new_{number}")) as t:
            if found := await t.drifted():
                assert found == [("mismatch", {"id": 1})]
                differing.append(pair)
    return differing


async def test_one_value_kept_in_two_ways_is_no_difference(dsn: str, conn: Connection) -> None:
    assert await compared(dsn, conn, SAME) == []


async def test_one_value_is_no_difference_the_other_way_round_either(dsn: str, conn: Connection) -> None:
    turned = [(*pair[2:], *pair[:2]) for pair in SAME]
    assert await compared(dsn, conn, turned) == [("float4", "0.1", "float8", "0.1")], (
        "which is not 0.1 as float8 has it"
    )


async def test_two_values_that_can_be_told_apart_are_a_difference(dsn: str, conn: Connection) -> None:
    assert await compared(dsn, conn, DIFFERENT) == DIFFERENT


async def test_two_values_are_a_difference_the_other_way_round_as_well(dsn: str, conn: Connection) -> None:
    turned = [(*pair[2:], *pair[:2]) for pair in DIFFERENT]
    found = await compared(dsn, conn, turned)
    assert [pair for pair in turned if pair not in found] == [("float8", "0.1", "float4", "0.1")], (
        "float4 has no more digits"
    )


async def test_letters_that_a_collation_calls_equal_are_compared_by_their_bytes(dsn: str, conn: Connection) -> None:
    try:
        await conn.execute(
            "CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        # This build has no ICU, and so no collation that calls two texts equal: then the statement is all there is to see.
        await conn.execute('CREATE COLLATION careless (locale = "C")')
    for table, value in (("old", "a"), ("new", "A")):
        await conn.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v text COLLATE careless)".encode())
        await conn.execute(f"INSERT INTO {table} VALUES (1, '{value}')".encode())
    async with twins(dsn) as t:
        assert await t.drifted() == [("mismatch", {"id": 1})]
        assert t.comparison.mappings[0].up[0].how == "text"


async def test_a_generated_column_is_compared_and_never_written(dsn: str, conn: Connection) -> None:
    await conn.execute("CREATE TABLE old (id int PRIMARY KEY, v int, twice int)")
    await conn.execute("CREATE TABLE new (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED)")
    await conn.execute("INSERT INTO old VALUES (1, 5, 10), (2, 5, 11), (3, 1, 2)")
    await conn.execute("INSERT INTO new (id, v) VALUES (1, 4), (2, 5)")
    async with twins(dsn) as t:
        assert await t.drifted() == [("mismatch", {"id": 1}), ("mismatch", {"id": 2}), ("missing", {"id": 3})]
        await t.repair()
        assert await t.drifted() == [("mismatch", {"id": 2})], (
            "what is computed of wrong values cannot be put right here"
        )
