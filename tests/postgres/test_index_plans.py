"""Indexes and replica identities as preflight knows them: what PostgreSQL makes of them, and what is refused where and why."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from support.plans import parsed, replace

from pgduet.errors import IndexInvalid, NameTaken, NotSupported, PlanInvalid, UnknownColumn, UnknownIndex, UnknownTable
from pgduet.postgres.databases import Database
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey

Client = psycopg.AsyncConnection[Any]

WORLD = """
CREATE TABLE public.shops (id int PRIMARY KEY, name text NOT NULL, city text, staff int NOT NULL, code text NOT NULL UNIQUE);
CREATE UNIQUE INDEX shops_name ON public.shops (name);
CREATE UNIQUE INDEX shops_city ON public.shops (city);
CREATE UNIQUE INDEX shops_upper ON public.shops (upper(name));
CREATE UNIQUE INDEX shops_open ON public.shops (staff) WHERE staff > 0;
CREATE INDEX shops_staff ON public.shops (staff);
CREATE TABLE public.notes (note text, at date);
CREATE INDEX notes_at ON public.notes (at);
CREATE TABLE public.events (id int NOT NULL) PARTITION BY RANGE (id);
CREATE INDEX events_id ON public.events (id);
CREATE COLLATION public.loose FROM "C";
"""
T = "public.shops"
NUMBER = {"add_column": {"table": T, "column": {"name": "number", "type": "int", "up": "id"}}}


@pytest.fixture
async def bare(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    """Give a session of the worker's on a database with the tables."""
    await conn.execute(WORLD.encode())
    async with session(Database("shop", dsn), "test", bare=True) as connection:
        yield connection


def index(*columns: Any, table: str = T, name: str = "made", **more: Any) -> dict[str, Any]:
    """Write a `create_index`."""
    return {"create_index": {"table": table, "name": name, "columns": list(columns), **more}}


def identity(kind: str, table: str = T, **more: Any) -> dict[str, Any]:
    """Write a `set_replica_identity`."""
    return {"set_replica_identity": {"table": table, "identity": kind, **more}}


def drop(name: str, **more: Any) -> dict[str, Any]:
    """Write a `drop_index`."""
    return {"drop_index": {"name": name, **more}}


async def test_an_index_is_built_when_its_columns_are_there_and_it_may_bind(bare: Connection) -> None:
    rename = {"rename_column": {"table": T, "column": "city", "to": "town"}}
    found = await survey(
        bare,
        parsed(
            NUMBER,
            rename,
            index({"expression": "lower(town)"}, name="there"),
            index("number", name="making"),
            index("town", {"column": "name", "collation": "loose"}, name="binds", unique=True, where="staff > 1"),
        ),
    )
    (table,) = found.design.tables
    there, making, binds = table.indexes
    assert (there.working, there.first, there.keys) == ("there", True, ())
    assert there.definition == "USING btree (lower(city))"
    assert (making.working, making.first) == ("_pgduet_review-stars_making", False)
    assert making.definition == 'USING btree ("_pgduet_review-stars_number")'
    assert (binds.working, binds.unique, binds.first) == ("_pgduet_review-stars_binds", True, False)
    assert binds.keys == ('(city) COLLATE pg_catalog."default"', "(name) COLLATE public.loose")
    assert binds.predicate == "(staff > 1)"


async def test_a_name_that_the_plan_drops_is_free_at_contract_only(bare: Connection) -> None:
    found = await survey(bare, parsed(drop("shops_staff"), index("name", name="shops_staff")))
    assert found.design.tables[0].indexes[0].working == "_pgduet_review-stars_shops_staff"
    assert found.design.touched == {'"public"."shops"'}
    assert [dropped.label for dropped in found.design.dropped_indexes] == ['"public"."shops_staff"']


async def test_an_index_may_take_the_name_of_a_constraint_that_the_plan_drops(bare: Connection) -> None:
    plan = parsed({"drop_constraint": {"table": T, "name": "shops_code_key"}}, index("code", name="shops_code_key"))
    (made,) = (await survey(bare, plan)).design.tables[0].indexes
    assert made.working == "_pgduet_review-stars_shops_code_key"


async def test_an_index_that_is_dropped_is_no_hazard(bare: Connection) -> None:
    crew = replace(T, {"staff": "crew"}, {"name": "crew", "type": "int", "nullable": False, "up": "staff"})
    told = [each.where for each in (await survey(bare, parsed(crew))).hazards if each.id == "PD-H06"]
    assert told == ['"public"."shops": index shops_open, index shops_staff']
    less = await survey(bare, parsed(crew, drop("shops_open"), drop("shops_staff", table=T)))
    assert [each.where for each in less.hazards if each.id == "PD-H06"] == []


async def test_what_was_is_kept_for_the_way_back(bare: Connection, conn: Client) -> None:
    await conn.execute("ALTER TABLE public.shops REPLICA IDENTITY USING INDEX shops_name")
    found = (await survey(bare, parsed(identity("full")))).design.tables[0].identity
    assert found is not None
    assert (found.widens, found.was, found.was_index) == (True, "index", "shops_name")
    narrower = (await survey(bare, parsed(identity("index", index="shops_code_key")))).design.tables[0].identity
    assert narrower is not None
    assert (narrower.widens, narrower.columns) == (False, ("code",))


@dataclass(frozen=True)
class Bad:
    """Operations, and what must be said of the last one."""

    operations: list[dict[str, Any]]
    error: type[PlanInvalid]
    at: str
    says: str
    setup: str = ""


ALL = "CREATE PUBLICATION everything FOR ALL TABLES"
BAD = {
    "an unknown table": Bad([index("a", table="shop")], UnknownTable, "create_index.table", "public.shops"),
    "an unknown column": Bad([index("nam")], UnknownColumn, "create_index.columns[0].column", "Did you mean `name`?"),
    "an unknown column in an expression": Bad(
        [index("id", {"expression": "lower(nam)"})],
        UnknownColumn,
        "create_index.columns[1].expression",
        'column "nam" does not exist in version 2 of public.shops',
    ),
    "a column that is included and unknown": Bad(
        [index("id", include=["cty"])], UnknownColumn, "create_index.include[0]", "Did you mean `city`?"
    ),
    "a column that the plan drops": Bad(
        [{"drop_column": {"table": T, "column": "city"}}, index("city")],
        UnknownColumn,
        "create_index.columns[0].column",
        "does not exist in the new version of public.shops",
    ),
    "a condition that is none": Bad([index("id", where="staff +")], PlanInvalid, "create_index.where", "syntax error"),
    "an expression that may change": Bad(
        [index({"expression": "random()"})], PlanInvalid, "create_index.columns[0].expression", "random()"
    ),
    "an expression that depends on a setting": Bad(
        [index("id", {"expression": "to_char(now() - now(), 'x')"})],
        PlanInvalid,
        "create_index.columns[1].expression",
        "now()",
    ),
    "an expression that is stable": Bad(
        [index({"expression": "name::regclass"})],
        IndexInvalid,
        "create_index.columns[0].expression",
        "functions in index expression must be marked IMMUTABLE",
    ),
    "an unknown method": Bad(
        [index("id", method="b树")], IndexInvalid, "create_index.method", 'access method "b树" does not exist'
    ),
    "a method that cannot": Bad(
        [index("id", method="hash", unique=True)],
        IndexInvalid,
        "create_index.method",
        "does not support unique indexes",
    ),
    "an unknown operator class": Bad(
        [index({"column": "name", "opclass": "name_opps"})],
        IndexInvalid,
        "create_index.columns",
        'operator class "name_opps" does not exist',
    ),
    "an unknown collation": Bad(
        [index({"column": "name", "collation": "xx"})], IndexInvalid, "create_index.columns", 'collation "xx"'
    ),
    "an unknown parameter": Bad(
        [index("id", storage_parameters={"fill": 3})],
        IndexInvalid,
        "create_index.storage_parameters",
        'unrecognized parameter "fill"',
    ),
    "a value out of bounds": Bad(
        [index("id", storage_parameters={"fillfactor": 3})],
        IndexInvalid,
        "create_index.storage_parameters",
        "out of bounds",
    ),
    "a text with a command in it": Bad(
        [index({"expression": "name)); DROP TABLE shops; --"})],
        PlanInvalid,
        "create_index.columns[0].expression",
        "",
    ),
    "a name that is taken": Bad(
        [index("id", name="notes")], NameTaken, "create_index.name", 'already has a relation "notes"'
    ),
    "a partitioned table": Bad([index("id", table="events")], NotSupported, "create_index.table", "is partitioned"),
    "an unknown index": Bad([drop("shops_nam")], UnknownIndex, "drop_index.name", 'Did you mean "public.shops_name"?'),
    "an index on which a foreign key stands": Bad(
        [drop("shops_name")],
        NotSupported,
        "drop_index.name",
        "on index public.shops_name stand notes_note_fkey of public.notes",
        "ALTER TABLE public.notes ADD FOREIGN KEY (note) REFERENCES public.shops (name)",
    ),
    "a partition's part of an index": Bad(
        [drop("early_id_idx")],
        NotSupported,
        "drop_index.name",
        "is the part of a partition in public.events_id",
        "CREATE TABLE public.early PARTITION OF public.events FOR VALUES FROM (0) TO (9)",
    ),
    "an index of another table": Bad(
        [drop("shops_name", table="notes")], IndexInvalid, "drop_index.name", "is an index of public.shops"
    ),
    "a primary key's index": Bad(
        [drop("shops_pkey")], NotSupported, "drop_index.name", "stands behind the constraint shops_pkey"
    ),
    "a unique constraint's index": Bad(
        [drop("shops_code_key", table=T)],
        NotSupported,
        "drop_index.name",
        "stands behind the constraint shops_code_key",
    ),
    "the replica identity": Bad(
        [drop("shops_name")],
        NotSupported,
        "drop_index.name",
        "is the replica identity of public.shops",
        "ALTER TABLE public.shops REPLICA IDENTITY USING INDEX shops_name",
    ),
    "a partitioned index": Bad([drop("events_id")], NotSupported, "drop_index.name", "partitioned"),
    "nothing for a published table": Bad(
        [identity("nothing")], NotSupported, "set_replica_identity.identity", "publication everything", ALL
    ),
    "a key that is not there": Bad(
        [identity("default", "notes")], NotSupported, "set_replica_identity.identity", "nothing would name the row", ALL
    ),
    "all columns where some are listed": Bad(
        [identity("full")],
        NotSupported,
        "set_replica_identity.identity",
        "publication part lists columns",
        "CREATE PUBLICATION part FOR TABLE public.shops (id, name)",
    ),
    "a column that is not listed": Bad(
        [identity("index", index="shops_code_key")],
        NotSupported,
        "set_replica_identity.identity",
        'publication part does not list "code"',
        "CREATE PUBLICATION part FOR TABLE public.shops (id, name)",
    ),
    "a row filter by another column": Bad(
        [identity("default")],
        NotSupported,
        "set_replica_identity.identity",
        'publication part chooses rows by "staff"',
        "ALTER TABLE public.shops REPLICA IDENTITY FULL;"
        " CREATE PUBLICATION part FOR TABLE public.shops WHERE (id > 0 AND staff > 0)",
    ),
    "no such index": Bad(
        [identity("index", index="notes_at")], IndexInvalid, "set_replica_identity.index", "has no index notes_at"
    ),
    "an index that is not unique": Bad(
        [identity("index", index="shops_staff")], IndexInvalid, "set_replica_identity.index", "it is not unique"
    ),
    "an index with empty values": Bad(
        [identity("index", index="shops_city")], IndexInvalid, "set_replica_identity.index", '"city" may be empty'
    ),
    "an index over an expression": Bad(
        [identity("index", index="shops_upper")], IndexInvalid, "set_replica_identity.index", "it is over an expression"
    ),
    "an index of some rows": Bad(
        [identity("index", index="shops_open")], IndexInvalid, "set_replica_identity.index", "does not have all rows"
    ),
    "an index that the plan drops": Bad(
        [drop("shops_name"), identity("index", index="shops_name")],
        IndexInvalid,
        "set_replica_identity.index",
        "the plan drops it",
    ),
    "an index whose constraint the plan drops": Bad(
        [{"drop_constraint": {"table": T, "name": "shops_code_key"}}, identity("index", index="shops_code_key")],
        IndexInvalid,
        "set_replica_identity.index",
        "the plan drops it",
    ),
    "an index whose constraint the plan renames": Bad(
        [
            {"rename_constraint": {"table": T, "from": "shops_code_key", "to": "shops_one"}},
            identity("index", index="shops_code_key"),
        ],
        IndexInvalid,
        "set_replica_identity.index",
        "the plan gives it another name",
    ),
    "an index of the plan's with empty values": Bad(
        [NUMBER, index("number", unique=True), identity("index", index="made")],
        IndexInvalid,
        "set_replica_identity.index",
        "may be empty",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_is_refused_at_its_place(bare: Connection, conn: Client, name: str) -> None:
    bad = BAD[name]
    if bad.setup:
        await conn.execute(bad.setup.encode())
    with pytest.raises(bad.error) as caught:
        await survey(bare, parsed(*bad.operations))
    assert caught.value.place is not None
    assert caught.value.place.path == f"operations[{len(bad.operations) - 1}].{bad.at}"
    assert bad.says in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint or caught.value.snippet or "Did you mean" in caught.value.message


async def test_what_is_published_may_get_the_identities_that_suit_it(bare: Connection, conn: Client) -> None:
    await conn.execute("CREATE PUBLICATION part FOR TABLE public.shops (id, name, city) WHERE (id > 0)")
    for wanted in (identity("default"), identity("nothing", "notes")):
        await survey(bare, parsed(wanted))
    await conn.execute("CREATE PUBLICATION inserts FOR TABLE public.notes WITH (publish = 'insert, truncate')")
    await survey(bare, parsed(identity("nothing", "notes")))


WRITES_FAIL = [name for name, bad in BAD.items() if "PUBLICATION" in bad.setup]


@pytest.mark.parametrize("name", WRITES_FAIL)
async def test_what_is_refused_for_a_publication_would_have_failed_clients(conn: Client, name: str) -> None:
    bad = BAD[name]
    said = bad.operations[-1]["set_replica_identity"]
    await conn.execute(WORLD.encode())
    await conn.execute(bad.setup.encode())
    table = said["table"]
    await conn.execute("INSERT INTO public.shops VALUES (1, 'a', 'b', 1, 'c')")
    await conn.execute("INSERT INTO public.notes VALUES ('a')")
    kind = f"USING INDEX {said['index']}" if "index" in said else said["identity"].upper()
    await conn.execute(f"ALTER TABLE {table} REPLICA IDENTITY {kind}".encode())
    with pytest.raises((psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference)):
        await conn.execute(f"DELETE FROM {table}".encode())
