"""A shadow carries over whatever hung on its anchor: after contract the catalogue says what it said before."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.carrying import Carrying, create_everything, of_everything
from support.described import described, mapped
from support.worlds import VERSIONS, Servers, fresh_database

from pgduet.local import EmbeddedPostgres
from pgduet.postgres import store

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(scope="module")
def servers(postgres: EmbeddedPostgres) -> Iterator[Servers]:
    """Give servers by version."""
    with ExitStack() as until:
        yield Servers(postgres, until)


@pytest.fixture(params=VERSIONS, ids=lambda version: f"postgresql-{version}")
def dsn(request: pytest.FixtureRequest, servers: Servers) -> Iterator[str]:
    """Give a database on each version."""
    with fresh_database(servers(request.param)) as found:
        yield found


@pytest.fixture
async def m(conn: Connection) -> Carrying:
    """Give the table with everything, and the mechanics of its shadow."""
    conn.row_factory = dict_row
    await store.set_up(conn)
    conn.row_factory = psycopg.rows.tuple_row
    await create_everything(conn)
    return Carrying(conn, of_everything())


async def test_the_successor_of_a_table_with_everything_is_described_as_the_table_was(m: Carrying) -> None:
    before = mapped(await described(m.conn, "public.orders"), {"note": "remark"})
    assert (await m.carried()).lost == ()
    await m.expand()
    await m.copy()
    await m.keyed()
    await m.drain()
    await m.publish()
    await m.cut_over()
    await m.contract()
    after = await described(m.conn, "public.orders")
    for column in before["columns"]:
        if column["attname"] == "id":
            column["type"] = "bigint"
    for sequence in before["sequences"]:
        if sequence["attname"] == "id":
            sequence["type"] = "bigint"
    for name, rows in after.items():
        assert rows == sorted(before[name], key=repr), name
    left = "SELECT array_agg(relname::text) FROM pg_class WHERE relname ~ 'pgduet_wide' "
    assert await m.one(left) == (None,)
    assert await m.one(
        "SELECT stxrelid::regclass::text FROM pg_statistic_ext JOIN pg_statistic_ext_data d ON d.stxoid = pg_statistic_ext.oid LIMIT 1"
    ) == ("orders",)
    assert await m.one("SELECT count(*)::int FROM public.items JOIN public.orders o ON o.id = order_id") == (1,)


async def test_what_was_made_on_a_shadow_goes_with_it_and_the_anchor_is_as_it_was(m: Carrying) -> None:
    before = await described(m.conn, "public.orders")
    for rounds in range(2):
        await m.expand()
        await m.copy()
        await m.keyed()
        await m.drain()
        if rounds:
            await m.publish()
        await m.conn.execute("DROP SCHEMA IF EXISTS public_v2 CASCADE")
        await m.undone()
        assert await described(m.conn, "public.orders") == before
        left = "SELECT count(*)::int FROM pg_class WHERE relname ~ 'pgduet_wide'"
        assert await m.one(left) == (0,)
