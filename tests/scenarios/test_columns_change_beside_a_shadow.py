"""Somebody changes columns of a table that has a shadow: contract takes it over or does not go past it, and a rollback keeps it."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.cycle import UNHELD
from support.merged import TABLES, TOTALS
from support.plans import overlaid
from support.swaps import APP, as_role, make_roles
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.phases import Phase, State

ORDERS = """
CREATE TABLE public.orders (
    id     int PRIMARY KEY,
    code   text NOT NULL,
    amount int NOT NULL DEFAULT 0,
    total  int DEFAULT 1,
    note   text
);
COMMENT ON COLUMN public.orders.note IS 'before';
INSERT INTO public.orders (id, code, note) SELECT i, 'c' || i, 'n' FROM generate_series(1, 50) i;
"""
WIDER: dict[str, Any] = {
    "shadow_table": {
        "table": "public.orders",
        "columns": [{"name": "id", "type": "bigint"}, {"name": "total", "type": "bigint"}],
    }
}
CHANGED = """
ALTER TABLE public.orders ALTER amount SET DEFAULT 5, ALTER total SET DEFAULT 6, ALTER note SET NOT NULL,
  ALTER note SET STATISTICS 77, ALTER note SET STORAGE EXTERNAL, ALTER code DROP NOT NULL;
COMMENT ON COLUMN public.orders.note IS 'since';
"""
COLUMNS = """
SELECT attname::text, attnotnull, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum), nullif(attstattarget, -1),
       attstorage::text
  FROM pg_attribute LEFT JOIN pg_attrdef ON (attrelid, attnum) = (adrelid, adnum)
 WHERE attrelid = 'public.orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname
"""
AFTER = [
    ("amount", True, "5", None, None, "p"),
    ("code", False, None, None, None, "x"),
    ("id", True, None, None, None, "p"),
    ("note", True, None, "since", 77, "e"),
    ("total", False, "6", None, None, "p"),
]


async def changed_in_soak(world: World) -> None:
    """Go into soak; there somebody changes columns, and adds one with data."""
    await world.conn.execute(ORDERS.encode())
    await world.stage.start(world.stage.plan(WIDER, **UNHELD))
    await world.stage.waits("window", Phase.SOAK, 90)
    await world.conn.execute(CHANGED.encode())
    await world.conn.execute("ALTER TABLE public.orders ADD COLUMN extra int NOT NULL DEFAULT 7")


async def test_what_can_be_taken_over_is_and_a_new_column_holds_contract_until_it_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = world.stage
    async with stage.worker():
        await changed_in_soak(world)
        await stage.act("advance")
        status = await stage.waits("error", Phase.CONTRACT, 60)
        assert status.waiting_for is not None
        detail = status.waiting_for.detail
        assert 'column "extra" has come' in detail, detail
        assert "PD-2010" in detail, detail
        assert any('"extra"' in each for each in status.decisions), "the census has not seen it"
        assert await world.one("SELECT count(*) FROM public.orders WHERE extra = 7") == 50
        assert not await world.one("SELECT coalesce((controls ->> 'no_return')::bool, false) FROM pgduet.migration")
        # By now the census has let the shadow be empty where the table may: an old client is not refused.
        await world.conn.execute("INSERT INTO public.orders (id, note) VALUES (60, 'without')")
        await world.conn.execute('ALTER TABLE public.orders DROP COLUMN "extra"')

        async def comes_late() -> None:
            await world.conn.execute("ALTER TABLE public.orders ADD COLUMN late int DEFAULT 8")

        monkeypatch.setitem(barriers.HOOKS, "begin_contract.after_commit", comes_late)
        await stage.act("advance")
        status = await stage.until(lambda status: '"late"' in str(status.waiting_for), 60)
        assert "roll back" not in str(status.waiting_for), "there is no way back any more"
        assert await world.one("SELECT count(*) FROM public.orders WHERE late = 8") == 51
        monkeypatch.delitem(barriers.HOOKS, "begin_contract.after_commit")
        await world.conn.execute("ALTER TABLE public.orders DROP COLUMN late")
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
    assert await world.rows(COLUMNS) == AFTER
    assert (
        await world.one(
            "SELECT count(*) FROM pg_constraint WHERE conname LIKE '\\_pgduet%%' AND conrelid = 'public.orders'::regclass"
        )
        == 0
    )
    await world.conn.execute("INSERT INTO public_v2.orders (id, code, note) VALUES (70, 'c', 'n')")
    assert await world.rows("SELECT amount, total FROM public.orders WHERE id = 70") == [(5, 6)]


@on_newest
async def test_a_rollback_keeps_what_somebody_has_changed(world: World) -> None:
    stage = world.stage
    async with stage.worker():
        await changed_in_soak(world)
        await stage.act("abort")
        assert (await stage.result(60)).state is State.ROLLED_BACK
    assert await world.one("SELECT count(*) FROM public.orders WHERE extra = 7") == 50
    assert [row for row in await world.rows(COLUMNS) if row[0] != "extra"] == AFTER


@on_newest
async def test_a_column_that_came_holds_a_swap_and_one_given_by_the_name_after_it_holds_the_rollback(
    world: World,
) -> None:
    stage = world.stage
    make_roles(stage.dsn)
    await world.conn.execute(f"{ORDERS}; ALTER TABLE public.orders OWNER TO {APP}".encode())
    spread = {"table": "public.orders", "partition_by": {"method": "hash", "columns": ["id"], "modulus": 2}}
    policy = overlaid(UNHELD, {"cutover": {"mode": "swap"}, "gates": {"shadow": "manual"}})
    dsn = as_role(stage.dsn, APP)
    async with stage.worker(), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        await stage.start(stage.plan({"shadow_table": spread}, **policy))
        await stage.waits("gate", Phase.VERIFY, 60)
        await owner.execute("ALTER TABLE public.orders ADD COLUMN extra int, ALTER amount SET DEFAULT 5")
        await stage.act("advance")
        status = await stage.until(lambda status: "PD-2010" in str(status.waiting_for), 60)
        assert 'column "extra" has come' in str(status.waiting_for)
        await owner.execute("ALTER TABLE public.orders DROP COLUMN extra")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK, 60)
        await owner.execute("INSERT INTO public.orders (id, code) VALUES (70, 'c')")
        assert await world.rows("SELECT amount FROM public_v1.orders WHERE id = 70") == [(5,)]
        await world.conn.execute("ALTER TABLE public.orders ADD COLUMN extra int DEFAULT 7")
        await stage.act("abort")
        status = await stage.until(lambda status: "PD-2010" in str(status.waiting_for), 60)
        assert '"extra"' in str(status.waiting_for)
        kept = sql.Identifier("public", "_pgduet_review-stars_orders")
        count = await world.conn.execute(sql.SQL("SELECT count(*) FROM {} WHERE extra = 7").format(kept))
        assert await count.fetchone() == (51,)
        await world.conn.execute(sql.SQL("ALTER TABLE {} DROP COLUMN extra").format(kept))
        await stage.act("advance")
        assert (await stage.result(60)).state is State.ROLLED_BACK


@on_newest
async def test_a_column_with_a_second_form_gives_it_what_somebody_has_changed_and_holds_contract_for_not_null(
    world: World,
) -> None:
    stage = world.stage
    await world.conn.execute(ORDERS.encode())
    column = {"table": "public.orders", "column": "total", "type": "bigint", "up": "total", "down": "total::int"}
    async with stage.worker():
        await stage.start(stage.plan({"alter_column": column}, **UNHELD))
        await stage.waits("window", Phase.SOAK, 60)
        await world.conn.execute("ALTER TABLE public.orders ALTER total SET DEFAULT 6, ALTER total SET STATISTICS 77")
        await world.conn.execute("ALTER TABLE public.orders ALTER total SET NOT NULL")
        await world.conn.execute("COMMENT ON COLUMN public.orders.total IS 'since'")
        await stage.act("advance")
        status = await stage.waits("error", Phase.CONTRACT, 60)
        assert "PD-2010" in str(status.waiting_for)
        assert 'column "total" is NOT NULL since' in str(status.waiting_for)
        await world.conn.execute("ALTER TABLE public.orders ALTER total DROP NOT NULL")
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
    found = [row for row in await world.rows(COLUMNS) if row[0] == "total"]
    assert found == [("total", False, "(6)::bigint", "since", 77, "p")]
    await world.conn.execute("INSERT INTO public_v2.orders (id, code) VALUES (70, 'c')")
    assert await world.one("SELECT total FROM public.orders WHERE id = 70") == 6


@on_newest
async def test_a_column_that_came_to_rows_that_are_merged_holds_contract(world: World) -> None:
    stage = world.stage
    await world.conn.execute(TABLES.format(invoices=5, each=10).encode())
    async with stage.worker():
        await stage.start(stage.plan(TOTALS, **UNHELD))
        await stage.waits("window", Phase.SOAK, 60)
        await world.conn.execute("ALTER TABLE public.lines ADD COLUMN extra int DEFAULT 7")
        await stage.act("advance")
        status = await stage.waits("error", Phase.CONTRACT, 60)
        assert "PD-2010" in str(status.waiting_for)
        assert 'column "extra" has come' in str(status.waiting_for)
        assert await world.one("SELECT count(*) FROM public.lines WHERE extra = 7") == 50
        await world.conn.execute("ALTER TABLE public.lines DROP COLUMN extra")
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
