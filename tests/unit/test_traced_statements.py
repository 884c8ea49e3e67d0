"""What a statement's span says: what it does to which table, and its text without any value."""

import pytest
from psycopg import sql

from pgduet.operations.statement import role, trusted
from pgduet.postgres.traced import MOST_CHARACTERS, described


@pytest.mark.parametrize(
    ("query", "summary"),
    [
        ('UPDATE "public"."reviews" AS t SET x = 1', 'UPDATE "public"."reviews"'),
        ("update only shop.orders SET x = 1", "UPDATE ONLY shop.orders"),
        ("INSERT INTO pgduet.audit (seq) VALUES (%(seq)s)", "INSERT INTO pgduet.audit"),
        ('ALTER TABLE "a b"."c" ADD COLUMN d int', 'ALTER TABLE "a b"."c"'),
        ("-- why\n  SELECT a\n    FROM pg_class c", "SELECT pg_class"),
        ("WITH x AS (SELECT 1 FROM pg_locks) SELECT * FROM x", "SELECT pg_locks"),
        ("SELECT extract(epoch FROM replay_lag) FROM pg_stat_replication", "SELECT pg_stat_replication"),
        ("SELECT substring(name FROM 1 FOR 2), extract(epoch FROM clock_timestamp())", "SELECT"),
        ("SELECT * FROM unnest(%s) x JOIN t USING (id)", "SELECT"),
        ("SET LOCAL lock_timeout = '50ms'", "SET LOCAL"),
        (b"CREATE SCHEMA IF NOT EXISTS pgduet", "CREATE SCHEMA IF NOT EXISTS pgduet"),
        ("", "statement"),
    ],
)
def test_a_summary_names_what_is_done_to_which_table(query: str | bytes, summary: str) -> None:
    assert described(query)[0] == summary


def test_literals_and_roles_are_not_shown_but_names_and_the_plan_s_expressions_are() -> None:
    query = sql.SQL("UPDATE {table} SET a = {up} WHERE key = {key}; GRANT SELECT ON {table} TO {who}").format(
        table=sql.Identifier("public", "reviews"), up=trusted("rating::int"), key=sql.Literal("secret"), who=role("dba")
    )
    assert described(query)[1] == (
        'UPDATE "public"."reviews" SET a = rating::int WHERE key = ?; GRANT SELECT ON "public"."reviews" TO ?'
    )


def test_a_literal_within_a_composed_part_is_not_shown_either() -> None:
    inner = sql.SQL(" AND ").join([sql.SQL("{} = {}").format(sql.Identifier("a"), sql.Literal(42)), sql.SQL("true")])
    assert described(sql.SQL("SELECT {}").format(inner))[1] == 'SELECT "a" = ? AND true'


def test_a_long_statement_is_cut() -> None:
    assert len(described("SELECT " + "x" * 9_000)[1]) == MOST_CHARACTERS
