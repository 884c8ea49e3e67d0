"""asyncpg: a transaction that reads one version."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support.two_versions import DEFAULT, NEW, OLD, READ, STARS, TO_AND_FRO, change

from pgduet.routing import NotRoutable
from pgduet.routing.adapters.asyncpg import routed, transact


@pytest.fixture
async def pool(shop: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(shop, min_size=1, max_size=1, statement_cache_size=0) as made:
        yield made


async def test_a_connection_may_change_its_version_with_each_transaction(pool: Any) -> None:
    for path in TO_AND_FRO:
        async with pool.acquire() as conn:
            async with routed(conn, path):
                assert await conn.fetchval(READ) == STARS[path.version]
            assert await conn.fetchval("SHOW search_path") == DEFAULT


async def test_a_transaction_that_has_begun_keeps_its_version(pool: Any) -> None:
    async with pool.acquire() as conn, routed(conn, OLD):
        with pytest.raises(NotRoutable, match="in a transaction already"):
            async with routed(conn, NEW):
                pass
        assert await conn.fetchval(READ) == STARS["1"]


async def test_with_a_cache_a_stale_plan_is_run_once_more(shop: str) -> None:
    tries = 0

    async def work(conn: Any) -> Any:
        nonlocal tries
        tries += 1
        return await conn.fetchval(READ)

    conn = await asyncpg.connect(shop)
    assert await transact(conn, work, OLD) == STARS["1"]
    with pytest.raises(asyncpg.InvalidCachedStatementError):
        async with routed(conn, NEW):
            await work(conn)
    assert await transact(conn, work, OLD) == STARS["1"]
    tries = 0
    assert await transact(conn, work, NEW) == STARS["2"]
    assert tries == 2
    change(shop)
    assert await transact(conn, work, OLD) == STARS["1"]
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await transact(
            conn, lambda conn: conn.fetch("SELECT 1 FROM reviews FULL JOIN generate_series(1, 2) n ON id < n")
        )
    await conn.close()
