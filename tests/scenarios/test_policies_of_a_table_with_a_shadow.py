"""Row level security of a table that gets another shape: new clients see and write what old ones may, also when policies change."""

import asyncio
from typing import Any

import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo
from support.cycle import UNHELD
from support.harness import Harness, schema_dump
from support.processes import killed_at
from support.worlds import World, on_newest
from temporalio.client import WorkflowFailureError

from pgduet.errors import MissingRights
from pgduet.failures import error_from
from pgduet.operations.shadow import VIEW_OWNER
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


async def worker_of(world: World, right: str) -> str:
    """Make a role that owns the table, and may create schemas; gives its address."""
    role = world.stage.queue.replace("test-", "worker_")
    for statement in (
        f"CREATE ROLE {role} LOGIN {right}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"GRANT CREATE ON DATABASE {await world.one('SELECT current_database()')} TO {role}",
        f"ALTER TABLE public.orders OWNER TO {role}",
        f"DO $$ BEGIN IF to_regrole('{VIEW_OWNER}') IS NULL THEN CREATE ROLE {VIEW_OWNER} NOLOGIN; END IF; END $$",
    ):
        await world.conn.execute(statement.encode())
    return make_conninfo(world.stage.dsn, user=role)


@pytest.mark.parametrize("version", [15, 18])
@pytest.mark.parametrize("right", ["", "BYPASSRLS"], ids=["ordinary", "BYPASSRLS"])
async def test_a_worker_that_is_no_superuser_takes_the_table_there_and_back_and_to_the_end(
    world: World, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = world.stage
    await world.conn.execute(SECURED.encode())
    monkeypatch.setenv(stage.variable, await worker_of(world, right))
    before = schema_dump(world.server.bin_dir, stage.dsn)
    async with stage.worker():
        if right:  # the views must be somebody's whom policies bind
            await stage.start(stage.plan(PLAN, **UNHELD))
            with pytest.raises(WorkflowFailureError) as caught:
                await stage.result()
            refused = error_from(caught.value)
            assert isinstance(refused, MissingRights)
            assert refused.hint is not None
            await world.conn.execute(refused.hint.partition(". Or")[0].encode())  # as it says
        await at_soak(stage)
        await the_same_by_both(world, seen=10)
        await world.conn.execute("UPDATE public_v2.orders SET status = 'CLOSED' WHERE id = 1")
        assert await world.one("SELECT state FROM public.orders WHERE id = 1") == "closed"
        assert (await stage.act("verify")).message.startswith("0 of ")
        await stage.act("abort")
        assert (await stage.result(60)).state is State.ROLLED_BACK
        assert schema_dump(world.server.bin_dir, stage.dsn) == before
        await at_soak(stage)
        await the_same_by_both(world, seen=10)
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
    for schema in ("public", "public_v2"):
        assert await as_tenant(world, schema, "UPDATE orders SET status = 'PAID'") == 10


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
