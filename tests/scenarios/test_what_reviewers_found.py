"""Faults that a reading of the engine against the laws brought up, each reproduced before it was mended."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.asking import one
from support.harness import Harness
from support.plans import STARS, create_reviews, replace
from support.roles import ordinary_role
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from pgduet.messages import Start
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]


async def test_a_value_that_changes_to_an_equal_one_is_mapped_all_the_same(stage: Harness, conn: Connection) -> None:
    await conn.execute("CREATE TABLE prices (id int PRIMARY KEY, price numeric NOT NULL, span interval NOT NULL)")
    await conn.execute("INSERT INTO prices SELECT i, 1.0, '24 hours' FROM generate_series(1, 100) i")
    exact = replace(
        "public.prices",
        {"price": "amount::numeric", "span": "length::interval"},
        {"name": "amount", "type": "text", "up": "price::text", "nullable": False},
        {"name": "length", "type": "text", "up": "span::text", "nullable": False},
    )
    async with stage.worker():
        await stage.start(stage.plan(exact))
        await stage.waits("window", Phase.SOAK)
        await conn.execute("UPDATE prices SET price = 1.00 WHERE id = 7")
        await conn.execute("UPDATE prices SET span = '1 day' WHERE id = 8")
        assert await one(conn, "SELECT amount FROM public_v2.prices WHERE id = 7") == "1.00"
        assert await one(conn, "SELECT length FROM public_v2.prices WHERE id = 8") == "1 day"
        assert (await stage.act("verify")).message.startswith("0 of 100 rows differ")


async def test_a_table_that_hides_rows_from_the_worker_is_refused(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_reviews(conn, 100)
    role = stage.queue.replace("test-", "worker_")
    dsn = await ordinary_role(conn, role, stage.dsn)
    await conn.execute("ALTER TABLE reviews ENABLE ROW LEVEL SECURITY")
    await conn.execute("ALTER TABLE reviews FORCE ROW LEVEL SECURITY")
    await conn.execute("CREATE POLICY half ON reviews USING (id % 2 = 0)")
    monkeypatch.setenv(stage.variable, dsn)
    async with stage.worker():
        await stage.start(stage.plan(STARS))
        with pytest.raises(WorkflowFailureError) as caught:
            await stage.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert "row level security" in caught.value.cause.message


async def test_an_ordinary_role_migrates_beside_tables_of_others_and_an_application_with_grants_writes(
    stage: Harness, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_reviews(conn, 500)
    await conn.execute("CREATE TABLE audit_of_others (id int)")
    role = stage.queue.replace("test-", "worker_")
    dsn = await ordinary_role(conn, role, stage.dsn)
    application = role.replace("worker_", "app_")
    name = sql.Identifier(application)
    await conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    await conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON reviews TO {}").format(name))
    monkeypatch.setenv(stage.variable, dsn)
    async with stage.worker():
        await stage.start(stage.plan(user_triggers="fire", soak={"window_s": 3600, "legacy_idle_s": 0.5}))
        await stage.waits("window", Phase.SOAK)
        async with await psycopg.AsyncConnection.connect(
            stage.dsn.replace("postgres@", f"{application}@"), autocommit=True
        ) as app:
            await app.execute("INSERT INTO public_v2.reviews (stars, mood) VALUES (5, 'glad')")
            await app.execute("INSERT INTO public_v1.reviews (rating) VALUES ('4')")
            await app.execute("UPDATE public_v2.reviews SET stars = 1 WHERE id = 1")
            assert await one(app, "SELECT rating FROM public_v1.reviews WHERE id = 1") == "1"
            assert await one(app, "SELECT rating FROM public.reviews WHERE id = 501") == "5"
        await stage.act("abort")
        assert (await stage.until(Phase.ROLLED_BACK)).archived == 1


async def test_a_pause_when_one_child_has_finished_is_answered(stage: Harness, conn: Connection, dsn: str) -> None:
    await create_reviews(conn, 20_000)
    async with stage.worker(), await psycopg.AsyncConnection.connect(dsn) as client:
        await client.execute("UPDATE reviews SET note = 'held' WHERE id = 20000")
        await stage.start(stage.plan(gates={"backfill": "manual", "verify": "manual"}))
        # The triggers wait for the writer; so it holds its row only from here on.
        await client.rollback()
        await stage.waits("gate", Phase.DUAL_WRITE)
        await client.execute("UPDATE reviews SET note = 'held' WHERE id = 20000")
        await stage.act("advance")
        await stage.until(lambda status: status.backfill.percent >= 50)
        assert (await stage.act("pause")).message == "paused"
        assert (await stage.act("resume")).message == "resumed"
        await client.rollback()
        await stage.waits("gate", Phase.BACKFILL)


async def test_a_pause_inside_a_gate_does_not_swallow_the_gate(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        await stage.start(stage.plan(gates={"backfill": "manual"}))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await stage.act("pause")
        await stage.act("resume")
        await stage.waits("gate", Phase.DUAL_WRITE)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)


async def test_a_cutover_that_cannot_validate_binds_no_old_client(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        await stage.start(stage.plan(gates={"cutover": "manual"}, approvals={"cutover": 1}))
        await stage.waits("approval", Phase.SHIFT)
        await conn.execute("UPDATE reviews SET rating = 'five' WHERE id = 9")
        await stage.act("approve", gate="cutover")
        await stage.waits("drift", Phase.CUTOVER)
        await conn.execute("UPDATE reviews SET note = 'an old client goes on' WHERE id = 9")
        await conn.execute("UPDATE reviews SET rating = '5' WHERE id = 9")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)


async def test_what_a_user_built_on_a_version_is_not_dropped_with_it(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    async with stage.worker():
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await conn.execute("CREATE VIEW report AS SELECT stars FROM public_v2.reviews")
        await stage.act("abort")
        status = await stage.until(lambda status: status.failure is not None)
        assert "depend" in (status.failure or "")
        assert status.safe
        await conn.execute("DROP VIEW report")
        await stage.act("advance")
        await stage.until(Phase.ROLLED_BACK)


async def test_after_contract_has_begun_a_lost_migration_can_only_be_finished(stage: Harness, conn: Connection) -> None:
    await create_reviews(conn, 500)
    plan = stage.plan(soak={"window_s": 0, "legacy_idle_s": 0}, approvals={"contract": 1})
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("approval", Phase.SOAK)
        await stage.handle.terminate("lost")
        await conn.execute("""UPDATE pgduet.migration SET phase = 'contract', controls = '{"no_return": true}'""")
        handle = await stage.client.start_workflow(
            "Migration", Start(plan=plan, mode="rollback"), id=stage.handle.id, task_queue=stage.queue
        )
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert "no way back" in caught.value.cause.message
        await stage.start(plan)
        assert (await stage.result()).state is State.DONE
    assert await one(conn, "SELECT stars FROM reviews WHERE id = 3") == 4
