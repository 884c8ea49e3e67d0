"""A table gets a shadow: under clients of both versions that never retry, back from every phase, killed everywhere."""

import asyncio
from typing import Any

import psycopg
import pytest
from support.harness import Harness, schema_dump
from support.holding import held_at
from support.load import Load
from support.mutants import Code, must_fail
from support.plans import NAME, create_reviews
from support.shaped import STARS_APART
from temporalio.client import WorkflowFailureError

from pgduet.activities.shapes.shadow import Shadow
from pgduet.client import Migrations
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Status
from pgduet.phases import Phase, State

ROWS = 8_000

HOLD: dict[Phase, dict[str, Any]] = {
    Phase.EXPAND: {"gates": {"dual_write": "manual"}},
    Phase.DUAL_WRITE: {"gates": {"backfill": "manual"}},
    Phase.BACKFILL: {"gates": {"verify": "manual"}},
    Phase.VERIFY: {"gates": {"shadow": "manual"}},
    Phase.SHADOW: {"gates": {"shift": "manual"}},
    Phase.SHIFT: {"shift": {"bake_s": 600}},
    Phase.CUTOVER: {"gates": {"soak": "manual"}},
    Phase.SOAK: {},
}
"""The policy that keeps a migration in a phase."""

WAITS = {Phase.SHIFT: "bake", Phase.SOAK: "window"}

AT_ONCE = Code(
    "publication waits once more, behind the drain",
    Shadow.prepare_publication,
    """    await self._followed(work)
    await carrying.older_snapshots_gone(work, self.design)
""",
    """    await self._followed(work)
""",
)

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture
async def reviews(conn: Connection) -> Connection:
    """Give a connection to a database with the table."""
    await create_reviews(conn, ROWS)
    return conn


async def rolled_back(stage: Harness) -> Status:
    """Wait until the rollback is over."""
    status = await stage.until(lambda status: status.state is State.ROLLED_BACK)
    assert status.safe
    return status


async def waits_for(stage: Harness, who: str) -> str:
    """Wait until `status` says that the migration waits for somebody; gives its words."""
    client = Migrations(stage.client, task_queue=stage.queue)
    async with asyncio.timeout(60):
        while True:
            status = await client.status(NAME, stage.database)
            if status.waiting_for and who in status.waiting_for.detail:
                return status.waiting_for.detail
            await asyncio.sleep(0.05)


async def archived(conn: Connection) -> dict[int, str]:
    """Read the moods that a rollback saved."""
    cursor = await conn.execute(
        "SELECT (key ->> 'id')::bigint, kept ->> 'mood' FROM pgduet_archive.value WHERE side = 'new' AND kept ? 'mood'"
    )
    return dict(await cursor.fetchall())


async def moods(conn: Connection) -> dict[int, str]:
    """Read the new version's own column."""
    cursor = await conn.execute("SELECT id, mood FROM public_v2.reviews WHERE mood IS NOT NULL")
    return dict(await cursor.fetchall())


async def test_from_start_to_done_no_client_sees_an_error_and_no_write_is_lost(
    stage: Harness, reviews: Connection
) -> None:
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(STARS_APART, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await load.working(new=30)
        await load.deploy()
        await stage.act("advance")
        status = await stage.result()
        assert status.state is State.DONE
        await load.working(new=10)
        await load.end()
        await load.verify(reviews, new=True)


@pytest.mark.parametrize("phase", list(HOLD), ids=str)
async def test_a_rollback_puts_everything_back_and_loses_nothing(
    stage: Harness, reviews: Connection, postgres: EmbeddedPostgres, phase: Phase
) -> None:
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(STARS_APART, **HOLD[phase]))
        await stage.waits(WAITS.get(phase, "gate"), phase)
        await load.working(new=10 if Phase.SHIFT.reached(phase) else 0)
        await stage.act("abort", reason="test")
        await rolled_back(stage)
        await load.working()
        await load.end()
        status = await stage.result()
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        await load.verify(reviews)
        saved = await archived(reviews)
        assert {key: mood for key, mood in saved.items() if load.ledger[key]} == load.moods, (
            "but for rows deleted since"
        )
        assert status.archived == len(saved)
        assert bool(load.moods) == Phase.SHIFT.reached(phase)


async def test_the_same_plan_again_brings_back_what_only_the_new_version_had(
    stage: Harness, reviews: Connection
) -> None:
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(STARS_APART))
        await stage.waits("window", Phase.SOAK)
        await load.working(new=20)
        await stage.act("abort")
        await stage.result()
        await stage.start(stage.plan(STARS_APART, gates={"shadow": "manual"}))
        status = await stage.waits("gate", Phase.VERIFY)
        await load.working()
        await load.end()
        assert load.moods
        assert await moods(reviews) == load.moods
        assert status.restored >= len(load.moods)
        await load.verify(reviews)


async def test_who_holds_rows_is_waited_for_and_named(stage: Harness, reviews: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(STARS_APART, gates={"backfill": "manual", "shadow": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="slow-report") as client:
            await client.execute("UPDATE public.reviews SET rating = '3' WHERE id = 1")
            await stage.act("advance")
            told = await waits_for(stage, "slow-report")
            assert 'rows of "public"."reviews"' in told
            await client.commit()
        await stage.waits("gate", Phase.VERIFY)
        seen = await reviews.execute("SELECT stars FROM public_v2.reviews WHERE id = 1")
        assert await seen.fetchone() == (3,)


async def published_beside_old_snapshots(stage: Harness, reviews: Connection) -> None:
    """Change rows that are only noted, by a snapshot from before they are carried over, while publication is under way."""
    async with stage.worker():
        await stage.start(stage.plan(STARS_APART, gates={"verify": "manual", "shadow": "manual"}))
        await stage.waits("gate", Phase.BACKFILL)
        async with await psycopg.AsyncConnection.connect(stage.dsn) as client:
            await client.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            async with held_at("publish.after_commit") as after:
                async with held_at("publish.before_commit") as before:
                    await stage.act("advance")
                    await before()
                    await reviews.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    await reviews.execute("INSERT INTO public.reviews (id, rating) VALUES (99001, '4'), (99002, '5')")
                    await reviews.execute("COMMIT")
                await after()
                await client.execute("SELECT FROM public.reviews LIMIT 1")
            migrations, who = Migrations(stage.client, task_queue=stage.queue), f"process {client.info.backend_pid}"
            waiting = None
            async with asyncio.timeout(60):
                while not (waiting and who in waiting.detail):
                    view = await (await reviews.execute("SELECT to_regclass('public_v2.reviews')")).fetchone()
                    assert view == (None,), "published beside a snapshot that shows notes"
                    waiting = (await migrations.status(NAME, stage.database)).waiting_for
                    await asyncio.sleep(0.05)
            await client.execute("DELETE FROM public.reviews WHERE id = 99001")
            await client.execute("UPDATE public.reviews SET rating = '3' WHERE id = 99002")
            await client.commit()
            await stage.waits("gate", Phase.VERIFY)
            seen = await reviews.execute("SELECT id, stars FROM public_v2.reviews WHERE id > 99000")
            assert await seen.fetchall() == [(99002, 3)]
            # A new client is at work on the new shape: what TRUNCATE does not see is taken away by the next look.
            await client.execute("SELECT FROM public.reviews LIMIT 1")
            await reviews.execute("INSERT INTO public.reviews (id, rating) VALUES (99003, '2')")
            async with await psycopg.AsyncConnection.connect(stage.dsn) as reader:
                await reader.execute("SELECT FROM public_v2.reviews LIMIT 1")
                await client.execute("TRUNCATE public.reviews")
                await client.commit()
            assert (await stage.act("verify")).message.startswith("0 of ")
            assert await (await reviews.execute("SELECT count(*) FROM public_v2.reviews")).fetchone() == (0,)


async def test_publication_waits_for_snapshots_that_show_what_is_only_noted(
    stage: Harness, reviews: Connection
) -> None:
    await published_beside_old_snapshots(stage, reviews)


async def test_or_else_new_clients_would_see_what_was_noted_late(stage: Harness, reviews: Connection) -> None:
    await must_fail(published_beside_old_snapshots(stage, reviews), AT_ONCE, says="published beside")


async def test_a_later_plan_keeps_off_what_hangs_on_a_table_in_another_shape(
    stage: Harness, reviews: Connection
) -> None:
    await reviews.execute("CREATE TABLE public.answers (id int PRIMARY KEY, review bigint REFERENCES public.reviews)")
    async with stage.worker():
        await stage.start(stage.plan(STARS_APART, gates={"expand": "manual"}))
        await stage.waits("gate", Phase.PREFLIGHT)
        longer = {"add_column": {"table": "public.answers", "column": {"name": "text", "type": "text"}}}
        later = stage.plan(longer, name="answers") | {"version": {"from": "2", "to": "3"}}
        await stage.start(later)
        with pytest.raises(WorkflowFailureError) as refused:
            await stage.result()
        assert "changes public.answers too" in str(refused.value.cause)
