"""One command back, from every phase, under clients of both versions that never retry."""

from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.load import Load
from support.plans import create_reviews
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from pgduet.local import EmbeddedPostgres
from pgduet.messages import Status
from pgduet.phases import Phase, State

ROWS = 20_000

HOLD: dict[Phase, dict[str, Any]] = {
    Phase.EXPAND: {"gates": {"dual_write": "manual"}},
    Phase.DUAL_WRITE: {"gates": {"backfill": "manual"}},
    Phase.BACKFILL: {"backfill": {"parallelism": 1, "pause_ms": 60_000}},
    Phase.VERIFY: {"gates": {"shadow": "manual"}},
    Phase.SHADOW: {"gates": {"shift": "manual"}},
    Phase.SHIFT: {"shift": {"bake_s": 600}},
    Phase.CUTOVER: {"gates": {"soak": "manual"}},
    Phase.SOAK: {},
}
"""The policy that keeps a migration in a phase."""

WAITS = {Phase.SHIFT: "bake", Phase.SOAK: "window"}

UNDOS = {
    Phase.EXPAND: ["undo_expand"],
    Phase.DUAL_WRITE: ["undo_dual_write"],
    Phase.BACKFILL: ["undo_backfill"],
    Phase.VERIFY: ["withdraw"],
    Phase.SHIFT: ["undo_shift"],
    Phase.CUTOVER: ["undo_cutover"],
}
"""What the audit log calls the undo of each phase that has one."""

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def reviews(conn: Connection) -> Connection:
    """Give a connection to a database with the table."""
    await create_reviews(conn, ROWS)
    return conn


async def held(stage: Harness, conn: Connection, phase: Phase) -> None:
    """Wait until the migration stands in a phase and stays there."""
    if phase is not Phase.BACKFILL:
        await stage.waits(WAITS.get(phase, "gate"), phase)
        return
    await stage.until(Phase.BACKFILL)

    async def cursors() -> list[tuple[int, int]]:
        cursor = await conn.execute("SELECT cursor_block, block_to FROM pgduet.backfill_range")
        return await cursor.fetchall()

    while not (found := await cursors()) or found[0][0] == 0:
        await stage.status()
    assert found[0][0] < found[0][1], "the backfill is over already"


async def undos(conn: Connection) -> list[str]:
    """Read what was undone, in order."""
    wanted = [name for names in UNDOS.values() for name in names]
    cursor = await conn.execute("SELECT action FROM pgduet.audit WHERE action = ANY (%s) ORDER BY seq", (wanted,))
    return [row[0] for row in await cursor.fetchall()]


def undos_from(phase: Phase) -> list[str]:
    """Tell what must be undone from a phase, in order."""
    return [name for done in reversed(UNDOS) if done.reached(phase) for name in UNDOS[done]]


async def archived(conn: Connection) -> dict[int, str]:
    """Read the moods that a rollback saved."""
    cursor = await conn.execute(
        "SELECT (key ->> 'id')::bigint, kept ->> 'mood' FROM pgduet_archive.value WHERE side = 'new' AND kept ? 'mood'"
    )
    return dict(await cursor.fetchall())


async def rolled_back(stage: Harness) -> Status:
    """Wait until the rollback is over."""
    status = await stage.until(lambda status: status.state is State.ROLLED_BACK)
    assert status.safe
    return status


@pytest.mark.parametrize("phase", list(HOLD), ids=str)
async def test_a_rollback_puts_everything_back_and_loses_nothing(
    stage: Harness, reviews: Connection, postgres: EmbeddedPostgres, phase: Phase
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(**HOLD[phase]))
        await held(stage, reviews, phase)
        await load.working(new=10 if Phase.SHIFT.reached(phase) else 0)
        answer = await stage.act("abort", reason="test")
        assert answer.message == "rolling back"
        await rolled_back(stage)
        await load.working()
        await load.end()
        status = await stage.result()
        assert status.phase is Phase.ROLLED_BACK
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        await load.verify(reviews)
        assert await undos(reviews) == undos_from(phase)
        saved = await archived(reviews)
        assert {key: mood for key, mood in saved.items() if load.ledger[key]} == load.moods, (
            "but for rows deleted since"
        )
        assert status.archived == len(saved)
        assert bool(load.moods) == Phase.SHIFT.reached(phase)


async def moods(conn: Connection) -> dict[int, str]:
    """Read the new version's own column."""
    cursor = await conn.execute("SELECT id, mood FROM public_v2.reviews WHERE mood IS NOT NULL")
    return dict(await cursor.fetchall())


async def test_the_same_plan_again_brings_back_what_only_the_new_version_had(
    stage: Harness, reviews: Connection
) -> None:
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await load.working(new=20)
        await stage.act("abort")
        await stage.result()
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        status = await stage.waits("gate", Phase.VERIFY)
        await load.working()
        await load.end()
        assert load.moods
        assert await moods(reviews) == load.moods
        assert status.restored >= len(load.moods)
        await load.verify(reviews)


async def test_values_of_a_new_client_that_asks_no_router_are_archived_too(stage: Harness, reviews: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(**HOLD[Phase.SHADOW]))
        await held(stage, reviews, Phase.SHADOW)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="deployed") as client:
            await client.execute("UPDATE public_v2.reviews SET mood = 'calm' WHERE id > %s", (ROWS - 10,))
            await stage.act("abort")
            status = await stage.until(lambda s: s.waiting_for is not None and s.waiting_for.kind == "clients")
            assert status.waiting_for is not None
            assert "deployed" in status.waiting_for.detail
            assert status.safe
            await client.commit()
        await rolled_back(stage)
        assert await archived(reviews) == dict.fromkeys(range(ROWS - 9, ROWS + 1), "calm")


@pytest.mark.parametrize("phase", [Phase.BACKFILL, Phase.SOAK], ids=str)
async def test_a_signal_rolls_back_as_an_update_does(
    stage: Harness, reviews: Connection, postgres: EmbeddedPostgres, phase: Phase
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(**HOLD[phase]))
        await held(stage, reviews, phase)
        await load.working()
        await stage.handle.signal("abort", {"actor": "tester"})
        status = await stage.result()
        await load.end()
        assert status.state is State.ROLLED_BACK
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        await load.verify(reviews)
        assert await undos(reviews) == undos_from(phase)


@pytest.mark.parametrize("phase", [Phase.BACKFILL, Phase.SOAK], ids=str)
async def test_a_cancelled_workflow_rolls_back_before_it_ends(
    stage: Harness, reviews: Connection, postgres: EmbeddedPostgres, phase: Phase
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(**HOLD[phase]))
        await held(stage, reviews, phase)
        await load.working()
        await stage.handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
        await load.end()
        assert isinstance(caught.value.cause, CancelledError)
        cursor = await reviews.execute("SELECT phase, state FROM pgduet.migration")
        assert await cursor.fetchall() == [("rolled_back", "rolled_back")]
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        await load.verify(reviews)
        assert await undos(reviews) == undos_from(phase)
