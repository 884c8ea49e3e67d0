"""The gauges on a real server: what they see of vacuums, of clients who wait, of probes; and what looking costs."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.mechanics import Mechanics, mechanics
from support.plans import create_reviews

from pgduet.errors import ExpressionInvalid
from pgduet.local import EmbeddedPostgres
from pgduet.messages import Part
from pgduet.postgres import store
from pgduet.postgres.concurrency import Stretch
from pgduet.postgres.databases import Database
from pgduet.postgres.gauges import Blocked, GaugeRoom, Gauges, Reading
from pgduet.postgres.pressure import UNSEEN, Pressure, Verdict
from pgduet.postgres.probed import Probed
from pgduet.postgres.session import session
from pgduet.postgres.survey import unseen
from pgduet.sql import block

Connection = psycopg.AsyncConnection[Any]
LIMIT_S = 20.0


@asynccontextmanager
async def looking(m: Mechanics, dsn: str) -> AsyncIterator[Gauges]:
    async with GaugeRoom().of(Database("shop", dsn), m.migration) as gauges:
        yield gauges


async def seen(gauges: Gauges, condition: Callable[[Reading], bool], limit_s: float = LIMIT_S) -> Reading:
    ends = time.monotonic() + limit_s
    while not condition(gauges.look()):
        assert time.monotonic() < ends, gauges.look()
        await asyncio.sleep(0.02)
    return gauges.look()


async def test_an_operators_word_is_seen_within_a_moment(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with mechanics(dsn) as m, looking(m, dsn) as gauges:
        label = Part(relation=m.table.label, part=1, block_from=0, block_to=1).label
        pressure = Pressure(gauges, m.migration.policy, label)
        assert pressure.check().throttled is None
        await store.set_controls(m.conn, m.migration.id, {"paused": True, "batch_target_ms": 7})
        await seen(gauges, lambda reading: "paused" in reading.controls, 2)
        assert pressure.check().stops
        assert pressure.pace.target_ms == 7
        await store.set_controls(m.conn, m.migration.id, {"held": [label]}, reset=["paused", "batch_target_ms"])
        await seen(gauges, lambda reading: "paused" not in reading.controls, 2)
        verdict = pressure.check()
        assert verdict.throttled is not None
        assert verdict.throttled.kind == "parallelism"
        assert pressure.pace.target_ms == m.migration.policy.backfill.batch_target_ms


def last(reading: Reading) -> Blocked:
    return reading.blocked[-1] if reading.blocked else Blocked(0, 0, 0.0)


async def test_clients_who_wait_for_a_batch_are_counted_and_others_are_not(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with (
        mechanics(dsn) as m,
        looking(m, dsn) as gauges,
        session(Database("shop", dsn), f"backfill/{m.migration.name}") as batch,
        await psycopg.AsyncConnection.connect(dsn) as other,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as client,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as elsewhere,
    ):
        await other.execute("SELECT FROM public.reviews WHERE id = 2 FOR UPDATE")
        waits_elsewhere = asyncio.create_task(elsewhere.execute("UPDATE public.reviews SET note = 'b' WHERE id = 2"))
        async with batch.transaction():
            await batch.execute("SELECT FROM public.reviews WHERE id = 1 FOR UPDATE")
            waits = asyncio.create_task(client.execute("UPDATE public.reviews SET note = 'a' WHERE id = 1"))
            reading = await seen(gauges, lambda reading: last(reading).clients > 0)
            assert last(reading).clients == 1
            await seen(gauges, lambda reading: last(reading).longest_ms > 100)
        await waits
        number = last(gauges.look()).number
        reading = await seen(gauges, lambda reading: last(reading).number > number + 1)
        assert (last(reading).clients, waits_elsewhere.done()) == (0, False)
        await other.rollback()
        await waits_elsewhere


# Vacuums: on a server of their own, whose autovacuum is quick to come


@pytest.fixture(scope="module")
def vacuuming() -> Iterator[EmbeddedPostgres]:
    settings = {
        "fsync": "off",
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_limit": "1",
        "shared_buffers": "64MB",
    }
    with EmbeddedPostgres(settings=settings) as server:
        yield server


@pytest.fixture
async def vacuumed(vacuuming: EmbeddedPostgres) -> AsyncIterator[tuple[str, Connection]]:
    """Give a database of which the table's autovacuum never comes to an end."""
    async with await psycopg.AsyncConnection.connect(vacuuming.dsn(), autocommit=True) as admin:
        await admin.execute("DROP DATABASE IF EXISTS vacuumed WITH (FORCE)")
        await admin.execute("CREATE DATABASE vacuumed")
    dsn = vacuuming.dsn("vacuumed")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await create_reviews(conn, 20_000)
        await conn.execute("ALTER TABLE reviews SET (autovacuum_vacuum_cost_delay = 100)")
        yield dsn, conn


async def test_an_autovacuum_of_the_table_is_seen(vacuumed: tuple[str, Connection]) -> None:
    dsn, conn = vacuumed
    async with mechanics(dsn, backfill={"max_vacuum_wait_s": 3}) as m, looking(m, dsn) as gauges:
        pressure = Pressure(gauges, m.migration.policy, "public.reviews/0")
        assert pressure.check().throttled is None
        await conn.execute(
            "ALTER TABLE reviews SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)"
        )
        await conn.execute("UPDATE reviews SET note = note")
        await seen(gauges, lambda reading: bool(reading.vacuums))
        held = pressure.check().throttled
        assert held is not None
        assert held.reason.startswith("autovacuum of public.reviews running for")
        assert held.rate == 0
        await seen(gauges, lambda reading: any(vacuum["running_s"] > 3 for vacuum in reading.vacuums))
        slowed = pressure.check().throttled
        assert slowed is not None
        assert slowed.rate == pytest.approx(0.5)


async def test_a_vacuum_of_a_partition_is_one_of_its_table_and_one_in_a_copy_of_the_database_is_not(
    vacuumed: tuple[str, Connection], vacuuming: EmbeddedPostgres
) -> None:
    dsn, conn = vacuumed
    await conn.execute("ALTER TABLE reviews SET (autovacuum_enabled = off)")
    await conn.execute("CREATE TABLE parted (a int) PARTITION BY RANGE (a)")
    await conn.execute("CREATE TABLE leaf PARTITION OF parted DEFAULT WITH (autovacuum_enabled = off)")
    await conn.execute("INSERT INTO parted SELECT generate_series(1, 20000)")
    async with await psycopg.AsyncConnection.connect(vacuuming.dsn(), autocommit=True) as admin:
        await admin.execute("DROP DATABASE IF EXISTS copied WITH (FORCE)")
        async with mechanics(dsn) as m:
            number = m.migration.id
        await conn.close()
        await admin.execute("CREATE DATABASE copied TEMPLATE vacuumed")
    async with (
        _vacuum(vacuuming.dsn("copied"), "parted"),
        _vacuum(dsn, "parted"),
        session(Database("shop", dsn), "look") as looks,
    ):
        asked = {"id": number, "relations": ['"public"."parted"', '"public"."reviews"']}
        ends = time.monotonic() + LIMIT_S
        while True:
            progress = await (await looks.execute("SELECT count(*) FROM pg_stat_progress_vacuum")).fetchone()
            found = await (await looks.execute(block("pressure", "pressure"), asked)).fetchone()
            assert progress is not None
            assert found is not None
            if progress["count"] == 2:
                break
            assert time.monotonic() < ends
        assert [each["relation"] for each in found["vacuums"]] == ["public.leaf"]


@asynccontextmanager
async def _vacuum(dsn: str, table: str) -> AsyncIterator[None]:
    """Have a vacuum under way that does not come to an end."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("SET vacuum_cost_delay = 100")
        await conn.execute("SET vacuum_cost_limit = 1")
        task = asyncio.create_task(conn.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table))))
        try:
            yield
        finally:
            conn.cancel()
            with suppress(psycopg.errors.QueryCanceled):
                await task


async def test_an_autovacuum_against_wraparound_is_told_apart(vacuumed: tuple[str, Connection]) -> None:
    dsn, conn = vacuumed
    await conn.execute("ALTER TABLE reviews SET (autovacuum_freeze_max_age = 100000, autovacuum_freeze_min_age = 0)")
    # Each of these subtransactions takes a number of its own.
    await conn.execute("CREATE TABLE burnt (a int)")
    burn = "BEGIN INSERT INTO burnt VALUES (1); EXCEPTION WHEN division_by_zero THEN END"
    await conn.execute(f"DO $$ BEGIN FOR i IN 1..101000 LOOP {burn}; END LOOP; END $$".encode())
    async with mechanics(dsn, backfill={"max_vacuum_wait_s": 0}) as m, looking(m, dsn) as gauges:
        await seen(gauges, lambda reading: any(vacuum["wraparound"] for vacuum in reading.vacuums))
        held = Pressure(gauges, m.migration.policy, "public.reviews/0").check().throttled
        assert held is not None
        assert (held.rate, "to prevent wraparound" in held.reason) == (0, True)


# Probes


QUEUE = "SELECT count(*) FROM public.queue"


async def test_probes_are_asked_again_and_again(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    await conn.execute("CREATE TABLE queue (job text)")
    probes = [
        {"name": "queue", "sql": f"{QUEUE};", "max": 1},
        {"name": "oldest", "sql": "SELECT max(1) FROM public.queue -- of none", "max": 5},
        {"name": "share", "sql": "SELECT 1 / count(*)::numeric FROM public.queue", "max": 5},
    ]
    await conn.execute("INSERT INTO queue VALUES ('one')")
    async with mechanics(dsn, backfill={"probes": probes}) as m, looking(m, dsn) as gauges:
        pressure = Pressure(gauges, m.migration.policy, "public.reviews/0")
        pressure.check()
        assert gauges.look().probed == {"queue": Probed(1.0), "oldest": Probed(1.0), "share": Probed(1.0)}
        assert not (pressure.verdict.throttled and pressure.verdict.rate == 0)
        await conn.execute("INSERT INTO queue VALUES ('secret-value')")
        await seen(gauges, lambda reading: reading.probed["queue"] == Probed(2.0))
        held = pressure.check().throttled
        assert held is not None
        assert held.reason == "probe queue 2 (limit 1)"
        await conn.execute("TRUNCATE queue")
        await seen(gauges, lambda reading: reading.probed["share"] == Probed(None, "division by zero (22012)"))
        # Asked before the share, and maybe just before the table was emptied.
        await seen(gauges, lambda reading: reading.probed["oldest"] == Probed(None))
        await conn.execute("DROP TABLE queue")
        await seen(gauges, lambda reading: reading.probed["queue"] == Probed(None, "undefined table (42P01)"))


async def test_a_probe_that_hangs_holds_up_nothing_else_and_counts_as_pressure(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    await conn.execute("CREATE TABLE queue (job text)")
    async with (
        mechanics(dsn, backfill={"probes": [{"name": "queue", "sql": QUEUE, "max": 1}]}) as m,
        looking(m, dsn) as gauges,
        await psycopg.AsyncConnection.connect(dsn) as locker,
    ):
        await locker.execute("LOCK TABLE queue")
        number = gauges.look().number
        await seen(gauges, lambda reading: reading.probed["queue"].error == "query canceled (57014)")
        assert gauges.look().number > number
        await locker.rollback()
        await seen(gauges, lambda reading: reading.probed["queue"] == Probed(0.0))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT count(*) FROM queue", 'relation "queue" does not exist'),
        ("SELECT nothing", 'column "nothing" does not exist'),
        ("SELECT 1, 2", "expected one row of one column, got one of 2"),
        ("SELECT 1 WHERE false", "expected one row of one column, got none of 1"),
        ("SELECT generate_series(1, 3)", "expected one row of one column, got more of 1"),
        ("SELECT 'secret-value'", "expected a number, got a str"),
        ("SELECT true", "expected a number, got a bool"),
        ("SELECT 1; DROP TABLE public.queue", "syntax error"),
        ("SELECT 1) AS probe; DROP TABLE public.queue; SELECT * FROM (SELECT 1", "multiple commands"),
        ("SELECT job::int FROM public.queue", "invalid text representation (22P02)"),
        ("COMMIT", "syntax error"),
        ("DELETE FROM public.queue RETURNING 1", "syntax error"),
        (
            "WITH gone AS (DELETE FROM public.queue RETURNING 1) SELECT count(*) FROM gone",
            "WITH clause containing a data",
        ),
        ("SELECT public.sweep()", "read-only transaction"),
        ("SELECT public.tells()", "raise exception (P0001)"),
        ("SELECT 'infinity'::timestamptz", "expected a number"),
        ("SELECT 'NaN'::numeric", "expected a number, got NaN"),
        ("SELECT count(*) FROM pg_sleep(9)", "takes longer than 1000 ms"),
    ],
)
async def test_a_probe_that_cannot_be_asked_is_refused_at_its_place(
    dsn: str, conn: Connection, query: str, why: str
) -> None:
    await create_reviews(conn, 10)
    await conn.execute("CREATE TABLE queue (job text)")
    await conn.execute("INSERT INTO queue VALUES ('secret-value')")
    await conn.execute("CREATE FUNCTION sweep() RETURNS int LANGUAGE sql AS $$ DELETE FROM public.queue; SELECT 1 $$")
    await conn.execute(
        "CREATE FUNCTION tells() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE '%', (SELECT job FROM public.queue); END $$"
    )
    probes = [{"name": "fine", "sql": QUEUE, "max": 1}, {"name": "queue", "sql": query, "max": 1}]
    with pytest.raises(ExpressionInvalid) as caught:
        async with mechanics(dsn, backfill={"probes": probes}):
            pass
    assert why in caught.value.message
    assert "secret-value" not in caught.value.render()
    assert caught.value.place is not None
    assert caught.value.place.path == "policy.backfill.probes[1].sql"
    assert await (await conn.execute("SELECT count(*) FROM queue")).fetchone() == (1,)


# What may not be seen


async def test_without_pg_monitor_it_is_said_what_is_not_seen(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    role = f"nobody_{secrets.token_hex(4)}"
    async with mechanics(dsn) as m:
        for statement in (
            "CREATE ROLE {}",
            "GRANT USAGE ON SCHEMA pgduet TO {}",
            "GRANT SELECT ON pgduet.migration TO {}",
        ):
            await conn.execute(sql.SQL(statement).format(sql.Identifier(role)))
        try:
            async with GaugeRoom().of(Database("shop", dsn, role), m.migration) as gauges:
                pressure = Pressure(gauges, m.migration.policy, "public.reviews/0")
                assert pressure.check() == Verdict(), "what is not seen holds nothing"
                assert pressure.unmeasured == UNSEEN
            async with session(Database("shop", dsn, role), "test") as limited:
                (found,) = await unseen(limited)
                assert (found.id, found.where) == ("PD-H20", f"role {role}")
            assert await unseen(m.conn) == []
        finally:
            await conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


async def test_what_is_behind_on_purpose_is_passed_over(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    slot = f"etl_{secrets.token_hex(4)}"
    await conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    async with mechanics(dsn) as m:
        async with looking(m, dsn) as gauges:
            assert slot in {each["name"] for each in gauges.look().slots}
        database = Database("shop", dsn, ignored={"ignore_slots": frozenset({slot})})
        async with GaugeRoom().of(database, m.migration) as gauges:
            assert slot not in {each["name"] for each in gauges.look().slots}


# What it takes


async def test_one_session_looks_for_all_ranges_and_none_is_left(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)

    async def sessions() -> int:
        found = await conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgduet/gauges/%'"
        )
        row = await found.fetchone()
        assert row is not None
        return int(row[0])

    room = GaugeRoom()
    async with mechanics(dsn) as m:
        async with (
            room.of(Database("shop", dsn), m.migration) as first,
            room.of(Database("shop", dsn), m.migration) as second,
        ):
            assert first is second
            assert await sessions() == 1
        while await sessions():
            await asyncio.sleep(0.02)
        async with room.of(Database("shop", dsn), m.migration) as third:
            assert third.trail is first.trail, "what was seen of the WAL is remembered"


async def test_a_look_that_fails_is_an_error_of_the_slice(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with mechanics(dsn) as m, looking(m, dsn) as gauges:
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgduet/gauges/%'"
        )
        with pytest.raises(psycopg.OperationalError):  # noqa: PT012  (it is met at one of the next looks)
            async with asyncio.timeout(LIMIT_S):
                while True:
                    gauges.look()
                    await asyncio.sleep(0.02)


async def test_a_look_is_cheap(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 1000)
    async with mechanics(dsn) as m:
        asked: dict[str, dict[str, Any]] = {
            "pressure": {"id": m.migration.id, "relations": [m.table.label]},
            "blocked": {"ours": "pgduet/backfill/x"},
        }
        for name, values in asked.items():
            took = []
            for _ in range(20):
                began = time.monotonic()
                await m.conn.execute(block("pressure", name), values)
                took.append(time.monotonic() - began)
            # Four looks a second at this are a fiftieth of one core at most; a plan that scans would be seen here.
            print(f"{name}: {1000 * min(took):.2f} ms")  # noqa: T201
            assert min(took) < 0.005, (name, min(took))


async def test_statements_of_clients_are_counted_and_ours_are_not(dsn: str, conn: Connection) -> None:
    await create_reviews(conn, 10)
    async with mechanics(dsn) as m, looking(m, dsn) as gauges:
        assert gauges.look().clients.stretch is Stretch.ALONE
        async with (
            session(Database("shop", dsn), f"backfill/{m.migration.name}") as batch,
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as client,
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other,
        ):
            ours = asyncio.create_task(batch.execute("SELECT pg_sleep(3)"))
            await asyncio.sleep(0.5)  # as many looks as would find a client
            assert gauges.look().clients.stretch is Stretch.ALONE
            sleeping = [asyncio.create_task(each.execute("SELECT pg_sleep(3)")) for each in (client, other)]
            await seen(gauges, lambda reading: reading.clients.stretch is Stretch.WORKING, 10)
            assert gauges.look().clients.usual == pytest.approx(2.0, abs=0.2)
            await asyncio.gather(ours, *sleeping)
