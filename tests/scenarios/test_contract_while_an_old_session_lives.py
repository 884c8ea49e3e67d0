"""Scenario 21: contract while a session of the old version is alive.

The session has prepared a statement on the old version and sits idle: no lock, no role and no router tells of it any more, and what
it prepared nobody else can see. It is named, with its backend, until it ends; or somebody goes past it, and the audit log says who.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.asking import one
from support.harness import Harness
from support.holding import begun, held_at
from support.mutants import Clause, Mutant, must_fail
from support.plans import create_reviews
from support.worlds import World, on_newest
from temporalio.client import WorkflowUpdateFailedError

from pgduet.messages import Status
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
UNDER_FEET = "the old version goes from under an idle session"
IDLE_S = 1.0
ROWS = 50
WHO = "nightly-export"

FORGOTTEN = f"""
SELECT coalesce(max(last_seen) < clock_timestamp() - interval '{IDLE_S + 0.5} s', false)
  FROM pgduet.client WHERE side = 'old' AND via IN ('view', 'table') AND who LIKE '{WHO}%'
"""


@asynccontextmanager
async def soaking(stage: Harness) -> AsyncIterator[None]:
    """Bring a migration into soak, with a worker for the rest of it."""
    async with stage.worker():
        await stage.start(stage.plan(soak={"legacy_idle_s": IDLE_S}, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        yield


async def prepares_in_a_transaction(world: World, client: Connection) -> None:
    """Prepare, and use it until the census has seen the lock; its last statement is then COMMIT."""
    await client.execute("BEGIN; PREPARE totals AS SELECT rating FROM public_v1.reviews WHERE id = $1")
    await client.execute("EXECUTE totals(1)")
    await world.stage.until(lambda status: any(each.who.startswith(WHO) for each in status.census))
    await client.execute("COMMIT")
    async with asyncio.timeout(60):
        while not await one(world.conn, FORGOTTEN):
            await world.stage.status()


async def prepares_at_once(world: World, client: Connection) -> None:
    """Prepare as drivers do, in a transaction too short for any look."""
    del world
    await client.execute("SELECT rating FROM public.reviews WHERE id = %s", (1,), prepare=True)


def waits_for_it(status: Status) -> bool:
    """Tell that it waits for old clients, or for nobody any more."""
    return status.state is State.DONE or bool(status.waiting_for and status.waiting_for.kind == "census")


async def scenario(world: World, *, at_once: bool) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with soaking(stage):
        async with world.client(autocommit=True, application_name=WHO) as client:
            await (prepares_at_once if at_once else prepares_in_a_transaction)(world, client)
            await stage.act("advance", reason="the window may end")
            status = await stage.until(waits_for_it)
            assert status.waiting_for is not None, UNDER_FEET
            assert f"{WHO} (role postgres) (connected as backend {client.info.backend_pid}" in status.waiting_for.detail
            (named,) = [each for each in status.census if each.who.startswith(WHO)]
            assert (named.version, named.side, named.via) == ("1", "old", "statement" if at_once else "view")
            if at_once:
                await client.execute("SELECT rating FROM public.reviews WHERE id = %s", (1,), prepare=True)
            else:
                await client.execute("EXECUTE totals(2)")
        assert (await stage.result()).state is State.DONE


@pytest.mark.parametrize("at_once", [False, True], ids=["seen by its lock", "seen by its statement"])
async def test_contract_waits_for_an_idle_session_with_a_prepared_statement(world: World, *, at_once: bool) -> None:
    await scenario(world, at_once=at_once)


MUTANTS: list[tuple[Mutant, bool]] = [
    (Clause("backends that linger", "census", "lingering", "s.side = 'old'", "s.side = 'neither'"), False),
    (
        Clause(
            "last statements",
            "census",
            "sample_sessions",
            "(TABLE said UNION TABLE said_of_old)",
            "(TABLE said LIMIT 0)",
        ),
        True,
    ),
]


@pytest.mark.parametrize(("mutant", "at_once"), MUTANTS, ids=[mutant.name for mutant, _ in MUTANTS])
@on_newest
async def test_the_scenario_sees_what_is_missing(world: World, mutant: Mutant, *, at_once: bool) -> None:
    await must_fail(scenario(world, at_once=at_once), mutant, says=UNDER_FEET)


@on_newest
async def test_a_session_that_moved_on_to_the_new_version_is_not_waited_for(world: World) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with soaking(stage), world.client(autocommit=True, application_name=WHO) as client:
        await prepares_in_a_transaction(world, client)
        await client.execute("SELECT stars FROM public_v2.reviews WHERE id = 1")
        await stage.act("advance", reason="the window may end")
        assert (await stage.result()).state is State.DONE


@on_newest
async def test_somebody_goes_past_a_session_and_the_audit_log_says_who(world: World) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with soaking(stage), world.client(autocommit=True, application_name=WHO) as client:
        await prepares_at_once(world, client)
        await stage.act("advance", reason="the window may end")
        for phase in (Phase.SOAK, Phase.CONTRACT):
            status = await stage.waits("census", phase)
            assert status.waiting_for is not None
            assert "pgduet advance review-stars --force" in status.waiting_for.next_commands
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await stage.act("advance")
            assert "--force" in str(refused.value.cause)
            await stage.act("advance", force=True, reason="the export is switched off", actor="dana")
        assert (await stage.result()).state is State.DONE
        entries = await world.rows(
            "SELECT actor, reason, evidence ->> 'phase', evidence -> 'left' ->> 0 FROM pgduet.audit"
            " WHERE action = 'override' ORDER BY seq"
        )
        assert [entry[:3] for entry in entries] == [
            ("dana", "the export is switched off", "soak"),
            ("dana", "the export is switched off", "contract"),
        ]
        assert all(entry[3].startswith(WHO) for entry in entries)


@on_newest
async def test_a_word_to_go_past_clients_holds_for_the_phase_in_which_it_was_given(world: World) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with stage.worker(), world.client(autocommit=True, application_name=WHO) as client:
        await stage.start(
            stage.plan(soak={"legacy_idle_s": IDLE_S}, gates={"contract": "manual"}, approvals={"contract": 0})
        )
        await stage.waits("window", Phase.SOAK)
        await stage.act("advance", force=True, reason="nobody is there")
        await stage.waits("gate", Phase.SOAK)
        await prepares_at_once(world, client)
        await stage.act("advance", reason="the old version may go")
        status = await stage.until(waits_for_it)
        assert status.waiting_for is not None, UNDER_FEET
        assert await world.rows("SELECT FROM pgduet.audit WHERE action = 'override'") == []


@on_newest
async def test_contract_looks_again_for_clients_that_came_while_it_was_paused(world: World) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with stage.worker(), world.client(autocommit=True, application_name=WHO) as client:
        await stage.start(stage.plan(soak={"legacy_idle_s": 2}, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await stage.act("advance", reason="the window may end")
        await stage.until(Phase.CONTRACT)
        await looks(world, under_way=True)
        await stage.act("pause")
        await looks(world, under_way=False)
        await prepares_at_once(world, client)
        await stage.act("resume")
        status = await stage.until(waits_for_it)
        assert status.waiting_for is not None, UNDER_FEET


@on_newest
async def test_reads_cannot_be_moved_back_while_contract_begins(world: World) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage = world.stage
    async with soaking(stage):
        async with held_at("begin_contract.before_commit") as there:
            await stage.act("advance", reason="the window may end")
            await there()
            asked = await begun(stage, "route", read_percent=0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asked.result()
        assert (await stage.result()).state is State.DONE
        assert (await asked.result()).message == "route was not done: contract is beginning"
    assert (
        await world.rows("SELECT FROM pgduet.audit WHERE action = 'route' AND evidence ->> 'read_percent' = '0'") == []
    )


async def looks(world: World, *, under_way: bool) -> None:
    """Wait until a census is being taken, or until none is."""
    there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgduet/census/%')"
    async with asyncio.timeout(30):
        while await one(world.conn, there) is not under_way:
            await asyncio.sleep(0.02)


@on_newest
async def test_a_role_that_is_set_to_the_old_version_is_named_before_its_search_path_leads_to_the_tables(
    world: World,
) -> None:
    await create_reviews(world.conn, ROWS, trigger=False)
    stage, role = world.stage, world.stage.queue.replace("test-", "yearly_")
    name = sql.Identifier(role)
    await world.conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    try:
        await world.conn.execute(sql.SQL("GRANT SELECT ON reviews TO {}").format(name))
        here = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = public_v1, public")
        await world.conn.execute(here.format(name, sql.Identifier(world.conn.info.dbname)))
        async with soaking(stage):
            told = f"on version 1, which is to go: `{role}` (ALTER ROLE … RESET search_path)"
            status = await stage.until(lambda status: any(line.endswith(told) for line in status.decisions))
            assert status.phase is Phase.SOAK
            async with await psycopg.AsyncConnection.connect(stage.dsn.replace("postgres@", f"{role}@")) as client:
                assert await one(client, "SELECT rating FROM reviews WHERE id = 1") == "2"
            await stage.act("advance", reason="the window may end")
            status = await stage.result()
        assert status.state is State.DONE
        assert len([line for line in status.decisions if line.endswith(told)]) == 1
        assert await one(world.conn, "SELECT evidence -> 'set_to' FROM pgduet.audit WHERE action = 'contract'") == [
            role
        ]
        async with await psycopg.AsyncConnection.connect(stage.dsn.replace("postgres@", f"{role}@")) as client:
            assert await one(client, "SELECT stars FROM reviews WHERE id = 1") == 2, "what it is to be named for"
            await client.execute("SET LOCAL search_path = public_v1")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await client.execute("SELECT FROM reviews")
    finally:
        await world.conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
        await world.conn.execute(sql.SQL("DROP ROLE {}").format(name))
