"""The shadow takes the anchor's place: what hung on the anchor hangs on it."""

from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row
from support.shadows import CUSTOMERS, OWNER, PLAN, Shadow, addresses, create_orders, wide
from support.swaps import APP, Swapping, make_roles

from pgduet.operations import shadow_final
from pgduet.postgres import catalogue, copying

Connection = psycopg.AsyncConnection[Any]

AROUND = """
CREATE TABLE public.shops (id int PRIMARY KEY);
INSERT INTO public.shops VALUES (1);
ALTER TABLE public.orders ADD shop int DEFAULT 1 REFERENCES public.shops;
ALTER TABLE public.orders ADD CONSTRAINT positive CHECK (amount >= 0);
CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE);
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch();
COMMENT ON TABLE public.orders IS 'what was ordered';
INSERT INTO public.items VALUES (1), (2);
"""


async def finish(m: Shadow) -> None:
    """Contract, as far as the table goes."""
    m.conn.row_factory = dict_row
    hung = await copying.hung(m.conn, m.design)
    relations = await catalogue.relations(m.conn, m.design.schema_name)
    m.conn.row_factory = psycopg.rows.tuple_row
    relation = next(each for each in relations if each.table == m.design.table)
    view = sql.Identifier("public_v2", m.design.shown_as)
    await m.run(shadow_final.finish(m.design, PLAN, hung, relation, [view], OWNER))
    for statement in shadow_final.validate(m.design, hung):
        await m.conn.execute(statement.sql)


@pytest.mark.parametrize("swapped", [False, True], ids=["by its own name", "after a swap"])
async def test_a_shadow_takes_its_anchors_place_with_all_that_hung_on_it(conn: Connection, *, swapped: bool) -> None:
    await create_orders(conn, 10)
    await conn.execute(AROUND)
    # A sequence must have its table's owner, who need not be the worker.
    make_roles(conn.info.dsn)
    await conn.execute(f"ALTER TABLE public.orders OWNER TO {APP}".encode())
    base = wide()
    shop = ("shop", "integer")
    columns = (
        *base.columns,
        base.columns[3].model_copy(update={"name": shop[0], "type": shop[1], "same": "shop", "default": "1"}),
    )
    anchors = (*base.anchors, base.anchors[3].model_copy(update={"name": shop[0], "type": shop[1], "same": "shop"}))
    m = Swapping(conn, wide(columns=columns, anchors=anchors, rereads=True, postpones=True, guarded=True))
    await m.published()
    await conn.execute("INSERT INTO public.orders (code) VALUES ('by the old')")
    (last,) = await m.one("INSERT INTO public_v2.orders (code) VALUES ('by the new') RETURNING id")
    if swapped:
        await m.swap()
        (last,) = await m.one("INSERT INTO public.orders (code) VALUES ('by the name') RETURNING id")
    await finish(m)
    assert await m.one("INSERT INTO public.orders (code) VALUES ('afterwards') RETURNING id, amount, shop") == (
        last + 1,
        0,
        1,
    )
    assert await m.one("UPDATE public_v2.orders SET amount = 3000000000 WHERE id = 3 RETURNING note") == ("touched",)
    with pytest.raises(errors.UniqueViolation, match="orders_code_key"):
        await conn.execute("INSERT INTO public.orders (code) VALUES ('c1')")
    with pytest.raises(errors.UniqueViolation, match="orders_pkey"):
        await conn.execute("INSERT INTO public.orders (id, code) VALUES (1, 'x')")
    with pytest.raises(errors.CheckViolation, match="positive"):
        await conn.execute("UPDATE public.orders SET amount = -1")
    with pytest.raises(errors.ForeignKeyViolation, match="orders_shop_fkey"):
        await conn.execute("UPDATE public.orders SET shop = 2")
    with pytest.raises(errors.ForeignKeyViolation, match="items_order_id_fkey"):
        await conn.execute("INSERT INTO public.items VALUES (999)")
    await conn.execute("DELETE FROM public_v2.orders WHERE id = 1")
    assert await m.one("SELECT count(*) FROM public.items") == (1,)
    names = (
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relname LIKE %s"
    )
    assert await m.one(names, "%order%") == (["orders", "orders_code_key", "orders_id_seq", "orders_pkey"],)
    left = "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname LIKE %s"
    assert await m.one(left, "%orders%") == (0,)
    assert await m.one("SELECT count(*)::int FROM pg_constraint WHERE NOT convalidated") == (0,)
    described = (
        "SELECT obj_description(oid, 'pg_class'), relrowsecurity, relforcerowsecurity FROM pg_class"
        " WHERE oid = 'public.orders'::regclass"
    )
    assert await m.one(described) == ("what was ordered", False, False)


async def test_an_extracted_table_stands_by_itself_and_belongs_to_its_parent(conn: Connection) -> None:
    await create_orders(conn, 0)
    await conn.execute(CUSTOMERS)
    m = Shadow(conn, addresses())
    await m.published()
    await finish(m)
    columns = (
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'public.customers'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    assert await m.one(columns) == (["id", "name"],)
    await conn.execute("UPDATE public_v2.addresses SET city = 'small letters' WHERE customer_id = 2")
    assert await m.one("SELECT street, city FROM public.addresses WHERE customer_id = 2") == ("s2", "small letters")
    with pytest.raises(errors.ForeignKeyViolation, match="addresses_customer_id_fkey"):
        await conn.execute("INSERT INTO public.addresses VALUES (999, 'nobody', NULL)")
    await conn.execute("DELETE FROM public.customers WHERE id = 2")
    assert await m.one("SELECT count(*) FROM public.addresses WHERE customer_id = 2") == (0,)
