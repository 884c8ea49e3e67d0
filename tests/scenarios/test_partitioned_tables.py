"""Partitioned tables on their way: rows that move, partitions that come and go, clients of both versions all the while."""

from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.harness import Harness
from support.holding import held_at
from support.load import Load
from support.partitions import EVENTS, REVIEWS, events

from pgduet.operations import sync
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]
NAME = "review-stars"
MOVES_ARE_MARKED = "the marker tells a row that moves from a new one"
QUICK: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0, "max_latency_ratio": 1000},
    "soak": {"window_s": 3600, "legacy_idle_s": 0.5},
}


@pytest.fixture
async def world(conn: Connection) -> Connection:
    """Give a database with a partitioned table."""
    await conn.execute(EVENTS.encode())
    return conn


async def one(conn: Connection, query: str) -> Any:
    row = await (await conn.execute(query.encode())).fetchone()
    return row[0] if row else None


async def test_clients_of_both_versions_see_no_error_from_start_over_rollback_to_the_end(
    stage: Harness, conn: Connection
) -> None:
    await conn.execute(REVIEWS.encode())
    touched = await one(conn, "SELECT max(updated_at) FROM public.reviews WHERE id > 2000")
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        await load.working()
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        await load.working()
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        await load.working()
        await stage.start(stage.plan())
        await stage.waits("window", Phase.SOAK)
        await load.working()
        await load.end()
        await load.verify(conn)
    # A backfill is nobody's update, on partitions either: all rows that clients did not touch are as they were.
    assert touched == await one(
        conn, "SELECT max(updated_at) FROM public.reviews WHERE id BETWEEN 2001 AND 3000 AND note LIKE 'note %'"
    )


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", MOVES_ARE_MARKED])
async def test_a_row_that_moves_is_no_new_row(
    stage: Harness,
    world: Connection,
    monkeypatch: pytest.MonkeyPatch,
    mutated: bool,  # noqa: FBT001
) -> None:
    if mutated:
        block = sync.block
        monkeypatch.setattr(sync, "block", lambda file, name: block(file, {"insert_moved": "insert"}.get(name, name)))
    async with stage.worker():
        await stage.start(stage.plan(events(), **QUICK))
        await stage.waits("window", Phase.SOAK)
        await world.execute("INSERT INTO public_v1.events (id, at, amount) VALUES (9000, '2020-05-05', '007')")
        await world.execute("UPDATE public_v1.events SET at = '2021-05-05' WHERE id = 9000")
        left = await one(world, "SELECT amount FROM public_v1.events WHERE id = 9000")
    assert left == ("7" if mutated else "007")


async def test_partitions_come_and_go_during_the_backfill(stage: Harness, world: Connection) -> None:
    async with stage.worker():
        async with held_at("batch.after_commit") as batch:
            await stage.start(stage.plan(events(), gates={"verify": "manual"}, **QUICK))
            await batch()
            # Created: it has columns, triggers and all, by PostgreSQL itself.
            await world.execute(
                "CREATE TABLE public.events_22 PARTITION OF public.events FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')"
            )
            await world.execute("INSERT INTO public.events (id, at, amount) VALUES (9001, '2022-02-02', '08')")
            # Attached with rows that no trigger has seen.
            await world.execute("CREATE TABLE public.events_23 (LIKE public.events INCLUDING ALL)")
            await world.execute("INSERT INTO public.events_23 (id, at, amount) VALUES (9002, '2023-02-02', '09')")
            await world.execute(
                "ALTER TABLE public.events ATTACH PARTITION public.events_23 FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')"
            )
            # Detached and dropped, with ranges that are not begun.
            await world.execute("ALTER TABLE public.events_21 DETACH PARTITION public.events_21_rest")
            await world.execute("DROP TABLE public.events_21_a")
        await stage.waits("gate", Phase.BACKFILL)
        new = sql.Identifier(f"_pgduet_{NAME}_amount").as_string(None)
        assert await one(world, f"SELECT {new} FROM public.events WHERE id = 9001") == 8
        assert await one(world, f"SELECT {new} FROM public.events WHERE id = 9002") is None
        await stage.act("advance")
        await stage.waits("window", Phase.SOAK)
        # Verify reads every partition that there is, finds the rows and fills them.
        assert await one(world, "SELECT amount FROM public_v2.events WHERE id = 9002") == 9
        assert await one(world, "SELECT count(*) FROM public_v2.events WHERE amount IS NULL") == 0
        assert (await stage.status()).parity.mismatches == 0  # type: ignore[union-attr]
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
    assert await one(world, "SELECT amount FROM public.events WHERE id = 9001") == "08"


async def test_triggers_of_partitions_fire_for_replicated_writes_too(stage: Harness, world: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(events(), gates={"backfill": "manual"}, **QUICK))
        await stage.waits("gate", Phase.DUAL_WRITE)
        await world.execute("CREATE TABLE public.events_22 PARTITION OF public.events DEFAULT")
        found = await world.execute(
            "SELECT tgenabled, count(DISTINCT tgrelid), count(*) FROM pg_trigger WHERE tgname LIKE '~pgduet%' GROUP BY 1"
        )
        assert await found.fetchall() == [("A", 7, 14)]
        await world.execute("SET session_replication_role = replica")
        for day, leaf in (("2019-02-02", "events_19"), ("2021-02-02", "events_21_a"), ("2030-01-01", "events_22")):
            await world.execute(
                f"INSERT INTO public.{leaf} (id, at, kind, amount) VALUES (1, '{day}', 'a', '08')".encode()
            )
        await world.execute("RESET session_replication_role")
        new = sql.Identifier(f"_pgduet_{NAME}_amount").as_string(None)
        assert await one(world, f"SELECT count(*) FROM public.events WHERE amount = '08' AND {new} = 8") == 3


async def test_clients_of_a_partition_are_clients_of_the_old_version(stage: Harness, world: Connection) -> None:
    async with stage.worker():
        await stage.start(stage.plan(events(), **QUICK))
        await stage.waits("window", Phase.SOAK)
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="direct") as client:
            await client.execute("SELECT FROM public.events_20")
            await stage.act("advance", reason="the window may end")
            status = await stage.waits("census", Phase.SOAK)
            assert status.waiting_for is not None
            assert "direct" in status.waiting_for.detail


async def test_a_partitioned_table_gets_a_foreign_key_without_a_scan_under_lock(
    stage: Harness, world: Connection
) -> None:
    await world.execute(
        "CREATE TABLE public.amounts (amount int PRIMARY KEY); INSERT INTO public.amounts SELECT generate_series(0, 99)"
    )
    plan = stage.plan(events(references="public.amounts"), gates={"contract": "auto"}, **QUICK)
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            await world.execute("INSERT INTO public_v1.events (id, at, amount) VALUES (1, '2021-01-01', '100')")
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await stage.act("advance")
        await stage.result()
    assert (
        await one(
            world,
            "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conname = 'events_amount_fkey' AND convalidated",
        )
        == 1
    )
