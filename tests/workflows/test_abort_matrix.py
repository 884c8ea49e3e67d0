"""Abort, by each way it can come, wherever a migration can be: each undo once, in reverse order, and nothing left behind.

The migration is held exactly where the abort shall find it: by a barrier inside an activity, by a gate, by a lock of the user's.
What fails here fails in PostgreSQL.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from support.aborting import (
    KINDS,
    Abort,
    put_back,
    refusal,
    schema_before,
    undos_from,
    waits_for,
)
from support.harness import Harness
from support.holding import held_at
from support.plans import create_reviews

from pgduet.local import EmbeddedPostgres
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
ROWS = 300


@pytest.fixture(autouse=True)
async def reviews(conn: Connection) -> None:
    await create_reviews(conn, ROWS)


@pytest.fixture
def before(postgres: EmbeddedPostgres, stage: Harness, reviews: None) -> str:
    return schema_before(postgres.bin_dir, stage.dsn)


# Where an abort finds a migration


@dataclass(frozen=True)
class Place:
    """Where a migration is held, and by what."""

    phase: Phase
    policy: dict[str, Any] = field(default_factory=dict)
    barrier: str | None = None
    waits: str | None = None
    paused: bool = False
    critical: bool = False
    """The step goes on to its end, and only then is it undone."""


PLACES = {
    "expand": Place(Phase.EXPAND, barrier="expand.before_commit"),
    "after expand": Place(Phase.EXPAND, barrier="expand.after_commit"),
    "dual_write": Place(Phase.DUAL_WRITE, barrier="dual_write.after_commit"),
    "backfill": Place(Phase.BACKFILL, {"backfill": {"parallelism": 1}}, barrier="batch.after_commit"),
    "verify": Place(Phase.VERIFY, barrier="publish.before_commit"),
    "shadow": Place(Phase.SHADOW, {"gates": {"shift": "manual"}}, waits="gate"),
    "shift": Place(Phase.SHIFT, barrier="route.after_commit"),
    "bake": Place(Phase.SHIFT, {"shift": {"bake_s": 600}}, waits="bake"),
    "cutover": Place(Phase.CUTOVER, barrier="constraint.after_commit"),
    "flip": Place(Phase.CUTOVER, barrier="flip.before_commit", critical=True),
    "flipped": Place(Phase.CUTOVER, barrier="flip.after_commit", critical=True),
    "soak": Place(Phase.SOAK, waits="window"),
    "gate": Place(Phase.DUAL_WRITE, {"gates": {"backfill": "manual"}}, waits="gate"),
    "approval": Place(
        Phase.SOAK,
        {"gates": {"contract": "manual"}, "approvals": {"contract": 2}, "soak": {"window_s": 0, "legacy_idle_s": 0}},
        waits="approval",
    ),
    "paused": Place(Phase.EXPAND, {"gates": {"dual_write": "manual"}}, waits="gate", paused=True),
}
EVERYWHERE = (
    "expand",
    "dual_write",
    "backfill",
    "verify",
    "shadow",
    "shift",
    "cutover",
    "flip",
    "soak",
    "gate",
    "paused",
)
MATRIX = [(place, kind) for place in EVERYWHERE for kind in KINDS] + [
    # These differ from one above in the instant alone, and the way is the same for each kind.
    ("after expand", "update"),
    ("bake", "cancel"),
    ("flipped", "signal"),
    ("approval", "cli"),
]


@asynccontextmanager
async def held(stage: Harness, place: Place) -> AsyncIterator[None]:
    """Start a migration, and hold it in a place until the block ends."""
    plan = stage.plan(**place.policy)
    if place.barrier:
        async with held_at(place.barrier) as there:
            await stage.start(plan)
            await there()
            yield
        return
    await stage.start(plan)
    await stage.waits(place.waits or "", place.phase)
    if place.paused:
        await stage.act("pause")
    yield


@pytest.mark.parametrize(("where", "kind"), MATRIX)
async def test_an_abort_undoes_each_step_once_in_reverse_order(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, where: str, kind: str
) -> None:
    place = PLACES[where]
    abort = Abort(stage, kind)
    async with stage.worker():
        async with held(stage, place):
            await abort.send(conn)
            if place.critical:
                status = await stage.status()
                assert status.state is not State.ROLLING_BACK, "nothing is undone within a critical section"
        await put_back(stage, conn, postgres, before, undos_from(place.phase), cancelled=kind == "cancel")
        assert await abort.exit_code() in {None, 0}
        if kind == "update":
            assert await abort.answer() is not None
        status = await stage.status()
        assert status.phase is Phase.ROLLED_BACK
    cursor = await conn.execute("SELECT actor FROM pgduet.audit WHERE action = 'abort'")
    assert await cursor.fetchall() == [("temporal" if kind == "cancel" else f"by-{kind}",)]
    if place.critical:
        cursor = await conn.execute("SELECT count(*) FROM pgduet.audit WHERE action = 'cutover'")
        assert await cursor.fetchone() == (1,), "the flip was finished before it was undone"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_abort_before_preflight_has_ended_leaves_nothing_to_undo(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, kind: str
) -> None:
    async with stage.worker():
        await conn.execute("SELECT pg_advisory_lock(hashtext('pgduet.setup'))")
        await stage.start(stage.plan())
        abort = Abort(stage, kind)
        await abort.begin()
        async with asyncio.timeout(20):
            while not await abort.has_arrived():
                await asyncio.sleep(0.05)
        await conn.execute("SELECT pg_advisory_unlock(hashtext('pgduet.setup'))")
        await put_back(stage, conn, postgres, before, [], cancelled=kind == "cancel")
        assert await abort.exit_code() in {None, 0}


# During compensation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["", "force"])
async def test_a_second_abort_changes_nothing_of_what_is_undone(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, kind: str, how: str
) -> None:
    force = how == "force"
    first = "update" if force else "cancel" if kind == "signal" else "signal"
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        async with held_at("undo_dual_write.after_commit") as there:
            await Abort(stage, first).send(conn)
            await there()
            second = Abort(stage, kind, force)
            await second.send(conn)
            assert (await second.answer() is not None) == (kind == "update" and force), (
                "without force there is nothing new in it"
            )
        cancelled = "cancel" in {first, kind}
        await put_back(stage, conn, postgres, before, undos_from(Phase.VERIFY), cancelled=cancelled)
        assert await second.exit_code() in {None, 0}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rollback_that_waits_for_clients_goes_on_by_force_alone(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres, before: str, kind: str
) -> None:
    async with stage.worker():
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="web") as client:
            await client.execute("SELECT FROM public_v2.reviews LIMIT 1")
            await stage.act("abort")
            await stage.until(waits_for("clients"))
            second = Abort(stage, kind)
            await second.send(conn)
            assert waits_for("clients")(await stage.status()), "another abort is no force"
            assert await second.exit_code() in {None, 0}
            forced = Abort(stage, "signal" if kind == "cancel" else kind, force=True)
            await forced.send(conn)
            await stage.until(lambda status: not waits_for("clients")(status), timeout_s=10)
            await client.rollback()
        await put_back(stage, conn, postgres, before, undos_from(Phase.VERIFY), cancelled=kind == "cancel")
        assert await forced.exit_code() in {None, 0}


async def test_while_it_rolls_back_nothing_else_is_taken(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await stage.act("pause")
        async with held_at("undo_dual_write.after_commit") as there:
            await stage.act("abort")
            await there()
            acts: list[tuple[str, dict[str, Any]]] = [
                ("advance", {}),
                ("pause", {}),
                ("resume", {}),
                ("verify", {}),
                ("throttle", {"pause_ms": 1}),
                ("route", {"read_percent": 5}),
                ("approve", {"gate": "contract"}),
                ("abort", {}),
            ]
            for act, fields in acts:
                assert "rolling back" in await refusal(stage.act(act, **fields)), act
            status = await stage.status()
            assert status.state is State.ROLLING_BACK, "a resume does not make it seem to run"
        assert (await stage.result()).state is State.ROLLED_BACK
