"""Scenario 14: kill -9 of the worker in mid-batch, after a commit, in mid-cutover; another one goes on, nothing is lost or redone.

Two workers are killed in turn, in one migration on each PostgreSQL at the same time: most of the time is the wait for heartbeats
that do not come. On the newest one, `test_killed_at_every_barrier.py` goes through all moments there are.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import careless_worker
from support.asking import one
from support.harness import Harness
from support.load import Load
from support.mutants import must_fail
from support.plans import ROWS as MANY
from support.plans import create_reviews, overlaid
from support.stage import staged
from support.worlds import VERSIONS, Servers, fresh_database

from pgduet.local import LocalTemporal
from pgduet.operations.names import physical_column
from pgduet.phases import Authority, Phase
from pgduet.postgres.batches import FIRST_PAGES

ROWS = 6_000
FILL_PERCENT = 10
"""Few rows a page, and so many batches that are soon over."""
KILLS = {
    15: ("batch.before_commit=kill@10", "flip.after_commit=kill"),
    16: ("batch.after_commit=kill@10", "flip.before_commit=kill"),
    18: ("batch.before_commit=kill@10", "flip.before_commit=kill"),
}
SMALL = {"backfill": {"parallelism": 1, "batch_target_ms": 1}}
"""A batch whose target is so short is never larger than the first one."""

PATIENCE_S = 120.0
"""Heartbeats stop being waited for after 5 s; a busy machine may take many times what a worker's start takes."""

CARELESS = Path(careless_worker.__file__)
Connection = psycopg.AsyncConnection[Any]


async def tuples_written(conn: Connection) -> int:
    """Count every row version that an UPDATE of the table made, rolled back ones included."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    return int(await one(conn, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'reviews'"))


async def killed_in_turn(stage: Harness, conn: Connection, kills: Sequence[str]) -> None:
    """Kill workers, and let another one come to the end."""
    await create_reviews(conn, 0)
    await conn.execute(f"ALTER TABLE public.reviews SET (fillfactor = {FILL_PERCENT})".encode())
    await conn.execute(MANY.format(ROWS).encode())
    await conn.execute("VACUUM ANALYZE public.reviews")
    async with Load(stage.dsn) as load:
        await stage.start(stage.plan(**SMALL))
        for kill in kills:
            with stage.worker_process(kill) as worker:
                await worker.killed(PATIENCE_S)
        with stage.worker_process():
            status = await stage.waits("window", Phase.SOAK, PATIENCE_S)
            await load.working(new=10)
            assert status.authority is Authority.NEW
            verified = await stage.act("verify")
            await load.end()
            await stage._end()
    await load.verify(conn)
    assert verified.message.startswith("0 of ")
    differing = """
        SELECT count(*) FROM public_v1.reviews o FULL JOIN public_v2.reviews n USING (id)
        WHERE o.rating::int IS DISTINCT FROM n.stars
    """
    assert await one(conn, differing) == 0
    assert await one(conn, "SELECT count(*) FROM pgduet.audit WHERE action = 'cutover'") == 1
    filled = await one(conn, "SELECT sum(rows_done)::int FROM pgduet.backfill_range")
    # Rows that came before the triggers did are the backfill's too.
    assert filled <= ROWS + sum(key > ROWS for key in load.ledger)
    rows_per_page = -(-ROWS // await one(conn, "SELECT max(block_to) FROM pgduet.backfill_range"))
    # Probes write a few rows, and roll back; a client's write is one version of one row.
    again = await tuples_written(conn) - load.writes - filled
    # The first and the last batch meet clients' row locks, and are tried again.
    assert again <= 3 * FIRST_PAGES * rows_per_page + 10, "more than one batch of ten was done again"


@pytest.mark.early
@pytest.mark.timeout(400)
async def test_another_worker_goes_on_where_a_killed_one_was(
    servers: Servers,
    temporal: LocalTemporal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lane(version: int) -> None:
        with fresh_database(servers(version)) as dsn:
            async with (
                staged(temporal, dsn, tmp_path, monkeypatch) as stage,
                await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn,
            ):
                await killed_in_turn(stage, conn, KILLS[version])

    async with asyncio.TaskGroup() as group:
        for version in VERSIONS:
            group.create_task(lane(version), name=f"PostgreSQL {version}")


async def killed_in_a_batch(stage: Harness, conn: Connection, program: Path) -> None:
    """Kill a worker after the commit of a batch, and look at what is left empty when the backfill says that it is over."""
    await create_reviews(conn, 3 * ROWS)
    await stage.start(stage.plan(**overlaid(SMALL, {"gates": {"verify": "manual"}})))
    with stage.worker_process("batch.after_commit=kill@2", program, PYTHONPATH=str(CARELESS.parents[1])) as worker:
        await worker.killed(PATIENCE_S)
    async with stage.worker():
        await stage.waits("gate", Phase.BACKFILL, PATIENCE_S)
    stars = physical_column("review-stars", "stars")
    empty = await one(conn, f'SELECT count(*) FROM public.reviews WHERE "{stars}" IS NULL')
    assert empty == 0, "rows of a killed worker's batch are not filled"


async def test_with_the_cursor_outside_of_the_batchs_transaction_rows_are_lost(
    stage: Harness, conn: Connection
) -> None:
    scenario = killed_in_a_batch(stage, conn, CARELESS)
    await must_fail(scenario, careless_worker.APART, says="rows of a killed worker's batch are not filled")
