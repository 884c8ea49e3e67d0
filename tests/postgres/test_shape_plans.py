"""What a plan that gives a table another shape cannot have is told at its place, before anything is touched."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import yaml
from support.plans import parsed

from pgduet.errors import NameTaken, NotSupported, PgduetError, PlanInvalid, UnknownColumn
from pgduet.plan.constraint_operations import CreateConstraint
from pgduet.plan.load import parse_plan
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey

WORLD = """
CREATE TABLE public.places (id int PRIMARY KEY, region text NOT NULL, name text);
CREATE TABLE public.keyless (id int);
CREATE TABLE public.secured (id int PRIMARY KEY, name text);
ALTER TABLE public.secured ENABLE ROW LEVEL SECURITY;
CREATE TABLE public.uneven (id int PRIMARY KEY, name text) PARTITION BY HASH (id);
CREATE TABLE public.uneven_0 PARTITION OF public.uneven FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE INDEX by_name ON public.uneven_0 (name);
CREATE TABLE public.heard (id int PRIMARY KEY, name text) PARTITION BY HASH (id);
CREATE TABLE public.heard_0 PARTITION OF public.heard FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TRIGGER own BEFORE UPDATE ON public.heard_0 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TABLE public.taken (id int);
CREATE TABLE public.days (id int, at date, region text NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.days_all PARTITION OF public.days DEFAULT;
"""
REST = {"name": "rest", "bound": "DEFAULT"}


@dataclass(frozen=True)
class Wrong:
    """An operation, where it is wrong, and what is said."""

    operation: dict[str, Any]
    at: str
    says: str
    kind: type[PgduetError] = NotSupported
    cure: str = ""


def shadow(table: str = "places", **changes: Any) -> dict[str, Any]:
    return {"shadow_table": {"table": f"public.{table}", **changes}}


def spread(*partitions: dict[str, Any], columns: tuple[str, ...] = ("region",), method: str = "list") -> dict[str, Any]:
    by = {"method": method, "columns": list(columns), "partitions": list(partitions)}
    return shadow(primary_key=["id", *columns], partition_by=by)


def extract(**changes: Any) -> dict[str, Any]:
    given = {
        "table": "public.places",
        "into": "public.names",
        "key": {"id": "place_id"},
        "columns": ["name"],
        **changes,
    }
    return {"extract_table": given}


WIDE = [{"name": "id", "type": "bigint"}]
TOP = "operations[0].shadow_table"
WRONG = {
    "no primary key": Wrong(shadow("keyless", columns=WIDE), TOP, "has no primary key"),
    "row level security of what is extracted": Wrong(
        extract(table="public.secured"), "operations[0].extract_table", "the extracted table would have no policy"
    ),
    "a partition": Wrong(shadow("heard_0", columns=WIDE), f"{TOP}.table", "is a partition of public.heard"),
    "an index of a partition alone": Wrong(
        shadow("uneven", columns=WIDE), f"{TOP}.table", "index public.by_name, of a partition alone would be lost"
    ),
    "a trigger of a partition alone": Wrong(
        shadow("heard", columns=WIDE), f"{TOP}.table", "trigger own of public.heard_0 would be lost"
    ),
    "a list without a rest": Wrong(
        spread({"name": "eu", "bound": "FOR VALUES IN ('eu')"}),
        f"{TOP}.partition_by.partitions",
        "fit into no partition",
        cure="Add a partition for them, `places_rest: DEFAULT`",
    ),
    "a range without a rest, of a table that cannot be attached": Wrong(
        spread(
            {"name": "early", "bound": "FOR VALUES FROM (MINVALUE) TO ('n')"},
            {"name": "late", "bound": "FOR VALUES FROM ('n') TO (MAXVALUE)"},
            columns=("name",),
            method="range",
        ),
        f"{TOP}.partition_by.partitions",
        "fit into no partition",
        cure="if the table could be attached, but: ",
    ),
    "bounds that PostgreSQL does not take": Wrong(
        spread({"name": "eu", "bound": "FOR VALUES FROM (1) TO (2)"}, REST), f"{TOP}.partition_by", "invalid bound"
    ),
    "a key that lacks what the rows are spread by": Wrong(
        shadow(partition_by={"method": "hash", "columns": ["name"], "modulus": 2}), TOP, "the primary key lacks name"
    ),
    "an unknown column in the order": Wrong(
        shadow(order=["idd"]), f"{TOP}.order[0]", "Did you mean `id`", UnknownColumn
    ),
    "a key without the old one": Wrong(
        shadow(primary_key=["region"]), f"{TOP}.primary_key", "lacks a column of the old"
    ),
    "a key whose value changes": Wrong(
        shadow(columns=[{"name": "id", "type": "bigint", "up": "id * 2"}], down={"id": "id / 2"}),
        TOP,
        "its value must stay",
    ),
    "a partition whose name is taken": Wrong(
        spread({"name": "taken", "bound": "FOR VALUES IN ('eu')"}, REST),
        f"{TOP}.partition_by.partitions[0].name",
        "already has a relation",
        NameTaken,
    ),
    "an extracted table whose name is taken": Wrong(
        extract(into="public.taken"), "operations[0].extract_table.into", "already has a relation", NameTaken
    ),
    "an extraction by another key": Wrong(
        extract(key={"region": "region"}), "operations[0].extract_table.key", "is not the table's primary key"
    ),
    "an extracted column that is not there": Wrong(
        extract(columns=["nam"]), "operations[0].extract_table.columns[0].name", "Did you mean `name`", UnknownColumn
    ),
    "an extraction of rows that PostgreSQL may fail to tell": Wrong(
        extract(when="region::int > 1"),
        "operations[0].extract_table.when",
        "whose write would fail with it",
        cure="Or leave `when` out",
    ),
}


@pytest.fixture
async def bare(dsn: str, conn: psycopg.AsyncConnection[Any]) -> AsyncIterator[Connection]:
    """Give a session as the survey has it."""
    await conn.execute(WORLD.encode())
    async with session(Database("shop", dsn), "check", bare=True) as found:
        yield found


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
async def test_what_cannot_be_is_told_at_its_place(bare: Connection, wrong: Wrong) -> None:
    with pytest.raises(wrong.kind) as caught:
        await survey(bare, parsed(wrong.operation))
    assert caught.value.place is not None
    assert caught.value.place.path == wrong.at
    assert wrong.says in str(caught.value)
    assert wrong.cure in (caught.value.hint or "")


MERGE = {
    "merge_rows": {
        "table": "public.days",
        "into": "public.regions",
        "key": {"region": "region"},
        "columns": [{"name": "days", "measure": "count"}],
    }
}


async def test_a_partitioned_table_is_merged_by_way_of_an_ordinary_one(bare: Connection) -> None:
    with pytest.raises(NotSupported, match="is partitioned") as caught:
        await survey(bare, parsed(MERGE))
    assert str(caught.value.place) == "operations[0].merge_rows.table"
    (design,) = (await survey(bare, parsed(told(caught.value)))).design.shadows
    assert (design.parted, design.partition_by, design.key_names) == (True, None, ("id", "at"))


async def test_a_partitioned_table_is_not_swapped_and_gets_its_shape_by_the_route_that_is_named(
    bare: Connection,
) -> None:
    change = shadow("days", columns=WIDE)
    with pytest.raises(NotSupported, match="is partitioned, and so its name cannot be swapped") as caught:
        await survey(bare, parsed(shadow("days", order=["region"]), cutover={"mode": "swap"}))
    assert str(caught.value.place) == f"{TOP}.table"
    assert "Set `policy.cutover.mode: route`" in (caught.value.hint or "")
    assert (await survey(bare, parsed(change, cutover={"mode": "route"}))).design.shadows[0].parted


def told(error: PgduetError) -> dict[str, Any]:
    """Read the operation that a hint names."""
    found: dict[str, Any] = yaml.safe_load(str(error.hint).partition("`")[2].rpartition("`")[0])
    return found


async def test_a_survey_leaves_nothing_behind(bare: Connection) -> None:
    plan = parsed(spread({"name": "eu", "bound": "FOR VALUES IN ('eu')"}, REST))
    surveyed = await survey(bare, plan)
    (design,) = surveyed.design.shadows
    assert [each.name for each in design.partitions] == ["eu", "rest"]
    left = await bare.execute(
        "SELECT relname FROM pg_class WHERE relname LIKE '\\_pgduet%' OR relname IN ('eu', 'rest')"
    )
    assert await left.fetchall() == []


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        ([shadow(columns=WIDE), shadow(order=["name"])], "Put both into one `shadow_table`"),
        (
            [shadow(columns=WIDE), {"rename_column": {"table": "public.places", "from": "name", "to": "title"}}],
            "`columns: [{name: title, type: …, up: name}], replaces: [name], down: {name: title}`",
        ),
        (
            [shadow(columns=WIDE), {"create_index": {"table": "public.places", "name": "i", "columns": ["name"]}}],
            "Write `create_index` in a plan of its own, once this one has reached contract",
        ),
        (
            [extract(), {"drop_column": {"table": "public.places", "column": "name"}}],
            "Write `drop_column` in a plan of its own",
        ),
        ([shadow(columns=[{"name": "n", "type": "int", "check": "n > 0"}])], "`check` in a new shape"),
        ([shadow()], "the shape does not change"),
    ],
)
def test_what_cannot_be_in_any_database_is_told_by_the_plan_alone(operations: list[dict[str, Any]], says: str) -> None:
    plan = {"name": "p", "database": "shop", "version": {"from": "1", "to": "2"}, "operations": operations}
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(plan)
    assert says in str(caught.value)


INDEX = {"create_index": {"table": "public.places", "name": "i", "columns": ["name"]}}


@pytest.mark.parametrize(
    ("operations", "first", "at", "cure"),
    [
        ([shadow(columns=WIDE), INDEX], "[0].shadow_table.table", "[1].create_index", "Write `create_index` in a plan"),
        ([INDEX, shadow(columns=WIDE)], "[0].create_index", "[1].shadow_table.table", "Write `create_index` in a plan"),
        (
            [shadow(columns=WIDE), shadow(order=["name"])],
            "[0].shadow_table.table",
            "[1].shadow_table.table",
            "both into one",
        ),
        (
            [extract(), shadow(columns=WIDE)],
            "[0].extract_table.table",
            "[1].shadow_table.table",
            "Write `shadow_table` in a plan",
        ),
    ],
)
def test_two_operations_that_exclude_each_other_are_told_once_at_the_second(
    operations: list[dict[str, Any]], first: str, at: str, cure: str
) -> None:
    plan = {"name": "p", "database": "shop", "version": {"from": "1", "to": "2"}, "operations": operations}
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(plan)
    assert str(caught.value).count("gets another shape") == 1
    assert f"; the first is at operations{first}" in str(caught.value)
    assert caught.value.place is not None
    assert caught.value.place.path == f"operations{at}"
    assert cure in (caught.value.hint or "")


BOUNDS = [
    ("check", "n > 0 AND region <> 'a, b: c'", ()),
    ("unique", True, ("n",)),
    ("references", {"table": "public.places", "column": "id", "on_delete": "cascade", "name": "up"}, ("n",)),
]


@pytest.mark.parametrize(("key", "bound", "columns"), BOUNDS)
@pytest.mark.parametrize(
    ("shape", "bound_table"),
    [
        (lambda bound: shadow(columns=[{"name": "n", "type": "int", **bound}]), "public.places"),
        (lambda bound: extract(columns=[{"name": "name", "to": "n", **bound}]), "public.names"),
    ],
    ids=["shadow_table", "extract_table"],
)
def test_a_constraint_of_a_new_shape_is_given_back_as_the_operation_that_makes_it(
    shape: Callable[[dict[str, Any]], dict[str, Any]],
    bound_table: str,
    key: str,
    bound: object,
    columns: tuple[str, ...],
) -> None:
    with pytest.raises(PlanInvalid, match="once this one has reached contract") as caught:
        parsed(shape({key: bound}))
    assert str(caught.value.place).endswith(f"columns[0].{key}")
    (made,) = parsed(told(caught.value)).operations
    assert isinstance(made, CreateConstraint)
    assert (str(made.relation), made.columns) == (bound_table, columns)
    assert made.check == (bound if key == "check" else None)


async def test_the_operation_that_makes_it_is_one_that_check_takes_after_contract(bare: Connection) -> None:
    await bare.execute("ALTER TABLE public.places ADD n int")
    for key, bound, _ in BOUNDS:
        with pytest.raises(PlanInvalid) as caught:
            parsed(shadow(columns=[{"name": "n", "type": "int", key: bound}]))
        assert (await survey(bare, parsed(told(caught.value)))).hazards
    # A table that is partitioned then has it by its column.
    await bare.execute("ALTER TABLE public.days ADD n int")
    by_hash = {"method": "hash", "columns": ["id"], "modulus": 2}
    for key, bound, _ in BOUNDS:
        with pytest.raises(PlanInvalid) as caught:
            parsed(shadow("days", columns=[{"name": "n", "type": "int", key: bound}], partition_by=by_hash))
        if key == "unique":
            assert "PostgreSQL keeps `n` unique within each partition only" in str(caught.value.hint)
        else:
            (made,) = (await survey(bare, parsed(told(caught.value)))).design.tables
            assert (made.label, made.partitioned) == ('"public"."days"', True)
            assert (len(made.checks), len(made.foreign_keys)) == ((1, 0) if key == "check" else (0, 1))
