"""Scenario 12: rows written with `session_replication_role = replica`, and by logical replication itself, are mirrored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import TIMEOUT_S
from support.mutants import PROBE_LOOKS, Clause, must_fail
from support.plans import NAME, STARS, create_reviews
from support.worlds import World, fresh_database, on_newest

from pgduet.operations.names import physical_column
from pgduet.phases import Phase

ROWS = 500
POLICY: dict[str, Any] = {
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0},
    "gates": {"backfill": "manual", "verify": "manual", "shadow": "manual"},
}
PHYSICAL = sql.Identifier(physical_column(NAME, "stars"))
WRITES = """
INSERT INTO public.reviews (id, rating) VALUES ({at} + 10000, '4');
UPDATE public.reviews SET rating = '5' WHERE id = {at};
UPDATE public.reviews SET note = 'another column' WHERE id = {at} + 1;
UPDATE public.reviews SET id = {at} + 20000, rating = '1' WHERE id = {at} + 2;
DELETE FROM public.reviews WHERE id = {at} + 3;
"""
FIRES_ALWAYS = Clause(
    "the sync fires in every session_replication_role",
    "sync",
    "enable_trigger",
    "ENABLE ALWAYS TRIGGER",
    "ENABLE TRIGGER",
)
NOT_MIRRORED = "a row that replication wrote is not mirrored"

Write = Callable[[str], Awaitable[None]]


async def mirrored(world: World, at: int) -> None:
    """Look at what WRITES has written."""
    query = sql.SQL("SELECT id, rating, {} FROM public.reviews WHERE id IN (%s, %s, %s, %s) ORDER BY id")
    found = await world.rows(query.format(PHYSICAL).as_string(), (at, at + 1, at + 10_000, at + 20_000))
    same = (at + 1) % 5 + 1
    wanted = [(at, "5", 5), (at + 1, str(same), same), (at + 10_000, "4", 4), (at + 20_000, "1", 1)]
    assert found == wanted, NOT_MIRRORED


async def written(world: World, write: Write) -> None:
    """Write before and after the backfill, after publication and after cutover, and compare all rows at the end."""
    stage = world.stage
    async with stage.worker():
        await stage.start(stage.plan(STARS, **POLICY))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await write(WRITES.format(at=10))
        await mirrored(world, 10)
        await stage.act("advance")
        await stage.waits("gate", Phase.BACKFILL)
        await write(WRITES.format(at=20))
        await mirrored(world, 20)
        await stage.act("advance")
        await stage.waits("gate", Phase.VERIFY)
        await write(WRITES.format(at=30))
        await mirrored(world, 30)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await write(WRITES.format(at=40))
        await mirrored(world, 40)
        assert (await stage.act("verify")).message.startswith("0 of ")


async def written_by_a_replica_session(world: World) -> None:
    """Write as a tool does that copies changes: in a session that says it is a replica."""
    await create_reviews(world.conn, ROWS)
    async with world.client(autocommit=True, options="-c session_replication_role=replica") as replica:

        async def write(statements: str) -> None:
            await replica.execute(statements.encode())

        await written(world, write)
        # And the other way: a tool that copies the new version's column.
        await replica.execute(sql.SQL("UPDATE public.reviews SET {} = 2 WHERE id = 50").format(PHYSICAL))
    assert await world.one("SELECT rating FROM public.reviews WHERE id = 50") == "2", NOT_MIRRORED


@asynccontextmanager
async def subscribed(world: World) -> AsyncIterator[Write]:
    """Subscribe to the same table of another database; gives how to write there and to wait until it has arrived here."""
    with fresh_database(world.server) as source:
        async with await psycopg.AsyncConnection.connect(source, autocommit=True) as publisher:
            await create_reviews(publisher, ROWS, trigger=False)
            await publisher.execute("CREATE PUBLICATION reviews FOR TABLE public.reviews")
            slot = f"s_{publisher.info.dbname}"
            # A subscription that makes its slot itself waits for ever where both are on one server.
            await publisher.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
            await world.conn.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION reviews CONNECTION {} PUBLICATION reviews"
                    " WITH (create_slot = false, copy_data = false, slot_name = {})"
                ).format(sql.Literal(source), sql.Literal(slot))
            )

            async def write(statements: str) -> None:
                async with publisher.transaction():
                    await publisher.execute(statements.encode())
                rows = "SELECT id, rating, note FROM public.reviews ORDER BY id"
                wanted = await (await publisher.execute(rows)).fetchall()
                async with asyncio.timeout(TIMEOUT_S):
                    while await world.rows(rows) != wanted:
                        await asyncio.sleep(0.02)

            try:
                yield write
            finally:
                await world.conn.execute("ALTER SUBSCRIPTION reviews DISABLE")
                await world.conn.execute("ALTER SUBSCRIPTION reviews SET (slot_name = NONE)")
                await world.conn.execute("DROP SUBSCRIPTION reviews")


async def written_by_a_subscription(world: World) -> None:
    """Write on a publisher."""
    await create_reviews(world.conn, ROWS)
    async with subscribed(world) as write:
        await written(world, write)


@pytest.mark.parametrize("how", [written_by_a_replica_session, written_by_a_subscription], ids=lambda how: how.__name__)
async def test_what_replication_writes_is_mirrored(world: World, how: Callable[[World], Awaitable[None]]) -> None:
    await how(world)


@on_newest
@pytest.mark.parametrize("how", [written_by_a_replica_session, written_by_a_subscription], ids=lambda how: how.__name__)
async def test_without_enable_always_it_is_not(world: World, how: Callable[[World], Any]) -> None:
    await must_fail(how(world), FIRES_ALWAYS, PROBE_LOOKS, says=NOT_MIRRORED)
