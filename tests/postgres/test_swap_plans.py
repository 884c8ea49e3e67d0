"""What a swap cannot do is refused at its place, with a cure; what clients should know is named."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.plans import parsed
from support.resolving import resolved
from support.shadows import create_orders

from pgduet.errors import NotSupported, PlanInvalid
from pgduet.plan.shadow_operations import ShadowTable
from pgduet.postgres import catalogue, swapping

Connection = psycopg.AsyncConnection[Any]
BY_MONTH = {
    "method": "range",
    "columns": ["at"],
    "partitions": {"orders_1": "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')", "orders_rest": "DEFAULT"},
}


async def told(conn: Connection, **fields: Any) -> dict[str, str]:
    """Give the hazards of a swap, by rule."""
    operation = ShadowTable.model_validate({"table": "orders", **fields})
    design = await resolved(conn, operation)
    conn.row_factory = dict_row
    facts = await catalogue.table(conn, "public", "orders")
    return {hazard.id: hazard.where for hazard in await swapping.hazards(conn, 0, operation, facts, design)}


async def test_a_column_that_changes_its_type_under_its_name_is_refused_at_its_place(conn: Connection) -> None:
    await create_orders(conn, 1)
    with pytest.raises(NotSupported) as refused:
        await told(conn, order=["id"], columns=[{"name": "amount", "type": "bigint"}])
    assert str(refused.value.place) == "operations[0].shadow_table.columns[0]"
    assert "`amount` from integer to bigint" in refused.value.message
    assert "cached plan must not change result type" in refused.value.message
    assert refused.value.hint is not None
    assert "`policy.cutover.mode: route`" in refused.value.hint
    # Under another name it may be of any type.
    wider = {"name": "total", "type": "bigint", "up": "amount", "nullable": False}
    await told(conn, columns=[wider], replaces=["amount"], down={"amount": "total"})


@pytest.mark.parametrize("what", ["TABLE public.orders", "ALL TABLES"])
async def test_a_published_table_is_refused(conn: Connection, what: str) -> None:
    await create_orders(conn, 1)
    await conn.execute(f"CREATE PUBLICATION feed FOR {what}".encode())
    with pytest.raises(NotSupported, match="orders is published \\(feed\\)"):
        await told(conn, order=["note"])


async def test_what_clients_should_know_is_named_with_its_place(conn: Connection) -> None:
    await create_orders(conn, 1)
    await conn.execute("CREATE UNIQUE INDEX loud ON public.orders (upper(code))")
    at = "operations[0].shadow_table, public.orders"
    found = await told(conn, primary_key=["id", "at"], partition_by=BY_MONTH)
    assert set(found) == {"PD-H50", "PD-H53", "PD-H54"}
    assert found["PD-H50"] == at
    assert found["PD-H53"].startswith(f"{at}: PRIMARY KEY (id); ")
    assert {"orders_code_key (code)", "loud (code)"} <= set(found["PD-H53"].removeprefix(f"{at}: ").split("; "))
    found = await told(conn, order=["note"])
    assert found["PD-H52"] == f"{at}: the columns are others, or in another order"
    found = await told(conn, replaces=["note"], down={"note": "NULL"})
    assert found["PD-H52"] == f"{at}: `note` go"


async def test_roles_that_no_policy_binds_are_named(conn: Connection) -> None:
    await create_orders(conn, 1)
    await conn.execute("CREATE ROLE free LOGIN BYPASSRLS")
    try:
        found = await told(conn, order=["note"])
    finally:
        await conn.execute("DROP ROLE free")
    assert found["PD-H51"] == "operations[0].shadow_table, public.orders: free"


def test_a_plan_with_nothing_to_swap_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="nothing to swap") as refused:
        parsed({"add_column": {"table": "t", "column": {"name": "note", "type": "text"}}}, cutover={"mode": "swap"})
    assert str(refused.value.place) == "policy.cutover.mode"
