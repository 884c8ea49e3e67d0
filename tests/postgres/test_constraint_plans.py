"""What is wrong with an operation on constraints is told before anything is touched: by the plan alone, then by the catalogue."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.constraint_operations import create, drop, rename
from support.plans import parsed

from pgduet.errors import PgduetError
from pgduet.plan.load import PlanErrors
from pgduet.plan.models import CreateConstraint
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey

Client = psycopg.AsyncConnection[Any]

WORLD = """
CREATE TABLE public.makers (id int PRIMARY KEY, code text NOT NULL CONSTRAINT makers_code UNIQUE, a int, b int, UNIQUE (a, b));
CREATE TABLE public.makers_too (id int);
CREATE TABLE public.parts (
    id int PRIMARY KEY, name text, maker int, shape json,
    maker_code text CONSTRAINT parts_code REFERENCES public.makers (code),
    size int CONSTRAINT small CHECK (size < 100)
);
CREATE TABLE public.plain (id int, what text, CONSTRAINT what_once UNIQUE (what));
CREATE TABLE public.grown (id int, days int4range);
INSERT INTO public.grown SELECT i, int4range(i, i + 1) FROM generate_series(1, 30000) i;
CREATE TABLE public.told (id int CONSTRAINT told_key PRIMARY KEY, size int);
CREATE TABLE public.split (id int, at int) PARTITION BY RANGE (at);
CREATE PUBLICATION everything FOR TABLE public.told;
"""
P = "public.parts"


@dataclass(frozen=True)
class Wrong:
    """An operation, the place of what is wrong, and parts of what is said of it."""

    operation: dict[str, Any]
    error: str
    at: str
    says: str
    cure: str = ""


def made(**keys: Any) -> dict[str, Any]:
    return create(P, **{"name": "new_one", **keys})


BY_THE_PLAN = {
    "no type": Wrong(create(P, name="x"), "PlanInvalid", ".type", "missing key `type`"),
    "another type": Wrong(made(type="chek"), "PlanInvalid", ".type", "expected"),
    "a check without one": Wrong(made(type="check"), "PlanInvalid", ".check", "needs `check`", "Add `check: …`."),
    "unique without columns": Wrong(made(type="unique"), "PlanInvalid", ".columns", "needs `columns`"),
    "a key of another type": Wrong(
        made(type="unique", columns=["a"], check="a > 0"),
        "PlanInvalid",
        ".check",
        "`check` is not for a constraint of type `unique`",
        "this type has `columns`",
    ),
    "a column twice": Wrong(made(type="unique", columns=["a", "a"]), "PlanInvalid", ".columns[1]", "stands twice"),
    "an expression for no column of it": Wrong(
        made(type="unique", columns=["name"], up={"nam": "nam"}), "PlanInvalid", ".up.nam", "Did you mean `name`?"
    ),
    "one expression for all": Wrong(
        drop("small", P, up="size"), "PlanInvalid", ".up", "a mapping of columns", "Write `<column>: <SQL expression>`"
    ),
    "as many columns as it refers to": Wrong(
        made(type="foreign_key", columns=["a"], references={"table": "makers", "columns": ["a", "b"]}),
        "PlanInvalid",
        ".references.columns",
        "1 columns cannot refer to 2",
    ),
    "an exclusion over a second form": Wrong(
        made(type="exclude", exclude={"elements": "a WITH ="}, up={"a": "a"}),
        "NotSupported",
        ".up",
        "not in this version",
    ),
    "the same name": Wrong(rename("small", "small", P), "PlanInvalid", ".to", "has this name already"),
    "a name of ours": Wrong(
        made(name="_pgduet_x", type="check", check="true"), "PlanInvalid", ".name", "belong to pgduet"
    ),
}

BY_THE_CATALOGUE = {
    "an unknown table": Wrong(
        create("public.part", name="x", type="check", check="true"), "UnknownTable", ".table", "Did you mean"
    ),
    "an unknown column": Wrong(
        made(type="unique", columns=["nam"]), "UnknownColumn", ".columns[0]", "Did you mean `name`?", "It has: id, name"
    ),
    "an unknown column in a check": Wrong(
        made(type="check", check="siz > 0"), "UnknownColumn", ".check", 'column "siz" does not exist', "Did you mean"
    ),
    "a check of another type": Wrong(
        made(type="check", check="ARRAY[size]"), "ExpressionInvalid", ".check", "cannot cast"
    ),
    "a subquery in a check": Wrong(
        made(type="check", check="size < (SELECT 1)"), "ExpressionInvalid", ".check", "a subquery"
    ),
    "a second form of an unknown column": Wrong(
        made(type="check", check="size > 0", up={"siz": "1"}), "UnknownColumn", ".up.siz", "does not exist"
    ),
    "a second form of the key": Wrong(
        made(type="check", check="id > 0", up={"id": "1"}), "NotSupported", ".up.id", "cannot be given a second form"
    ),
    "a name that is taken": Wrong(
        made(name="small", type="check", check="size > 0"), "NameTaken", ".name", '"small"', "another `name`"
    ),
    "the name of a table, for an index": Wrong(
        made(name="makers_too", type="unique", columns=["name"]), "NameTaken", ".name", '"makers_too"'
    ),
    "a type that cannot be unique": Wrong(
        made(type="unique", columns=["shape"]), "ExpressionInvalid", ".columns", "no default operator class"
    ),
    "an unknown target": Wrong(
        made(type="foreign_key", columns=["maker"], references={"table": "public.maker"}),
        "UnknownTable",
        ".references",
        "table public.maker does not exist",
    ),
    "a target without an index": Wrong(
        made(type="foreign_key", columns=["maker"], references={"table": "public.makers", "columns": ["a"]}),
        "UnknownColumn",
        ".references",
        "(a) of public.makers has no unique index",
        "(id); (code); (a, b)",
    ),
    "a target of another type": Wrong(
        made(type="foreign_key", columns=["name"], references={"table": "public.makers"}),
        "ExpressionInvalid",
        ".references",
        "incompatible types: text and integer",
    ),
    "a second primary key": Wrong(
        made(type="primary_key", columns=["name"]), "NotSupported", ".type", 'has a primary key already: "parts_pkey"'
    ),
    "an exclusion that PostgreSQL does not know": Wrong(
        made(type="exclude", exclude={"elements": "size WITH &&"}),
        "ExpressionInvalid",
        ".exclude",
        "no default operator class",
    ),
    "more than an exclusion": Wrong(
        made(
            type="exclude", exclude={"elements": "size WITH =); DROP TABLE public.plain; SELECT (1", "method": "btree"}
        ),
        "ExpressionInvalid",
        ".exclude",
        "PostgreSQL does not accept",
    ),
    "an exclusion on a large table": Wrong(
        create("public.grown", name="x", type="exclude", exclude={"elements": "days WITH &&"}),
        "NotSupported",
        ".type",
        "pages, and PostgreSQL builds an exclusion constraint under a lock",
        "a new table",
    ),
    "a partitioned table": Wrong(
        create("public.split", name="x", type="unique", columns=["id", "at"]),
        "NotSupported",
        ".table",
        "is partitioned",
    ),
    "an unknown constraint": Wrong(
        drop("smal", P), "UnknownConstraint", ".name", 'has no constraint "smal". Did you mean `small`?', "It has: "
    ),
    "an unknown constraint to rename": Wrong(
        rename("smal", "x", P), "UnknownConstraint", ".name", "Did you mean `small`?"
    ),
    "a rename to a name that is taken": Wrong(rename("small", "parts_code", P), "NameTaken", ".to", '"parts_code"'),
    "what others stand on": Wrong(
        drop("makers_code", "public.makers"),
        "NotSupported",
        ".name",
        "parts_code of public.parts",
        "Drop those foreign keys",
    ),
    "what tells published rows apart": Wrong(
        drop("told_key", "public.told"), "NotSupported", ".name", "published table", "replica identity"
    ),
    "a second form of a column that it has not": Wrong(
        drop("small", P, up={"name": "name"}), "UnknownColumn", ".up.name", "is no column", "Its columns are size"
    ),
}


@pytest.fixture
async def bare(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    """Give a session of the worker's on a database with the tables."""
    await conn.execute(WORLD.encode())
    async with session(Database("shop", dsn), "test", bare=True) as connection:
        yield connection


def told(error: PgduetError, wrong: Wrong) -> None:
    kind = next(iter(wrong.operation))
    assert type(error).__name__ == wrong.error, error.render()
    assert error.place is not None
    assert error.place.path == f"operations[0].{kind}{wrong.at}"
    assert wrong.says in error.render()
    assert wrong.cure in (error.hint or error.message)


@pytest.mark.parametrize("wrong", BY_THE_PLAN.values(), ids=BY_THE_PLAN)
def test_the_plan_alone_tells(wrong: Wrong) -> None:
    with pytest.raises((PgduetError, PlanErrors)) as caught:
        parsed(wrong.operation)
    error = caught.value.errors[0] if isinstance(caught.value, PlanErrors) else caught.value
    told(error, wrong)


@pytest.mark.parametrize("wrong", BY_THE_CATALOGUE.values(), ids=BY_THE_CATALOGUE)
async def test_the_catalogue_tells(bare: Connection, conn: Client, wrong: Wrong) -> None:
    with pytest.raises(PgduetError) as caught:
        await survey(bare, parsed(wrong.operation))
    told(caught.value, wrong)
    left = "SELECT count(*) FROM pg_class WHERE relname = 'plain' AND relnamespace = 'public'::regnamespace"
    assert await (await conn.execute(left)).fetchone() == (1,)


def test_constraints_are_made_dropped_and_renamed_once() -> None:
    twice = {
        "is made in": [made(type="check", check="true"), rename("small", "new_one", P)],
        "is dropped or renamed in": [drop("small", P), rename("small", "x", P)],
        "is changed in": [drop("small", P, up={"size": "1"}), made(type="check", check="size > 0", up={"size": "1"})],
    }
    for what, operations in twice.items():
        with pytest.raises((PgduetError, PlanErrors), match=f"{what} public.parts twice"):
            parsed(*operations)


def test_a_dump_is_read_as_the_same_plan() -> None:
    operation = made(type="foreign_key", columns=["maker"], references={"table": "makers"}, up={"maker": "maker"})
    plan = parsed(operation, rename("small", "x", P), drop("parts_code", P))
    assert parsed(*plan.model_dump(mode="json", by_alias=True)["operations"]) == plan
    assert isinstance(plan.operations[0], CreateConstraint)


async def test_hazards_say_whom_a_constraint_binds_from_when_on(bare: Connection) -> None:
    plan = parsed(
        made(type="foreign_key", columns=["maker"], references={"table": "public.makers"}, up={"maker": "maker"}),
        create("public.plain", name="ordered", type="exclude", exclude={"method": "btree", "elements": "id WITH ="}),
        drop("small", P),
        rename("what_once", "what_twice", "public.plain"),
    )
    found = [(hazard.id, hazard.where) for hazard in (await survey(bare, plan)).hazards]
    label = '"public"."parts"'
    binds = "new clients from publication on, everybody from cutover on, and deletes and updates of public.makers"
    assert ("PD-H21", f"{label}: new_one (foreign_key; {binds})") in found
    assert ("PD-H22", f"{label}: small") in found
    assert ("PD-H23", '"public"."plain": what_once') in found
    assert ("PD-H24", '"public"."plain": ordered, 0 pages') in found


async def test_a_design_over_columns_that_stay_has_no_second_form_and_counts_as_compared(bare: Connection) -> None:
    plan = parsed(
        made(type="unique", columns=["name"]), create("public.plain", name="k", type="primary_key", columns=["id"])
    )
    design = (await survey(bare, plan)).design
    assert design.synced == ()
    assert [table.table for table in design.compared] == ["parts", "plain"]
    assert design.tables[1].must_fill == (("id", "id"),)
    assert all(index.at_once for table in design.tables for index in table.indexes)
