"""kill -9 at every barrier of every phase, once each, under clients of both versions: it ends by itself, as if nothing had been.

The barriers are dealt out by a seed to a few lanes, each a database with one migration that goes to soak, back to the start, and
the whole way again. A lane's worker has instructions for all barriers of its share that are left; each new worker goes on until it
is killed at the next. One lane is left alone, and the others must come out with the same schema. All lanes run at once, since most
of the time is the wait for heartbeats that do not come. `PGDUET_SEED` repeats a run.

Limits: one plan of two tables; what it does not reach (created tables, the plan's SQL) has no barriers of its own.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.constraint_operations import create, rename
from support.harness import Harness
from support.lanes import WATCH_EVERY_S, Lane, database
from support.load import Load
from support.plans import MOOD, STARS, create_reviews, replace
from support.plans import ROWS as MANY
from support.processes import seeded
from support.stage import staged

from pgduet import audit
from pgduet.barriers import NAMES
from pgduet.local import EmbeddedPostgres, LocalTemporal
from pgduet.messages import Status
from pgduet.phases import Phase, State
from pgduet.postgres.batches import FIRST_PAGES

LANES = 3
ROWS = 6_000
FILL_PERCENT = 10
"""Few rows a page: a batch, which is never larger than its first when its target is short, is then a small part of the table."""
RANGES = 2
PAUSE_S = 0.015
PATIENCE_S = 600.0
"""A worker costs seconds to start, a killed one 5 s until it is given up; a busy machine may take many times that."""

TURNS = {
    "expand": 2,
    "dual_write": 2,
    "batch": 3,
    "route": 2,
    "constraint": 6,
    "contract": 2,
    "undo_dual_write": 2,
    "undo_expand": 2,
    "record": 6,
}
"""How often a step passes its barriers at least, where that is more than once: the seed says at which time the worker is killed."""

SHOPS = """
CREATE TABLE public.shops (id int PRIMARY KEY, staff text NOT NULL);
INSERT INTO public.shops SELECT i, i::text FROM generate_series(1, 500) i;
CREATE INDEX shops_staff ON public.shops (id, staff);
"""
MOVES = """
CREATE TABLE public.moves (seq serial PRIMARY KEY, range text, was bigint, now bigint);
CREATE FUNCTION public.note_move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.moves (range, was, now)
    VALUES (concat_ws(' ', NEW.migration_id, NEW.relation, NEW.part), OLD.cursor_block, NEW.cursor_block);
    RETURN NULL;
END $$;
"""
WATCH = b"""
CREATE TRIGGER note_move AFTER UPDATE ON pgduet.backfill_range FOR EACH ROW EXECUTE FUNCTION public.note_move();
ALTER TABLE pgduet.backfill_range ENABLE ALWAYS TRIGGER note_move;
"""
CREW = replace(
    "public.shops",
    {"staff": "crew::text"},
    {"name": "crew", "type": "int", "nullable": False, "up": "staff::int"},
)
BOUND = [
    create("public.shops", name="small_crew", type="check", check="crew < 100000"),
    create("public.shops", name="one_crew_each", type="unique", columns=["id", "crew"]),
    rename("shops_pkey", "shops_key", "public.shops"),
]
INDEXES = (
    {"create_index": {"table": "public.shops", "name": "shops_staff", "columns": [{"expression": "id + 1"}]}},
    {"drop_index": {"name": "shops_staff"}},
)
PLAN = {
    "backfill": {"parallelism": RANGES, "batch_target_ms": 1},
    "gates": {"contract": "auto"},
}

UNDOS = {
    "undo_cutover": 1,
    "undo_shift": 1,
    "withdraw": 1,
    "undo_backfill": 1,
    "undo_dual_write": 2,
    "undo_expand": 3,
}
"""What is undone from soak, in order, and for how many tables and indexes each."""

BARRIER_OF = {"withdraw": "undo_verify"}

ELSEWHERE = ("swap_back.", "secure.", "partitions.", "emptied.")
REACHED = tuple(name for name in NAMES if not name.startswith(ELSEWHERE))
"""Tables that change in place keep their names, policies and partitions: the scenarios of a swap, of policies and of partitions
kill at those."""

Connection = psycopg.AsyncConnection[Any]


@dataclass
class Watched(Lane):
    """A lane whose cursors and phases are watched."""

    phases: list[str] = field(default_factory=list)
    watched: bool = False

    async def watch(self) -> None:
        """See how far it is; once there are cursors, have each of their moves noted."""
        there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'pgduet' AND tablename = 'audit'"
        if not await number(self.conn, there):
            return
        if not self.watched:
            await self.conn.execute(WATCH)
            self.watched = True
        phases = await self.conn.execute("SELECT phase FROM pgduet.migration ORDER BY id")
        self.phases = [row[0] for row in await phases.fetchall()]

    async def whole_dump(self) -> None:
        """Keep the whole schema, ours included."""
        command = [str(self.bin_dir / "pg_dump"), "-s", "--restrict-key=x", self.stage.dsn]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == 0
        self.dumps.append(out.decode())

    def kills(self, *names: str) -> int:
        """Count the kills at a step's barriers."""
        return sum(name.partition(".")[0] in names for name in self.killed)


def deal(chance: random.Random) -> list[dict[str, int]]:
    """Deal all barriers out, each with the time at which the worker is killed there; the last share is empty."""
    names = chance.sample(REACHED, len(REACHED))
    turns = {name: chance.randint(1, TURNS.get(name.partition(".")[0], 1)) for name in names}
    return [{name: turns[name] for name in names[lane::LANES]} for lane in range(LANES)] + [{}]


@pytest.mark.early
@pytest.mark.timeout(1500)
async def test_a_worker_killed_at_every_barrier_in_turn_changes_nothing_of_the_outcome(
    postgres: EmbeddedPostgres, temporal: LocalTemporal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = seeded()
    async with AsyncExitStack() as stack:
        lanes = []
        for share in deal(chance):
            dsn = await stack.enter_async_context(database(postgres))
            stage = await stack.enter_async_context(staged(temporal, dsn, tmp_path, monkeypatch))
            conn = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            lanes.append(Watched(stage, conn, postgres.bin_dir, share))
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(there_and_back_and_there_again(lane))
        for lane in lanes:
            print(" ".join(lane.killed) or "no kill")  # noqa: T201  (shown with a failure)
        never = sorted(name for lane in lanes for name in lane.left)
        assert not never, f"barriers that no step reached as often as asked: {never}"
        assert sorted(name for lane in lanes for name in lane.killed) == sorted(REACHED)
        *killed, calm = lanes
        for lane in killed:
            assert lane.dumps == calm.dumps, f"what is left differs after {lane.killed}"


async def there_and_back_and_there_again(lane: Watched) -> None:
    """Migrate to soak, roll back, migrate to the end; look at everything on the way."""
    stage, conn = lane.stage, lane.conn
    await create_tables(conn)
    before = lane.dump()
    plan = stage.plan(STARS, MOOD, CREW, *BOUND, *INDEXES, **PLAN)
    async with Load(stage.dsn, pause_s=PAUSE_S) as load, lane.workers():
        await stage.start(plan)
        await at_soak(lane, load)
        await stage.act("abort", reason="test")
        assert (await ended(stage)).state is State.ROLLED_BACK
        assert lane.dump() == before
        await lane.whole_dump()
        await each_undo_once(lane)
        await load.working()
        await stage.start(plan)
        await at_soak(lane, load)
        await load.deploy()
        await stage.act("advance")
        assert (await ended(stage)).state is State.DONE
        await load.working(new=10)
        await load.end()
        await lane.whole_dump()
    await load.verify(conn, new=True)
    assert await number(conn, "SELECT count(*) FROM public_v2.shops WHERE crew = id") == 500
    assert (await audit.verify(conn)).intact
    assert await number(conn, "SELECT count(*) FROM pgduet.audit WHERE action = 'cutover'") == 2
    await work_was_bounded(lane, load)


async def create_tables(conn: Connection) -> None:
    """Create a table on which clients work, of many pages, and one on which nobody does."""
    await create_reviews(conn, 0)
    await conn.execute(f"ALTER TABLE public.reviews SET (fillfactor = {FILL_PERCENT})".encode())
    await conn.execute(MANY.format(ROWS).encode())
    await conn.execute(SHOPS.encode())
    await conn.execute(MOVES.encode())
    await conn.execute("VACUUM ANALYZE")


async def at_soak(lane: Watched, load: Load) -> None:
    """Wait for soak, and look at both versions while clients use them."""
    attempt = len(lane.dumps) + 1
    # Asking the workflow all the time would keep the machine busy.
    while lane.phases[attempt - 1 :] != [Phase.SOAK]:
        await asyncio.sleep(WATCH_EVERY_S)
    await lane.stage.waits("window", Phase.SOAK, PATIENCE_S)
    await load.working(new=10)
    verified = await lane.stage.act("verify")
    assert verified.message.startswith("0 of "), verified
    differing = """
        SELECT count(*) FROM public_v1.reviews o FULL JOIN public_v2.reviews n USING (id)
        WHERE o.rating::int IS DISTINCT FROM n.stars
    """
    assert await number(lane.conn, differing) == 0


async def ended(stage: Harness) -> Status:
    """Wait for the end."""
    return await stage.result(PATIENCE_S)


async def each_undo_once(lane: Watched) -> None:
    """Every undo in its order; one that was killed after its commit may be told twice, but has nothing left to do."""
    cursor = await lane.conn.execute(
        "SELECT action FROM pgduet.audit WHERE action = ANY (%s) ORDER BY seq", (list(UNDOS),)
    )
    found = [row[0] for row in await cursor.fetchall()]
    assert [name for name, _ in groupby(found)] == list(UNDOS)
    for name, times in UNDOS.items():
        again = lane.kills(BARRIER_OF.get(name, name), "constraint") * times
        assert times <= found.count(name) <= times + again, (name, found, lane.killed)
    saved = "SELECT count(*) - count(DISTINCT (relation, mapping, side, key)) FROM pgduet_archive.value"
    assert await number(lane.conn, saved) == 0, "a value was archived twice"


async def work_was_bounded(lane: Watched, load: Load) -> None:
    """A killed batch is done again, and nothing else: what was written is what was needed, and a batch for each kill."""
    conn = lane.conn
    assert await number(conn, "SELECT count(DISTINCT range) FROM public.moves") >= 2 * RANGES
    assert await number(conn, "SELECT count(*) FROM public.moves WHERE now <= was") == 0, "a cursor went back"
    filled = "SELECT coalesce(sum(rows_done), 0) FROM pgduet.backfill_range WHERE relation LIKE '%reviews%'"
    pages = "SELECT block_to FROM pgduet.backfill_range WHERE relation LIKE '%reviews%' ORDER BY migration_id, part DESC LIMIT 1"
    batch = FIRST_PAGES * -(-ROWS // await number(conn, pages))
    restored = await number(conn, "SELECT count(*) FROM pgduet_archive.value WHERE restored_at IS NOT NULL")
    await conn.execute("SELECT pg_stat_force_next_flush()")
    written = await number(conn, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'reviews'")
    again = written - load.updates - await number(conn, filled) - restored
    # Each range may have had a batch under way; the first and the last of each backfill meet clients' row locks, and wait.
    for each in await filled_each(conn):
        assert ROWS - len(load.ledger) <= each <= ROWS + len(load.ledger), "rows and cursor disagree"
    bound = (lane.kills("batch") * RANGES + 4) * batch + 10 * (1 + len(lane.killed))
    assert again <= bound, f"{written} row versions, {load.updates} of clients: {again} too many, a batch is {batch}"


async def filled_each(conn: Connection) -> list[int]:
    """Give the rows that each attempt's backfill says it has filled; clients' own writes fill the others."""
    cursor = await conn.execute(
        "SELECT sum(rows_done)::int FROM pgduet.backfill_range WHERE relation LIKE '%reviews%' GROUP BY migration_id"
    )
    return [row[0] for row in await cursor.fetchall()]


async def number(conn: Connection, query: str) -> int:
    """Ask for one number."""
    row = await (await conn.execute(query.encode())).fetchone()
    assert row is not None
    return int(row[0])
