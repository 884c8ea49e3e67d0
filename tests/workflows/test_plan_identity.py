"""Which plans may start: one of its own on its tables, from the newest version; the same again joins, an edited one is refused."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.chained import TABLES, begin, held_chain, link
from support.harness import Harness, schema_dump
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from pgduet.client import Migrations
from pgduet.errors import PgduetError, PlanChanged, PlanConflict
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Start
from pgduet.phases import Phase, State
from pgduet.plan.load import parse_plan

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(autouse=True)
async def tables(conn: Connection) -> None:
    await conn.execute(TABLES.encode())


@pytest.fixture
def migrations(stage: Harness) -> Migrations:
    return Migrations(stage.client, task_queue=stage.queue)


def on(table: str, name: str = "colour", **more: Any) -> dict[str, Any]:
    return {"add_column": {"table": f"public.{table}", "column": {"name": name, "type": "bigint", **more}}}


def second(
    stage: Harness, *operations: dict[str, Any], versions: tuple[str, str] = ("2", "3"), name: str = "second"
) -> dict[str, Any]:
    return stage.plan(*operations, name=name) | {"version": {"from": versions[0], "to": versions[1]}}


async def refusal(migrations: Migrations, wanted: dict[str, Any]) -> PgduetError:
    """Have a plan checked and started: both refuse it, and say the same."""
    plan = parse_plan(wanted)
    with pytest.raises(PgduetError) as checked:
        await migrations.check(plan)
    await migrations.start(plan, actor="tester")
    with pytest.raises(PgduetError) as started:
        await migrations.begun(plan.name, plan.database)
    assert str(started.value) == str(checked.value)
    assert type(started.value) is type(checked.value)
    return started.value


async def test_a_plan_that_meets_another_one_is_refused_by_name_and_nothing_is_touched(
    stage: Harness, conn: Connection, migrations: Migrations, postgres: EmbeddedPostgres
) -> None:
    first = stage.plan(
        {"rename_table": {"table": "public.authors", "to": "writers"}},
        on("reviews", references={"table": "public.books"}),
        {"sql": {"up": "SELECT 1", "down": "SELECT 1", "tables": ["public.log"]}},
        {"create_index": {"table": "public.reviews", "name": "once", "columns": ["id"], "unique": True}},
        name="first",
        gates={"shift": "manual"},
        shadow={"mode": "skip"},
    )
    cases = {
        "changes public.reviews too": [on("reviews")],
        "changes public.authors too": [on("authors")],
        "changes public.writers too": [
            {"create_table": {"table": "public.writers", "columns": [{"name": "a", "type": "int"}]}}
        ],
        "changes public.log too": [{"sql": {"up": "SELECT 1", "down": "SELECT 1", "tables": ["public.log"]}}],
        "has a foreign key to public.books, which this plan changes": [on("books")],
        "makes an index public.once too": [
            {
                "create_table": {
                    "table": "public.likes",
                    "columns": [{"name": "id", "type": "bigint", "unique": {"name": "once"}}],
                }
            }
        ],
        "changes public.reviews, to which a foreign key of this plan refers": [
            {
                "create_table": {
                    "table": "public.likes",
                    "columns": [
                        {"name": "id", "type": "bigint", "primary_key": True},
                        {"name": "review", "type": "bigint", "references": "public.reviews(id)"},
                    ],
                }
            }
        ],
    }
    async with stage.worker():
        run = await begin(stage, first)
        await run.waits("gate", Phase.SHADOW)
        before = schema_dump(postgres.bin_dir, stage.dsn)
        for why, operations in cases.items():
            error = await refusal(migrations, second(stage, *operations))
            assert isinstance(error, PlanConflict)
            assert error.message == f"migration first is live (in shadow) and {why}"
            assert error.hint is not None
            assert "pgduet status first" in error.hint
        plans: dict[tuple[str, str], str] = {
            ("1", "3"): "the newest is 2 (migration first is making it), this plan begins at 1",
            ("9", "10"): "the newest is 2 (migration first is making it), this plan begins at 9",
            ("2", "1"): "version 1 is there already: migration first goes from 1 to 2",
        }
        await conn.execute("CREATE TABLE public.films (id int PRIMARY KEY)")
        for versions, why in plans.items():
            error = await refusal(migrations, second(stage, on("films"), versions=versions))
            assert isinstance(error, PlanConflict)
            assert why in error.message
        await conn.execute("DROP TABLE public.films")
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
    rows = await (await conn.execute("SELECT name FROM pgduet.migration")).fetchall()
    assert rows == [("first",)]


async def test_a_plan_cannot_start_upon_one_that_is_going_back(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    async with stage.worker():
        first = await begin(stage, link(stage, "reviews", gates={"shift": "manual"}))
        await first.waits("gate", Phase.SHADOW)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT stars FROM public_v2.reviews LIMIT 1")
            await first.act("abort")
            await first.until(lambda status: bool(status.waiting_for and status.waiting_for.kind == "clients"))
            error = await refusal(migrations, link(stage, "authors"))
            assert isinstance(error, PlanConflict)
            assert error.message == "version 2 is going: migration reviews-plan is being rolled back"
            assert error.hint == "Wait until it has: pgduet wait reviews-plan --phase rolled_back"
        await first.until(Phase.ROLLED_BACK)


async def test_two_plans_on_one_table_in_the_same_instant_one_wins(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    rivals = [link(stage, "reviews", name=name, gates={"expand": "manual"}) for name in ("this", "that")]
    async with stage.worker():
        async with held_chain(conn) as queue:
            runs = [await begin(stage, rival) for rival in rivals]
            await queue(2)  # both have surveyed, and found nobody
        seen = await asyncio.gather(
            *(run.until(lambda s: s.state is State.FAILED or s.waiting_for is not None) for run in runs)
        )
    refused = [status for status in seen if status.state is State.FAILED]
    (winner,) = (status for status in seen if status not in refused)
    assert len(refused) == 1
    assert f"migration {winner.name} is live" in (refused[0].failure or "")
    assert await (await conn.execute("SELECT name FROM pgduet.migration")).fetchall() == [(winner.name,)]


async def test_the_same_plan_joins_with_another_policy_too_and_an_edited_one_is_refused_while_it_lives(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    plan = parse_plan(link(stage, "reviews", gates={"shift": "manual"}))
    other_policy = parse_plan(link(stage, "reviews", gates={"soak": "manual"}))
    edited = second(stage, on("reviews"), versions=("1", "2"), name=plan.name)
    async with stage.worker():
        started = await asyncio.gather(*(migrations.start(plan, actor="tester") for _ in range(3)))
        assert sorted(each.joined for each in started) == [False, True, True]
        assert len({each.run_id for each in started}) == 1
        stage.handles.append(stage.client.get_workflow_handle(started[0].workflow_id))
        await stage.waits("gate", Phase.SHADOW)
        joined = await migrations.start(other_policy, actor="tester")
        assert (joined.joined, joined.same_policy) == (True, False)
        assert (await migrations.check(plan)).standing == "live, in shadow"
        with pytest.raises(PlanChanged, match="runs with another plan"):
            await migrations.start(parse_plan(edited), actor="tester")
        with pytest.raises(PlanChanged, match=r"reviews-plan is live \(in shadow\) with other versions or operations"):
            await migrations.check(parse_plan(edited))
        await stage.handle.terminate("lost")
        error = await raw_start(stage, edited)
        assert error.type == "PlanChanged"
        assert "reviews-plan is live (in shadow) with other versions or operations" in error.message
        adopted = await migrations.start(other_policy, actor="tester")
        assert not adopted.joined
        status = await stage.waits("gate", Phase.SHADOW)
        assert any("it keeps the policy with which it was started" in line for line in status.decisions)
    assert await (await conn.execute("SELECT count(*) FROM pgduet.migration")).fetchone() == (1,)


async def raw_start(stage: Harness, wanted: dict[str, Any]) -> ApplicationError:
    """Start a plan past the client, as tctl would; gives what it fails with."""
    handle = await stage.client.start_workflow(
        "Migration",
        Start(plan=wanted, actor="raw"),
        id=f"migration/{stage.database}/{wanted['name']}",
        task_queue=stage.queue,
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    return caught.value.cause


async def test_once_done_the_same_plan_says_so_and_an_edited_one_is_refused(
    stage: Harness, migrations: Migrations
) -> None:
    wanted = link(stage, "reviews", soak={"window_s": 0, "legacy_idle_s": 0})
    edited = second(stage, on("reviews"), versions=("1", "2"), name=wanted["name"])
    async with stage.worker():
        run = await begin(stage, wanted)
        await run.result()
        await migrations.start(parse_plan(wanted), actor="tester")
        assert (await migrations.begun(wanted["name"], stage.database)).state is State.DONE
        assert (await migrations.check(parse_plan(wanted))).standing == "done"
        with pytest.raises(PlanChanged) as caught:
            await migrations.start(parse_plan(edited), actor="tester")
        assert caught.value.message.startswith("reviews-plan is done with other versions or operations")
        assert caught.value.hint == "Give the changed plan another name."
        status = await migrations.status(wanted["name"], stage.database)
        assert (status.state, len(status.timings) > 5) == (State.DONE, True), "what was done is still to be seen"
        assert (await raw_start(stage, edited)).type == "PlanChanged"


async def test_after_a_rollback_the_name_is_free_for_an_edited_plan(
    stage: Harness, conn: Connection, migrations: Migrations
) -> None:
    wanted = link(stage, "reviews", gates={"dual_write": "manual"})
    edited = second(stage, on("reviews"), versions=("1", "2b"), name=wanted["name"])
    async with stage.worker():
        run = await begin(stage, wanted)
        await run.waits("gate", Phase.EXPAND)
        await run.act("abort")
        await run.result()
        assert (await migrations.check(parse_plan(edited))).standing is None
        again = await begin(stage, edited)
        await again.waits("window", Phase.SOAK)
    cursor = await conn.execute("SELECT attempt, state, to_version FROM pgduet.migration ORDER BY id")
    assert await cursor.fetchall() == [(1, "rolled_back", "2"), (2, "running", "2b")]
