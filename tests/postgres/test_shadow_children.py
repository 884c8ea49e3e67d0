"""New clients beside rows that refer to the anchor's: who may wait for whom, and that nobody is a deadlock's victim."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.mutants import Clause, Code, Mutant, must_fail
from support.shadow_clients import held_up_by
from support.shadows import PARTS, PLAN, Shadow, create_orders, of_parts, wide
from support.worlds import on_each_version

from pgduet.operations import shadow_leaves, shadow_rekeyed
from pgduet.operations.shadow_sync import Form

pytestmark = on_each_version
Connection = psycopg.AsyncConnection[Any]
OTHER_KEYS = (
    "UPDATE public_v2.orders SET id = 1001 WHERE id = 1",
    "INSERT INTO public_v2.orders (id, code) VALUES (1, 'c1') ON CONFLICT (id) DO UPDATE SET id = 1001",
)
STAMPED = """
CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := now(); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.stamp();
"""


async def test_another_key_beside_a_child_is_nobodys_deadlock(dsn: str, conn: Connection) -> None:
    soon = sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(sql.Identifier(conn.info.dbname))
    await conn.execute(soon)
    await create_orders(conn, 2)
    await conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON UPDATE CASCADE)")
    m = Shadow(conn, wide())
    await m.published()
    for statement in OTHER_KEYS:
        async with (
            await psycopg.AsyncConnection.connect(dsn) as child,
            await psycopg.AsyncConnection.connect(dsn) as new,
        ):
            await child.execute("INSERT INTO public.items VALUES (1)")
            waiting = asyncio.create_task(new.execute(statement.encode()))
            await held_up_by(child, new)
            await child.execute("UPDATE public.orders SET amount = amount + 1 WHERE id = 1")
            await child.commit()
            assert (await waiting).rowcount == 1
            await new.commit()
        assert (await m.parity())[1] == 0
        assert await m.one("SELECT count(*)::int FROM public.items WHERE order_id = 1001") == (1,)
        await conn.execute("DELETE FROM public.items; DELETE FROM public.orders WHERE id = 1001")
        await conn.execute("INSERT INTO public.orders (id, code) VALUES (1, 'c1')")


@pytest.mark.parametrize("table", ["plain", "with a BEFORE trigger", "partitioned"])
async def test_other_writes_and_children_do_not_wait_for_each_other(dsn: str, conn: Connection, table: str) -> None:
    await create_orders(conn, 3)
    m = Shadow(conn, wide(rereads=table != "plain"))
    columns, values, refers = "order_id int", "1", "order_id"
    if table == "with a BEFORE trigger":
        await conn.execute(STAMPED)
    elif table == "partitioned":
        await conn.execute("DROP TABLE public.orders")
        await conn.execute(PARTS)
        m = Shadow(conn, of_parts())
        columns, values, refers = "order_id int, at timestamp", "1, '2026-01-01'", "order_id, at"
    await conn.execute(
        f"CREATE TABLE public.items ({columns}, FOREIGN KEY ({refers}) REFERENCES public.orders)".encode()
    )
    await m.published()
    if m.design.parted:
        await m.run([*shadow_leaves.functions(m.design, Form.BOTH), *shadow_leaves.moving_trigger(m.design, PLAN)])
    child_of_1 = f"INSERT INTO public.items VALUES ({values})".encode()
    async with (
        await psycopg.AsyncConnection.connect(dsn) as child,
        await psycopg.AsyncConnection.connect(dsn) as new,
    ):
        for each in (child, new):
            await each.execute("SET lock_timeout = '1s'")
            await each.commit()
        # The child comes first, then the new client, whose transaction has given another row another key.
        await child.execute(child_of_1)
        await new.execute("UPDATE public_v2.orders SET id = 1003 WHERE id = 3")
        await new.execute("UPDATE public_v2.orders SET amount = 2, note = 'x' WHERE id = 1")
        await new.execute(b"SELECT FROM public_v2.orders WHERE id = 1 FOR NO KEY UPDATE")
        await child.rollback()
        # And the other way round.
        await child.execute(child_of_1)
        await child.commit()
        await new.commit()
    assert (await m.parity())[1] == 0
    assert await m.one("SELECT amount::int FROM public.orders WHERE id = 1") == (2,)


WEAK = Clause(
    "another key is locked for",
    "shadow",
    "rekeys",
    "WHEN 'BEFORE' THEN {mark} ELSE '' END",
    "WHEN '' THEN {mark} ELSE '' END",
)
FOR_EVER = Clause("until the statement's end", "shadow", "rekeys", " ELSE ''", " ELSE {mark}")
ALL_COLUMNS = Code(
    "a key is written where it changes", shadow_rekeyed.keyless, "column.name not in _keys(design)", "True"
)


@pytest.mark.parametrize(
    ("table", "mutant"),
    [("", WEAK), ("plain", FOR_EVER), ("with a BEFORE trigger", ALL_COLUMNS), ("partitioned", ALL_COLUMNS)],
)
async def test_the_rule_is_needed(dsn: str, conn: Connection, table: str, mutant: Mutant) -> None:
    if table:
        scenario = test_other_writes_and_children_do_not_wait_for_each_other(dsn, conn, table)
        await must_fail(scenario, mutant, says="lock timeout")
    else:
        await must_fail(
            test_another_key_beside_a_child_is_nobodys_deadlock(dsn, conn), mutant, says="deadlock detected"
        )
