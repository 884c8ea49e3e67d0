"""The shape of a query without its values: nothing of a row, and nothing secret, may pass."""

import pytest

from pgduet.postgres.literals import QUERY_CHARS, without_literals

VALUE = "geheim"


@pytest.mark.parametrize(
    ("query", "shape"),
    [
        ("UPDATE flights SET gate = 'B12', seat=17 WHERE id = $1", "UPDATE flights SET gate = ?, seat=? WHERE id = $1"),
        ("SELECT 1.5e-7, .5, 0xFF, 1_000, x1, 17::int8", "SELECT ?, …, x1, ?::int8"),
        ("INSERT INTO t VALUES (1, 'a', 2)", "INSERT INTO t VALUES (?, …)"),
        ('SELECT "Gate""s" FROM "Flights"', 'SELECT "Gate""s" FROM "Flights"'),
        ("SELECT a$b$c FROM t -- geheim\nWHERE x", "SELECT a$b$c FROM t WHERE x"),
        ("SELECT /* geheim /* nested */ still */ 1", "SELECT ?"),
        ("BEGIN", "BEGIN"),
        ("", ""),
        ("autovacuum: VACUUM public.flights (to prevent wraparound)",) * 2,
        ("VACUUM flights", "VACUUM flights"),
        ("ALTER TABLE flights ADD COLUMN x int DEFAULT 5", "ALTER TABLE flights ADD COLUMN x int DEFAULT ?"),
    ],
)
def test_keywords_and_names_stay_and_values_go(query: str, shape: str) -> None:
    assert without_literals(query) == shape


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'geheim'",
        "SELECT 'it''s geheim'",
        "SELECT 'a' 'geheim'",
        "SELECT 'cut at its size, geh",
        "SELECT E'it\\'s geheim'",
        "SELECT e'\\\\', 'geheim'",
        "SELECT 'it\\'s geheim', 'x'",
        "SELECT 'a\\' || geheim || 'b'",
        "SELECT U&'geheim' UESCAPE '!'",
        "SELECT N'geheim', B'geheim', X'geheim'",
        "SELECT $$geheim$$, $a$ $$ geheim $b$ $a$",
        "SELECT $a$ never closed geheim $b$",
        "SELECT $ä$geheim$ä$",
        "DO $do$ BEGIN EXECUTE 'geheim'; END $do$",
        "/* geheim",
        "/* /* */ geheim",
        "-- geheim",
        "-- '\n SELECT 'geheim' -- '",
        "SELECT '/*' , 'geheim' , '*/'",
        "SELECT \"a'b\", 'geheim'",
        "SELECT \"never closed, 'geheim'",
        "SET my.token TO geheim",
        "BEGIN; SET LOCAL my.token = geheim",
        "ALTER ROLE etl PASSWORD 'geheim'",
        "alter user geheim",
        "CREATE USER MAPPING FOR etl SERVER s OPTIONS (password 'geheim')",
        "ALTER SYSTEM SET primary_conninfo = geheim",
        "NOTIFY jobs, 'geheim'",
        "EXECUTE geheim(1)",
        "SELECT 1;SELECT '\x00geheim'",
        "COPY t FROM PROGRAM 'curl geheim'",
        # A space to Python is a letter to PostgreSQL, so that this is a name and a plain string.
        "SELECT \u00a0E'a\\' || b || ' geheim '",
        "ALTER FUNCTION f() SET my.token TO geheim",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql SET my.token = geheim AS 'SELECT 1'",
    ],
)
def test_no_value_passes(query: str) -> None:
    shape = without_literals(query)
    assert VALUE not in shape
    assert "geh" not in shape


def test_it_is_one_bounded_line_without_control_characters() -> None:
    shape = without_literals("SELECT\n\t\x1b[31m a\u202eb FROM " + "x" * 10_000)
    assert len(shape) == QUERY_CHARS
    assert shape.isprintable()


def test_a_long_query_takes_no_long_time() -> None:
    assert without_literals("/*" * 50_000) == "…"
    assert without_literals("''" * 50_000) == "?" or without_literals("''" * 50_000).startswith("?")
