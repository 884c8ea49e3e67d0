"""Through the overlap a Temporal Schedule compares both versions: from publication to contract, or to the end of a rollback."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness, pgduet
from support.plans import NAME, create_reviews
from support.processes import until
from temporalio.client import ScheduleDescription
from temporalio.service import RPCError, RPCStatusCode

from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
OFTEN = {"reconcile_every_s": 1}
SHIFTED = {"shift": {"steps": [100], "bake_s": 600}}


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, 200)


async def drift(conn: Connection, rows: int = 1) -> None:
    """Have both versions of some rows disagree, as when somebody has gone past the triggers."""
    await conn.execute("ALTER TABLE public.reviews DISABLE TRIGGER ALL")
    await conn.execute("UPDATE public.reviews SET rating = '0' WHERE id <= %s", (rows,))
    await conn.execute("ALTER TABLE public.reviews ENABLE TRIGGER ALL")


async def scheduled(stage: Harness) -> ScheduleDescription | None:
    """Describe the schedule; None where there is none."""
    try:
        return await stage.schedule().describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def comparisons(conn: Connection) -> int:
    """Count what the schedule has compared, by the audit log."""
    counted = "SELECT count(*) FROM pgduet.audit WHERE action = 'parity' AND evidence ? 'scheduled'"
    row = await (await conn.execute(counted.encode())).fetchone()
    assert row is not None
    return int(row[0])


async def compared(conn: Connection, more: int = 1) -> None:
    """Wait until it has compared so often again."""
    wanted = await comparisons(conn) + more
    await until(lambda: _reached(conn, wanted))


async def _reached(conn: Connection, wanted: int) -> bool:
    return await comparisons(conn) >= wanted


async def test_it_is_there_after_publication_compares_and_is_gone_when_done(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(verify=OFTEN, gates={"verify": "manual"}, soak={"window_s": 3600}))
        await stage.waits("gate", Phase.BACKFILL)
        assert await scheduled(stage) is None
        await stage.act("advance")
        status = await stage.waits("window", Phase.SOAK)
        await compared(conn, 2)
        known = status.reconciliation
        assert known is not None
        assert known.schedule_id == f"reconcile/{stage.database}/{NAME}"
        code, said = await pgduet(stage, "status", NAME, "--database", stage.database)
        assert code == 0
        assert "every 1 s · last " in said
        assert " · next " in said
        await stage.act("advance")
        await stage.waits("approval", Phase.SOAK)
        for who in ("one", "two"):
            await stage.act("approve", gate="contract", actor=who)
        assert (await stage.result()).state is State.DONE
        assert await scheduled(stage) is None
