"""kill -9 at each barrier that a shape passes, one after the other, under clients of both versions: it ends as if nothing had been.

A worker has instructions for the barriers that are left; each new one goes on until it is killed at the next. Three lanes share the
barriers by a seed, and a fourth is left alone; all must come out with the same schema. `PGDUET_SEED` repeats a run.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.lanes import Lane, database
from support.load import Load
from support.plans import create_reviews
from support.processes import seeded
from support.shaped import STARS_APART
from support.stage import staged

from pgduet import audit
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.phases import Phase, State

LANES = 3
ROWS = 4_000
PAUSE_S = 0.015
PATIENCE_S = 600.0

PASSED = {
    "expand": 1,
    "dual_write": 1,
    "batch": 3,
    "publish": 3,
    "flip": 1,
    "contract": 2,
    "undo_cutover": 1,
    "undo_verify": 1,
    "undo_dual_write": 1,
    "undo_expand": 1,
}
"""The barriers of a shape, and how often each is passed at least: the seed says at which time the worker is killed."""

Connection = psycopg.AsyncConnection[Any]


def deal(chance: random.Random) -> list[dict[str, int]]:
    """Deal the barriers out, each with the time at which the worker is killed there; the last share is empty."""
    names = [f"{name}.{side}_commit" for name in PASSED for side in ("before", "after")]
    turns = {name: chance.randint(1, PASSED[name.partition(".")[0]]) for name in chance.sample(names, len(names))}
    dealt = list(turns.items())
    return [dict(dealt[lane::LANES]) for lane in range(LANES)] + [{}]


@pytest.mark.early
@pytest.mark.timeout(1500)
async def test_a_worker_killed_at_every_barrier_of_a_shape_changes_nothing_of_the_outcome(
    postgres: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = seeded()
    async with AsyncExitStack() as stack:
        lanes = []
        for share in deal(chance):
            dsn = await stack.enter_async_context(database(postgres))
            stage = await stack.enter_async_context(staged(temporal, dsn, tmp_path, monkeypatch))
            conn = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            lanes.append(Lane(stage, conn, postgres.bin_dir, share))
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(there_and_back_and_there_again(lane))
        for lane in lanes:
            print(" ".join(lane.killed) or "no kill")  # noqa: T201  (shown with a failure)
        never = sorted(name for lane in lanes for name in lane.left)
        assert not never, f"barriers that no step reached as often as asked: {never}"
        *killed, calm = lanes
        for lane in killed:
            assert lane.dumps == calm.dumps, f"what is left differs after {lane.killed}"


async def there_and_back_and_there_again(lane: Lane) -> None:
    """Migrate to soak, roll back, migrate to the end; look at everything on the way."""
    stage, conn = lane.stage, lane.conn
    await create_reviews(conn, ROWS)
    before = lane.dump()
    plan = stage.plan(STARS_APART, gates={"contract": "auto"}, backfill={"batch_target_ms": 1})
    async with Load(stage.dsn, pause_s=PAUSE_S) as load, lane.workers():
        await stage.start(plan)
        await at_soak(lane, load)
        await stage.act("abort", reason="test")
        assert (await stage.result(PATIENCE_S)).state is State.ROLLED_BACK
        assert lane.dump() == before
        await load.working()
        await stage.start(plan)
        await at_soak(lane, load)
        await load.deploy()
        await stage.act("advance")
        assert (await stage.result(PATIENCE_S)).state is State.DONE
        await load.working(new=10)
        await load.end()
        lane.dumps.append(lane.dump())
    await load.verify(conn, new=True)
    assert (await audit.verify(conn)).intact
    saved = await conn.execute(
        "SELECT count(*) - count(DISTINCT (attempt, relation, mapping, side, key)) FROM pgduet_archive.value"
    )
    assert await saved.fetchone() == (0,), "a value was archived twice"


async def at_soak(lane: Lane, load: Load) -> None:
    """Wait for soak, and look at both versions while clients use them."""
    await lane.stage.waits("window", Phase.SOAK, PATIENCE_S)
    await load.working(new=10)
    verified = await lane.stage.act("verify")
    assert verified.message.startswith("0 of "), verified
