"""Columns that move to a table of their own: the parent's row is the anchor."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.shadow_clients import LONG_S, clients, errors_in
from support.shadows import CUSTOMERS, PLAN, Shadow, addresses, create_orders, over, wide

from pgduet.operations import shadow, shadow_reverse, shadow_sync
from pgduet.operations.shadow_design import AnchorColumn, ShadowColumn
from pgduet.operations.shadow_sync import Form

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def m(conn: Connection) -> Shadow:
    """Give customers whose addresses have been extracted."""
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    extracted = Shadow(conn, addresses())
    await extracted.published()
    assert await extracted.parity() == (5, 0)
    return extracted


async def parent(m: Shadow, key: int) -> tuple[Any, ...]:
    """Read what an old client sees."""
    return await m.one("SELECT street, city FROM public.customers WHERE id = %s", key)


async def address(m: Shadow, key: int) -> list[tuple[Any, ...]]:
    """Read what a new client sees."""
    query = "SELECT street, city FROM public_v2.addresses WHERE customer_id = %s"
    return [tuple(row) for row in await (await m.conn.execute(query, (key,))).fetchall()]


async def test_an_old_clients_writes_bring_change_and_take_the_row(m: Shadow) -> None:
    await m.conn.execute("UPDATE public.customers SET street = 'new' WHERE id = 1")
    assert await address(m, 1) == [("new", None)]
    await m.conn.execute("UPDATE public.customers SET city = 'Rome' WHERE id = 2")
    assert await address(m, 2) == [("s2", "ROME")]
    await m.conn.execute("UPDATE public.customers SET street = NULL, city = NULL WHERE id = 4")
    assert await address(m, 4) == []
    await m.conn.execute("DELETE FROM public.customers WHERE id = 6")
    assert await address(m, 6) == []
    await m.conn.execute("INSERT INTO public.customers (id, name, city) VALUES (100, 'n', 'bonn')")
    assert await address(m, 100) == [(None, "BONN")]
    assert (await m.parity())[1] == 0


async def test_a_new_clients_writes_reach_the_parents_columns(m: Shadow) -> None:
    await m.conn.execute("INSERT INTO public_v2.addresses VALUES (1, 'first', 'PARIS')")
    assert await parent(m, 1) == ("first", "PARIS")
    await m.conn.execute("UPDATE public_v2.addresses SET street = 'other' WHERE customer_id = 2")
    assert await parent(m, 2) == ("other", "c2")
    await m.conn.execute("DELETE FROM public_v2.addresses WHERE customer_id = 4")
    assert await parent(m, 4) == (None, None)
    await m.conn.execute(
        "INSERT INTO public_v2.addresses VALUES (6, 'upserted', 'OSLO')"
        " ON CONFLICT (customer_id) DO UPDATE SET street = excluded.street"
    )
    assert await parent(m, 6) == ("upserted", "c6")
    assert (await m.parity())[1] == 0


async def test_clients_of_both_versions_neither_deadlock_nor_lose_a_write(dsn: str, conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    await conn.execute("UPDATE public.customers SET street = NULL, city = NULL")
    await conn.execute("ALTER TABLE public.customers ADD visits int")
    base = addresses()
    visits = ShadowColumn(name="visits", type="integer", same="visits")
    counted = AnchorColumn(name="visits", type="integer", same="visits", may_raise=False)
    m = Shadow(
        conn,
        addresses(
            columns=(*base.columns, visits), anchors=(*base.anchors, counted), exists=over("(t.visits IS NOT NULL)")
        ),
    )
    await m.published()
    kinds, relations = ["moved_in", "visited", "visited", "moved_out"], ("public.customers", "public_v2.addresses")
    async with clients(dsn, 5, kinds, relations) as ledger:
        await asyncio.sleep(LONG_S / 2)
    assert errors_in(ledger) == {}
    assert ledger["done"] > 300
    assert await m.one("SELECT coalesce(sum(visits), 0)::int FROM public.customers") == (ledger["amount"],)
    assert (await m.parity())[1] == 0


async def test_what_the_parent_cannot_hold_is_refused(m: Shadow) -> None:
    with pytest.raises(errors.ForeignKeyViolation):
        await m.conn.execute("INSERT INTO public_v2.addresses VALUES (999, 'nobody', NULL)")
    with pytest.raises(errors.DataException, match="no equivalent"):
        await m.conn.execute("UPDATE public_v2.addresses SET city = 'small letters' WHERE customer_id = 2")
    with pytest.raises(errors.DataException, match="no equivalent"):
        await m.conn.execute("INSERT INTO public_v2.addresses VALUES (1, NULL, NULL)")
    with pytest.raises(errors.UniqueViolation):
        await m.conn.execute("INSERT INTO public_v2.addresses VALUES (2, 'twice', NULL)")
    with pytest.raises(errors.FeatureNotSupported):
        await m.conn.execute("UPDATE public_v2.addresses SET customer_id = 1 WHERE customer_id = 2")
    assert await m.parity() == (5, 0)


async def test_what_up_cannot_map_has_no_row_is_noted_and_is_refused_once_the_new_version_is_in_force(
    conn: Connection,
) -> None:
    await create_orders(conn, 0)
    await conn.execute("ALTER TABLE public.orders ALTER note SET DEFAULT '0'")
    await conn.execute("INSERT INTO public.orders (code) SELECT 'c' || i FROM generate_series(1, 5) i")
    await conn.execute("UPDATE public.orders SET note = 'no number' WHERE id = 3")
    await conn.execute(
        "INSERT INTO pgduet.migration"
        " (name, database, attempt, checksum, from_version, to_version, phase, state, plan, design, workflow_id)"
        " VALUES ('x', 'shop', 1, 'x', '1', '2', 'backfill', 'running', '{}', '{}', 'test')"
    )
    base = wide()
    columns = tuple(c for c in base.columns if c.name != "note")
    anchors = tuple(c for c in base.anchors if c.name != "note")
    number = ShadowColumn(name="number", type="integer", nullable=False, up=over("t.note::integer"))
    note = AnchorColumn(name="note", type="text", down=over("t.number::text"))
    m = Shadow(conn, wide(columns=(*columns, number), anchors=(*anchors, note), guarded=True))
    await m.expand()
    await m.copy(safe=True)
    await m.keyed()
    await m.drain()
    await m.publish()
    count = f"SELECT count(*) FROM {m.design.shadow_label}"
    assert await m.one(count) == (4,)
    await conn.execute("UPDATE public.orders SET note = 'x' WHERE id = 1")
    await conn.execute("UPDATE public.orders SET amount = 9 WHERE id = 3")
    assert await m.one(count) == (3,)
    assert await m.one("SELECT array_agg(key ->> 'id') FROM pgduet.drift") == (["1"],)  # 3 was so before
    await conn.execute("UPDATE public.orders SET note = '17' WHERE id = 1")
    assert await m.one(f"SELECT number FROM {m.design.shadow_label} WHERE id = 1") == (17,)
    await m.form(Form.ENFORCE)
    with pytest.raises(errors.DataException, match="cannot hold this row"):
        await conn.execute("UPDATE public.orders SET note = 'x' WHERE id = 1")


async def test_all_of_it_can_be_taken_away_again(conn: Connection) -> None:
    await create_orders(conn, 3)
    m = Shadow(conn, wide())
    await m.published()
    await conn.execute("DROP VIEW public_v2.orders")
    for _ in range(2):
        if await exists(m, m.design.shadow_label):
            await m.run(shadow_reverse.drop_reverse(m.design, PLAN))
        await m.run(shadow_sync.drop_triggers(m.design, PLAN))
        await m.run(shadow.drop(m.design))
        await m.run(shadow_sync.drop_functions(m.design))
    await conn.execute("UPDATE public.orders SET amount = 1")
    left = "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname LIKE '%%orders%%'"
    assert await m.one(left) == (0,)


async def exists(m: Shadow, label: str) -> bool:
    """Tell whether there is such a table."""
    return (await m.one("SELECT to_regclass(%s) IS NOT NULL", label)) == (True,)
