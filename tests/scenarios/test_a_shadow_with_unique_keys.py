"""A unique key of the shadow refuses nobody whom the anchor lets by: not while it is built, and not beside the user's triggers."""

import asyncio
from typing import Any

import pytest
from support.cycle import Case, Cycle, new, old
from support.mutants import Clause, must_fail
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.phases import Phase

ORDERS = """
CREATE TABLE public.orders (id int PRIMARY KEY, code text NOT NULL UNIQUE, amount int NOT NULL DEFAULT 0);
INSERT INTO public.orders (id, code) SELECT i, 'c' || i FROM generate_series(1, 100) i;
"""
HEIRS = """
CREATE FUNCTION public.inherits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.code ~ '^heir' THEN UPDATE public.orders SET code = substr(NEW.code, 5) WHERE id = NEW.id + 1; END IF;
    RETURN NEW; END $$;
CREATE TRIGGER inherits BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.inherits();
"""
WIDER: dict[str, Any] = {
    "shadow_table": {
        "table": "public.orders",
        "columns": [{"name": "id", "type": "bigint"}, {"name": "mood", "type": "text"}],
    }
}


@on_newest
async def test_a_value_that_an_old_snapshot_has_freed_can_be_taken_while_the_sync_turns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.conn.execute(ORDERS.encode())
    done = asyncio.Event()

    async def between() -> None:
        if not done.is_set():
            async with world.conn.transaction():
                await world.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await world.conn.execute("UPDATE public.orders SET code = 'freed' WHERE id = 1")
            await world.conn.execute("UPDATE public.orders SET code = 'c1' WHERE id = 2")
            done.set()

    monkeypatch.setitem(barriers.HOOKS, "publish.before_commit", between)
    async with world.stage.worker():
        await world.stage.start(world.stage.plan(WIDER, gates={"shadow": "manual"}))
        await world.stage.waits("gate", Phase.VERIFY, 90)
    assert done.is_set()
    codes = "SELECT array_agg(code ORDER BY id) FROM public_v2.orders WHERE id < 3"
    assert await world.one(codes) == ["freed", "c1"]


async def heirs(world: World, orders: str = ORDERS) -> None:
    """Go through the cycle with a user's trigger that passes a code on."""
    await world.conn.execute((orders + HEIRS).encode())
    # The first row frees its code; the second's trigger gives that to the third, whose sync comes first.
    take = (
        # In the key's order, wherever the rows lie.
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;"
        " UPDATE orders SET code = CASE id WHEN {n} THEN 'free{n}' ELSE 'heir' || (SELECT code FROM orders WHERE id = {n}) END"
        " WHERE id IN ({n}, {n} + 1)"
    )
    steps = (
        old("INSERT INTO orders (id, code) SELECT i, 'k' || i FROM generate_series({n}, {n} + 2) i"),
        new("UPDATE orders SET mood = 'good' WHERE id = {n}"),
        old(take),
        new(
            "SELECT code, mood FROM orders WHERE id IN ({n}, {n} + 2) ORDER BY id",
            lambda n: [(f"free{n}", "good"), (f"k{n}", None)],
        ),
        old("DELETE FROM orders WHERE id BETWEEN {n} AND {n} + 2"),
    )
    case = Case("heirs", [WIDER], steps, steps[1:1])
    await Cycle(world.stage, world.conn, world.server.bin_dir, case).go()


@on_newest
async def test_a_value_that_its_own_statement_has_freed_can_be_taken_by_a_trigger_of_the_users(world: World) -> None:
    index = "CREATE UNIQUE INDEX codes ON public.orders (code);"  # that is no constraint
    await heirs(world, ORDERS.replace(" UNIQUE", "") + index)


@on_newest
async def test_without_the_clause_such_a_trigger_is_refused(world: World) -> None:
    holder_first = Clause("the holder is read again first", "shadow", "release", "PERFORM {function}(r, '{{}}');", "")
    await must_fail(heirs(world), holder_first, says="refused with 23505")
