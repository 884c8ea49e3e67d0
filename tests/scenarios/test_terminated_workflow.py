"""Scenario 24: the workflow is terminated in mid-backfill and in soak.

`start` takes up what it left and goes on from there; `rollback` takes it up and ends clean. The other phases are in
`tests/workflows/test_adoption.py`.
"""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.asking import one
from support.chained import leftovers
from support.harness import Harness, schema_dump
from support.holding import held_at
from support.load import Load
from support.mutants import Code, Mutant, must_fail
from support.plans import create_reviews
from support.worlds import World

from pgduet.activities import preflight
from pgduet.client import Migrations
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Abort
from pgduet.phases import Phase, State
from pgduet.plan.load import parse_plan

Connection = psycopg.AsyncConnection[Any]
ROWS = 10_000
UNDER_WAY = "SELECT count(*) FROM pgduet.backfill_range WHERE cursor_block > 0 AND cursor_block < block_to"


async def scenario(stage: Harness, conn: Connection, bin_dir: Path) -> None:
    await create_reviews(conn, ROWS)
    before = schema_dump(bin_dir, stage.dsn)
    plan = stage.plan(backfill={"parallelism": 1}, gates={"verify": "manual"})
    migrations = Migrations(stage.client, task_queue=stage.queue)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(plan)
        async with held_at("batch.after_commit") as one_batch:
            await one_batch()
            await stage.handle.terminate("lost in mid-backfill")
        assert await one(conn, UNDER_WAY) == 1
        await adopted(stage, migrations, plan)
        await stage.waits("gate", Phase.BACKFILL)
        assert await one(conn, "SELECT max(rows_done) FROM pgduet.backfill_range") <= ROWS + len(load.ledger)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await load.working(new=10)
        await stage.handle.terminate("lost in soak")
        await load.working(new=10)
        await adopted(stage, migrations, plan)
        status = await stage.waits("window", Phase.SOAK)
        assert (status.authority, status.read_percent) == ("new", 100)
        await load.working(new=10)
        await stage.handle.terminate("lost in soak again")
        await rolled_back(stage, migrations)
        assert await leftovers(conn) == [], "a rollback after a lost workflow leaves something behind"
        assert schema_dump(bin_dir, stage.dsn) == before

        await stage.start(plan)
        async with held_at("batch.after_commit") as one_batch:
            await one_batch()
            await stage.handle.terminate("lost in mid-backfill")
        await rolled_back(stage, migrations)
        assert await leftovers(conn) == [], "a rollback after a lost workflow leaves something behind"
        assert schema_dump(bin_dir, stage.dsn) == before
        await load.working()
        await load.end()
    await load.verify(conn)


async def adopted(stage: Harness, migrations: Migrations, plan: dict[str, Any]) -> None:
    """Start the same plan again, and wait until it has taken up what was left."""
    started = await migrations.start(parse_plan(plan), actor="dba")
    assert not started.joined
    stage.handles.append(stage.client.get_workflow_handle(started.workflow_id))
    await stage.until(lambda status: any("adopted in" in line for line in status.decisions))


async def rolled_back(stage: Harness, migrations: Migrations) -> None:
    """Roll back what no workflow looks after."""
    await migrations.rollback("review-stars", Abort(actor="dba", reason="lost"), database=stage.database)
    async with asyncio.timeout(60):
        status = await migrations.wait("review-stars", Phase.ROLLED_BACK, 60, database=stage.database)
    assert (status.state, status.rollback) == (State.ROLLED_BACK, "dba: lost")


async def test_start_goes_on_and_rollback_ends_clean(world: World) -> None:
    await scenario(world.stage, world.conn, world.server.bin_dir)


MUTANTS: list[tuple[Mutant, str]] = [
    (
        Code(
            "the undos that were stored beside the data",
            preflight._opened,
            "compensations=found.compensations",
            "compensations=[]",
        ),
        "a rollback after a lost workflow leaves something behind",
    ),
]


@pytest.mark.parametrize(("mutant", "says"), MUTANTS, ids=[mutant.name for mutant, _ in MUTANTS])
async def test_the_scenario_sees_what_is_missing(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, mutant: Mutant, says: str
) -> None:
    await must_fail(scenario(stage, conn, postgres.bin_dir), mutant, says=says)
