"""A rollback of a migration on which later ones build: refused by whatever way it comes, or, with `cascade`, newest first."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.chained import ONE, TABLES, THREE, TWO, begin, converse, face, held_chain, leftovers, link, version_schemas
from support.harness import Harness, pgduet, schema_dump
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from pgduet.local import EmbeddedPostgres
from pgduet.messages import Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
BUILT_UPON = "on version 2 builds authors-plan (in shadow)"


@pytest.fixture(autouse=True)
async def tables(conn: Connection) -> None:
    await conn.execute(TABLES.encode())


async def published(stage: Harness, table: str) -> Harness:
    """Bring a migration to where clients may use its version, and nothing moves on by itself."""
    run = await begin(stage, link(stage, table, gates={"shift": "manual"}))
    await run.waits("gate", Phase.SHADOW)
    return run


async def refused(run: Harness, **fields: Any) -> ApplicationError:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await run.act("abort", **fields)
    assert isinstance(caught.value.cause, ApplicationError)
    return caught.value.cause


def waits_for(kind: str, detail: str) -> Any:
    return lambda s: s.waiting_for is not None and s.waiting_for.kind == kind and detail in s.waiting_for.detail


async def test_without_cascade_it_is_refused_by_update_signal_and_command_line(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        first, _ = await published(stage, "reviews"), await published(stage, "authors")
        error = await refused(first)
        assert error.type == "BuiltUpon"
        assert BUILT_UPON in error.message
        assert "Roll back authors-plan first, or all of them: pgduet rollback reviews-plan --cascade" in error.message
        await first.handle.signal("abort", {"actor": "tctl"})
        await first.until(lambda s: any(f"ignored: {BUILT_UPON}" in line for line in s.decisions))
        code, said = await pgduet(stage, "rollback", "reviews-plan", "--database", stage.database)
        assert code == 1
        assert BUILT_UPON in said
        assert "--cascade" in said
        assert (await first.status()).state is State.WAITING
        await converse(conn, face(""), ONE, TWO, THREE)
    aborts = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'abort'")
    assert await aborts.fetchone() == (0,)


async def test_cascade_rolls_the_later_ones_back_first_and_each_says_why(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker():
        runs = [await published(stage, table) for table in ("reviews", "authors", "books")]
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT years FROM public_v3.authors LIMIT 1")
            code, said = await pgduet(
                *(stage, "rollback", "reviews-plan", "--database", stage.database, "--cascade"),
                *("--actor", "ann", "--reason", "a bad release"),
            )
            assert code == 0, said
            assert "because" in said
            status = await runs[0].until(waits_for("later", "later plans to be rolled back first: authors-plan (roll"))
            assert status.safe
            assert status.rollback == "ann: a bad release"
            assert (await runs[1].until(waits_for("clients", "web"))).safe
            await runs[2].until(Phase.ROLLED_BACK)
        ended = [await run.result() for run in runs]
    assert [status.state for status in ended] == [State.ROLLED_BACK] * 3
    assert [status.rollback for status in ended[1:]] == ["ann: cascade of reviews-plan by ann: a bad release"] * 2
    cursor = await conn.execute("SELECT migration FROM pgduet.audit WHERE action = 'rolled_back' ORDER BY seq")
    assert [name for (name,) in await cursor.fetchall()] == ["books-plan", "authors-plan", "reviews-plan"]
    assert await version_schemas(conn) == ["public_v1"]
    assert await leftovers(conn) == []
    assert schema_dump(postgres.bin_dir, stage.dsn) == before


async def test_a_cascade_adopts_a_later_one_that_was_lost_and_goes_on_when_it_was_lost_itself(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        first, second = await published(stage, "reviews"), await published(stage, "authors")
        await second.handle.terminate("lost")
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT years FROM public_v3.authors LIMIT 1")
            answer = await first.act("abort", cascade=True, reason="bad")
            assert answer.message == "rolling back, after authors-plan"
            await first.until(waits_for("later", "authors-plan (rolling back)"))
            second.handles.append(stage.client.get_workflow_handle(second.handle.id, result_type=Status))
            status = await second.until(waits_for("clients", "web"))
            assert status.rollback == "tester: cascade of reviews-plan by tester: bad"
            await first.handle.terminate("lost as well")
            again = await begin(stage, link(stage, "reviews", gates={"shift": "manual"}))
            status = await again.until(waits_for("later", "authors-plan"))
            assert status.rollback == "tester: bad"
        assert (await second.result()).state is State.ROLLED_BACK
        assert (await again.result()).state is State.ROLLED_BACK
    assert await version_schemas(conn) == ["public_v1"]


async def test_once_a_later_one_is_done_there_is_no_way_back(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        first = await begin(stage, link(stage, "reviews"))
        await first.waits("window", Phase.SOAK)
        second = await begin(stage, link(stage, "authors", soak={"window_s": 0, "legacy_idle_s": 0}))
        await second.result()
        for cascade in (False, True):
            error = await refused(first, cascade=cascade)
            assert error.type == "ActRefused"
            assert "authors-plan builds on version 2 and is past its point of no return (done)" in error.message
        await first.act("advance")
        assert (await first.result()).state is State.DONE
    assert await version_schemas(conn) == ["public_v3"]


async def test_a_contract_waits_while_an_earlier_one_may_still_have_to_go_back(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        first = await published(stage, "reviews")
        second = await begin(stage, link(stage, "authors", soak={"window_s": 0, "legacy_idle_s": 0}))
        status = await second.waits("earlier", Phase.CONTRACT)
        assert status.waiting_for is not None
        assert status.waiting_for.detail == "earlier plans: reviews-plan (in shadow, to be through cutover)"
        await first.act("abort", cascade=True)
        assert (await second.result()).state is State.ROLLED_BACK
        assert (await first.result()).state is State.ROLLED_BACK


@pytest.mark.parametrize("first_in_line", ["rollback", "start"])
async def test_a_rollback_and_the_start_of_a_later_plan_exclude_each_other(
    stage: Harness, conn: Connection, first_in_line: str
) -> None:
    async def start() -> Harness:
        return await begin(stage, link(stage, "authors", gates={"expand": "manual"}))

    async with stage.worker():
        first = await begin(stage, link(stage, "reviews", gates={"shift": "manual"}))
        await first.waits("gate", Phase.SHADOW)
        async with held_chain(conn) as queue:
            if first_in_line == "rollback":
                aborting = asyncio.create_task(first.act("abort"))
                await queue(1)
                second = await start()
            else:
                second = await start()
                await queue(1)
                aborting = asyncio.create_task(first.act("abort"))
            await queue(2)
        if first_in_line == "rollback":
            assert (await aborting).message == "rolling back"
            failed = await second.until(lambda s: s.state is State.FAILED)
            assert "version 2 is going: migration reviews-plan is being rolled back" in (failed.failure or "")
        else:
            with pytest.raises(WorkflowUpdateFailedError) as caught:
                await aborting
            assert "on version 2 builds authors-plan (in preflight)" in str(caught.value.cause)
            await second.waits("gate", Phase.PREFLIGHT)


async def test_a_cancelled_workflow_waits_until_the_later_ones_are_gone(stage: Harness) -> None:
    async with stage.worker():
        first, second = await published(stage, "reviews"), await published(stage, "authors")
        await first.handle.cancel()
        status = await first.until(waits_for("later", BUILT_UPON))
        assert status.state is State.PAUSED
        assert status.waiting_for is not None
        assert status.waiting_for.next_commands == [
            "pgduet rollback reviews-plan --cascade",
            "pgduet resume reviews-plan",
        ]
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await first.act("advance")
        assert "other migrations come first" in str(caught.value.cause)
        await second.act("abort")
        with pytest.raises(WorkflowFailureError) as ended:
            await first.result()
        assert isinstance(ended.value.cause, CancelledError)
        assert (await first.status()).state is State.ROLLED_BACK


async def test_a_cancelled_workflow_that_waits_can_be_resumed_instead(stage: Harness) -> None:
    async with stage.worker():
        first, second = await published(stage, "reviews"), await published(stage, "authors")
        await first.handle.cancel()
        await first.until(waits_for("later", BUILT_UPON))
        await first.act("resume")
        await first.waits("gate", Phase.SHADOW)
        await second.act("abort")
        await second.result()
        await first.act("advance")
        await first.waits("window", Phase.SOAK)
