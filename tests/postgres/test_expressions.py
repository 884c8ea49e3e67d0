"""A plan's expressions as PostgreSQL understands them: any name, any quoting, the same meaning under any search_path."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.mechanics import Mechanics, mechanics
from support.plans import replace

from pgduet.errors import ExpressionInvalid, ExpressionVolatile, UnknownColumn
from pgduet.operations.expressions import Question
from pgduet.phases import SyncMode
from pgduet.postgres.databases import Database
from pgduet.postgres.expressions import analyse, canonical_type
from pgduet.postgres.session import Connection, session

SCOPE = {
    "a": "integer",
    "b": "text",
    "Upper": "integer",
    "with space": "text",
    'quo"te': "text",
    "größe": "numeric(10,2)",
    "percent%s": "integer",
    "x" * 63: "integer",
    "doc": "json",
    "select": "integer",
}


@pytest.fixture
async def bare(dsn: str) -> AsyncIterator[Connection]:
    """Give a session with the role's own search_path, as preflight has it."""
    async with session(Database("shop", dsn), "test", bare=True) as conn:
        yield conn


def question(source: str, into: str = "text") -> Question:
    """Ask over all the odd columns."""
    return Question(("operations", 0, "up"), source, SCOPE, into, "public.odd")


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("a + 1", ("a",)),
        ("a % 7", ("a",)),
        ("b LIKE '%s%%'", ("b",)),
        ("b || ' it''s %(x)s {} {b} \" $1 ; -- '", ("b",)),
        ("'a.b ' || b", ("b",)),
        ('"Upper" + A', ("Upper", "a")),
        ('"with space" || "quo""te"', ("with space", 'quo"te')),
        ('"größe" * 2', ("größe",)),
        ("größe::int", ("größe",)),
        ('"percent%s" % 3', ("percent%s",)),
        ("x" * 63 + " / 2", ("x" * 63,)),
        ("doc ->> 'k'", ("doc",)),
        ('"select" + 1', ("select",)),
        ("CASE WHEN a > 0 THEN b ELSE 'no' END", ("a", "b")),
        ("coalesce(nullif(b, ''), a::text)", ("b", "a")),
        ("substring(b from '^[0-9]+')::int", ("b",)),
        ("(SELECT_IS_A_NAME.a) FROM", None),
        ("a -- a comment", ("a",)),
        ("a /* a comment */ + 1", ("a",)),
        ("$q$dollar 'quoted'$q$ || b", ("b",)),
        ("E'tab\\t' || b", ("b",)),
        ("' AS _pgduet_value ' || b", ("b",)),
        ("extract(year from make_date(a, 1, 1))::int", ("a",)),
        ("5", ()),
    ],
)
async def test_the_columns_of_an_expression_are_found(
    bare: Connection, source: str, columns: tuple[str, ...] | None
) -> None:
    if columns is None:
        with pytest.raises(ExpressionInvalid):
            await analyse(bare, question(source))
        return
    expression = await analyse(bare, question(source))
    assert set(expression.columns) == set(columns)
    row = sql.SQL(", ").join(
        sql.SQL("NULL::{} AS {}").format(sql.SQL(kind), sql.Identifier(name)) for name, kind in SCOPE.items()
    )  # type: ignore[arg-type]
    query = sql.SQL("SELECT {} AS value FROM (SELECT {}) AS t").format(expression.over(sql.SQL("t")), row)
    await bare.execute("SET search_path = ''")
    assert len(await (await bare.execute(query)).fetchall()) == 1


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("'100 %' || a", "100 %7"),
        ("a % 4", "3"),
        ("b || ' it''s %(x)s {}'", "bee it's %(x)s {}"),
        ("' AS _pgduet_value ' || b", " AS _pgduet_value bee"),
        ("replace(b, 'e', 'E\\')", "bE\\E\\"),
    ],
)
async def test_an_expression_means_what_it_says(bare: Connection, source: str, value: str) -> None:
    expression = await analyse(bare, question(source))
    query = sql.SQL("SELECT {}::text AS value FROM (SELECT 7 AS a, 'bee'::text AS b) AS t").format(
        expression.over(sql.SQL("t"))
    )
    assert await (await bare.execute(query)).fetchall() == [{"value": value}]


async def test_a_function_is_found_whatever_search_path_a_client_has(bare: Connection) -> None:
    await bare.execute("CREATE SCHEMA app")
    await bare.execute("CREATE FUNCTION app.twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1'")
    await bare.execute("CREATE OPERATOR app.## (LEFTARG = integer, RIGHTARG = integer, PROCEDURE = int4mul)")
    await bare.execute("SET search_path = app, public")
    expression = await analyse(bare, question("twice(a) ## 3"))
    await bare.execute("SET search_path = ''")
    query = sql.SQL("SELECT {} AS value FROM (SELECT 7 AS a) AS t").format(expression.over(sql.SQL("t")))
    assert await (await bare.execute(query)).fetchall() == [{"value": "42"}]


@pytest.mark.parametrize(
    "source",
    ["random()::text", "now()::text", "current_date::text", "clock_timestamp()::text", "gen_random_uuid()::text",
     "nextval('s')::text", "b || random()", "localtimestamp::text", "current_user::text"],
)  # fmt: skip
async def test_what_gives_another_value_each_time_is_refused(bare: Connection, source: str) -> None:
    await bare.execute("CREATE SEQUENCE public.s")
    with pytest.raises(ExpressionVolatile) as caught:
        await analyse(bare, question(source))
    assert caught.value.snippet == source
    assert caught.value.hint


async def test_a_users_volatile_function_is_refused_and_a_stable_one_is_known_as_such(bare: Connection) -> None:
    await bare.execute("CREATE FUNCTION public.v(int) RETURNS text LANGUAGE sql AS 'SELECT $1::text'")
    await bare.execute("CREATE FUNCTION public.s(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1::text'")
    with pytest.raises(ExpressionVolatile):
        await analyse(bare, question("v(a)"))
    assert not (await analyse(bare, question("s(a)"))).immutable
    assert (await analyse(bare, question("a + 1", "integer"))).immutable


@pytest.mark.parametrize(
    ("source", "immutable"),
    [("a::text", True), ("b || '-' || a::text", True), ("a::text::numeric", True), ("day::text", False)],
)
async def test_a_cast_by_text_depends_on_settings_by_the_types_that_it_meets_alone(
    bare: Connection, source: str, *, immutable: bool
) -> None:
    asked = Question(("operations", 0, "up"), source, SCOPE | {"day": "date"}, "text", "public.odd")
    assert (await analyse(bare, asked)).immutable is immutable


@pytest.mark.parametrize(
    "source",
    ["count(*)", "sum(a)::text", "(SELECT 1)::text", "row_number() OVER ()", "generate_series(1, 2)",
     "a), (b", "a; SELECT 1", "1) FROM pg_class; DROP TABLE t; --", "", "a b c", "a,", "*", "t.*"],
)  # fmt: skip
async def test_what_is_no_expression_over_one_row_is_refused(bare: Connection, source: str) -> None:
    with pytest.raises((ExpressionInvalid, UnknownColumn)):
        await analyse(bare, question(source))


async def test_a_caret_stands_under_the_spot_in_the_line_where_it_is(bare: Connection) -> None:
    with pytest.raises(UnknownColumn) as caught:
        await analyse(bare, question("a +\n  größe + nonesuch", "numeric"))
    assert caught.value.snippet == "  größe + nonesuch\n          ^"
    with pytest.raises(UnknownColumn) as caught:
        await analyse(bare, question("uper + 1", "integer"))
    assert caught.value.message.startswith('column "uper" does not exist in public.odd.')


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("int", "integer"),
        ("varchar(20)", "character varying(20)"),
        ("numeric(10,2)", "numeric(10,2)"),
        ("timestamptz(3)", "timestamp(3) with time zone"),
        ("text[]", "text[]"),
        ("json", "json"),
        ('"char"', '"char"'),
    ],
)
async def test_a_types_name_is_postgresqls_own(bare: Connection, name: str, canonical: str) -> None:
    assert await canonical_type(bare, name) == canonical


@pytest.mark.parametrize("name", ["starz", "int, 1", "int; DROP TABLE x", "", "int AS a, 2"])
async def test_what_is_no_type_is_refused(bare: Connection, name: str) -> None:
    with pytest.raises(ExpressionInvalid):
        await canonical_type(bare, name)


SCHEMA = '"Odd ""Schema"""'
ODD = SCHEMA + '."Täble %s {x}"'
ODD_TABLE = (
    f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {ODD}"
    """ (
    "Key %s" text, "k2" int, "Größe %" text NOT NULL, "doc's" json, price numeric(10,2), code varchar(5),
    "sixty-three bytes long, as long as a name can be in PostgreSQL." text,
    PRIMARY KEY ("Key %s", "k2")
);"""
    f"INSERT INTO {ODD} "
    """
SELECT 'k''' || i, i, i || ' %s {} ''', json_build_object('i', i), i / 3.0, 'c' || i % 1000, 'long ' || i
FROM generate_series(1, 500) i
"""
)


async def odd_round_trip(m: Mechanics, conn: psycopg.AsyncConnection[Any]) -> None:
    """Go through every form with writes on both sides, and find both in step."""
    await m.published()
    assert (await m.compare()).mismatches == 0
    view = '"Odd ""Schema""_v2"."Täble %s {x}"'
    await conn.execute(f'UPDATE {view} SET "Neu %s" = \'new % value\' WHERE "k2" = 1'.encode())
    await conn.execute(f'UPDATE {ODD} SET "Größe %" = \'old %% value\' WHERE "k2" = 2'.encode())
    await conn.execute(f"INSERT INTO {view} (\"Key %s\", k2, \"Neu %s\") VALUES ('new', 1, 'N')".encode())
    await m.install(SyncMode.ENFORCE)
    await conn.execute(f"INSERT INTO {ODD} (\"Key %s\", k2, \"Größe %\") VALUES ('old', 1, 'O')".encode())
    parity = await m.compare()
    assert (parity.rows, parity.mismatches, parity.violations) == (502, 0, 0)
    cursor = await conn.execute(f'SELECT "Größe %" FROM {ODD} WHERE k2 = 1 ORDER BY "Key %s"'.encode())
    assert await cursor.fetchall() == [("new % value",), ("N",), ("O",)]


async def test_any_name_goes_all_the_way(dsn: str, conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute(ODD_TABLE.encode())
    operation = replace(
        ODD,
        {"Größe %": '"Neu %s"'},
        {"name": "Neu %s", "type": "text", "nullable": False, "up": '"Größe %"', "comment": "100 % 'new' {x}"},
    )
    async with mechanics(dsn, operation, name="p" * 63) as m:
        await odd_round_trip(m, conn)


OTHERS = {
    "json": ({"doc's": "data::json"}, {"name": "data", "type": "json", "up": '"doc\'s"'}),
    "json to jsonb": ({"doc's": "data::json"}, {"name": "data", "type": "jsonb", "up": '"doc\'s"::jsonb'}),
    "numeric": ({"price": "cents / 100.0"}, {"name": "cents", "type": "int", "up": "(price * 100)::int"}),
    "to numeric": ({"price": "cost"}, {"name": "cost", "type": "numeric(12,1)", "up": "price"}),
    "varchar": ({"code": "short"}, {"name": "short", "type": "varchar(10)", "up": "code"}),
    "varchar array": (
        {"code": "shorts[1]"},
        {"name": "shorts", "type": "varchar(10)[]", "up": "CASE WHEN code IS NOT NULL THEN ARRAY[code] END"},
    ),
    "char array": (
        {"code": "rtrim(fixed[1])"},
        {"name": "fixed", "type": "char(8)[]", "up": "CASE WHEN code IS NOT NULL THEN ARRAY[code] END"},
    ),
    "char": ({"code": "rtrim(fixed)"}, {"name": "fixed", "type": "char(8)", "up": "code"}),
    "a long name": (
        {"sixty-three bytes long, as long as a name can be in PostgreSQL.": "another_name_of_sixty_three_bytes_" + "x" * 29},
        {"name": "another_name_of_sixty_three_bytes_" + "x" * 29, "type": "text",
         "up": '"sixty-three bytes long, as long as a name can be in PostgreSQL."'},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
async def test_any_type_is_filled_compared_and_kept_in_step(
    dsn: str, conn: psycopg.AsyncConnection[Any], kind: str
) -> None:
    await conn.execute(ODD_TABLE.encode())
    down, column = OTHERS[kind]
    async with mechanics(dsn, replace(ODD, down, column)) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        assert await m.backfill() == 500
        assert await m.backfill() == 0, "what is filled stays as it is"
        assert (await m.compare(SyncMode.FILL)).mismatches == 0
        await m.install(SyncMode.BOTH)
        await m.publish()
        assert (await m.compare()).mismatches == 0
        await conn.execute(f"UPDATE {ODD} SET price = price + 1, code = 'z', \"doc's\" = '[1]' WHERE k2 < 10".encode())
        assert (await m.compare()).mismatches == 0


async def test_a_length_is_a_limit_and_cuts_nothing(dsn: str, conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute("CREATE TABLE public.codes (id int PRIMARY KEY, code text NOT NULL)")
    await conn.execute("INSERT INTO public.codes VALUES (1, 'abc')")
    operation = replace(
        "public.codes", {"code": "short"}, {"name": "short", "type": "varchar(3)", "up": "code", "nullable": False}
    )
    async with mechanics(dsn, operation) as m:
        await m.published()
        await conn.execute("UPDATE public.codes SET code = 'abcd' WHERE id = 1")
        assert await m.rows(f'SELECT "{m.physical("short")}" FROM public.codes') == [(None,)]
        assert await m.drift() == [({"id": 1}, "unmapped")]
        await m.install(SyncMode.ENFORCE)
        with pytest.raises(psycopg.errors.StringDataRightTruncation):
            await conn.execute("UPDATE public.codes SET code = 'abcde' WHERE id = 1")
