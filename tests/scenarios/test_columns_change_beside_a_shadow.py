"""Somebody changes columns of a table that has a shadow: contract takes it over or does not go past it, and a rollback keeps it."""

from typing import Any

from support.cycle import UNHELD
from support.worlds import World, on_newest

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


async def test_what_can_be_taken_over_is_and_a_new_column_holds_contract_until_it_is_gone(world: World) -> None:
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
