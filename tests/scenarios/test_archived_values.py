"""What only the new version has survives a rollback, a failed start in between, and does not get in anybody's way."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.plans import create_reviews
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from pgduet.operations import rows
from pgduet.operations.design import Design, TableDesign
from pgduet.operations.statement import Query
from pgduet.phases import Phase
from pgduet.postgres import gently

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def archived(stage: Harness, conn: Connection) -> dict[str, Any]:
    """Leave three moods in the archive, by a migration that was rolled back from soak; gives the plan."""
    await create_reviews(conn, 1_000)
    plan = stage.plan()
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE public_v2.reviews SET mood = 'mood ' || id WHERE id IN (10, 20, 30)")
        await stage.act("abort")
        assert (await stage.result()).archived == 3
    return plan


async def moods(conn: Connection) -> list[tuple[int, str]]:
    return await (
        await conn.execute("SELECT id, mood FROM public_v2.reviews WHERE mood IS NOT NULL ORDER BY id")
    ).fetchall()


async def test_a_large_table_is_archived_piece_by_piece_as_of_one_moment(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    whole = rows.archive_new

    def noted(design: Design, table: TableDesign, attempt: int, first: int, last: int) -> list[Query]:
        read.append((first, last))
        return whole(design, table, attempt, first, last)

    monkeypatch.setattr(rows, "archive_new", noted)
    for size in ("PIECE", "SMALL_PIECE"):
        monkeypatch.setattr(gently, size, 2)
    await create_reviews(conn, 1_000)
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE public_v2.reviews SET mood = 'mood ' || id WHERE id % 100 = 0")
        await stage.act("abort")
        assert (await stage.result()).archived == 10
    assert len(read) > 3
    assert read == [(first, min(first + 2, read[-1][1])) for first in range(0, read[-1][1], 2)]
    kept = await conn.execute("SELECT kept ->> 'mood' FROM pgduet_archive.value ORDER BY (key ->> 'id')::int")
    assert [row[0] for row in await kept.fetchall()] == [f"mood {number * 100}" for number in range(1, 11)]


async def test_values_come_back_after_a_start_that_failed_at_publication(
    stage: Harness, conn: Connection, archived: dict[str, Any]
) -> None:
    async with stage.worker():
        await stage.start(
            {**archived, "policy": {**archived["policy"], "gates": {**archived["policy"]["gates"], "verify": "manual"}}}
        )
        await stage.waits("gate", Phase.BACKFILL)
        # Somebody's own schema stands where the new version's has to go.
        await conn.execute("CREATE SCHEMA public_v2 CREATE TABLE reviews (id int)")
        await stage.act("advance")
        await stage.waits("error", Phase.VERIFY)
        await stage.act("abort")
        assert (await stage.result()).archived == 0
        await conn.execute("SELECT FROM public_v2.reviews")
        await stage.start(archived)
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert 'a schema "public_v2" is there already' in caught.value.cause.message
        await conn.execute("DROP SCHEMA public_v2 CASCADE")
        await stage.start(archived)
        status = await stage.waits("window", Phase.SOAK)
    assert status.restored == 3
    assert await moods(conn) == [(10, "mood 10"), (20, "mood 20"), (30, "mood 30")]


async def test_a_row_that_a_client_holds_is_waited_for_without_holding_others(
    stage: Harness, conn: Connection, dsn: str, archived: dict[str, Any]
) -> None:
    touched = "SELECT updated_at FROM reviews WHERE id = 30"
    before = await (await conn.execute(touched)).fetchone()
    async with stage.worker(), await psycopg.AsyncConnection.connect(dsn) as client:
        await stage.start(
            {**archived, "policy": {**archived["policy"], "gates": {**archived["policy"]["gates"], "verify": "manual"}}}
        )
        await stage.waits("gate", Phase.BACKFILL)
        await client.execute("SELECT FROM reviews WHERE id = 30 FOR UPDATE")
        await stage.act("advance")
        await stage.until(Phase.VERIFY)
        await conn.execute("SET statement_timeout = '3s'")
        for number in (10, 20, 10, 20):
            await conn.execute("UPDATE reviews SET note = 'an old client' WHERE id = %s", (number,))
        await client.rollback()
        await stage.waits("window", Phase.SOAK)
    assert await moods(conn) == [(10, "mood 10"), (20, "mood 20"), (30, "mood 30")]
    assert await (await conn.execute(touched)).fetchone() == before, "the user's triggers are mute in a restore"


async def test_a_value_that_was_changed_in_a_later_attempt_is_the_one_that_comes_back(
    stage: Harness, conn: Connection, archived: dict[str, Any]
) -> None:
    async with stage.worker():
        await stage.start(archived)
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE public_v2.reviews SET mood = 'changed' WHERE id = 10")
        await stage.act("abort")
        await stage.result()
        await stage.start(archived)
        await stage.waits("window", Phase.SOAK)
    assert await moods(conn) == [(10, "changed"), (20, "mood 20"), (30, "mood 30")]
