"""A partitioned table gets a shadow: rows move, partitions are truncated, come and go, while clients of both versions write."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.asking import one
from support.cycle import UNHELD
from support.harness import Harness, schema_dump
from support.holding import held_at
from support.lanes import Lane, database
from support.load import Load
from support.partitions import REVIEWS
from support.plans import NAME, overlaid
from support.shaped import STARS_APART, shadow
from support.stage import staged

from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.phases import Phase, State

Connection = psycopg.AsyncConnection[Any]

EVENTS = """
CREATE TABLE public.events (
    id     serial,
    at     date NOT NULL DEFAULT '2020-05-05',
    amount text NOT NULL DEFAULT '5',
    note   text,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE TABLE public.events_19 PARTITION OF public.events FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
CREATE TABLE public.events_20 (gone int, note text, amount text NOT NULL DEFAULT '5', at date NOT NULL, id int NOT NULL);
ALTER TABLE public.events_20 DROP gone;
ALTER TABLE public.events ATTACH PARTITION public.events_20 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.events_21 PARTITION OF public.events FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') PARTITION BY HASH (id);
CREATE TABLE public.events_21_0 PARTITION OF public.events_21 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.events_21_1 PARTITION OF public.events_21 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE public.events ADD CONSTRAINT events_small CHECK (amount::int < 1000);
CREATE INDEX events_by_note ON public.events (note);
COMMENT ON TABLE public.events IS 'What happened';
GRANT SELECT ON public.events TO PUBLIC;
CREATE PUBLICATION told FOR TABLE public.events WITH (publish_via_partition_root = true);
INSERT INTO public.events (at, amount, note)
SELECT date '2019-01-01' + i, '0' || i % 9, CASE WHEN i % 2 = 0 THEN 'note ' || i END FROM generate_series(0, 1000) i;
"""
WHOLE = """
CREATE TABLE public.events (
    id serial PRIMARY KEY, at date NOT NULL DEFAULT '2020-05-05', amount text NOT NULL DEFAULT '5', note text
);
INSERT INTO public.events (amount) SELECT '0' || i % 9 FROM generate_series(1, 1000) i;
"""
"""The same without partitions."""
PATIENCE_S = 120.0
"""Heartbeats of a worker that was killed stop being waited for after 5 s; a busy machine may take many times that."""
WIDER = [
    {"name": "id", "type": "bigint"},
    {"name": "amount", "type": "int", "nullable": False},
    {"name": "mood", "type": "text"},
]
PLAIN = shadow("public.events", columns=WIDER)
BY_HASH = shadow("public.events", columns=WIDER, partition_by={"method": "hash", "columns": ["id"], "modulus": 2})

WRITES = [
    (
        "public_v1",
        "INSERT INTO events (id, at, amount, note) VALUES (8001, '2019-02-02', '007', 'a'), (8002, '2020-02-02', '8', 'b')",
    ),
    ("public_v1", "INSERT INTO events (note) VALUES ('numbered')"),
    ("public_v2", "INSERT INTO events (note) VALUES ('numbered')"),
    ("public_v2", "INSERT INTO events (id, at, amount) VALUES (8003, '2021-02-02', 9), (8004, '2021-03-03', 10)"),
    ("public_v1", "UPDATE events SET amount = '11' WHERE id = 8003"),
    ("public_v2", "UPDATE events SET note = 'n' WHERE id IN (8001, 8003)"),
    ("public_v1", "UPDATE events SET id = 8011 WHERE id = 8001"),
    ("public_v2", "UPDATE events SET id = 8012 WHERE id = 8002"),
    ("public_v2", "UPDATE events SET mood = 'glad' WHERE id IN (8003, 8011)"),
    # To another partition, from either side; with others, in one statement; within a partition.
    ("public_v1", "UPDATE events SET at = '2021-08-08' WHERE id = 8011"),
    ("public_v2", "UPDATE events SET at = '2020-08-08', note = 'm' WHERE id = 8011"),
    ("public_v1", "UPDATE events SET at = at + 365 WHERE id BETWEEN 300 AND 340"),
    ("public_v2", "UPDATE events SET at = at - 365 WHERE id BETWEEN 300 AND 320"),
    ("public_v1", "UPDATE events SET at = at + 1 WHERE id BETWEEN 10 AND 20"),
    (
        "public_v1",
        "INSERT INTO events VALUES (8003, '2021-02-02', '12') ON CONFLICT (id, at) DO UPDATE SET amount = excluded.amount",
    ),
    (
        "public_v2",
        "INSERT INTO events VALUES (8003, '2021-02-02', 13) ON CONFLICT (id, at) DO UPDATE SET amount = excluded.amount",
    ),
    ("public_v1", "DELETE FROM events WHERE id IN (8012, 30)"),
    ("public_v2", "DELETE FROM events WHERE id IN (8004, 31)"),
    # By the partitions' own names.
    ("public", "INSERT INTO events_20 (id, at, amount) VALUES (8021, '2020-01-01', '01'), (8022, '2020-01-01', '02')"),
    ("public", "UPDATE events_20 SET amount = '03', at = '2020-01-02' WHERE id = 8021"),
    ("public", "UPDATE events_21 SET id = id + 1000 WHERE id BETWEEN 800 AND 820"),
    ("public", "DELETE FROM events_20 WHERE id = 8022"),
    ("public", "UPDATE events SET note = 'by its name' WHERE id = 40"),
    ("public", "UPDATE events SET at = at + 1 WHERE id IN (8003, 8011)"),
    ("public", "TRUNCATE events_21_0"),
]
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND application_name LIKE 'pgduet/contract/%'
"""


async def write(conn: Connection) -> None:
    """Write in every way there is, each statement in a transaction of its own."""
    for path, text in WRITES:
        if text.startswith("TRUNCATE"):
            assert await one(conn, "SELECT count(*) FROM public_v2.events WHERE mood = 'glad'") == 2, "rows that moved"
        async with conn.transaction():
            await conn.execute(f"SET LOCAL search_path = {path}".encode())
            await conn.execute(text.encode())
            if text.startswith("TRUNCATE"):
                assert await differing(conn) == [], "in the same transaction"
        assert await differing(conn) == [], text
    async with conn.cursor().copy("COPY public.events (id, at, amount) FROM STDIN") as copy:
        for number in range(8100, 8110):
            await copy.write_row((number, f"20{19 + number % 3}-06-06", str(number % 10)))
    assert await differing(conn) == []
    await conn.execute("DELETE FROM public_v2.events WHERE id > 8000")
    assert await differing(conn) == []


async def differing(conn: Connection) -> list[Any]:
    """Give the rows that only one version has."""
    old = "SELECT id::bigint, at, amount::int, note FROM public_v1.events"
    new = "SELECT id, at, amount, note FROM public_v2.events"
    found = await conn.execute(f"({old} EXCEPT ALL {new}) UNION ALL ({new} EXCEPT ALL {old})".encode())
    return await found.fetchall()


async def test_both_versions_write_it_in_every_way_and_it_comes_back_and_gets_there(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    await conn.execute(EVENTS.encode())
    before = schema_dump(postgres.bin_dir, stage.dsn)
    async with stage.worker():
        async with held_at("batch.after_commit") as batch:
            await stage.start(stage.plan(BY_HASH, **UNHELD))
            await batch()
            await conn.execute("UPDATE public.events SET at = at + 365 WHERE id BETWEEN 250 AND 300")
            await conn.execute("TRUNCATE public.events_21_1")
            await conn.execute("DELETE FROM public.events_20 WHERE id = 400")
        await stage.gets_to("window", Phase.SOAK)
        assert await one(conn, "SELECT count(*) FROM public_v2.events") > 800
        await write(conn)
        await stage.act("abort")
        status = await stage.until(lambda status: status.state is State.ROLLED_BACK)
        await stage.result()
        assert schema_dump(postgres.bin_dir, stage.dsn) == before, status
        await stage.start(stage.plan(PLAIN, **UNHELD))
        await stage.gets_to("window", Phase.SOAK)
        await write(conn)
        await conn.execute("TRUNCATE public.events")
        assert await one(conn, "SELECT count(*) FROM public_v2.events") == 0
        await conn.execute("INSERT INTO public_v2.events (note) SELECT 'n' FROM generate_series(1, 100)")
        assert await differing(conn) == []
        await stage.act("advance")
        await stage.result()
    assert await one(conn, "SELECT count(*) FROM public.events") == 100
    assert await one(conn, "SELECT relkind::text FROM pg_class WHERE oid = 'public.events'::regclass") == "r"
    assert await one(conn, "SELECT count(*) FROM pg_class WHERE relname LIKE 'events\\_%' AND relkind = 'r'") == 0
    assert await one(conn, "SELECT count(*) FROM pg_publication_rel WHERE prrelid = 'public.events'::regclass") == 1
    await conn.execute("INSERT INTO public.events (note) VALUES ('the next number')")
    left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgduet'::regnamespace AND proname LIKE '%events%'"
    assert await one(conn, left) == 0


async def test_partitions_come_and_go(stage: Harness, conn: Connection) -> None:
    await conn.execute(EVENTS.encode())
    async with stage.worker():
        async with held_at("batch.after_commit") as batch:
            await stage.start(stage.plan(PLAIN, **overlaid(UNHELD, {"soak": {"window_s": 600}})))
            await batch()
            await came_and_went(conn, "2022", "events_19")
        await stage.gets_to("window", Phase.SOAK)
        assert await differing(conn) == []
        # Seen with the next census.
        await came_and_went(conn, "2023", "events_20")
        await conn.execute("ALTER TABLE public.events DETACH PARTITION public.events_21")
        await conn.execute("UPDATE public.events_21 SET note = 'while it was away'")
        await conn.execute(
            "ALTER TABLE public.events ATTACH PARTITION public.events_21 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')"
        )
        async with asyncio.timeout(30):
            while await differing(conn):
                await asyncio.sleep(0.05)
        await conn.execute("TRUNCATE public.events_2023")
        assert await differing(conn) == []
        await conn.execute("INSERT INTO public_v2.events (at, note) VALUES ('2023-05-05', 'into the new one')")
        assert await one(conn, "SELECT count(*) FROM public.events_2023") == 1
        await conn.execute("ALTER TABLE public.events DETACH PARTITION public.events_21")
        await conn.execute("DROP TABLE public.events_2022")
        # One that comes between contract's last look and its lock.
        async with await psycopg.AsyncConnection.connect(stage.dsn, application_name="late") as late:
            await came(late, "2024")
            await stage.act("advance")
            async with asyncio.timeout(30):
                while not await one(conn, WAITING):
                    await asyncio.sleep(0.01)
        rows = await one(conn, "SELECT count(*) FROM public.events")
        await stage.result()
    assert await one(conn, "SELECT count(*) FROM public.events") == rows
    assert await one(conn, "SELECT count(*) FROM public.events WHERE at >= '2024-01-01'") == 3
    assert await one(conn, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgduet%'") == 0
    assert await one(conn, "SELECT count(*) FROM public.events_21_0") > 0, "what left the table stays by itself"


async def partitions_changed(lane: Lane) -> None:
    """Have partitions come and go before they are looked at."""
    await came_and_went(lane.conn, "2022", "events_19")


async def emptied_while_it_is_held(lane: Lane) -> None:
    """Empty a table whose shadow somebody holds, and fill it otherwise."""
    async with await psycopg.AsyncConnection.connect(lane.stage.dsn) as vacuum:
        await vacuum.execute(f'LOCK TABLE "_pgduet_{NAME}_events" IN SHARE UPDATE EXCLUSIVE MODE'.encode())
        await lane.conn.execute("TRUNCATE public.events")
    await lane.conn.execute("INSERT INTO public.events (id, amount) SELECT i, '3' FROM generate_series(500, 1500) i")
    assert await one(lane.conn, "SELECT count(*) FROM pgduet.emptied") == 1


KILLS: list[tuple[str, Callable[[Lane], Awaitable[None]], list[str]]] = [
    (EVENTS, partitions_changed, ["partitions.before_commit", "partitions.after_commit", "partitions.after_journal"]),
    (WHOLE, emptied_while_it_is_held, ["emptied.before_commit", "emptied.after_commit"]),
]


async def test_a_worker_that_is_killed_while_it_follows_is_followed_by_one_that_does(
    postgres: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(lane: Lane, table: str, changed: Callable[[Lane], Awaitable[None]]) -> None:
        stage, conn = lane.stage, lane.conn
        await conn.execute(table.encode())
        async with lane.workers():
            await stage.start(stage.plan(PLAIN, **overlaid(UNHELD, {"gates": {"verify": "manual"}})))
            await stage.gets_to("gate", Phase.BACKFILL, PATIENCE_S)
            await changed(lane)
            await stage.act("advance")
            await stage.gets_to("window", Phase.SOAK, PATIENCE_S)
            assert await differing(conn) == []
            assert await one(conn, "SELECT count(*) FROM public_v2.events") > 500
            assert await one(conn, "SELECT count(*) FROM pgduet.emptied") == 0
            assert not lane.left, "a barrier that was not reached"

    async with AsyncExitStack() as stack:
        lanes = []
        for table, changed, barriers in KILLS:
            dsn = await stack.enter_async_context(database(postgres))
            stage = await stack.enter_async_context(staged(temporal, dsn, tmp_path, monkeypatch))
            conn = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            lanes.append((Lane(stage, conn, postgres.bin_dir, dict.fromkeys(barriers, 1)), table, changed))
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            for lane, table, changed in lanes:
                group.create_task(killed(lane, table, changed))


async def test_columns_move_out_of_a_partitioned_table(stage: Harness, conn: Connection) -> None:
    await conn.execute(EVENTS.encode())
    notes = {
        "table": "public.events",
        "into": "public.notes",
        "key": {"id": "event_id", "at": "at"},
        "columns": ["note"],
    }

    async def same() -> bool:
        old = "SELECT id, at, note FROM public_v1.events WHERE note IS NOT NULL"
        new = "SELECT event_id, at, note FROM public_v2.notes"
        return not await one(
            conn, f"SELECT count(*) FROM (({old} EXCEPT ALL {new}) UNION ALL ({new} EXCEPT ALL {old})) d"
        )

    async with stage.worker():
        await stage.start(stage.plan({"extract_table": notes}, **overlaid(UNHELD, {"soak": {"window_s": 600}})))
        await stage.gets_to("window", Phase.SOAK)
        for text in (
            "INSERT INTO public_v1.events (id, at, note) VALUES (8001, '2019-02-02', 'a'), (8002, '2019-02-02', NULL)",
            "INSERT INTO public_v2.notes (event_id, at, note) VALUES (8002, '2019-02-02', 'b')",
            "UPDATE public_v1.events SET at = '2020-02-02' WHERE id IN (8001, 8002)",
            "UPDATE public_v2.events SET at = '2021-02-02' WHERE id = 8001",
            "UPDATE public_v2.notes SET note = 'c' WHERE event_id = 8001",
            "DELETE FROM public_v2.notes WHERE event_id = 8002",
            "DELETE FROM public_v1.events WHERE id = 20",
            "TRUNCATE public.events_21_0",
        ):
            await conn.execute(text.encode())
            assert await same(), text
        await conn.execute("DROP TABLE public.events_20")
        async with asyncio.timeout(30):
            while not await same():
                await asyncio.sleep(0.05)
        rows = await one(conn, "SELECT count(*) FROM public_v2.notes")
        await stage.act("advance")
        await stage.result()
    assert (
        await one(
            conn, "SELECT count(*) FROM public.notes JOIN public.events ON (event_id, notes.at) = (id, events.at)"
        )
        == rows
    )
    assert await one(conn, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgduet%'") == 0


async def came(conn: Connection, year: str) -> None:
    """Attach a partition with rows that no trigger has seen."""
    name = f"public.events_{year}"
    await conn.execute(f"CREATE TABLE {name} (LIKE public.events INCLUDING ALL)".encode())
    await conn.execute(
        f"INSERT INTO {name} (at, amount) SELECT '{year}-02-02', '09' FROM generate_series(1, 3)".encode()
    )
    bounds = f"FOR VALUES FROM ('{year}-01-01') TO ('{year}-07-01')"
    await conn.execute(f"ALTER TABLE public.events ATTACH PARTITION {name} {bounds}".encode())


async def came_and_went(conn: Connection, year: str, gone: str) -> None:
    """Attach a partition, create another one, and drop one."""
    await came(conn, year)
    bounds = f"FOR VALUES FROM ('{year}-07-01') TO ('{int(year) + 1}-01-01')"
    await conn.execute(f"CREATE TABLE public.events_{year}_late PARTITION OF public.events {bounds}".encode())
    await conn.execute(f"INSERT INTO public.events (at) VALUES ('{year}-08-08')".encode())
    await conn.execute(f"DROP TABLE public.{gone}".encode())


async def test_clients_of_both_versions_see_no_error_from_start_over_rollback_to_the_end(
    stage: Harness, conn: Connection
) -> None:
    await conn.execute(REVIEWS.encode())
    async with stage.worker(), Load(stage.dsn) as load:
        await stage.start(stage.plan(STARS_APART))
        await stage.waits("window", Phase.SOAK)
        await load.working(new=20)
        await stage.act("abort")
        await stage.until(lambda status: status.state is State.ROLLED_BACK)
        await load.working()
        await stage.result()
        await stage.start(stage.plan(STARS_APART, gates={"contract": "auto"}))
        await stage.waits("window", Phase.SOAK)
        await load.working(new=20)
        await load.deploy()
        await stage.act("advance")
        await stage.result()
        await load.working(new=10)
        await load.end()
        await load.verify(conn, new=True)
