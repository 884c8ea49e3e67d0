"""Constraints without a second form of their columns: whom they bind when, what holds the cutover, and what it is told by."""

import asyncio
import time
from typing import Any

import psycopg
import pytest
from support.constraint_operations import create, drop, rename
from support.cycle import QUICK
from support.harness import POLL_S, TIMEOUT_S, Harness
from support.holding import locked
from support.plans import overlaid

from pgduet.client import Migrations
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]

WORLD = """
CREATE TABLE public.makers (id int PRIMARY KEY, code text NOT NULL CONSTRAINT makers_code UNIQUE);
INSERT INTO public.makers SELECT i, 'm' || i FROM generate_series(1, 5) i;
CREATE TABLE public.parts (id int PRIMARY KEY, name text, maker int, weight int);
INSERT INTO public.parts SELECT i, 'part ' || i, i % 5 + 1, i FROM generate_series(1, 200) i;
CREATE TABLE public.slots (id int PRIMARY KEY, days int4range);
INSERT INTO public.slots SELECT i, int4range(i * 10, i * 10 + 5) FROM generate_series(1, 30) i;
"""
PARTS = "public.parts"
HEAVY = create(PARTS, name="not_heavy", type="check", check="weight < 1000")
ONCE = create(PARTS, name="name_once", type="unique", columns=["name"])
MADE = create(PARTS, name="made_by", type="foreign_key", columns=["maker"], references={"table": "public.makers"})
FREE = create("public.slots", name="free", type="exclude", exclude={"elements": "days WITH &&"})


def planned(stage: Harness, *operations: dict[str, Any], **policy: Any) -> dict[str, Any]:
    return stage.plan(*operations, name="bound", **overlaid(QUICK, policy))


async def at_shift(stage: Harness, conn: Connection, *operations: dict[str, Any], **policy: Any) -> None:
    """Bring a migration to where both versions are in use and old clients decide."""
    await conn.execute(WORLD.encode())
    await stage.start(planned(stage, *operations, **policy))
    await stage.waits("gate", Phase.SHADOW)


async def refusals(conn: Connection, *statements: str) -> list[str | None]:
    """Run statements as clients of the old and of the new version; gives the SQLSTATE of each refusal."""
    found: list[str | None] = []
    for version in ("1", "2"):
        for statement in statements:
            try:
                async with conn.transaction():
                    await conn.execute(f"SET LOCAL search_path = public_v{version}".encode())
                    await conn.execute(statement.replace("{v}", version).encode())
                    found.append(None)
            except psycopg.Error as error:
                found.append(error.sqlstate)
    return found


async def names(conn: Connection, table: str) -> set[str]:
    cursor = await conn.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype <> 'n'", (table,)
    )
    return {row[0] for row in await cursor.fetchall()}


async def waits_for_lock(stage: Harness) -> str:
    """Wait until the client is told of a lock; gives what it is told."""
    client = Migrations(stage.client, task_queue=stage.queue)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            waiting = (await client.status("bound", stage.database)).waiting_for
            if waiting and waiting.kind == "lock":
                return waiting.detail
            await asyncio.sleep(POLL_S)


BREAKING = (
    "INSERT INTO parts VALUES ({v}001, 'x{v}', 1, 5000)",
    "INSERT INTO parts VALUES ({v}002, 'part 7', 1, 1)",
    "INSERT INTO parts VALUES ({v}003, 'y{v}', 77, 1)",
    "INSERT INTO slots VALUES ({v}004, int4range(2, 12))",
)


async def test_what_old_clients_break_is_counted_named_and_holds_the_cutover_and_from_then_on_all_are_bound(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await at_shift(stage, conn, HEAVY, ONCE, MADE, FREE)
        assert await refusals(conn, *BREAKING) == [None] * 8, "nobody is bound before cutover"
        await stage.act("advance")
        status = await stage.waits("drift", Phase.CUTOVER)
        assert status.waiting_for is not None
        assert status.parity is not None
        assert (status.parity.mismatches, status.parity.violations) == (0, 2 + 2 + 2 + 3)
        named = {(row["relation"], row["key"]["id"]) for row in status.parity.examples}
        broken = {('"public"."parts"', int(f"{version}00{number}")) for version in (1, 2) for number in (1, 2, 3)}
        assert broken <= named
        assert ('"public"."slots"', 1004) in named
        assert '"public"."parts"' in status.waiting_for.detail
        assert await names(conn, PARTS) == {"parts_pkey"}

        await conn.execute("DELETE FROM public.parts WHERE id > 1000")
        await conn.execute("DELETE FROM public.slots WHERE id > 1000")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        assert await refusals(conn, *BREAKING) == ["23514", "23505", "23503", "23P01"] * 2
        assert await refusals(conn, "DELETE FROM makers WHERE id = 1") == ["23503"] * 2
        assert await names(conn, PARTS) == {"parts_pkey", "not_heavy", "name_once", "made_by"}

        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        assert await names(conn, PARTS) == {"parts_pkey"}
        assert await names(conn, "public.slots") == {"slots_pkey"}
        for statement in BREAKING:
            await conn.execute(statement.replace("{v}", "3").encode())


async def test_a_check_that_fails_on_a_row_holds_the_migration_and_says_so(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        digits = create(PARTS, name="numbered", type="check", check="substr(name, 6)::int > 0")
        await at_shift(stage, conn, digits)
        await conn.execute("INSERT INTO public.parts VALUES (1001, 'part of it', 1, 1)")
        await stage.act("advance")
        status = await stage.until(lambda status: status.waiting_for is not None and status.waiting_for.kind == "error")
        assert status.waiting_for is not None
        assert "invalid text representation (22P02)" in status.waiting_for.detail
        await conn.execute("DELETE FROM public.parts WHERE id = 1001")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)


async def test_a_foreign_key_waits_for_who_holds_what_it_points_to_and_holds_nobody_up(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    async with stage.worker():
        await at_shift(stage, conn, MADE)
        async with locked(dsn, "INSERT INTO public.makers VALUES (9, 'm9')"):
            await stage.act("advance")
            detail = await waits_for_lock(stage)
            assert "makers" in detail
            assert "user" in detail
            longest = 0.0
            for number in range(20):
                began = time.monotonic()
                await conn.execute("INSERT INTO public.parts VALUES (%s, NULL, 1, 1)", (2000 + number,))
                await conn.execute("UPDATE public.makers SET code = code WHERE id = 1")
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(0.02)
        # Two waits of at most the budget, and what a busy machine adds.
        assert longest < 1.0
        await stage.waits("window", Phase.SOAK)


async def test_an_exclusion_that_does_not_fit_into_the_lock_budget_is_given_up_before_clients_wait_longer(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await at_shift(stage, conn, FREE, lock_timeout_ms=10)
        grown = "INSERT INTO public.slots SELECT i, int4range(i * 10, i * 10 + 5) FROM generate_series(100, 8000) i"
        await conn.execute(grown.encode())
        await stage.act("advance")
        status = await stage.until(lambda status: status.waiting_for is not None and status.waiting_for.kind == "error")
        assert status.waiting_for is not None
        assert "free was not built within 10 ms" in status.waiting_for.detail
        assert await names(conn, "public.slots") == {"slots_pkey"}
        await conn.execute("DELETE FROM public.slots WHERE id > 100")
        await conn.execute("VACUUM FULL public.slots")
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)


async def test_a_name_that_somebody_took_since_preflight_is_told_and_theirs_is_left_alone(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        await at_shift(stage, conn, HEAVY)
        await conn.execute("ALTER TABLE public.parts ADD CONSTRAINT not_heavy CHECK (weight <> 4711)")
        await stage.act("advance")
        status = await stage.until(lambda status: status.waiting_for is not None and status.waiting_for.kind == "error")
        assert status.waiting_for is not None
        assert "not_heavy" in status.waiting_for.detail
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        cursor = await conn.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'not_heavy'")
        assert await cursor.fetchall() == [("CHECK ((weight <> 4711))",)]


async def test_contract_waits_while_somebody_stands_on_what_goes_and_passes_over_what_has_gone(
    stage: Harness, conn: Connection
) -> None:
    async with stage.worker():
        goes = [drop("makers_code", "public.makers"), rename("light", "feather", PARTS), drop("odd", PARTS)]
        await conn.execute(WORLD.encode())
        await conn.execute(
            "ALTER TABLE public.parts ADD CONSTRAINT light CHECK (weight > 0), ADD CONSTRAINT odd CHECK (id > 0)"
        )
        await stage.start(planned(stage, *goes))
        await stage.waits("gate", Phase.SHADOW)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await conn.execute("CREATE TABLE public.later (code text CONSTRAINT later_fk REFERENCES public.makers (code))")
        await conn.execute("ALTER TABLE public.parts DROP CONSTRAINT light, DROP CONSTRAINT odd")
        await stage.act("advance")
        status = await stage.until(lambda status: status.waiting_for is not None and status.waiting_for.kind == "error")
        assert status.waiting_for is not None
        assert "later_fk of public.later" in status.waiting_for.detail
        assert status.phase is Phase.CONTRACT
        await conn.execute("DROP TABLE public.later")
        await stage.act("advance")
        assert (await stage.result(60)).state is State.DONE
        assert await names(conn, PARTS) == {"parts_pkey"}
        assert await names(conn, "public.makers") == {"makers_pkey"}


@pytest.mark.parametrize("turn", [4, 8])
async def test_a_worker_killed_while_it_declares_leaves_what_the_next_one_finishes_and_a_rollback_takes_away(
    stage: Harness, conn: Connection, turn: int
) -> None:
    key = create("public.slots", name="slot_once", type="unique", columns=["days"])
    await conn.execute(WORLD.encode())
    await conn.execute("ALTER TABLE public.slots DROP CONSTRAINT slots_pkey, ALTER id DROP NOT NULL")
    new_key = create("public.slots", name="slots_id", type="primary_key", columns=["id"])
    with stage.worker_process(f"constraint.after_commit=kill@{turn}") as worker:
        await stage.start(planned(stage, HEAVY, ONCE, MADE, FREE, key, new_key, gates={"shift": "auto"}))
        await worker.killed(60)
    async with stage.worker():
        await stage.waits("window", Phase.SOAK, 60)
        assert await names(conn, PARTS) == {"parts_pkey", "not_heavy", "name_once", "made_by"}
        assert await names(conn, "public.slots") == {"free", "slot_once", "slots_id"}
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK, 60)
        assert await names(conn, PARTS) == {"parts_pkey"}
        assert await names(conn, "public.slots") == set()
        await conn.execute("INSERT INTO public.slots VALUES (NULL, NULL)")


SLOW = """
CREATE FUNCTION public.slow(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN IF pg_catalog.current_query() LIKE '%VALIDATE%' THEN PERFORM pg_catalog.pg_sleep(0.01); END IF; RETURN true; END $$
"""
VALIDATING = (
    "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%VALIDATE%' AND pid <> pg_backend_pid()"
)


async def test_a_validation_gives_way_to_an_alter_table_instead_of_having_clients_queue(
    stage: Harness, conn: Connection, dsn: str
) -> None:
    await conn.execute(SLOW.encode())
    slow = create(PARTS, name="slow", type="check", check="slow(weight)")
    async with stage.worker(), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as user:
        await at_shift(stage, conn, slow)
        await stage.act("advance")
        async with asyncio.timeout(TIMEOUT_S):
            while not (await conn.execute(VALIDATING.encode())).rowcount:
                await asyncio.sleep(POLL_S)
        began = time.monotonic()
        altering = asyncio.create_task(user.execute("ALTER TABLE public.parts ADD COLUMN more int"))
        await asyncio.sleep(0)
        await conn.execute("INSERT INTO public.parts VALUES (3001, NULL, 1, 1)")
        await altering
        # All rows take two seconds.
        assert time.monotonic() - began < 1.0
        await stage.waits("window", Phase.SOAK)
        assert "slow" in await names(conn, PARTS)


async def test_a_rollback_says_who_stands_on_what_it_takes_away(stage: Harness, conn: Connection) -> None:
    async with stage.worker():
        await at_shift(stage, conn, ONCE)
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await conn.execute("CREATE TABLE public.later (part text CONSTRAINT later_fk REFERENCES public.parts (name))")
        await stage.act("abort")
        status = await stage.until(lambda status: status.waiting_for is not None and status.waiting_for.kind == "error")
        assert status.waiting_for is not None
        assert "on it stand later_fk of public.later" in status.waiting_for.detail
        await conn.execute("DROP TABLE public.later")
        await stage.act("advance")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        assert await names(conn, PARTS) == {"parts_pkey"}
