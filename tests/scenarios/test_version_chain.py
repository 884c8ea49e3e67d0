"""Several plans at once, on tables of their own: each version's clients read and write the right thing, in any order of ends."""

from typing import Any

import psycopg
import pytest
from support import chained
from support.chained import (
    ONE,
    QUICK,
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
from pgduet.routing import AsyncRouter

Connection = psycopg.AsyncConnection[Any]

BASE = face("")
BASE_WITH_REVIEWS = face("", "reviews")
BASE_WITH_AUTHORS = face("", "authors")
BASE_WITH_BOTH = face("", "reviews", "authors")


@pytest.fixture(autouse=True)
async def tables(conn: Connection) -> None:
    await conn.execute(CHAINED.encode())


@pytest.fixture(params=["in place", "apart"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the reviews changed in place, or by a second table."""
    if request.param == "apart":
        monkeypatch.setitem(chained.WAYS, "reviews", chained.APART)


async def both_in_soak(stage: Harness) -> tuple[Harness, Harness]:
    first = await begin(stage, link(stage, "reviews"))
    await first.waits("window", Phase.SOAK)
    second = await begin(stage, link(stage, "authors"))
    await second.waits("window", Phase.SOAK)
    return first, second


async def ends(run: Harness) -> None:
    await run.act("advance", reason="the window may end")
    assert (await run.result()).state is State.DONE


@pytest.mark.usefixtures("either_way")
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
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT stars FROM public_v3.reviews LIMIT 1")
            status = await first.until(lambda s: any(seen.who.startswith("web") for seen in s.census))
            (seen,) = (seen for seen in status.census if seen.who.startswith("web"))
            assert (seen.version, seen.side) == ("3", "new"), "a later version's client is no old client"
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
        router = await AsyncRouter.open(stage.dsn, service="web", lease_s=1)
        assert router.path("reviews-plan", 1).version == "2"
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="nightly-export") as export:
            await export.execute("SELECT rating FROM public_v1.reviews LIMIT 1")
            await second.act("advance", reason="the window may end")
            status = await second.waits("census", Phase.SOAK)
            assert status.waiting_for is not None
            assert "nightly-export" in status.waiting_for.detail, "version 1 shows authors as they were, too"
        assert (await second.result()).state is State.DONE
        assert await version_schemas(conn) == ["public_v1", "public_v3"]
        assert router.path("reviews-plan", 1).version == "3", "a router is led past a version that goes, before it goes"
        await router.close()
        status = await first.until(lambda status: status.no_way_back == "authors-plan builds on version 2 and is done")
        assert status.waiting_for is not None
        assert not [each for each in status.waiting_for.next_commands if "rollback" in each], "it would be refused"
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


@pytest.mark.usefixtures("either_way")
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
        columns = await conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'public_v2.authors'::regclass AND attnum > 0 ORDER BY 1"
        )
        assert await columns.fetchall() == [("age",), ("id",)], "what is in the making is the later version's alone"
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


async def test_tables_that_come_go_and_are_renamed_are_shown_by_each_version_as_it_has_them(
    stage: Harness, conn: Connection
) -> None:
    await conn.execute("CREATE SCHEMA other; CREATE TABLE other.things (id int PRIMARY KEY, size text)")
    await conn.execute("INSERT INTO other.things VALUES (1, '5')")
    key = {"name": "id", "type": "int", "primary_key": True}
    first = stage.plan(
        {"rename_table": {"table": "public.authors", "to": "writers"}},
        {"rename_column": {"table": "public.authors", "from": "age", "to": "years"}},
        {"add_column": {"table": "public.authors", "column": {"name": "digits", "type": "int", "up": "length(age)"}}},
        {"create_table": {"table": "public.tags", "columns": [key]}},
        {"drop_table": {"table": "public.books"}},
        name="first",
        **QUICK,
    )
    second = stage.plan(
        {"create_table": {"table": "public.likes", "columns": [key]}},
        {"rename_table": {"table": "public.reviews", "to": "critiques"}},
        {"alter_column": {"table": "other.things", "column": "size", "type": "int"}},
        name="second",
        **QUICK,
    ) | {"version": {"from": "2", "to": "3"}}
    async with stage.worker():
        runs = [await begin(stage, first)]
        await runs[0].waits("window", Phase.SOAK)
        runs.append(await begin(stage, second))
        await runs[1].waits("window", Phase.SOAK)
        assert await shown(conn) == {
            "other_v2": ["things"],
            "other_v3": ["things"],
            "public_v1": ["authors", "books", "reviews"],
            "public_v2": ["reviews", "tags", "writers"],
            "public_v3": ["critiques", "likes", "tags", "writers"],
        }
        await conn.execute("INSERT INTO public_v3.writers (years) VALUES ('1234')")
        await conn.execute("INSERT INTO public_v1.authors (age) VALUES ('56789')")
        for version in ("2", "3"):
            cursor = await conn.execute(
                f"SELECT years, digits FROM public_v{version}.writers WHERE length(years) > 3 ORDER BY 1".encode()
            )
            assert await cursor.fetchall() == [("1234", None), ("56789", 5)]
        await ends(runs[1])
        assert await shown(conn) == {
            "other_v3": ["things"],
            "public_v1": ["authors", "books"],
            "public_v3": ["critiques", "likes", "tags", "writers"],
        }
        await ends(runs[0])
        await conn.execute("INSERT INTO public_v3.writers (years, digits) VALUES ('1', 2)")
    assert await shown(conn) == {"other_v3": ["things"], "public_v3": ["critiques", "likes", "tags", "writers"]}
    assert await leftovers(conn) == []


async def shown(conn: Connection) -> dict[str, list[str]]:
    """Tell which tables each version shows."""
    cursor = await conn.execute(
        "SELECT n.nspname, array_agg(c.relname::text ORDER BY c.relname) FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname LIKE '%\\_v_' GROUP BY 1"
    )
    return dict(await cursor.fetchall())
