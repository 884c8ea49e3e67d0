"""Several plans at once, on tables of their own: each version's clients read and write the right thing, in any order of ends."""

from typing import Any

import psycopg
import pytest
from support.chained import (
    ONE,
    THREE,
    TWO,
    Crowd,
    begin,
    converse,
    face,
    leftovers,
    link,
    version_schemas,
)
from support.chained import TABLES as CHAINED
from support.harness import Harness, schema_dump

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]

BASE = face("")
BASE_WITH_REVIEWS = face("", "reviews")
BASE_WITH_AUTHORS = face("", "authors")
BASE_WITH_BOTH = face("", "reviews", "authors")


@pytest.fixture(autouse=True)
async def tables(conn: Connection) -> None:
    await conn.execute(CHAINED.encode())


async def both_in_soak(stage: Harness) -> tuple[Harness, Harness]:
    first = await begin(stage, link(stage, "reviews"))
    await first.waits("window", Phase.SOAK)
    second = await begin(stage, link(stage, "authors"))
    await second.waits("window", Phase.SOAK)
    return first, second


async def ends(run: Harness) -> None:
    await run.act("advance", reason="the window may end")
    assert (await run.result()).state is State.DONE


async def test_the_earlier_plan_is_done_first(stage: Harness, conn: Connection) -> None:
    async with stage.worker(), Crowd(stage.dsn) as crowd:
        first = await begin(stage, link(stage, "reviews", gates={"shift": "manual"}))
        await first.waits("gate", Phase.SHADOW)
        await crowd.comes(BASE, ONE, TWO)
        second = await begin(stage, link(stage, "authors"))
        await second.waits("window", Phase.SOAK)
        await crowd.comes(THREE)
        await converse(conn, BASE, ONE, TWO, THREE)
        await first.act("advance")
        await first.waits("window", Phase.SOAK)
        await converse(conn, BASE, ONE, TWO, THREE)
        await crowd.leaves(BASE, ONE)
        await ends(first)
        assert await version_schemas(conn) == ["public_v2", "public_v3"]
        await converse(conn, BASE_WITH_REVIEWS, TWO, THREE)
        await crowd.comes(BASE_WITH_REVIEWS)
        await crowd.leaves(BASE_WITH_REVIEWS, TWO)
        await ends(second)
        await crowd.works()
        await converse(conn, BASE_WITH_BOTH, THREE)
        await crowd.verify(conn, THREE)
    assert await version_schemas(conn) == ["public_v3"]
    assert await leftovers(conn) == []


async def test_the_later_plan_is_done_first(stage: Harness, conn: Connection) -> None:
    async with stage.worker(), Crowd(stage.dsn) as crowd:
        first, second = await both_in_soak(stage)
        await crowd.comes(BASE, ONE, TWO, THREE)
        await crowd.leaves(BASE, ONE, TWO)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="nightly-export") as export:
            await export.execute("SELECT rating FROM public_v1.reviews LIMIT 1")
            await second.act("advance", reason="the window may end")
            status = await second.waits("census", Phase.SOAK)
            assert status.waiting_for is not None
            assert "nightly-export" in status.waiting_for.detail, "version 1 shows authors as they were, too"
        assert (await second.result()).state is State.DONE
        assert await version_schemas(conn) == ["public_v1", "public_v3"]
        await converse(conn, BASE_WITH_AUTHORS, THREE)
        await converse(conn, BASE_WITH_AUTHORS, ONE, THREE, tables=["reviews"])
        third = await begin(stage, link(stage, "books"))
        await third.waits("window", Phase.SOAK)
        await converse(conn, BASE_WITH_AUTHORS, THREE, face("4", "reviews", "authors", "books"))
        await ends(first)
        assert await version_schemas(conn) == ["public_v3", "public_v4"]
        await converse(conn, BASE_WITH_BOTH, THREE, face("4", "reviews", "authors", "books"))
        await crowd.leaves(THREE)
        await ends(third)
        await crowd.verify(conn, face("4", "reviews", "authors", "books"))
    assert await version_schemas(conn) == ["public_v4"]
    assert await leftovers(conn) == []


async def test_the_later_plan_goes_back_and_then_the_earlier_one(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker(), Crowd(stage.dsn) as crowd:
        first, second = await both_in_soak(stage)
        await crowd.comes(BASE, ONE, TWO, THREE)
        await crowd.leaves(THREE)
        await second.act("abort")
        await second.until(Phase.ROLLED_BACK)
        await crowd.works()
        await converse(conn, BASE, ONE, TWO)
        again = await begin(stage, link(stage, "authors"))
        await again.waits("window", Phase.SOAK)
        await crowd.comes(THREE)
        await converse(conn, BASE, ONE, TWO, THREE)
        await crowd.leaves(THREE)
        await again.act("abort")
        await again.until(Phase.ROLLED_BACK)
        await crowd.leaves(TWO)
        await first.act("abort")
        await first.until(Phase.ROLLED_BACK)
        await crowd.works()
        await converse(conn, BASE, ONE)
        await crowd.verify(conn, ONE)
    assert await version_schemas(conn) == ["public_v1"]
    assert await leftovers(conn) == []
    assert schema_dump(postgres.bin_dir, stage.dsn) == before


async def test_a_later_plan_waits_with_its_version_for_the_earlier_one_s(stage: Harness, conn: Connection) -> None:
    async with stage.worker(), Crowd(stage.dsn) as crowd:
        await crowd.comes(BASE)
        first = await begin(stage, link(stage, "reviews", gates={"backfill": "manual"}))
        await first.waits("gate", Phase.DUAL_WRITE)
        second = await begin(stage, link(stage, "authors"))
        status = await second.waits("earlier", Phase.VERIFY)
        assert status.waiting_for is not None
        assert status.waiting_for.detail == "earlier plans: reviews-plan (in dual_write)"
        assert status.waiting_for.next_commands[0] == "pgduet status reviews-plan"
        assert await version_schemas(conn) == ["public_v1"]
        await second.act("abort", reason="it takes too long")
        await second.until(Phase.ROLLED_BACK)
        await converse(conn, BASE, ONE)
        again = await begin(stage, link(stage, "authors"))
        await again.waits("earlier", Phase.VERIFY)
        await first.act("advance")
        await first.waits("window", Phase.SOAK)
        await again.waits("window", Phase.SOAK)
        await converse(conn, BASE, ONE, TWO, THREE)
        await crowd.verify(conn, ONE)


async def test_the_earlier_plan_contracts_while_the_later_one_fills(stage: Harness, conn: Connection) -> None:
    async with stage.worker(), Crowd(stage.dsn) as crowd:
        first = await begin(stage, link(stage, "reviews"))
        await first.waits("window", Phase.SOAK)
        await crowd.comes(TWO)
        second = await begin(stage, link(stage, "authors", gates={"verify": "manual"}))
        await second.waits("gate", Phase.BACKFILL)
        await ends(first)
        await converse(conn, BASE_WITH_REVIEWS, TWO)
        await second.act("advance")
        await second.waits("window", Phase.SOAK)
        await crowd.comes(THREE)
        await converse(conn, BASE_WITH_REVIEWS, TWO, THREE)
        await crowd.leaves(TWO)
        await ends(second)
        await crowd.verify(conn, THREE)
    assert await version_schemas(conn) == ["public_v3"]
    assert await leftovers(conn) == []
