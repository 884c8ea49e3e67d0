"""Plans that PostgreSQL or the catalogue would not bear are refused, with place, spot and cure, and nothing is touched."""

import copy
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.plans import MOOD, STARS, create_reviews, replace
from temporalio.client import WorkflowFailureError

from pgduet.errors import PgduetError
from pgduet.failures import error_from
from pgduet.local import EmbeddedPostgres

Connection = psycopg.AsyncConnection[Any]

TABLES = """
CREATE TABLE public.authors (name text PRIMARY KEY);
INSERT INTO public.authors VALUES ('ann');
CREATE TABLE public.books (id int PRIMARY KEY, author text NOT NULL REFERENCES public.authors, price text);
INSERT INTO public.books VALUES (1, 'ann', '1');
CREATE TABLE public.shelves (id int PRIMARY KEY, label text, size text, room text, floor text);
CREATE VIEW public.first_shelves AS SELECT id FROM public.shelves WHERE label < '2';
CREATE MATERIALIZED VIEW public.sizes AS SELECT size FROM public.shelves;
CREATE VIEW public.rooms AS SELECT room FROM public.shelves;
CREATE FUNCTION public.a_room(public.rooms) RETURNS text LANGUAGE sql AS 'SELECT $1.room';
CREATE TABLE public.stairs (floor text);
CREATE POLICY floors ON public.stairs USING (EXISTS (SELECT FROM public.shelves s WHERE s.floor = stairs.floor));
CREATE TABLE public.events (id int, kind text NOT NULL, shape text, code text, UNIQUE (code, id, kind)) PARTITION BY RANGE (id);
CREATE TABLE public.events_1 PARTITION OF public.events FOR VALUES FROM (0) TO (10);
CREATE TABLE public.events_2 PARTITION OF public.events FOR VALUES FROM (10) TO (20) PARTITION BY LIST (kind);
CREATE TABLE public.events_2_b PARTITION OF public.events_2 DEFAULT;
CREATE INDEX events_2_b_shape ON public.events_2_b (shape);
CREATE TABLE public.readings (id int, kind text) PARTITION BY LIST (id);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE public.readings_far PARTITION OF public.readings DEFAULT SERVER far;
CREATE TABLE public.days (id int, kind text) PARTITION BY LIST (id);
DO $$ BEGIN FOR i IN 1..65 LOOP EXECUTE format('CREATE TABLE public.days_%s PARTITION OF public.days FOR VALUES IN (%s)', i, i);
END LOOP; END $$;
CREATE DOMAIN public.some_text AS text CHECK (length(VALUE) > 0);
CREATE DOMAIN public.positive_text AS public.some_text;
CREATE TABLE public.animals (id int PRIMARY KEY, kind text);
CREATE TABLE public.cats () INHERITS (public.animals);
"""


def stars(up: str, *, down: str = "stars::text", nullable: bool = False) -> dict[str, Any]:
    """Write the replacement of `rating` with other expressions."""
    column = {"name": "stars", "type": "int", "nullable": nullable, "up": up}
    return replace("public.reviews", {"rating": down}, column)


def without_down() -> dict[str, Any]:
    """Write the replacement of `rating` that gives no way back."""
    operation = copy.deepcopy(STARS)
    del operation["replace_columns"]["down"]
    return operation


def into(table: str, old: str, **column: Any) -> dict[str, Any]:
    """Replace one column by another of the same value."""
    made = {"name": "made", "type": "text", "nullable": False, "up": old} | column
    return replace(table, {old: str(made["name"])}, made)


def altered(table: str, column: str, **changes: Any) -> dict[str, Any]:
    """Alter a column to a number."""
    return {"alter_column": {"table": table, "column": column, "type": "int", "up": "1", "down": "'1'", **changes}}


@dataclass(frozen=True)
class Bad:
    """A plan's operation, and what must be said of it."""

    operation: dict[str, Any]
    error: str
    at: str
    says: str
    cure: str = ""
    """Part of the message or the hint that says what to do."""
    spot: str = ""
    """The text over the caret, from its position on."""


UP = "replace_columns.columns[0].up"
BAD = {
    "an unknown column": Bad(
        stars("ratin::int"),
        "UnknownColumn",
        UP,
        'column "ratin" does not exist',
        'Did you mean "rating"?',
        "ratin::int",
    ),
    "a syntax error": Bad(stars("rating::int +"), "ExpressionInvalid", UP, "syntax error", "Correct the expression"),
    "a syntax error in the middle": Bad(
        stars("rating::int + * 2"), "ExpressionInvalid", UP, 'at or near "*"', "", "* 2"
    ),
    "more than an expression": Bad(stars("1) AS a, (2"), "ExpressionInvalid", UP, "", "expression"),
    "an unknown function": Bad(
        stars("to_stars(rating)"),
        "ExpressionInvalid",
        UP,
        "function to_stars(text) does not exist",
        "",
        "to_stars(rating)",
    ),
    "a wrong type": Bad(stars("ARRAY[rating]"), "ExpressionInvalid", UP, "cannot cast type text[] to integer"),
    "a random value": Bad(
        stars("(random() * 5)::int"),
        "ExpressionVolatile",
        UP,
        "random()",
        "write an expression over the row's own columns",
    ),
    "the time of day": Bad(
        stars("extract(epoch FROM now())::int"),
        "ExpressionVolatile",
        UP,
        "now()",
        "write an expression over the row's own columns",
    ),
    "today": Bad(
        stars("extract(day FROM current_date)::int"), "ExpressionVolatile", UP, "current_", "write an expression"
    ),
    "a sequence": Bad(
        stars("nextval('public.reviews_id_seq')::int"), "ExpressionVolatile", UP, "nextval", "write an expression"
    ),
    "a default by chance, and nothing for rows that exist": Bad(
        {
            "add_column": {
                "table": "public.reviews",
                "column": {"name": "n", "type": "float", "default": "random()"},
            }
        },
        "ExpressionVolatile",
        "add_column.column.default",
        "random()",
        "Give `up` as well",
    ),
    "a macro for a type": Bad(
        into("public.reviews", "rating", type="serial"),
        "ExpressionInvalid",
        "replace_columns.columns[0].type",
        'type "serial" does not exist',
        "write `type: integer` and `identity: by default`",
    ),
    "a subquery": Bad(
        stars("(SELECT max(id)::int FROM public.reviews)"),
        "ExpressionInvalid",
        UP,
        "a subquery",
        "the row's own columns",
    ),
    "an aggregate": Bad(stars("max(rating)::int"), "ExpressionInvalid", UP, "an aggregate", "the row's own columns"),
    "no down": Bad(
        without_down(),
        "DownIncomplete",
        "replace_columns.down",
        "`down` has no expression for `rating`",
        "rating: <SQL expression>",
    ),
    "a down that gives nothing": Bad(
        stars("rating::int", down="NULL::text"),
        "DownIncomplete",
        "replace_columns.down.rating",
        'gives NULL for "rating"',
        "coalesce",
    ),
    "a down that gives nothing for some rows": Bad(
        stars("rating::int", down="nullif(stars, 3)::text"),
        "DownIncomplete",
        "replace_columns.down.rating",
        'gives NULL for "rating"',
        "for every row that `up` maps",
    ),
    "a down of what may be empty": Bad(
        stars("rating::int", nullable=True),
        "DownIncomplete",
        "replace_columns.down.rating",
        "when stars is NULL",
        "nullable: false",
    ),
    "a down over the old column": Bad(
        stars("rating::int", down="rating"),
        "UnknownColumn",
        "replace_columns.down.rating",
        'column "rating" does not exist',
        "version 2",
        "rating",
    ),
    "a name that is taken": Bad(
        into("public.reviews", "rating", name="note"),
        "NameTaken",
        "replace_columns.columns[0].name",
        'already has a column "note"',
        "Choose another name",
    ),
    "an unknown type": Bad(
        into("public.reviews", "rating", type="starz"),
        "ExpressionInvalid",
        "replace_columns.columns[0].type",
        'type "starz" does not exist',
        "Name a type",
    ),
    "an unknown replaced column": Bad(
        into("public.reviews", "ratin"),
        "UnknownColumn",
        "replace_columns.replaces[0]",
        'column "ratin" does not exist',
        "rating",
    ),
    "an unknown table": Bad(
        into("public.review", "rating"),
        "UnknownTable",
        "replace_columns.table",
        "table public.review does not exist",
        'Did you mean "public.reviews"?',
    ),
    "a part of the primary key": Bad(
        into("public.reviews", "id", up="id::text", type="text"),
        "NotSupported",
        "replace_columns.replaces[0]",
        "cannot be replaced in this version",
        "leave the column out",
    ),
    "a foreign key": Bad(
        into("public.books", "author"),
        "NotSupported",
        "replace_columns.replaces[0]",
        "books_author_fkey",
        "Drop what depends on it first",
    ),
    "the other side of a foreign key": Bad(
        into("public.authors", "name"),
        "NotSupported",
        "replace_columns.replaces[0]",
        "cannot be replaced in this version",
        "Drop what depends on it first",
    ),
    "a view that the new type does not suit": Bad(
        altered("public.shelves", "label"),
        "NotSupported",
        "alter_column.column",
        'view "public"."first_shelves" reads the column and cannot be made anew over the new one: operator does not exist',
        "create it again after contract",
    ),
    "a materialized view": Bad(
        altered("public.shelves", "size"), "NotSupported", "alter_column.column", "it is no plain view", "Drop it first"
    ),
    "a view that must be dropped and is depended on": Bad(
        altered("public.shelves", "room"),
        "NotSupported",
        "alter_column.column",
        "function public.a_room(public.rooms) depends on it",
        "Drop it first",
    ),
    "another table's policy": Bad(
        altered("public.shelves", "floor"),
        "NotSupported",
        "alter_column.column",
        "policy floors on table public.stairs reads the column from another table",
        "Drop it first",
    ),
    "a domain that would have the table rewritten": Bad(
        into("public.books", "price", type="public.positive_text"),
        "NotSupported",
        "replace_columns.columns[0].type",
        "public.positive_text is a domain with constraints (CHECK ((length(VALUE) > 0))): PostgreSQL adds a column of it by",
        "Use its base type text",
    ),
    "a partition key": Bad(
        into("public.events", "id"),
        "NotSupported",
        "replace_columns.replaces[0]",
        '"id" of public.events cannot be replaced in this version: it carries the partition key',
        "leave the column out of the plan",
    ),
    "a partition": Bad(
        into("public.events_1", "kind"),
        "NotSupported",
        "replace_columns.table",
        "is a partition of public.events",
        "Name the parent: public.events.",
    ),
    "a partition of a partition": Bad(
        into("public.events_2_b", "kind"),
        "NotSupported",
        "replace_columns.table",
        "is a partition of public.events",
        "Name the parent: public.events.",
    ),
    "a column that a partition alone has an index on": Bad(
        into("public.events", "shape"),
        "NotSupported",
        "replace_columns.replaces[0]",
        "index public.events_2_b_shape, of a partition alone",
        "Drop what depends on it first",
    ),
    "a uniqueness without the partition key": Bad(
        into("public.events", "kind", unique=True),
        "NotSupported",
        "replace_columns.columns[0].unique",
        "is partitioned, and can be unique only together with its partition key",
        "Leave `unique` out",
    ),
    "a unique constraint of a partitioned table": Bad(
        altered("public.events", "code"),
        "NotSupported",
        "alter_column.column",
        "unique constraint without blocking: events_code_id_kind_key would be lost",
        "Put a unique index in the constraint's place first",
    ),
    "a partitioned table that goes": Bad(
        {"drop_table": {"table": "public.events"}},
        "NotSupported",
        "drop_table.table",
        "is partitioned: drop_table is not for such tables",
        "Leave the table out of the plan",
    ),
    "a foreign table among the partitions": Bad(
        into("public.readings", "kind"),
        "NotSupported",
        "replace_columns.table",
        "has partitions that are no tables (public.readings_far)",
        "Leave the table out of the plan",
    ),
    "more partitions than can be locked in time": Bad(
        into("public.days", "kind"),
        "NotSupported",
        "replace_columns.table",
        "has 65 partitions, of which a change locks every one (at most 64)",
        "Leave the table out of the plan",
    ),
    "inheritance": Bad(
        into("public.animals", "kind"),
        "NotSupported",
        "replace_columns.table",
        "has parents or children by inheritance",
        "Leave the table out of the plan",
    ),
    "an heir": Bad(
        into("public.cats", "kind"),
        "NotSupported",
        "replace_columns.table",
        "has parents or children by inheritance",
        "Leave the table out of the plan",
    ),
}


def told(failure: WorkflowFailureError) -> PgduetError:
    """Read the error as the command line does; of several, the first."""
    error = error_from(failure)
    return getattr(error, "errors", [error])[0]


@pytest.mark.parametrize("name", BAD)
async def test_a_plan_is_refused_at_its_place_and_nothing_is_touched(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, name: str
) -> None:
    bad = BAD[name]
    await create_reviews(conn, 100)
    await conn.execute(TABLES)
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker():
        await stage.start(stage.plan(MOOD, bad.operation))
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
    error = told(caught.value)
    assert type(error).__name__ == bad.error, error
    assert error.place is not None
    assert error.place.path == f"operations[1].{bad.at}"
    assert bad.says in error.message
    assert bad.cure in f"{error.message} {error.hint or ''}"
    if bad.spot:
        line, caret = (error.snippet or "").splitlines()
        assert line[caret.index("^") :] == bad.spot
    assert schema_dump(postgres.bin_dir, stage.dsn) == before
    cursor = await conn.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '_v[12]$'")
    assert await cursor.fetchall() == []


async def test_several_tables_have_one_plan_and_one_mistake_stops_all(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    await create_reviews(conn, 100)
    await conn.execute(TABLES)
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker():
        await stage.start(stage.plan(STARS, into("public.books", "price", type="int", up="pryce::int", name="cents")))
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
    assert told(caught.value).place is not None
    assert schema_dump(postgres.bin_dir, stage.dsn) == before
