"""One partition of an anchor is truncated, detached, attached: the shadow follows."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.shadows import PARTS, PLAN, Shadow, of_parts

from pgduet.operations import shadow_leaves, shadow_rows
from pgduet.operations.shadow_sync import Form
from pgduet.postgres import shadow_leaves as leaves
from pgduet.postgres import store

Connection = psycopg.AsyncConnection[Any]


class Parted(Shadow):
    """A shadow of a partitioned table, whose partitions have triggers of their own."""

    async def form(self, form: Form) -> None:
        """Give all triggers a form."""
        await super().form(form)
        await self.run([shadow_leaves.function(self.design, form)])

    async def copy_leaf(self, name: str) -> None:
        """Copy the rows of a partition."""
        await self.conn.execute(shadow_rows.copy(self.design, sql.Identifier("public", name), 0, 100))

    async def look(self) -> list[tuple[str, bool]]:
        """Find partitions that came or went, and have their rows carried over."""
        self.conn.row_factory = dict_row
        found = await leaves.strangers(self.conn, self.design, PLAN)
        for leaf in found:
            if leaf.attached:
                await self.run(shadow_leaves.triggers(self.design, PLAN, leaf.relation))
            else:
                await self.run(shadow_leaves.drop_triggers(PLAN, leaf.relation))
            await leaves.journal(self.conn, self.design, leaf)
        self.conn.row_factory = psycopg.rows.tuple_row
        return [(leaf.relation.as_string(None), leaf.attached) for leaf in found]


@pytest.fixture
async def m(conn: Connection) -> Parted:
    """Give the table and its shadow, which notes what changes."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
    await conn.execute(PARTS)
    await conn.execute(
        "INSERT INTO public.orders (id, code, at) SELECT i, 'c' || i, '2026-02-05' FROM generate_series(11, 15) i"
    )
    m = Parted(conn, of_parts())
    await m.expand()
    assert await m.look() == [('"public"."january"', True), ('"public"."later"', True)]
    return m


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
