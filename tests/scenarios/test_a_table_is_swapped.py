"""Scenario 13: a table gets its new shape under its own name at cutover, while clients name it, and gets the old one back."""

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from support.cycle import QUICK
from support.harness import schema_dump
from support.mutants import Clause, Code, Mutant, must_fail
from support.plans import overlaid
from support.shadow_clients import clients, errors_in
from support.shadows import ORDERS
from support.swaps import APP, DIRECT, NEW_VIEW, NEWCOMER, OLD_VIEW, as_role, make_roles
from support.worlds import World, on_newest

from pgduet.activities import swapping
from pgduet.messages import Status
from pgduet.phases import Authority, Phase, State

ROWS, EACH = 200, 3
PATIENCE_S = 120.0
"""Heartbeats stop being waited for after 5 s; a busy machine may take many times what a worker's start takes."""
KINDS = ["increment", "increment", "two_in_order", "delete", "read_then_write", "unrelated", "arrive"]
SPREAD: dict[str, Any] = {
    "shadow_table": {
        "table": "public.orders",
        "partition_by": {"method": "hash", "columns": ["id"], "modulus": 3},
    }
}
POLICY = overlaid(
    QUICK,
    {
        "cutover": {"mode": "swap"},
        "soak": {"window_s": 3600, "legacy_idle_s": 2},
        "gates": {"shadow": "manual", "shift": "auto"},
    },
)
KIND = "SELECT relkind::text FROM pg_class WHERE oid = 'public.orders'::regclass"
OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_tree('public.orders'))
"""
LEDGER = "SELECT coalesce(sum(amount), 0)::bigint FROM public.orders"


async def create(world: World) -> None:
    """Create the table, owned by its clients' role, with a child that refers to it."""
    make_roles(world.stage.dsn)
    await world.conn.execute(ORDERS)
    await world.conn.execute("ALTER TABLE public.orders DROP CONSTRAINT orders_code_key")
    fill = (
        "INSERT INTO public.orders (code, at)"
        " SELECT 'c' || i, timestamp '2026-01-01' + i * interval '8 hours' FROM generate_series(1, {}) i"
    )
    await world.conn.execute(fill.format(ROWS).encode())
    await world.conn.execute("CREATE TABLE public.items (order_id int REFERENCES public.orders ON DELETE CASCADE)")
    for table in ("orders", "items"):
        await world.conn.execute(f"ALTER TABLE public.{table} OWNER TO {APP}".encode())


def at(world: World, way: str) -> AbstractAsyncContextManager[Counter[str]]:
    """Let clients work by a way, as the table's owner; new ones by a role of their own, by which the census knows them."""
    who = NEWCOMER if way == NEW_VIEW else APP
    return clients(as_role(world.stage.dsn, who), ROWS, KINDS, (way,), count=EACH)


async def more(ledger: Counter[str], count: int = 60) -> None:
    """Wait until so many more statements were acknowledged, or one was not."""
    goal = ledger["done"] + count
    while ledger["done"] < goal and not errors_in(ledger):
        await asyncio.sleep(0.02)


async def test_clients_by_the_name_and_by_both_versions_see_no_error_there_and_back_and_to_the_end(
    world: World,
) -> None:
    stage = world.stage
    await create(world)
    before = schema_dump(world.server.bin_dir, stage.dsn)
    plan = stage.plan(SPREAD, **POLICY)
    total = 0
    async with stage.worker():
        async with at(world, DIRECT) as direct:
            await stage.start(plan)
            await stage.waits("gate", Phase.VERIFY, PATIENCE_S)
            async with at(world, OLD_VIEW) as old, at(world, NEW_VIEW) as new:
                await more(new)
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK, PATIENCE_S)
                assert await world.one(KIND) == "p"
                assert await world.rows(OWNERS) == [(APP,)], "of the partitions, too"
                assert (await stage.act("verify")).message.startswith("0 of ")
                for ledger in (direct, old, new):
                    await more(ledger)
                await stage.act("abort")
                await stage.until(lambda status: status.authority is Authority.OLD, PATIENCE_S)
                while await world.one(KIND) == "p":
                    await asyncio.sleep(0.02)
                for ledger in (direct, old, new):
                    await more(ledger)
            await stage.until(lambda status: status.state is State.ROLLED_BACK, PATIENCE_S)
            await more(direct)
        assert (errors_in(direct), errors_in(old), errors_in(new)) == ({}, {}, {})
        total += direct["amount"] + old["amount"] + new["amount"]
        assert await world.one(LEDGER) == total
        assert schema_dump(world.server.bin_dir, stage.dsn) == before

        async with at(world, DIRECT) as direct:
            await stage.start(plan)
            await stage.waits("gate", Phase.VERIFY, PATIENCE_S)
            async with at(world, OLD_VIEW) as old, at(world, NEW_VIEW) as new:
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK, PATIENCE_S)
                for ledger in (direct, old, new):
                    await more(ledger)
            await stage.act("advance")
            await more(direct)
            await stage.result(PATIENCE_S)
            await more(direct)
        assert (errors_in(direct), errors_in(old), errors_in(new)) == ({}, {}, {})
        total += direct["amount"] + old["amount"] + new["amount"]
        assert await world.one(LEDGER) == total
    assert await world.one(KIND) == "p"
    # Numbers go on, and children refer to the new table.
    made = await world.one("INSERT INTO public.orders (code) VALUES ('last') RETURNING id")
    assert made == await world.one("SELECT max(id) FROM public.orders")


async def test_who_names_a_swapped_table_is_counted_as_new(world: World) -> None:
    stage = world.stage
    await create(world)
    async with stage.worker():
        async with at(world, DIRECT) as direct:
            # Whoever was of the old version by a table's name would be remembered for an hour.
            await stage.start(stage.plan(SPREAD, **overlaid(POLICY, {"soak": {"legacy_idle_s": 3600}})))
            await stage.waits("gate", Phase.VERIFY, PATIENCE_S)
            await stage.act("advance")
            await stage.waits("window", Phase.SOAK, PATIENCE_S)
        assert errors_in(direct) == {}
        async with world.client(user=APP, application_name="shop", autocommit=True) as shop:
            await shop.execute("BEGIN; SELECT FROM public.orders")
            await stage.act("advance")
            status = await stage.until(
                lambda status: (
                    status.phase is Phase.CONTRACT or (status.waiting_for and status.waiting_for.kind == "census")
                ),
                PATIENCE_S,
            )
            assert status.phase is Phase.CONTRACT, status.waiting_for
            await shop.execute("COMMIT")
            await stage.result(PATIENCE_S)


@on_newest
async def test_cutover_waits_while_a_role_that_no_policy_binds_uses_the_name(world: World) -> None:
    stage = world.stage
    await create(world)
    async with stage.worker(), world.client(autocommit=True, application_name="report") as free:
        await stage.start(stage.plan(SPREAD, **POLICY))
        await free.execute("BEGIN; SELECT FROM public.orders")
        await stage.waits("gate", Phase.VERIFY, PATIENCE_S)
        await stage.act("advance")

        def refused(status: Status) -> bool:
            return bool(status.waiting_for and "row level security does not bind report" in status.waiting_for.detail)

        await stage.until(refused)
        await free.execute("COMMIT")
        await free.close()
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK, PATIENCE_S)


THERE = ("flip.before_commit=kill", "flip.after_commit=kill")
BACK = ("swap_back.before_commit=kill", "swap_back.after_commit=kill")


@pytest.mark.early
@on_newest
@pytest.mark.timeout(400)
async def test_a_worker_killed_at_each_commit_of_swap_and_way_back_leaves_no_half(world: World) -> None:
    stage = world.stage
    await create(world)
    before = schema_dump(world.server.bin_dir, stage.dsn)
    async with at(world, DIRECT) as direct:
        await stage.start(stage.plan(SPREAD, **overlaid(POLICY, {"gates": {"shadow": "auto"}})))
        for kill in THERE:
            with stage.worker_process(kill) as worker:
                await worker.killed(PATIENCE_S)
            assert await world.one(KIND) == ("p" if kill.startswith("flip.after") else "r")
        with stage.worker_process(BACK[0]) as worker:
            await stage.waits("window", Phase.SOAK, PATIENCE_S)
            await more(direct)
            await stage.act("abort")
            await worker.killed(PATIENCE_S)
        assert await world.one(KIND) == "p"
        with stage.worker_process(BACK[1]) as worker:
            await worker.killed(PATIENCE_S)
        assert await world.one(KIND) == "r"
        with stage.worker_process():
            await stage.until(lambda status: status.state is State.ROLLED_BACK, PATIENCE_S)
            await more(direct)
    assert errors_in(direct) == {}
    assert await world.one(LEDGER) == direct["amount"]
    assert schema_dump(world.server.bin_dir, stage.dsn) == before
    for action in ("cutover", "undo_cutover", "swap_back"):
        assert await world.one("SELECT count(*) FROM pgduet.audit WHERE action = %s", (action,)) >= 1


STALE = Code(
    "the design says which table has the name",
    swapping.keep,
    '    await store.run(conn, "set_design", {"id": work.migration.id, "design": Jsonb(design.model_dump(mode="json"))})\n',
    "",
)
REMEMBERED = Clause(
    "the census counts anew", "shadow_swap", "forget", "AND side = %(side)s", "AND side = 'neither' AND %(side)s <> ''"
)


@on_newest
@pytest.mark.parametrize("mutant", [STALE, REMEMBERED], ids=lambda mutant: mutant.name)
async def test_the_rule_is_needed(world: World, mutant: Mutant) -> None:
    await must_fail(test_who_names_a_swapped_table_is_counted_as_new(world), mutant, says="to leave")
