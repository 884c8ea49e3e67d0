"""Scenario 14: kill -9 of the worker at its most awkward moments. Another one goes on; nothing is lost or done twice."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness
from support.load import Load
from support.plans import create_reviews

from pgduet.phases import Authority, Phase
from pgduet.postgres.batches import FIRST_PAGES

ROWS = 20_000
LARGEST_BATCH_PAGES = FIRST_PAGES * 2 * 2
"""Batches grow twofold at most, and the worker is killed at its third."""

RESUME_S = 40.0
"""Heartbeats stop being waited for after 5 s, a dead worker's workflow tasks after 10 s."""

Connection = psycopg.AsyncConnection[Any]


async def number(conn: Connection, query: str) -> int:
    """Ask for one number."""
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return int(row[0])


async def tuples_written(conn: Connection) -> int:
    """Count every row version that an UPDATE of the table made, rolled back ones included."""
    await conn.execute("SELECT pg_stat_force_next_flush()")
    return await number(conn, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'reviews'")


@pytest.mark.parametrize(
    "barrier",
    ["batch.before_commit=kill@3", "batch.after_commit=kill@3", "flip.before_commit=kill", "flip.after_commit=kill"],
)
async def test_another_worker_goes_on_where_a_killed_one_was(stage: Harness, conn: Connection, barrier: str) -> None:
    await create_reviews(conn, ROWS)
    async with Load(stage.dsn) as load:
        with stage.worker_process(barrier) as first:
            await stage.start(stage.plan())
            await first.killed()
        with stage.worker_process():
            status = await stage.waits("window", Phase.SOAK, RESUME_S)
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
    assert await number(conn, differing) == 0
    assert await number(conn, "SELECT count(*) FROM pgduet.audit WHERE action = 'cutover'") == 1
    filled = await number(conn, "SELECT sum(rows_done) FROM pgduet.backfill_range")
    # Rows that came before the triggers did are the backfill's too.
    assert filled <= ROWS + sum(key > ROWS for key in load.ledger)
    rows_per_page = -(-ROWS // await number(conn, "SELECT max(block_to) FROM pgduet.backfill_range"))
    # Probes write a few rows, and roll back; a client's write is one version of one row.
    again = await tuples_written(conn) - load.writes - filled
    assert again <= LARGEST_BATCH_PAGES * rows_per_page + 10
