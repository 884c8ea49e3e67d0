"""What is wrong with an operation on constraints is told before anything is touched: by the plan alone, then by the catalogue."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.constraint_operations import create, drop, rename
from support.plans import parsed

from pgduet.errors import PgduetError
from pgduet.operations import columns
from pgduet.operations.dependents import Dependents
from pgduet.plan.load import PlanErrors
from pgduet.plan.models import CreateConstraint
from pgduet.postgres import catalogue
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
    "a rename of what stands on an index to a table's name": Wrong(
        rename("what_once", "makers_too", "public.plain"), "NameTaken", ".to", '"makers_too"'
    ),
    "the name of a table, for a column's uniqueness": Wrong(
        {
            "add_column": {
                "table": P,
                "column": {"name": "z", "type": "int", "unique": {"name": "makers_too"}},
            }
        },
        "NameTaken",
        ".column.unique",
        '"makers_too"',
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


TWICE = {
    "two constraints": [
        made(type="unique", columns=["name"]),
        create("public.plain", name="new_one", type="unique", columns=["id"]),
    ],
    "an index": [
        {"create_index": {"table": P, "name": "n", "columns": ["size"]}},
        create("public.plain", name="n", type="unique", columns=["id"]),
    ],
    "a renamed constraint": [
        {"create_index": {"table": P, "name": "n", "columns": ["size"]}},
        rename("what_once", "n", "public.plain"),
    ],
    "a renamed table": [
        {"rename_table": {"table": "public.makers_too", "to": "new_one"}},
        made(type="unique", columns=["name"]),
    ],
    "a created table": [
        {"create_table": {"table": "public.new_one", "columns": [{"name": "a", "type": "int"}]}},
        {"create_index": {"table": P, "name": "new_one", "columns": ["size"]}},
    ],
}


@pytest.mark.parametrize("operations", TWICE.values(), ids=TWICE)
async def test_one_name_is_not_given_to_two_relations_of_a_schema(
    bare: Connection, operations: list[dict[str, Any]]
) -> None:
    with pytest.raises(PgduetError, match="would get two relations") as caught:
        await survey(bare, parsed(*operations))
    assert caught.value.place is not None
    assert caught.value.place.path.startswith("operations[1].")


CARRIED = {
    "a renamed one": rename("other", "small", P),
    "a created one": made(name="small", type="check", check="id > 0"),
    "one of a column": {
        "add_column": {
            "table": P,
            "column": {"name": "z", "type": "int", "check": {"name": "small", "expression": "z > 0"}},
        }
    },
}


@pytest.mark.parametrize("operation", CARRIED.values(), ids=CARRIED)
async def test_what_is_carried_over_keeps_its_name_to_itself(
    bare: Connection, conn: Client, operation: dict[str, Any]
) -> None:
    await conn.execute("ALTER TABLE public.parts ADD CONSTRAINT other CHECK (id > 0)")
    bigger = {"alter_column": {"table": P, "column": "size", "type": "bigint"}}
    with pytest.raises(PgduetError, match='"small"') as caught:
        await survey(bare, parsed(bigger, operation))
    assert type(caught.value).__name__ == "NameTaken"
    again = await survey(
        bare, parsed(bigger, rename("small", "smaller", P), made(name="small", type="check", check="id > 0"))
    )
    assert sorted(each.name for each in again.design.tables[0].checks) == ["small", "smaller"]
    assert len({each.working for each in again.design.tables[0].checks}) == 2


TO_CODE = create(
    P, name="k", type="foreign_key", columns=["name"], references={"table": "public.makers", "columns": ["code"]}
)
TAKEN_AWAY = {
    "its column gets a second form": (
        {"alter_column": {"table": "public.makers", "column": "code", "type": "varchar"}},
        'column "code"',
    ),
    "its column is dropped": (
        {"drop_column": {"table": "public.makers", "column": "code", "down": "'x'"}},
        'column "code"',
    ),
    "its constraint is dropped": (drop("makers_code", "public.makers"), 'constraint "makers_code"'),
    "its table is dropped": ({"drop_table": {"table": "public.makers"}}, 'table "public"."makers"'),
    "its index is dropped": ({"drop_index": {"name": "makers_one"}}, 'index "makers_one"'),
}


@pytest.mark.parametrize(("operation", "says"), TAKEN_AWAY.values(), ids=TAKEN_AWAY)
async def test_a_foreign_key_to_what_the_plan_takes_away_is_refused_before_contract_would_fail(
    bare: Connection, conn: Client, operation: dict[str, Any], says: str
) -> None:
    await conn.execute("ALTER TABLE public.parts DROP CONSTRAINT parts_code")
    if "drop_index" in operation:
        await conn.execute("ALTER TABLE public.makers DROP CONSTRAINT makers_code")
        await conn.execute("CREATE UNIQUE INDEX makers_one ON public.makers (code)")
    with pytest.raises(PgduetError) as caught:
        await survey(bare, parsed(TO_CODE, operation))
    assert f"the foreign key refers to {says}, which the plan takes away" in caught.value.message
    assert caught.value.place is not None
    assert caught.value.place.path == "operations[0].create_constraint.references"


@pytest.mark.parametrize("altered", [("code",), ("code", "parent")])
async def test_a_column_to_which_its_own_table_refers_gets_no_second_form(
    bare: Connection, conn: Client, altered: tuple[str, ...]
) -> None:
    await conn.execute(
        "CREATE TABLE public.tree (id int PRIMARY KEY, code text UNIQUE, parent text REFERENCES public.tree (code))"
    )
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        await conn.execute("ALTER TABLE public.tree DROP COLUMN code")
    plan = parsed(*({"alter_column": {"table": "public.tree", "column": name, "type": "varchar"}} for name in altered))
    with pytest.raises(PgduetError, match="constraint tree_parent_fkey on table"):
        await survey(bare, plan)
    await survey(bare, parsed({"alter_column": {"table": "public.tree", "column": "parent", "type": "varchar"}}))
    await survey(bare, parsed({"drop_table": {"table": "public.tree"}}))


async def test_a_check_may_have_any_name_beside_those_that_prove_not_null(bare: Connection) -> None:
    column = {"add_column": {"table": P, "column": {"name": "z", "type": "int", "nullable": False, "up": "1"}}}
    design = (await survey(bare, parsed(column, made(name="z_filled", type="check", check="z > 0")))).design
    (table,) = design.tables
    proving = {statement.text() for statement in columns.prove_required(design, table)}
    assert not [text for text in proving if table.checks[0].working in text]


async def test_a_column_that_takes_the_name_of_a_renamed_one_leaves_it_the_name_of_its_not_null(
    bare: Connection, conn: Client
) -> None:
    await conn.execute("CREATE TABLE public.pairs (a int NOT NULL)")
    away = {"rename_column": {"table": "public.pairs", "column": "a", "to": "z"}}
    anew = {
        "add_column": {"table": "public.pairs", "column": {"name": "a", "type": "int", "nullable": False, "up": "1"}}
    }
    design = (await survey(bare, parsed(away, anew))).design
    (table,) = design.tables
    for statement in [*columns.add(table), *columns.require(design, table)]:
        await conn.execute(statement.sql)
    found = await catalogue.not_null_names(bare, table.label)
    for statement in columns.finish(table, found, Dependents()):
        await conn.execute(statement.sql)
    names = await catalogue.not_null_names(bare, table.label)
    assert names.get("z") == found.get("a")  # nothing before PostgreSQL 18
    assert len(set(names.values())) == len(names)


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
