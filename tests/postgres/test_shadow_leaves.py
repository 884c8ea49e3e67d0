"""One partition of an anchor is truncated, detached, attached: the shadow follows."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.asking import blocked
from support.mutants import Clause, must_fail
from support.shadow_clients import LONG_S, NEW, OLD, clients, errors_in
from support.shadows import PARTS, PLAN, Shadow, of_parts, over

from pgduet.operations import shadow_leaves, shadow_rows
from pgduet.operations.shadow_design import ShadowColumn, ShadowDesign
from pgduet.operations.shadow_sync import Form
from pgduet.postgres import catalogue, emptied, shadowing, store
from pgduet.postgres import shadow_leaves as leaves

Connection = psycopg.AsyncConnection[Any]


class Parted(Shadow):
    """A shadow of a partitioned table, whose partitions have triggers of their own."""

    async def expand(self) -> None:
        """Hear of rows that move, too."""
        await super().expand()
        await self.run(shadow_leaves.moving_trigger(self.design, PLAN))

    async def form(self, form: Form) -> None:
        """Give all triggers a form."""
        await super().form(form)
        await self.run(shadow_leaves.functions(self.design, form))

    async def copy_leaf(self, name: str) -> None:
        """Copy the rows of a partition."""
        await self.conn.execute(shadow_rows.copy(self.design, sql.Identifier("public", name), 0, 100))

    async def look(self) -> list[tuple[str, bool]]:
        """Find partitions that came or went, and have their rows carried over."""
        self.conn.row_factory = dict_row
        found = [leaf for leaf in await leaves.leaves(self.conn, self.design, PLAN) if leaf.attached != leaf.heard]
        for leaf in found:
            if leaf.attached:
                await self.run(shadow_leaves.trigger(self.design, PLAN, leaf.relation))
                await leaves.journal_came(self.conn, self.design, leaf)
            else:
                await self.run([shadow_leaves.drop_trigger(PLAN, leaf.relation)])
                await leaves.journal_gone(self.conn, self.design)
        self.conn.row_factory = psycopg.rows.tuple_row
        return [(leaf.relation.as_string(None), leaf.attached) for leaf in found]


async def made(conn: Connection, design: ShadowDesign) -> Parted:
    """Make the table and its shadow, which notes what changes."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
    await conn.execute(PARTS)
    await conn.execute(
        "INSERT INTO public.orders (id, code, at) SELECT i, 'c' || i, '2026-02-05' FROM generate_series(11, 15) i"
    )
    m = Parted(conn, design)
    await m.expand()
    assert await m.look() == [('"public"."january"', True), ('"public"."later"', True)]
    return m


@pytest.fixture
async def m(conn: Connection) -> Parted:
    """Give a table every row of which can be mapped."""
    return await made(conn, of_parts())


@pytest.fixture
async def guarded(conn: Connection) -> Parted:
    """Give one of which that has to be asked of each row."""
    return await made(conn, of_parts().model_copy(update={"guarded": True}))


async def test_a_partition_that_is_truncated_while_rows_are_copied(m: Parted) -> None:
    await m.copy_leaf("january")
    await m.conn.execute("TRUNCATE public.january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    assert await m.parity() == (5, 0)


async def test_a_partition_that_is_truncated_once_the_shadow_is_written(m: Parted) -> None:
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.conn.execute("TRUNCATE public.later")
    await m.drain()
    assert await m.parity() == (10, 0)
    await m.publish()
    await m.conn.execute("TRUNCATE public.january")
    assert await m.one("SELECT count(*)::int FROM public_v2.orders") == (0,)
    await m.conn.execute("INSERT INTO public_v2.orders (id, code, at) VALUES (1, 'x', '2026-01-01')")
    await m.conn.execute("TRUNCATE public.orders")
    assert await m.one("SELECT count(*)::int FROM public_v2.orders") == (0,)


async def test_a_partition_that_an_older_snapshot_truncates_leaves_no_row(m: Parted, dsn: str) -> None:
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    await m.publish()
    async with await psycopg.AsyncConnection.connect(dsn) as client:
        await client.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await client.execute("SELECT 1")
        await m.conn.execute("INSERT INTO public.orders (id, code) VALUES (500, 'since')")
        await client.execute("TRUNCATE public.january")
        await client.commit()
    # It does not see what came since: the next look takes that away.
    assert await m.parity() == (6, 1)
    m.conn.row_factory = dict_row
    assert await shadowing.owes(m.conn, m.design), "nothing was written down"
    assert await emptied.surplus_noted(m.conn, m.design)
    m.conn.row_factory = psycopg.rows.tuple_row
    await m.drain()
    assert await m.parity() == (5, 0)


async def test_the_partition_has_to_say_so(m: Parted, dsn: str) -> None:
    silent = Clause(
        "an older snapshot is told of",
        "shadow_leaves",
        "published",
        "IN ('repeatable read', 'serializable')",
        "= 'none'",
    )
    scenario = test_a_partition_that_an_older_snapshot_truncates_leaves_no_row(m, dsn)
    await must_fail(scenario, silent, says="nothing was written down")


async def test_a_partition_that_leaves_and_one_that_comes(m: Parted) -> None:
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.conn.execute("ALTER TABLE public.orders DETACH PARTITION public.january")
    await m.conn.execute("CREATE TABLE public.february (LIKE public.orders INCLUDING DEFAULTS)")
    await m.conn.execute(
        "INSERT INTO public.february (id, code, at) SELECT i, 'f', '2025-12-12' FROM generate_series(21, 23) i"
    )
    await m.conn.execute(
        "ALTER TABLE public.orders ATTACH PARTITION public.february FOR VALUES FROM ('2025-12-01') TO ('2026-01-01')"
    )
    assert await m.look() == [('"public"."february"', True), ('"public"."january"', False)]
    await m.drain()
    assert await m.parity() == (8, 0)
    assert await m.look() == []
    ours = "SELECT count(*)::int FROM pg_trigger WHERE tgrelid = 'public.january'::regclass AND tgname ~ 'pgduet'"
    assert await m.one(ours) == (0,)


async def test_a_partition_that_came_back_is_another_one(m: Parted) -> None:
    async def ids() -> set[str]:
        m.conn.row_factory = dict_row
        found = await leaves.leaves(m.conn, m.design, PLAN)
        m.conn.row_factory = psycopg.rows.tuple_row
        return {leaf.id for leaf in found}

    before = await ids()
    await m.conn.execute("ALTER TABLE public.orders DETACH PARTITION public.january")
    await m.conn.execute(
        "ALTER TABLE public.orders ATTACH PARTITION public.january FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"
    )
    now = await ids()
    assert len(before & now) == 1
    assert len(before - now) == len(now - before) == 1
    await m.run([shadow_leaves.as_known(m.design, PLAN, now)])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await m.run([shadow_leaves.as_known(m.design, PLAN, before)])


JANUARY = sql.Identifier("public", "january")
Act = Callable[[Parted], Awaitable[None]]


async def facts(m: Parted) -> None:
    """Read what the catalogue says of the table."""
    await catalogue.table(m.conn, "public", "orders")


async def came(m: Parted) -> None:
    """Have a partition's rows carried over."""
    await leaves.journal_came(m.conn, m.design, leaves.Leaf(JANUARY, attached=True, heard=True, id=""))


async def copied(m: Parted) -> None:
    """Copy a partition's rows as a batch does, those that cannot be mapped named."""
    async with m.conn.transaction():
        await m.conn.execute(shadow_rows.lock_anchor(m.design, JANUARY))
        await m.conn.execute(shadow_rows.unmapped(m.design, JANUARY, 0, 100, 1))


async def probed(m: Parted) -> None:
    """Have a trigger's work tried."""
    await shadowing.probe(m.conn, m.design)


async def dropped_meanwhile(m: Parted, dsn: str, act: Act) -> None:
    """Have a client lock the table and then a partition, as DROP and DETACH do, while a session of ours is about to read."""
    async with (
        await psycopg.AsyncConnection.connect(dsn) as client,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row) as conn,
    ):
        await client.execute("LOCK TABLE ONLY public.orders IN ACCESS EXCLUSIVE MODE")
        ours = asyncio.create_task(act(Parted(conn, m.design)))
        await blocked(client, conn.info.backend_pid)
        try:
            await client.execute("LOCK TABLE public.january IN ACCESS EXCLUSIVE MODE NOWAIT")
        finally:
            await client.rollback()
            await ours


@pytest.mark.parametrize("act", [facts, came, copied, probed], ids=lambda act: act.__name__)
async def test_who_drops_a_partition_meanwhile_is_no_deadlock_s_victim(guarded: Parted, dsn: str, act: Act) -> None:
    await dropped_meanwhile(guarded, dsn, act)


@pytest.mark.parametrize("act", [came, copied, probed], ids=lambda act: act.__name__)
async def test_by_the_partition_first_it_would_be(guarded: Parted, dsn: str, act: Act) -> None:
    unlocked = Clause(
        "the table is locked first", "shadow", "lock_shared", "LOCK TABLE {relations}", "SELECT -- {relations}"
    )
    await must_fail(dropped_meanwhile(guarded, dsn, act), unlocked, says="could not obtain lock")


UPSERT = """
INSERT INTO public_v2.orders (id, code, at) VALUES (1, 'x', '2026-01-01') ON CONFLICT (id, at) DO UPDATE SET amount = 7
"""


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("UPDATE public_v2.orders SET amount = 7 WHERE id = 1", 15),
        ("DELETE FROM public_v2.orders WHERE id = 1", 14),
        (
            "UPDATE public_v2.orders SET amount = 7 WHERE id IN (SELECT id FROM public_v2.orders WHERE id = 1 FOR UPDATE)",
            15,
        ),
        (UPSERT, 16),
    ],
    ids=["update", "delete", "for update", "upsert"],
)
async def test_a_new_client_waits_for_a_row_that_is_being_moved_and_finds_it_where_it_is_then(
    m: Parted, dsn: str, statement: str, rows: int
) -> None:
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    await m.publish()
    async with await psycopg.AsyncConnection.connect(dsn) as old:
        await old.execute("UPDATE public.orders SET at = '2026-03-03' WHERE id = 1")
        waiting = asyncio.create_task(m.conn.execute(statement.encode()))
        await blocked(old, m.conn.info.backend_pid)
        await old.commit()
    assert (await waiting).rowcount == 1
    assert await m.parity() == (rows, 0)


@pytest.mark.parametrize("key", ["at = at + interval '1 year'", "id = id + 100", "at = '2026-01-09'"])
async def test_a_row_that_moves_is_the_same_row(m: Parted, key: str) -> None:
    m.design = m.design.model_copy(
        update={"columns": (*m.design.columns, ShadowColumn(name="mood", type="text", up=over("'none'::text")))}
    )
    await m.conn.execute(f"ALTER TABLE {m.design.shadow_label} ADD COLUMN mood text".encode())
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.conn.execute("UPDATE public_v2.orders SET mood = 'glad' WHERE id < 4")
    await m.conn.execute(f"UPDATE public.orders SET {key}, amount = 3 WHERE id < 4".encode())
    assert await m.one("SELECT count(*)::int FROM public_v2.orders WHERE mood = 'glad' AND amount = 3") == (3,)
    old, new = "SELECT id, at, amount FROM public.orders", "SELECT id, at, amount FROM public_v2.orders"
    assert await m.one(f"SELECT count(*)::int FROM ({old} EXCEPT ALL {new}) d") == (0,)
    await m.conn.execute(f"UPDATE public_v2.orders SET {key} WHERE id < 104 AND mood = 'glad'".encode())
    assert await m.one(f"SELECT count(*)::int FROM ({old} EXCEPT ALL {new}) d") == (0,)
    # A row that is inserted is a new one, whatever was deleted before it.
    await m.conn.execute("DELETE FROM public.orders WHERE id = 5")
    await m.conn.execute("INSERT INTO public.orders (id, code) VALUES (5, 'again')")
    assert await m.one("SELECT mood FROM public_v2.orders WHERE id = 5") == ("none",)


async def test_clients_of_both_versions_move_rows_and_lose_no_write(m: Parted, dsn: str) -> None:
    await m.copy_leaf("january")
    await m.copy_leaf("later")
    await m.keyed()
    await m.drain()
    await m.publish()
    kinds = ["move", "increment", "increment", "two_in_order", "read_then_write"]
    async with clients(dsn, 15, kinds, (OLD, NEW)) as ledger:
        await asyncio.sleep(LONG_S)
    # Old clients meet what a partitioned table says to who waits for a row that moves; new ones only where it has just moved.
    assert all(what.startswith("Serialization") for what in errors_in(ledger)), ledger
    assert sum(count for what, count in errors_in(ledger).items() if what.endswith(NEW)) <= ledger["done"] / 500
    assert ledger["done"] > 500
    assert await m.one("SELECT coalesce(sum(amount), 0)::int FROM public.orders") == (ledger["amount"],)
    assert (await m.parity())[1] == 0
