"""Row level security of a table that gets another shape: new clients see and write what old ones may, also when policies change."""

import asyncio
from typing import Any

from psycopg import errors, sql
from support.cycle import UNHELD
from support.harness import Harness
from support.processes import killed_at
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

TENANT = "pgduet_shadow_tenant"
SECURED = f"""
DO $$ BEGIN IF to_regrole('{TENANT}') IS NULL THEN CREATE ROLE {TENANT} NOLOGIN; END IF; END $$;
CREATE TABLE public.members (name text, tenant int);
INSERT INTO public.members VALUES ('{TENANT}', 1);
CREATE TABLE public.orders (id int PRIMARY KEY, tenant int NOT NULL, state text);
INSERT INTO public.orders SELECT i, i % 3, 'open' FROM generate_series(1, 30) i;
CREATE POLICY own ON public.orders TO {TENANT} USING (tenant IN (SELECT m.tenant FROM public.members m WHERE name = current_user));
ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.orders TO {TENANT};
GRANT SELECT ON public.members TO {TENANT};
"""
PLAN: dict[str, Any] = {
    "shadow_table": {
        "table": "public.orders",
        "columns": [{"name": "id", "type": "bigint"}, {"name": "status", "type": "text", "up": "upper(state)"}],
        "replaces": ["state"],
        "down": {"state": "lower(status)"},
    }
}


async def as_tenant(world: World, schema: str, query: str) -> int | str:
    """Run a statement as the tenant; gives how many rows it had, or the SQLSTATE of its refusal."""
    try:
        async with world.conn.transaction(force_rollback=True):
            await world.conn.execute(f"SET LOCAL ROLE {TENANT}".encode())
            await world.conn.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema)))
            return (await world.conn.execute(query.encode())).rowcount
    except errors.Error as error:
        return str(error.sqlstate)


async def the_same_by_both(world: World, *, seen: int) -> None:
    """Have the tenant use both versions."""
    for schema in ("public_v1", "public_v2"):
        assert await as_tenant(world, schema, "SELECT FROM orders") == seen
        assert await as_tenant(world, schema, "UPDATE orders SET tenant = tenant") == seen
        assert await as_tenant(world, schema, "DELETE FROM orders") == seen
        assert await as_tenant(world, schema, "INSERT INTO orders (id, tenant) VALUES (100, 1)") == 1
        assert await as_tenant(world, schema, "INSERT INTO orders (id, tenant) VALUES (100, 0)") == "42501"
        assert await as_tenant(world, schema, "UPDATE orders SET tenant = 0") == "42501"


async def at_soak(stage: Harness) -> None:
    """Go on until the window."""
    await stage.start(stage.plan(PLAN, **UNHELD))
    await stage.waits("window", Phase.SOAK, 90)


@on_newest
async def test_new_clients_see_and_write_what_old_ones_may(world: World) -> None:
    await world.conn.execute(SECURED.encode())
    policies = (
        "SELECT polname::text, pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'public.orders'::regclass"
    )
    before = await world.rows(policies)
    ours = "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND obj_description(oid) ~ '^pgduet pol'"
    async with world.stage.worker():
        await at_soak(world.stage)
        await the_same_by_both(world, seen=10)
        assert await world.one(ours) > 0
        await world.conn.execute(
            f"CREATE POLICY low ON public.orders AS RESTRICTIVE TO {TENANT} USING (id < 10)".encode()
        )
        async with asyncio.timeout(60):
            while await as_tenant(world, "public_v2", "SELECT FROM orders") != 3:
                await asyncio.sleep(0.1)
        await world.conn.execute("DROP POLICY low ON public.orders")
        await world.stage.act("abort")
        await world.stage.until(lambda status: status.state is State.ROLLED_BACK, 60)
        await world.stage.result(60)
        assert await world.rows(policies) == before
        assert await world.one(ours) == 0
        await at_soak(world.stage)
        await the_same_by_both(world, seen=10)
        await world.stage.act("advance")
        assert (await world.stage.result(60)).state is State.DONE
    assert await world.rows(policies) == before
    assert await world.one(ours) == 0
    assert await as_tenant(world, "public_v2", "SELECT FROM orders") == 10
    assert await as_tenant(world, "public", "SELECT FROM orders") == 10


@on_newest
async def test_a_worker_killed_while_the_shadow_is_secured_leaves_no_row_open(world: World) -> None:
    await world.conn.execute(SECURED.encode())
    await world.stage.start(world.stage.plan(PLAN, gates={"shadow": "manual"}, backfill=UNHELD["backfill"]))
    for instruction in ("secure.before_commit=kill", "secure.after_commit=kill"):
        with world.stage.worker_process(instruction) as worker:
            async with asyncio.timeout(90):
                while worker.process.poll() is None:
                    await asyncio.sleep(0.1)
            assert killed_at(worker.log) == instruction.partition("=")[0]
    async with world.stage.worker():
        await world.stage.waits("gate", Phase.VERIFY, 90)
        await the_same_by_both(world, seen=10)
