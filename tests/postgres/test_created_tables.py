"""Tables that a plan creates with constraints of their own: what PostgreSQL makes of them, and what is refused before."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.plans import parsed

from pgduet.errors import (
    ExpressionInvalid,
    ExpressionVolatile,
    NameTaken,
    NotSupported,
    PgduetError,
    PlanInvalid,
    UnknownColumn,
)
from pgduet.operations import tables
from pgduet.operations.names import archived_table
from pgduet.postgres.databases import Database
from pgduet.postgres.moving import archive_table, bring_back
from pgduet.postgres.session import Connection, session
from pgduet.postgres.survey import survey

Client = psycopg.AsyncConnection[Any]

COLUMNS = [
    {"name": "room", "type": "int"},
    {"name": "day", "type": "date"},
    {"name": "guest", "type": "varchar(40)", "nullable": False},
]


@pytest.fixture
async def bare(dsn: str, conn: Client) -> AsyncIterator[Connection]:
    await conn.execute("CREATE TABLE public.guest_once (id int); CREATE TABLE public.stays_guest_key (id int)")
    async with session(Database("shop", dsn), "test", bare=True) as connection:
        yield connection


def table(*constraints: dict[str, Any], name: str = "public.stays", **keys: Any) -> dict[str, Any]:
    return {"create_table": {"table": name, "columns": COLUMNS, "constraints": list(constraints), **keys}}


def constraint(name: str, kind: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **keys}


async def test_an_index_carries_columns_along(bare: Connection, conn: Client) -> None:
    plan = parsed(
        table(
            constraint("stay", "primary_key", columns=["room", "day"], include=["guest"]),
            constraint("once", "unique", columns=["guest"], include=["room", "day"], nulls_not_distinct=True),
            constraint(
                "apart",
                "exclude",
                exclude={"method": "btree", "elements": "guest WITH =", "where": "room > 1"},
                include=["day"],
            ),
        )
    )
    [made] = (await survey(bare, plan)).design.created
    for statement in tables.create(made):
        await conn.execute(statement.sql)
    found = await conn.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'public.stays'::regclass AND contype <> 'n' ORDER BY 1"
    )
    assert await found.fetchall() == [
        ("apart", "EXCLUDE USING btree (guest WITH =) INCLUDE (day) WHERE ((room > 1))"),
        ("once", "UNIQUE NULLS NOT DISTINCT (guest) INCLUDE (room, day)"),
        ("stay", "PRIMARY KEY (room, day) INCLUDE (guest)"),
    ]


async def test_indexes_that_the_archive_set_aside_get_their_names_back(bare: Connection, conn: Client) -> None:
    long = "a_name_of_an_index_that_is_as_long_as_the_name_of_an_index_can_be"[:63]
    columns = [{"name": "id", "type": "int", "identity": "always"}, *COLUMNS]
    unique = constraint(long, "unique", columns=["guest"])
    plan = parsed(table(unique, columns=columns, primary_key=["room"]), name="the-plan")
    [made] = (await survey(bare, plan)).design.created
    shape = (
        "SELECT relname FROM pg_class WHERE relname ~ '(stays_|^a_name|^by_hand)' AND relkind <> 'r'"
        " AND relnamespace = %s::regnamespace"
    )
    await conn.execute("DROP TABLE public.stays_guest_key")
    for statement in tables.create(made):
        await conn.execute(statement.sql)
    await conn.execute("CREATE INDEX by_hand ON public.stays (day)")
    names = sorted(await (await conn.execute(shape, ("public",))).fetchall())
    assert len(names) == 4
    await conn.execute("CREATE SCHEMA pgduet_archive; CREATE TABLE pgduet_archive.x (a int)")
    for (name,) in names:
        await conn.execute(sql.SQL("CREATE INDEX {} ON pgduet_archive.x (a)").format(sql.Identifier(name)))
    archived = archived_table("the-plan", "public", "stays")
    for statements in (archive_table, bring_back):
        for statement in await statements(bare, made, archived):
            await conn.execute(statement.sql)
    assert sorted(await (await conn.execute(shape, ("public",))).fetchall()) == names
    found = await conn.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'public.stays'::regclass AND contype = 'p'"
    )
    assert await found.fetchone() == ("stays_pkey",)


async def test_a_generated_column_is_computed_by_postgresql(bare: Connection, conn: Client) -> None:
    columns = [
        *COLUMNS,
        {"name": "label", "type": "text", "nullable": False, "generated": "guest || ' in ' || room::text"},
    ]
    plan = parsed(table(columns=columns))
    [made] = (await survey(bare, plan)).design.created
    for statement in tables.create(made):
        await conn.execute(statement.sql)
    found = await conn.execute("INSERT INTO public.stays VALUES (1, '2026-01-01', 'ann') RETURNING label")
    assert await found.fetchall() == [("ann in 1",)]


@pytest.mark.parametrize(
    ("expression", "error", "says"),
    [
        ("day::text", ExpressionInvalid, "a generated column must be immutable"),
        ("random()::text", ExpressionVolatile, "another value each time"),
        ("nothing || guest", UnknownColumn, 'column "nothing" does not exist'),
    ],
)
async def test_what_cannot_be_kept_is_not_generated(
    bare: Connection, expression: str, error: type[PgduetError], says: str
) -> None:
    columns = [*COLUMNS, {"name": "label", "type": "text", "generated": expression}]
    with pytest.raises(error) as caught:
        await survey(bare, parsed(table(columns=columns)))
    assert says in caught.value.render()
    assert caught.value.place is not None
    assert caught.value.place.path == "operations[0].create_table.columns[3].generated"


async def test_a_table_of_the_same_plan_can_refer_to_a_constraint_s_columns(bare: Connection) -> None:
    other = {
        "create_table": {
            "table": "public.bills",
            "columns": [
                {"name": "id", "type": "int", "primary_key": True},
                {"name": "guest", "type": "varchar(40)", "references": "public.stays(guest)"},
                {"name": "room", "type": "int"},
                {"name": "day", "type": "date"},
            ],
            "constraints": [
                constraint("stay", "foreign_key", columns=["room", "day"], references={"table": "public.stays"})
            ],
        }
    }
    stays = table(
        constraint("stay_key", "primary_key", columns=["room", "day"]), constraint("once", "unique", columns=["guest"])
    )
    keys = (await survey(bare, parsed(stays, other))).design.created[1].foreign_keys
    assert [(key.columns, key.target_columns) for key in keys] == [
        (("guest",), ("guest",)),
        (("room", "day"), ("room", "day")),
    ]
    late = table(constraint("once", "unique", columns=["guest"], deferrable=True))
    other["create_table"]["constraints"] = []
    with pytest.raises(UnknownColumn, match="not unique by itself"):
        await survey(bare, parsed(late, other))


@pytest.mark.parametrize(
    ("operation", "at"),
    [
        (table(constraint("guest_once", "unique", columns=["guest"])), "constraints[0].name"),
        (
            table(constraint("guest_once", "exclude", exclude={"method": "btree", "elements": "day WITH ="})),
            "constraints[0].name",
        ),
        (table(columns=[{"name": "guest", "type": "text", "unique": True}]), "columns[0].unique"),
        (table(columns=[{"name": "a", "type": "text", "unique": {"name": "guest_once"}}]), "columns[0].unique"),
    ],
)
async def test_a_name_that_an_index_cannot_have_is_refused(
    bare: Connection, operation: dict[str, Any], at: str
) -> None:
    with pytest.raises(NameTaken) as caught:
        await survey(bare, parsed(operation))
    assert caught.value.place is not None
    assert caught.value.place.path == f"operations[0].create_table.{at}"


@pytest.mark.parametrize(
    ("operation", "error", "at", "says"),
    [
        (
            table(constraint("x", "unique", columns=["room"], include=["gest"])),
            PlanInvalid,
            "create_table.constraints[0].include[0]",
            "no column `gest`. Did you mean `guest`?",
        ),
        (
            table(constraint("x", "check", check="room > 0", include=["guest"])),
            PlanInvalid,
            "create_table.constraints[0].include",
            "`include` is not for a constraint of type `check`",
        ),
        (
            table(columns=[{"name": "a", "type": "int", "generated": "1", "default": "2"}]),
            PlanInvalid,
            "create_table.columns[0].default",
            "one of them",
        ),
        (
            {"create_constraint": {"table": "t", **constraint("x", "unique", columns=["a"], include=["b"])}},
            NotSupported,
            "create_constraint.include",
            "by `create_index`",
        ),
    ],
)
def test_the_plan_alone_tells(operation: dict[str, Any], error: type[PgduetError], at: str, says: str) -> None:
    with pytest.raises(error) as caught:
        parsed(operation)
    assert caught.value.place is not None
    assert caught.value.place.path == f"operations[0].{at}"
    assert says in caught.value.render()
