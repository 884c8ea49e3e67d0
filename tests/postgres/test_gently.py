"""Long reads beside clients: in small pieces with rests between them, in large ones without where nobody is at work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest

from pgduet.postgres import brakes, gently
from pgduet.postgres.databases import Database
from pgduet.postgres.gently import MOST_REST_S, PIECE, RESTS, SMALL_PIECE, Gently
from pgduet.postgres.session import session

Connection = psycopg.AsyncConnection[Any]


@asynccontextmanager
async def somebody(dsn: str) -> AsyncIterator[None]:
    """Have a client run a statement for as long as the block does."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as client:
        running = asyncio.create_task(client.execute("SELECT pg_sleep(60)"))
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
            looked: tuple[Any, ...] | None = None
            while not (looked and looked[0]):
                looked = await (
                    await other.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'")
                ).fetchone()
        try:
            yield
        finally:
            client.cancel()
            with suppress(psycopg.errors.QueryCanceled):
                await running


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the rests instead of resting, and let each piece take ten milliseconds."""
    taken: list[float] = []

    async def rest(seconds: float) -> None:
        taken.append(seconds)

    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            now[0] += 0.01
            return now[0]

    class Naps:
        sleep = staticmethod(rest)

    monkeypatch.setattr(brakes, "asyncio", Naps)
    monkeypatch.setattr(gently, "time", Clock)
    return taken


async def pieces(reading: Gently, pages: int) -> list[tuple[int, int]]:
    return [piece async for piece in reading.pieces(pages)]


async def test_where_nobody_is_at_work_it_reads_on(dsn: str, rests: list[float]) -> None:
    async with session(Database("shop", dsn), "parity/x") as conn:
        found = await pieces(Gently(conn), 2 * PIECE + 7)
    assert found == [(0, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, 2 * PIECE + 7)]
    assert rests == []


async def test_beside_a_client_it_leaves_most_of_the_time(dsn: str, rests: list[float]) -> None:
    async with session(Database("shop", dsn), "parity/x") as conn, somebody(dsn):
        found = await pieces(Gently(conn), 3 * SMALL_PIECE)
    assert found == [(n * SMALL_PIECE, (n + 1) * SMALL_PIECE) for n in range(3)]
    assert rests == pytest.approx([RESTS * 0.01] * 2), "none after the last piece"


async def test_in_a_transaction_it_sees_who_has_come_since(dsn: str, rests: list[float]) -> None:
    async with session(Database("shop", dsn), "parity/x") as conn, conn.transaction():
        reading = Gently(conn).pieces(PIECE + SMALL_PIECE)
        assert await anext(reading) == (0, PIECE)
        async with somebody(dsn):
            assert await anext(reading) == (PIECE, PIECE + SMALL_PIECE)
        assert [piece async for piece in reading] == []
    assert rests == []


async def test_a_snapshot_that_has_rested_for_long_is_held_for_twice_the_work_at_most(
    dsn: str, rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(Database("shop", dsn), "parity/x") as conn, somebody(dsn):
        reading = Gently(conn)
        reading.rested_s = MOST_REST_S
        await pieces(reading, 3 * SMALL_PIECE)
    assert rests == pytest.approx([0.01] * 2)


async def test_a_table_without_pages_has_no_pieces(dsn: str) -> None:
    async with session(Database("shop", dsn), "parity/x") as conn:
        assert await pieces(Gently(conn), 0) == []
