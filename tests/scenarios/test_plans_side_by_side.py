"""Scenario 26: two plans at once on one table; the same plan twice; an edited plan under the same name.

Independent ones run side by side; a conflicting one is refused, naming the other; the same one joins the run that is there, or
finds that all is done; an edited one is refused by its checksum. More of each: `tests/workflows/test_plan_identity.py`.
"""

from typing import Any

import psycopg
import pytest
from support.asking import one, refusal, refused_by_check_and_start
from support.chained import TABLES, begin, converse, face, link
from support.harness import Harness
from support.mutants import Code, Mutant, must_fail
from support.worlds import World

from pgduet.client import Migrations
from pgduet.errors import PlanChanged, PlanConflict
from pgduet.phases import Phase
from pgduet.plan.checksum import checksum
from pgduet.plan.load import parse_plan
from pgduet.postgres import conflicts

Connection = psycopg.AsyncConnection[Any]


async def scenario(stage: Harness, conn: Connection) -> None:
    await conn.execute(TABLES.encode())
    migrations = Migrations(stage.client, task_queue=stage.queue)
    wanted = link(stage, "reviews", gates={"shift": "manual"})
    plan = parse_plan(wanted)
    async with stage.worker():
        first = await begin(stage, wanted)
        await first.waits("gate", Phase.SHADOW)

        rival = link(stage, "reviews", name="rival") | {"version": {"from": "2", "to": "3"}}
        error = await refused_by_check_and_start(stage, rival)
        assert isinstance(error, PlanConflict), "two plans change one table at once"
        assert error.message == "migration reviews-plan is live (in shadow) and changes public.reviews too"

        again = await migrations.start(plan, actor="tester")
        assert again.joined
        edited = link(stage, "authors", name="reviews-plan") | {"version": wanted["version"]}
        error = await refusal(migrations.start(parse_plan(edited), actor="tester"))
        assert isinstance(error, PlanChanged)
        await first.handle.terminate("lost: only the database knows of it")
        error = await refusal(migrations.check(parse_plan(edited)))
        assert isinstance(error, PlanChanged), "an edited plan passes for the one that is live"
        assert checksum(plan)[:12] in error.message
        again = await migrations.start(plan, actor="tester")
        assert not again.joined
        first.handles.append(stage.client.get_workflow_handle(again.workflow_id))
        await first.waits("gate", Phase.SHADOW)

        independent = await begin(stage, link(stage, "authors"))
        await independent.waits("window", Phase.SOAK)
        await converse(conn, face("1"), face("2", "reviews"), face("3", "reviews", "authors"))
        assert (await first.status()).phase is Phase.SHADOW
    names = "SELECT string_agg(name, ' ' ORDER BY id) FROM pgduet.migration"
    assert await one(conn, names) == "reviews-plan authors-plan"


async def test_independent_ones_run_conflicting_and_edited_ones_are_refused_and_the_same_one_joins(
    world: World,
) -> None:
    await scenario(world.stage, world.conn)


MUTANTS: list[tuple[Mutant, str]] = [
    (
        Code(
            "the question which tables others change",
            conflicts._shared,
            "sorted(ours.touched & theirs.touched)",
            "sorted(ours.touched & theirs.touched & frozenset())",
        ),
        "two plans change one table at once",
    ),
    (
        Code("the comparison of checksums", conflicts.same_name, "if found.checksum != checksum(plan):", "if False:"),
        "an edited plan passes for the one that is live",
    ),
]


@pytest.mark.parametrize(("mutant", "says"), MUTANTS, ids=[mutant.name for mutant, _ in MUTANTS])
async def test_the_scenario_sees_what_is_missing(stage: Harness, conn: Connection, mutant: Mutant, says: str) -> None:
    await must_fail(scenario(stage, conn), mutant, says=says)
