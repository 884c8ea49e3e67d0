"""Unique indexes over values that change bind from the cutover on, and no longer on the way home; what comes meanwhile is built."""

from typing import Any

import psycopg
import pytest
from support.cycle import UNHELD
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

ORDERS = """
CREATE TABLE public.orders (id int PRIMARY KEY, code text NOT NULL, note text);
INSERT INTO public.orders SELECT i, 'c' || i, 'n' || i FROM generate_series(1, 50) i;
CREATE UNIQUE INDEX by_code ON public.orders (code);
CREATE UNIQUE INDEX by_word ON public.orders (lower(note));
CREATE UNIQUE INDEX by_some ON public.orders (note) WHERE code <> '';
"""
LOWER: dict[str, Any] = {
    "shadow_table": {
        "table": "public.orders",
        "columns": [{"name": "code", "type": "text", "nullable": False, "up": "lower(code)"}],
        "down": {"code": "code"},
    }
}
UPSERTS = (
    ("(code)", "(101, 'c9', 'n101')"),
    ("(lower(note))", "(102, 'c102', 'N9')"),
    ("(note) WHERE code <> ''", "(103, 'c103', 'n9')"),
)
INDEXES = "SELECT array_agg(indexname::text ORDER BY indexname::text) FROM pg_indexes WHERE tablename = 'orders'"


@on_newest
async def test_a_uniqueness_over_other_values_waits_for_its_rows_binds_and_lets_go(world: World) -> None:
    await world.conn.execute(ORDERS.encode())
    await world.conn.execute("INSERT INTO public.orders VALUES (99, 'C9')")
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(LOWER, **UNHELD))
        status = await world.stage.until(
            lambda status: bool(status.waiting_for and "by_code" in status.waiting_for.detail), 90
        )
        assert status.phase is Phase.CUTOVER
        await world.conn.execute("DELETE FROM public.orders WHERE id = 99")
        await world.stage.act("advance")
        await world.stage.waits("window", Phase.SOAK, 90)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await world.conn.execute("INSERT INTO public_v1.orders VALUES (100, 'C9')")
        await upserts(world)
        await world.stage.act("abort")
        await world.stage.until(lambda status: status.state is State.ROLLED_BACK, 60)
        await world.conn.execute("INSERT INTO public.orders VALUES (100, 'C9')")


async def upserts(world: World) -> None:
    """Have new clients meet a row by each of the indexes: nothing is left of theirs, in either version."""
    for arbiter, row in UPSERTS:
        insert = f"INSERT INTO public_v2.orders VALUES {row} ON CONFLICT {arbiter} DO"
        assert (await world.conn.execute(f"{insert} NOTHING".encode())).rowcount == 0
        done = await world.conn.execute(f"{insert} UPDATE SET note = 'n9' RETURNING id".encode())
        assert await done.fetchall() == [(9,)]
    assert await world.one("SELECT max(id) FROM public.orders") == 50


@on_newest
async def test_an_index_that_somebody_gives_the_old_table_meanwhile_is_there_after_contract(world: World) -> None:
    await world.conn.execute(ORDERS.encode())
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(LOWER, **UNHELD))
        await world.stage.waits("window", Phase.SOAK, 90)
        await world.conn.execute("CREATE INDEX by_note ON public.orders (note) WHERE note <> ''")
        await world.conn.execute("CREATE UNIQUE INDEX by_both ON public.orders (code, note)")
        await world.stage.act("advance")
        assert (await world.stage.result(60)).state is State.DONE
    assert await world.one(INDEXES) == ["by_both", "by_code", "by_note", "by_some", "by_word", "orders_pkey"]
