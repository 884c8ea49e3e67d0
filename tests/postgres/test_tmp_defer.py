from support.shadows import *
import pytest
async def test_x(conn):
    await create_orders(conn, 3)
    await conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_pkey, ADD CONSTRAINT orders_pkey PRIMARY KEY (id) DEFERRABLE")
    m = Shadow(conn, wide(unique=()))
    await m.published()
    await conn.execute("INSERT INTO public_v2.orders (code) VALUES ('new')")
