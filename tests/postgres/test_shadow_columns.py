"""What somebody changes of an anchor's columns: what is in contract's way, what is taken over, what comes at the last moment."""

from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row
from support.resolving import resolved
from support.shadows import CUSTOMERS, create_orders
from support.worlds import on_each_version

from pgduet.errors import ColumnsChanged
from pgduet.operations import shadow, shadow_columns
from pgduet.operations.shadow_design import ShadowDesign
from pgduet.plan.shadow_operations import ExtractTable, ShadowTable
from pgduet.postgres import shadow_columns as looked_at

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]

MORE = "ALTER TABLE public.orders ADD twice int GENERATED ALWAYS AS (amount * 2) STORED, ADD price numeric(8, 2)"
LATER = {
    "name": "at",
    "type": "timestamptz",
    "up": "at AT TIME ZONE 'UTC'",
    "default": "timestamptz '2030-01-01 00:00+00'",
}
WIDER = ShadowTable.model_validate(
    {
        "table": "orders",
        "columns": [{"name": "id", "type": "bigint"}, {"name": "amount", "type": "bigint"}, LATER],
        "down": {"at": "at AT TIME ZONE 'UTC'"},
    }
)
MOVED = ExtractTable.model_validate(
    {
        "table": "customers",
        "into": "addresses",
        "key": {"id": "customer_id"},
        "columns": [{"name": "street"}, {"name": "city"}],
    }
)

IN_THE_WAY = {
    "ADD extra int": ['column "extra" has come'],
    "DROP note": ['column "note" is gone'],
    "RENAME note TO remark": ['column "remark" has come', 'column "note" is gone'],
    "ALTER price TYPE numeric(9, 2)": ['column "price" was numeric(8,2), and is numeric(9,2)'],
    "ALTER twice DROP EXPRESSION": ['column "twice" was computed as (amount * 2), and is not'],
    "ALTER id DROP IDENTITY": ['column "id" is numbered otherwise'],
    "ALTER note SET NOT NULL": [],
    "ALTER amount SET DEFAULT 5": [],
    "ALTER id SET GENERATED ALWAYS": [],
}


async def seen(conn: Connection, design: ShadowDesign) -> looked_at.Seen:
    """Look at the anchor's columns as the engine does."""
    before, conn.row_factory = conn.row_factory, dict_row
    try:
        return await looked_at.seen(conn, design)
    finally:
        conn.row_factory = before


async def wider(conn: Connection) -> ShadowDesign:
    """Create the table and its shadow; gives the design."""
    await create_orders(conn, 3)
    await conn.execute(MORE)
    design = await resolved(conn, WIDER)
    for statement in shadow.create(design):
        await conn.execute(statement.sql)
    return design


async def test_what_contract_would_lose_is_named_with_what_undoes_it(conn: Connection) -> None:
    design = await wider(conn)
    assert list(shadow_columns.in_the_way(design, (await seen(conn, design)).columns)) == []
    for change, wanted in IN_THE_WAY.items():
        async with conn.transaction(force_rollback=True):
            await conn.execute(f"UPDATE public.orders SET note = 'n'; ALTER TABLE public.orders {change}".encode())
            columns = (await seen(conn, design)).columns
            assert [said for said, _ in shadow_columns.in_the_way(design, columns)] == wanted, change
            if wanted:
                with pytest.raises(ColumnsChanged) as refused:
                    shadow_columns.refuse("p", design, columns, way_back=True)
                assert "pgduet advance p. Or roll back" in (refused.value.hint or "")
    await conn.execute("ALTER TABLE public.orders ADD extra int")
    with pytest.raises(ColumnsChanged) as refused:
        shadow_columns.refuse("p", design, (await seen(conn, design)).columns, way_back=False)
    assert refused.value.hint == 'ALTER TABLE "public"."orders" DROP COLUMN "extra"; then: pgduet advance p.'


async def test_of_an_extraction_only_what_moves_is_looked_at(conn: Connection) -> None:
    await conn.execute(CUSTOMERS)
    design = await resolved(conn, MOVED)
    await conn.execute(
        "ALTER TABLE public.customers ADD extra int, ALTER name TYPE varchar(9), ALTER street SET DEFAULT 's'"
    )
    found = await seen(conn, design)
    assert list(shadow_columns.in_the_way(design, found.columns)) == []
    assert (found.filled, found.loosened) == ([], [])
    await conn.execute("ALTER TABLE public.customers ALTER city TYPE varchar(9)")
    said = [each for each, _ in shadow_columns.in_the_way(design, (await seen(conn, design)).columns)]
    assert said == ['column "city" was text, and is character varying(9)']


async def test_the_design_follows_what_the_plan_leaves_alone(conn: Connection) -> None:
    design = await wider(conn)
    before = (await seen(conn, design)).design
    assert before == design
    await conn.execute("UPDATE public.orders SET price = 1")
    await conn.execute(
        "ALTER TABLE public.orders ALTER amount SET DEFAULT 5, ALTER at SET DEFAULT now(), ALTER note SET DEFAULT 'x',"
        " ALTER code DROP NOT NULL, ALTER amount DROP NOT NULL, ALTER price SET NOT NULL, ALTER price SET DEFAULT 0"
    )
    await conn.execute("COMMENT ON COLUMN public.orders.amount IS 'since'")
    found = await seen(conn, design)
    now = {column.name: column for column in found.design.columns}
    was = {column.name: column for column in design.columns}
    assert (now["amount"].default, now["amount"].comment) == ("5", "since")
    assert (now["note"].default, now["price"].default) == ("'x'::text", "0")
    assert now["at"].default == was["at"].default, "the plan gives it"
    assert now["amount"].nullable == was["amount"].nullable, "the plan says it"
    assert [each.column for each in found.filled] == ["price"]
    assert [each.summary for each in found.loosened] == ["code may be empty"]


async def test_what_changes_between_the_look_and_the_lock_is_seen(conn: Connection) -> None:
    design = await wider(conn)
    found = await seen(conn, design)
    await conn.execute(shadow_columns.as_seen(design, found.mark).sql)
    for change in (
        "ADD extra int",
        "ALTER note SET DEFAULT 'x'",
        "ALTER note SET STATISTICS 5",
        "RENAME note TO remark",
    ):
        async with conn.transaction(force_rollback=True):
            await conn.execute(f"ALTER TABLE public.orders {change}".encode())
            with pytest.raises(errors.ObjectNotInPrerequisiteState):
                async with conn.transaction():
                    await conn.execute(shadow_columns.as_seen(design, found.mark).sql)


async def test_a_column_that_a_shadow_was_given_is_not_dropped_with_it(conn: Connection) -> None:
    design = await wider(conn)
    names = [column.name for column in design.columns]
    shadow_columns.refuse_loss("p", design, names)
    with pytest.raises(ColumnsChanged, match='"extra"'):
        shadow_columns.refuse_loss("p", design, [*names, "extra"])
