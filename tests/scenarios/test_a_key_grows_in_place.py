"""A primary key turns from int into bigint under clients of both versions, with all that refers to it and upserts of hot keys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
from support.asking import client_error
from support.cycle import QUICK
from support.harness import schema_dump
from support.mechanics import mechanics
from support.mutants import Clause, must_fail
from support.pgbench import Pgbench
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.operations import declare
from pgduet.phases import Phase, State

ROWS, MANY = 2_000, 1_000_000
TABLES = """
CREATE TABLE public.reviews (id serial PRIMARY KEY, n int NOT NULL DEFAULT 0, note text);
CREATE INDEX reviews_n ON public.reviews (n);
CREATE TABLE public.replies (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    review int NOT NULL REFERENCES public.reviews ON DELETE CASCADE);
CREATE INDEX replies_review ON public.replies (review);
CREATE TABLE public.stars (review int PRIMARY KEY REFERENCES public.reviews ON UPDATE CASCADE, stars int);
INSERT INTO public.reviews (note) SELECT 'note ' || i FROM generate_series(1, {rows}) i;
INSERT INTO public.replies (review) SELECT i FROM generate_series(1, {rows}) i;
"""
GROWS: list[dict[str, Any]] = [
    {"alter_column": {"table": "public.reviews", "column": "id", "type": "bigint"}},
    {"alter_column": {"table": "public.replies", "column": "review", "type": "bigint"}},
]
POLICY = QUICK | {"soak": {"window_s": 3600, "legacy_idle_s": 0.5}}
ERRORS = "clients saw errors"
HOT = r"""
\set hot random(2000001, 2000005)
\set other random(2000001, 2000005)
INSERT INTO reviews (id, n, note) VALUES (:hot, 1, 'hot') ON CONFLICT (id) DO UPDATE SET n = reviews.n + 1;
INSERT INTO reviews (id, n, note) VALUES (:hot, 1, 'hot') ON CONFLICT (id) DO UPDATE SET id = excluded.id, n = excluded.n;
INSERT INTO reviews (id, n, note) VALUES (:other, 1, 'hot') ON CONFLICT DO NOTHING;
UPDATE reviews SET n = n + 1 WHERE id = :other;
DELETE FROM reviews WHERE id = :hot;
"""
"""Keys that are absent half of the time, each wanted by everybody."""
ALL_THERE = rf"""
\set id random(1, {ROWS})
INSERT INTO reviews (note) VALUES ('{{name}}') RETURNING id AS made \gset
INSERT INTO replies (review) VALUES (:made), (:id);
INSERT INTO stars VALUES (:id, 1) ON CONFLICT (review) DO UPDATE SET stars = excluded.stars;
UPDATE reviews SET n = n + 1 WHERE id = :id;
{HOT}
"""
MOMENTS = [
    f"{name}.after_commit"
    for name in ("dual_write", "publish", "index", "constraint", "flip", "undo_cutover", "undo_verify", "contract")
]


@contextmanager
def holding(clients: list[Pgbench]) -> Iterator[None]:
    """At each moment go on only when all clients have written again."""

    async def hook() -> None:
        await asyncio.gather(*(each.working() for each in clients))

    for name in MOMENTS:
        barriers.HOOKS[name] = hook
    try:
        yield
    finally:
        for name in MOMENTS:
            del barriers.HOOKS[name]


class Clients:
    """Those who are at work; what any of them has seen go wrong ends the test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.working: list[Pgbench] = []
        self.until = AsyncExitStack()

    async def begin(self, name: str, path: str, clients: int = 3) -> None:
        """Let clients of a version in."""
        script = ALL_THERE.format(name=name)
        each = Pgbench(self.world, name, script, clients=clients, protocol="prepared", search_path=path)
        await self.until.enter_async_context(each)
        self.working.append(each)

    async def end(self) -> None:
        """Let all go: each has seen no error, and everything that was acknowledged to it is there."""
        for each in self.working:
            assert each.errors == [], ERRORS
        while self.working:
            each = self.working.pop()
            done, failed = await each.end()
            assert (each.errors, failed) == ([], 0), ERRORS
            assert await each.written() == done, "what was acknowledged is not there"


@asynccontextmanager
async def clients_of(world: World) -> AsyncIterator[Clients]:
    """Give clients that are gone at the end."""
    found = Clients(world)
    async with found.until:
        yield found


@pytest.mark.parametrize("rows", [ROWS, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
async def test_clients_of_both_versions_see_no_error_there_and_back_and_to_the_end(world: World, rows: int) -> None:
    await world.conn.execute(TABLES.format(rows=rows).encode())
    stage, patience_s = world.stage, 30 + rows / 5_000
    plan = stage.plan(*GROWS, **POLICY)
    async with stage.worker(), clients_of(world) as clients:
        for last in (False, True):
            turn = f"{last}"
            await clients.begin(f"base {turn}", "public")
            with holding(clients.working):
                await stage.start(plan)
                await stage.waits("gate", Phase.SHADOW, patience_s)
                await clients.begin(f"v1 {turn}", "public_v1")
                await clients.begin(f"v2 {turn}", "public_v2")
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK, patience_s)
                await many_rows_at_once(world)
                error = await client_error(world.conn, "INSERT INTO public_v2.reviews (id) VALUES (3000000000)")
                assert error is not None
                assert "has no equivalent in version 1" in str(error)
                if last:
                    await clients.end()
                    await clients.begin("v2 to the end", "public_v2")
                    await stage.act("advance")
                else:
                    clients.working.clear()
                    await clients.until.aclose()
                    await stage.act("abort")
                status = await stage.result(patience_s)
                assert status.state is (State.DONE if last else State.ROLLED_BACK)
        await clients.end()
    assert await world.one("SELECT count(*) FROM reviews JOIN replies r ON r.review = reviews.id") > rows
    largest = await world.one("SELECT max(id) FROM reviews WHERE id < 2000000")
    assert await world.one("INSERT INTO reviews DEFAULT VALUES RETURNING id") > largest, "the next number is taken"
    await world.conn.execute("SELECT setval('reviews_id_seq', (2 ^ 31)::bigint)")
    assert await world.one("INSERT INTO reviews DEFAULT VALUES RETURNING id") == 2**31 + 1
    assert await world.one("INSERT INTO replies (review) VALUES (2147483649) RETURNING review") == 2**31 + 1


async def many_rows_at_once(world: World) -> None:
    """Name more keys in one statement than a lock table has room for."""
    for schema in ("public", "public_v2"):
        insert = f"INSERT INTO {schema}.reviews (id) SELECT 3000000 + i FROM generate_series(1, 20000) i"
        await world.conn.execute(insert.encode())
        await world.conn.execute("DELETE FROM public.reviews WHERE id >= 3000000")


async def upserted(world: World, least: int = 4_000) -> None:
    """Upsert the same few keys as fast as the server can, by both versions, once there are two unique indexes."""
    await world.conn.execute(TABLES.format(rows=ROWS).encode())
    async with mechanics(world.stage.dsn, GROWS[0]) as m:
        await m.published()
        for index in declare.early(m.table):
            await m.conn.execute(declare.build(m.table, index).sql)
        script = HOT + "INSERT INTO reviews (note) VALUES ('{}');\n"
        async with AsyncExitStack() as stack:
            clients = [
                Pgbench(world, path, script.format(path), clients=8, protocol="prepared", search_path=path, rate=None)
                for path in ("public", "public_v2")
            ]
            for each in clients:
                await stack.enter_async_context(each)
            for each in clients:
                await each.working(least)
            assert [error for each in clients for error in each.errors] == [], ERRORS
        assert (await m.compare()).mismatches == 0


async def test_upserts_of_absent_hot_keys_are_never_refused(world: World) -> None:
    await upserted(world)


UNCLAIMED = Clause("whoever inserts a key claims it", "rekey", "claim_body", "INSERT INTO {claims} VALUES ({key});")
UNLOCKED = Clause("a row that is there stays there", "rekey", "claim_body", "FOR KEY SHARE", "")


@on_newest
@pytest.mark.parametrize("mutant", [UNCLAIMED, UNLOCKED], ids=lambda mutant: mutant.name)
async def test_without_the_clause_they_are(world: World, mutant: Clause) -> None:
    # A race, and a busy machine has fewer of them.
    await must_fail(upserted(world, 16_000), mutant, says=ERRORS)


@pytest.mark.long
@on_newest
async def test_every_step_that_is_cut_short_is_taken_again(world: World) -> None:
    await world.conn.execute(TABLES.format(rows=ROWS).encode())
    stage, cut = world.stage, Cut()
    before = schema_dump(world.server.bin_dir, stage.dsn)
    async with stage.worker():
        for last in (False, True):
            with cut.everywhere():
                await stage.start(stage.plan(*GROWS, **POLICY))
                await stage.waits("gate", Phase.SHADOW, 60)
                await stage.act("advance")
                await stage.waits("window", Phase.SOAK, 60)
                await stage.act("advance" if last else "abort")
                assert (await stage.result(60)).state is (State.DONE if last else State.ROLLED_BACK)
            if not last:
                assert schema_dump(world.server.bin_dir, stage.dsn) == before
    assert cut.times > 20
    assert await world.one("SELECT count(*) FROM pg_constraint WHERE conname LIKE '\\_pgduet%'") == 0
    assert await world.one("INSERT INTO reviews DEFAULT VALUES RETURNING id") == ROWS + 1


class Cut:
    """Cuts a step short at a moment's first, third, seventh, fifteenth … time, so that it is taken again and gets further."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Cut before and after each commit."""
        names = [name.replace("after", when) for name in MOMENTS for when in ("before", "after")]
        names = [name for name in names if name in barriers.NAMES]
        for name in names:
            barriers.HOOKS[name] = self._hook()
        try:
            yield
        finally:
            for name in names:
                del barriers.HOOKS[name]

    def _hook(self) -> Callable[[], Awaitable[None]]:
        seen, due = 0, 1

        async def hook() -> None:
            nonlocal seen, due
            seen += 1
            if seen == due:
                due = 2 * due + 1
                self.times += 1
                raise psycopg.OperationalError("the connection went")

        return hook
