"""A table that others refer to: its columns change, and inserts into the child wait for none of it."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import Harness
from support.holding import held_at
from support.plans import create_reviews

from pgduet.operations import rows
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
CHILD = """
CREATE TABLE public.replies (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    review bigint NOT NULL REFERENCES public.reviews ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO public.replies (review) SELECT 1 + i % 500 FROM generate_series(1, 1000) i
"""
NO_KEY = "a batch locks rows as a change of no key does"
INSERT = "INSERT INTO public.replies (review) VALUES (%s)"


@pytest.fixture
async def reviews(conn: Connection) -> Connection:
    """Give a table with one that refers to it."""
    await create_reviews(conn, 500)
    await conn.execute(CHILD.encode())
    return conn


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", NO_KEY])
async def test_a_batch_on_the_parent_holds_up_no_insert_into_the_child(
    stage: Harness,
    reviews: Connection,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    if mutated:
        fill = rows.fill

        def with_more(*arguments: Any, **options: Any) -> sql.Composable:
            query = fill(*arguments, **options)
            return sql.SQL("SELECT FROM public.reviews FOR UPDATE; {}").format(query)

        monkeypatch.setattr(rows, "fill", with_more)
    async with stage.worker(), held_at("batch.before_commit") as batch:
        await stage.start(stage.plan(gates={"verify": "manual"}, backfill={"parallelism": 1}))
        await batch()
        locked = await reviews.execute("SELECT id FROM public.reviews FOR UPDATE SKIP LOCKED")
        assert locked.rowcount == 0, "the batch holds every row"
        await reviews.execute("SET lock_timeout = '10ms'")
        if mutated:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await reviews.execute(INSERT, (7,))
        else:
            for review in range(1, 101):
                await reviews.execute(INSERT, (review,))
    await reviews.execute("RESET lock_timeout")


async def test_children_come_and_go_through_every_phase(stage: Harness, reviews: Connection, dsn: str) -> None:
    stop = asyncio.Event()
    made: list[int] = []

    async def insert() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="replies") as child:
            while not stop.is_set():
                await child.execute(INSERT, (100 + len(made) % 300,))
                made.append(1)

    async def until_more(count: int = 20) -> None:
        wanted = len(made) + count
        async with asyncio.timeout(30):
            while len(made) < wanted:
                assert not inserting.done(), inserting.exception()
                await asyncio.sleep(0.01)

    inserting = asyncio.create_task(insert())
    # Once back, and once to the end.
    for last in (False, True):
        async with stage.worker():
            await stage.start(stage.plan(gates={"verify": "manual", "contract": "auto"}))
            await stage.waits("gate", Phase.BACKFILL)
            await until_more()
            await stage.act("advance")
            await stage.waits("window", Phase.SOAK)
            await until_more()
            # A cascade, from either version.
            await reviews.execute("DELETE FROM public_v1.reviews WHERE id = %s", (1 + last,))
            await reviews.execute("UPDATE public_v2.reviews SET id = id + 100000 WHERE id = %s", (3 + last,))
            await stage.act("advance" if last else "abort")
            await stage.until(lambda status: status.state in {State.ROLLED_BACK, State.DONE})
            await until_more()
    stop.set()
    await inserting
    counted = await reviews.execute(
        "SELECT count(*) FILTER (WHERE review IN (1, 2, 3, 4)), count(*) FILTER (WHERE review > 100000) FROM public.replies"
    )
    assert await counted.fetchone() == (0, 4)
