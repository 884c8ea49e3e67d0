"""What is certain of an expression, and what the sync triggers make of it: no EXCEPTION block where nothing can raise."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from support.mechanics import mechanics
from support.plans import create_reviews, replace

from pgduet.operations import rows
from pgduet.operations.column_design import without_length
from pgduet.operations.expressions import Expression, Question
from pgduet.operations.statement import trusted
from pgduet.phases import SyncMode
from pgduet.postgres.certain import CASTS, COMPARISONS, JOIN, MORE_COMPARISONS, TEXT_COMPARISONS, TRIMS, certain
from pgduet.postgres.databases import Database
from pgduet.postgres.expressions import analyse
from pgduet.postgres.session import Connection, session

SCOPE = {
    "i": "integer",
    "s": "smallint",
    "l": "bigint",
    "f": "boolean",
    "u": "uuid",
    "n": "numeric(10,2)",
    "wide": "numeric",
    "d": "date",
    "t": "text",
    "v": "character varying(20)",
    "w": "character varying(20)",
    "c": "character(5)",
    "many": "integer[]",
    "email": "public.email",
    "doc": "jsonb",
    "k": "public.kind",
}
V20, V200, TEXT = "character varying(20)", "character varying(200)", "text"

NEVER_RAISES = [
    ("t", TEXT),
    ("v", V20),
    ("n", "numeric(10,2)"),
    ("doc", "jsonb"),
    ("NULL", V20),
    ("'placeholder'", V20),
    ("'ten letters'", "character varying(11)"),
    ("CASE WHEN v IS NULL THEN 'placeholder' ELSE v END", V20),
    ("CASE i WHEN 1 THEN 'x' WHEN 2 THEN v END", V20),
    ("CASE t WHEN 'a' THEN 1 WHEN 'b' THEN 2 ELSE 0 END", "integer"),
    ("CASE WHEN d > '2020-01-01' AND NOT f THEN 1 ELSE 2 END", "bigint"),
    ("coalesce(v, w, 'none')", V20),
    ("coalesce(t, '')", TEXT),
    ("nullif(t, '')", TEXT),
    ("nullif(v, 'none')", V20),
    ("i", "bigint"),
    ("s", "integer"),
    ("l", "numeric"),
    ("i", "double precision"),
    ("i", TEXT),
    ("l", V20),
    ("u", "character varying(36)"),
    ("f", TEXT),
    ("f", "character varying(5)"),
    ("f::int", "integer"),
    ("c", TEXT),
    ("c", "character varying(5)"),
    ("i > l", "boolean"),
    ("i IS DISTINCT FROM s", "boolean"),
    ("f IS NOT TRUE", "boolean"),
    ("d >= '2020-01-01'", "boolean"),
    ("t IN ('a', 'b')", "boolean"),
    ("i = ANY (many)", "boolean"),
    ("btrim(v)", V20),
    ("ltrim(v, '0')", V20),
    ("v || ' ' || w", "character varying(41)"),
    ("v || i::text", V200),
    ("n >= 0", "boolean"),
    ("wide <> n AND wide > i", "boolean"),
    ("wide IN (1, 2.5)", "boolean"),
    ("k = 'a'", "boolean"),
    ("k IN ('a', 'b')", "boolean"),
    ("n * i", "numeric"),
    ("n * n - coalesce(n, l) + s", "numeric"),
    ("n * (n * i)", "numeric"),
]
MAY_RAISE = [
    ("t::int", "integer"),
    ("i + 1", "integer"),
    ("10 / i", "integer"),
    ("l", "integer"),
    ("n", "integer"),
    ("n", "numeric(9,2)"),
    ("i", "numeric(10,2)"),
    ("t", V20),
    ("v", "character varying(19)"),
    ("v", "character(19)"),
    ("w || v", "character varying(39)"),
    ("coalesce(v, t)", V20),
    ("'eleven char'", "character varying(10)"),
    ("l", "character varying(19)"),
    ("u", "character varying(35)"),
    ("k < 'b'", "boolean"),
    ("t || t", TEXT),
    ("v || i", V200),
    ("btrim(t)", TEXT),
    ("upper(v)", TEXT),
    ("t = v", "boolean"),
    ("CASE t WHEN v THEN 1 ELSE 2 END", "integer"),
    ("t LIKE v", "boolean"),
    ("t ~ v", "boolean"),
    ("many[i]", "integer"),
    ("CASE WHEN i = 0 THEN 0 ELSE 10 / i END", "integer"),
    ("coalesce(i, l::int)", "integer"),
    ("public.own(t)", TEXT),
    ("public.int8(s)", "bigint"),
    ("i OPERATOR(public.=) s", "boolean"),
    ("nullif(i, 1 / s)", "integer"),
    ("t", "public.email"),
    ("doc ->> 'a'", TEXT),
    ("doc::text", TEXT),
    ("t::jsonb", "jsonb"),
    ("make_date(i, 1, 1)", "date"),
    ("ARRAY[many, many]", "integer[]"),
    ("d", "timestamp without time zone"),
    ("t", "uuid"),
    ("v::character varying(10)::int::text", TEXT),
    ("ROW(i, t)::text", TEXT),
    ("ARRAY[i / s]", "integer[]"),
    ("n * i", "numeric(12,2)"),
    ("n / i", "numeric"),
    ("n * wide", "numeric"),
    ("n * n * n * n * n * n", "numeric"),
]
OBJECTS = """
CREATE TYPE public.kind AS ENUM ('a', 'b');
CREATE DOMAIN public.email AS text CHECK (VALUE LIKE '%@%');
CREATE FUNCTION public.own(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION public.int8(smallint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT (1 / $1)::bigint';
CREATE FUNCTION public.int4eq(integer, smallint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 / $2 = 1';
CREATE OPERATOR public.= (FUNCTION = public.int4eq, LEFTARG = integer, RIGHTARG = smallint);
"""


NASTY = """
CREATE TABLE public.odd (i integer, s smallint, l bigint, f boolean, u uuid, n numeric(10,2), d date, t text, v varchar(20),
                         w varchar(20), c character(5), many integer[], email public.email, doc jsonb, wide numeric, k public.kind);
INSERT INTO public.odd VALUES
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (0, 0, 0, false, '00000000-0000-0000-0000-000000000000', 0, '-infinity', '', '', '', '', '{}', '@', '{}', 'NaN', 'a'),
    (2147483647, 32767, 9223372036854775807, true, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 99999999.99, 'infinity',
     repeat('ß', 1000), repeat('ß', 20), repeat(chr(92), 20), 'ßßßßß', '{NULL,1}', 'a@b', 'null', 'Infinity', 'b'),
    (-2147483648, -32768, -9223372036854775808, NULL, gen_random_uuid(), 'NaN', '4713-01-01 BC', 'a', ' 007 ', '%', ' x',
     '{{1,2},{3,4}}', repeat('@', 1000), '[1]', '-1e131071', 'a');
"""
INTO = """
DO $do$ DECLARE r public.odd; x {kind}; BEGIN
  FOR r IN SELECT * FROM public.odd LOOP
    x := {value};
    ASSERT {filled} OR x IS NOT NULL, 'it is NULL';
    ASSERT {passed} OR x IS NOT NULL OR num_nulls({read}) > 0, 'it is NULL, and nothing that it reads is';
    ASSERT (length(x::text) <= {longest}) IS NOT FALSE, 'it is longer';
  END LOOP;
END $do$
"""

GRADE = "CASE WHEN rating IS NULL THEN 'none' ELSE rating END"
BODIES = "SELECT string_agg(prosrc, '') FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname ~ '^sync_'"


@pytest.fixture
async def bare(dsn: str, conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[Connection]:
    """Give a session as preflight has it, in a database with functions and an operator of the user's own."""
    await conn.execute(OBJECTS.encode())
    async with session(Database("shop", dsn), "test", bare=True) as found:
        yield found


async def asked(conn: Connection, source: str, kind: str) -> Expression:
    """Ask about an expression that is to become a type."""
    return await analyse(conn, Question(("up",), source, SCOPE, without_length(kind), "public.odd"))


async def test_what_is_listed_never_raises(bare: Connection) -> None:
    wrong = [case for case in NEVER_RAISES if not (await asked(bare, *case)).always_becomes(case[1])]
    assert wrong == []


async def test_what_may_raise_or_is_not_known_counts_as_raising(bare: Connection) -> None:
    wrong = [case for case in MAY_RAISE if (await asked(bare, *case)).always_becomes(case[1])]
    assert wrong == []


async def test_what_is_certain_is_so_of_rows_that_people_would_not_think_of(bare: Connection) -> None:
    await bare.execute(NASTY.encode())
    for source, kind in NEVER_RAISES:
        expression = await asked(bare, source, kind)
        longest = expression.certain.longest
        text = sql.SQL(INTO).format(
            kind=trusted(kind),
            value=expression.over(sql.SQL("r")),
            filled=sql.Literal(not expression.certain.filled),
            passed=sql.Literal(not expression.certain.passes_on),
            read=sql.SQL(", ").join([sql.Identifier("r", name) for name in expression.columns] or [sql.SQL("1")]),
            longest=sql.Literal(1_000_000 if longest is None or kind not in {TEXT, V20, V200} else longest),
        )
        await bare.execute(text)


@pytest.mark.parametrize(
    ("source", "filled", "passes_on"),
    [
        ("CASE WHEN v IS NULL THEN 'x' ELSE v END", True, True),
        ("CASE WHEN v IS NULL THEN 'x' WHEN w = 'y' THEN v ELSE v END", True, True),
        ("coalesce(v, 'x')", True, True),
        ("'x' || coalesce(v, w, '')", True, True),
        ("CASE WHEN v IS NULL THEN w ELSE v END", False, True),
        ("CASE WHEN v IS NOT NULL THEN 'x' ELSE v END", False, True),
        ("CASE WHEN w IS NULL THEN 'x' ELSE v END", False, True),
        ("CASE WHEN v = 'x' THEN 'y' END", False, False),
        ("coalesce(v, w)", False, True),
        ("v || nullif(w, '')", False, False),
        ("nullif('x', v)", False, False),
        ("NULL", False, False),
        ("v", False, True),
    ],
)
async def test_it_is_known_which_values_are_never_null(
    bare: Connection,
    source: str,
    filled: bool,  # noqa: FBT001
    passes_on: bool,  # noqa: FBT001
) -> None:
    found = (await asked(bare, source, V200)).certain
    assert (found.filled, found.passes_on) == (filled, passes_on)


@pytest.mark.parametrize(
    "other", ["{NEWEXPR :arg {CONST}}", "{VAR :attno 1}", "<>", "{COALESCEEXPR}", "{CASEEXPR :arg <>}", ""]
)
def test_a_tree_that_is_not_understood_makes_nothing_certain(other: str) -> None:
    tree = "({QUERY :targetList ({TARGETENTRY :expr %s :resno 1}) :override 0})"
    assert not certain(tree % "{VAR :varattno 1 :vartype 25 :vartypmod -1}", {}).raises
    assert certain(tree % other, {}).raises


async def test_postgresql_itself_says_of_the_listed_functions_that_they_raise_for_no_argument(bare: Connection) -> None:
    rows = await (
        await bare.execute(
            """
            SELECT proname, oid::regprocedure::text AS name, proleakproof FROM pg_proc
             WHERE pronamespace = 'pg_catalog'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'internal')
            """
        )
    ).fetchall()
    compared = COMPARISONS | MORE_COMPARISONS | TEXT_COMPARISONS
    listed = [r for r in rows if r["proname"] in compared or r["name"] in {*CASTS, *TRIMS, JOIN}]
    assert len(listed) == len({*compared, *CASTS, *TRIMS, JOIN}), "each is there, once"
    told = {row["name"] for row in listed if row["proleakproof"]}
    # Of these it does not, but all that they can fail on is a size, and they are given what they have room for.
    others = {row["name"] for row in listed if row["proname"] not in MORE_COMPARISONS}
    assert others - told == {*TRIMS, JOIN, "text(boolean)", "text(character)"}


async def sized(conn: psycopg.AsyncConnection[Any], *, trigger: bool = False) -> None:
    """Make `rating` a varchar(20)."""
    await create_reviews(conn, 10, trigger=trigger)
    await conn.execute("ALTER TABLE public.reviews ALTER rating TYPE varchar(20), ALTER rating DROP NOT NULL")


def graded(up: str, kind: str = V20, *, nullable: bool = False) -> dict[str, Any]:
    """Write a plan's operation over `rating`."""
    column = {"name": "grade", "type": kind, "up": up, "nullable": nullable}
    return replace("public.reviews", {"rating": "grade"}, column)


@pytest.mark.parametrize("unmappable", ["refuse", "archive"])
async def test_what_cannot_raise_has_no_guard_in_any_form(
    dsn: str, conn: psycopg.AsyncConnection[Any], unmappable: str
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded(GRADE), unmappable=unmappable) as m:
        await m.expand()
        for mode in SyncMode:
            await m.install(mode)
            ((body,),) = await m.rows(BODIES)
            assert 'NEW."rating"' in body
            assert "EXCEPTION WHEN" not in body, mode


@pytest.mark.parametrize(("up", "kind", "asked"), [(GRADE, V20, 0), ("upper(rating)", TEXT, 10)])
async def test_an_archive_asks_of_no_row_whether_it_raises_where_none_can(
    dsn: str, conn: psycopg.AsyncConnection[Any], up: str, kind: str, asked: int
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded(up, kind), unmappable="archive") as m:
        await m.published()
        await m.unseen(f"""UPDATE public.reviews SET "{m.physical("grade")}" = 'mine' WHERE id = 1""")
        async with m.conn.transaction():
            await m.conn.execute("SET LOCAL track_functions = 'pl'")
            saved = [(await m.conn.execute(q)).rowcount for q in rows.archive_new(m.design, m.table, 1, 0, 1_000)]
            calls = "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_xact_user_functions WHERE funcname ~ 'try_up'"
            assert (saved, await m.rows(calls)) == ([1], [(asked,)])


@pytest.mark.parametrize(
    ("up", "kind"),
    [
        ("rating", "character varying(19)"),
        ("upper(rating)", TEXT),
        ("rating::int", "integer"),
        (GRADE, "character(10)"),
    ],
)
async def test_what_can_raise_keeps_its_guard_in_every_form(
    dsn: str, conn: psycopg.AsyncConnection[Any], up: str, kind: str
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded(up, kind)) as m:
        await m.expand()
        for mode in SyncMode:
            await m.install(mode)
            functions = await m.rows(BODIES.replace("string_agg(prosrc, '')", "prosrc"))
            assert [('NEW."rating"' in body, "EXCEPTION WHEN" in body) for (body,) in functions] == [(True, True)] * 2


@pytest.mark.parametrize(("down", "guards"), [("grade", 0), ("coalesce(grade, note, '')", 2)])
async def test_a_down_that_reads_what_can_still_be_changed_keeps_its_guard(
    dsn: str, conn: psycopg.AsyncConnection[Any], down: str, guards: int
) -> None:
    await create_reviews(conn, 10, trigger=False)
    operation = replace(
        "public.reviews", {"rating": down}, {"name": "grade", "type": TEXT, "up": "rating", "nullable": False}
    )
    async with mechanics(dsn, operation, unmappable="archive") as m:
        await m.expand()
        await m.install(SyncMode.BOTH)
        ((body,),) = await m.rows(BODIES)
        assert body.count("EXCEPTION WHEN") == guards


async def test_a_column_whose_type_can_still_be_changed_keeps_its_guard(
    dsn: str, conn: psycopg.AsyncConnection[Any]
) -> None:
    await sized(conn, trigger=True)
    async with mechanics(dsn, graded(GRADE)) as m:
        await m.expand()
        await m.install(SyncMode.FILL)
        await conn.execute("ALTER TABLE public.reviews ALTER rating TYPE text")
        await conn.execute("UPDATE public.reviews SET rating = repeat('x', 21) WHERE id = 1")
        assert await m.drift() == [({"id": 1}, "unmapped")]


@pytest.mark.parametrize("mode", list(SyncMode))
async def test_the_type_of_a_column_without_a_guard_cannot_be_changed(
    dsn: str, conn: psycopg.AsyncConnection[Any], mode: SyncMode
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded(GRADE)) as m:
        await m.expand()
        await m.install(mode)
        with pytest.raises(errors.FeatureNotSupported, match="used in a trigger definition"):
            await conn.execute("ALTER TABLE public.reviews ALTER rating TYPE text")


@pytest.mark.parametrize("mode", [SyncMode.FILL, SyncMode.BOTH])
async def test_too_long_a_value_of_an_old_client_is_noted_and_not_refused(
    dsn: str, conn: psycopg.AsyncConnection[Any], mode: SyncMode
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded("rating", "character varying(4)", nullable=True)) as m:
        await m.expand()
        await m.install(mode)
        await conn.execute("UPDATE public.reviews SET rating = 'five!' WHERE id = 1")
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (100, 'five!')")
        assert await m.drift() == [({"id": 100}, "unmapped"), ({"id": 1}, "unmapped")]


@pytest.mark.parametrize("mode", list(SyncMode))
async def test_without_a_guard_each_write_is_mapped_all_the_same(
    dsn: str, conn: psycopg.AsyncConnection[Any], mode: SyncMode
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded(GRADE)) as m:
        await m.published(mode)
        grade = f'SELECT rating, "{m.physical("grade")}" FROM public.reviews WHERE id = 1'
        await conn.execute("UPDATE public.reviews SET rating = NULL WHERE id = 1")
        assert await m.rows(grade) == [(None, "none")]
        await conn.execute("DELETE FROM public.reviews WHERE id = 1")
        await conn.execute("INSERT INTO public.reviews (id, rating) VALUES (1, 'good')")
        assert await m.rows(grade) == [("good", "good")]
        if mode is not SyncMode.FILL:
            await conn.execute("UPDATE public_v2.reviews SET grade = 'bad' WHERE id = 1")
            assert await m.rows(grade) == [("bad", "bad")]
            with pytest.raises(errors.NotNullViolation, match='column "grade"'):
                await conn.execute("UPDATE public_v2.reviews SET grade = NULL WHERE id = 1")


async def test_from_cutover_an_old_client_is_told_which_column_its_write_leaves_empty(
    dsn: str, conn: psycopg.AsyncConnection[Any]
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded("nullif(rating, '0')")) as m:
        await m.published(SyncMode.ENFORCE)
        with pytest.raises(errors.NotNullViolation, match='column "grade"'):
            await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id = 1")


async def test_a_repair_is_not_mapped_back_and_the_next_write_of_its_row_is(
    dsn: str, conn: psycopg.AsyncConnection[Any]
) -> None:
    await sized(conn)
    async with mechanics(dsn, graded("lower(rating)"), unmappable="archive") as m:
        await m.published()
        stars = m.physical("grade")
        row = f'SELECT rating, "{stars}", _pgduet_v FROM public.reviews WHERE id = 1'
        for marker in (0, None, 0):
            await conn.execute("UPDATE public.reviews SET rating = 'Good' WHERE id = 1")
            await m.unseen(f"UPDATE public.reviews SET \"{stars}\" = 'drifted' WHERE id = 1")
            assert await m.repair() == 1
            assert await m.rows(row) == [("Good", "good", marker)], "the old side is left alone"
            await conn.execute("UPDATE public.reviews SET rating = 'Bad' WHERE id = 1")
            assert await m.rows(row) == [("Bad", "bad", marker)]
            await conn.execute("UPDATE public_v2.reviews SET grade = 'poor' WHERE id = 1")
            assert await m.rows(row) == [("poor", "poor", marker)]


async def test_a_copy_of_a_repaired_row_is_an_old_clients_insert(dsn: str, conn: psycopg.AsyncConnection[Any]) -> None:
    await sized(conn)
    async with mechanics(dsn, graded("nullif(rating, 'n/a')", nullable=True), unmappable="archive") as m:
        await m.published()
        await conn.execute("UPDATE public.reviews SET rating = 'n/a' WHERE id = 1")
        await m.unseen(f"UPDATE public.reviews SET \"{m.physical('grade')}\" = 'drifted' WHERE id = 1")
        assert await m.repair() == 1
        await conn.execute("CREATE TEMP TABLE kept AS SELECT * FROM public.reviews WHERE id = 1")
        await conn.execute("DELETE FROM public.reviews WHERE id = 1")
        await conn.execute("INSERT INTO public.reviews SELECT * FROM kept")
        assert await m.rows("SELECT rating FROM public.reviews WHERE id = 1") == [("n/a",)]
