"""Both versions write the same rows, through every phase, whatever shape the table is given: nothing is lost, and no error is ours.

Sixteen clients over 4,096 keys put in, count up, take out and move rows; whether both versions see the same is asked in one
snapshot, under load. The way back is gone as well as the way to the end.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import pytest
from psycopg import sql
from support.asking import blocked, client_error
from support.cycle import QUICK
from support.mutants import Clause, must_fail
from support.plans import overlaid
from support.stress import Stress, stress
from support.worlds import World, on_newest

from benchmarks.common import shapes
from benchmarks.common.shapes import Shape
from pgduet.phases import Phase, State

KEYS = 4096
HELD = (Phase.EXPAND, Phase.DUAL_WRITE, Phase.BACKFILL, Phase.VERIFY, Phase.SHADOW, Phase.SHIFT, Phase.CUTOVER)
POLICY = overlaid(
    QUICK,
    {
        "backfill": {"parallelism": 2},
        "shadow": {"min_samples": 50},
        "soak": {"window_s": 3600, "legacy_idle_s": 0.3},
        "gates": {phase.value: "manual" for phase in (*HELD[1:], Phase.SOAK)} | {"contract": "auto"},
        "approvals": {"cutover": 0, "contract": 0},
    },
)
PATIENCE_S = 60.0
LONG_RUNS, LONG = 20, 400
"""How often, and how much each group does in each phase."""
SHORT, HOT = 15, 60
OF_NOBODY = 1_000_000_007
APART = "the versions see different rows"
ERRORS = "clients saw errors"
WRONG = "what was acknowledged is not what is stored"


@dataclass
class Passage:
    """One migration under stress."""

    world: World
    shape: Shape
    clients: Stress
    each: int

    async def there(self) -> None:
        """Go to soak, held in each phase until everybody has written."""
        stage, clients = self.world.stage, self.clients
        clients.come("base", "public", 8)
        clients.come("base too", "public", 8)
        await clients.working(self.each)
        for phase in HELD:
            if phase is Phase.EXPAND:
                await stage.start(stage.plan(*self.shape.operations, **POLICY))
            else:
                await stage.act("advance")
            await stage.gets_to("gate", phase, PATIENCE_S)
            if phase is Phase.EXPAND:
                await clients.leave("base too")
                clients.come("old", "public_v1", 8)
            if phase is Phase.VERIFY:
                await clients.leave("old", "base")
                clients.come("base again", "public", 4)
                clients.come("old again", "public_v1", 4)
                clients.come("new", "public_v2", 8, new=True)
            await self.worked(published=phase in HELD[3:])
        await stage.act("advance")
        await stage.gets_to("window", Phase.SOAK, PATIENCE_S)
        await self.worked(published=True)

    async def worked(self, *, published: bool) -> None:
        """Wait until everybody has written again; with both versions there, they must see the same."""
        await self.clients.working(self.each)
        assert dict(self.clients.ledger.errors) == {}, ERRORS
        if published:
            assert await self.differing() == [], APART

    async def differing(self) -> list[tuple[Any, ...]]:
        """Ask in one snapshot."""
        return await self.world.rows(self.shape.compared("public_v1", "public_v2").as_string())

    async def back(self) -> None:
        """Roll back: new clients leave once the old version is in charge, old ones go on."""
        stage, clients = self.world.stage, self.clients
        await stage.act("abort")
        await clients.working(self.each)
        await clients.leave("new")
        assert (await stage.result(PATIENCE_S)).state is State.ROLLED_BACK
        await clients.leave("old again")
        await clients.working(self.each)
        await clients.leave("base again")
        await self.balanced(self.shape.old.rows)

    async def to_the_end(self) -> None:
        """Contract: old clients leave, new ones go on."""
        stage, clients = self.world.stage, self.clients
        await clients.leave("old again", "base again")
        await stage.act("advance")
        status = await stage.result(PATIENCE_S)
        assert status.state is State.DONE
        await clients.working(self.each)
        await clients.leave("new")
        await self.balanced(self.shape.new.rows)

    async def balanced(self, rows: str) -> None:
        """Compare the ledger with the table itself, now that all have left."""
        ledger = self.clients.ledger
        assert dict(ledger.errors) == {}, ERRORS
        seen = sql.SQL(rows).format(schema=sql.Identifier("public"))
        query = sql.SQL("SELECT count(*), coalesce(sum(number), 0) FROM ({}) AS seen (key, number)").format(seen)
        ((count, total),) = await self.world.rows(query.as_string())
        if self.shape is shapes.MERGED:  # there a row is several
            table = "public.totals" if rows is self.shape.new.rows else "public.lines"
            counted = "sum(lines)" if rows is self.shape.new.rows else "count(*)"
            count = await self.world.one(f"SELECT {counted} FROM {table}")
        assert (count, total) == (ledger.rows, ledger.updates), WRONG


async def cross(world: World) -> None:
    """Have clients of both versions, an old one and then a new one, wait for a row of their own, which somebody holds."""
    more = "UPDATE items SET updates = updates + 1 WHERE id = %s"
    seen = {name: f"-csearch_path={name}" for name in ("public", "public_v1", "public_v2")}
    async with (
        world.client(options=seen["public"]) as holder,
        world.client(options=seen["public_v1"], autocommit=True) as old,
        world.client(options=seen["public_v2"], autocommit=True) as new,
    ):
        await world.conn.execute("INSERT INTO public.items (id) VALUES (%s)", (OF_NOBODY,))
        # Merely locked: who waits first is then the first to have the row as it is.
        await holder.execute("SELECT FROM items WHERE id = %s FOR UPDATE", (OF_NOBODY,))
        writes = []
        for client in (old, new):
            writes.append(asyncio.create_task(client_error(client, more, (OF_NOBODY,))))
            await blocked(world.conn, client.info.backend_pid)
        await holder.commit()
        assert await asyncio.gather(*writes) == [None, None], ERRORS
        taken = "DELETE FROM public_v2.items WHERE id = %s RETURNING updates"
        assert await world.one(taken, (OF_NOBODY,)) == 2, WRONG


async def passed(
    world: World, shape: Shape, *, back: bool, each: int = SHORT, keys: int = KEYS, crossing: bool = False
) -> None:
    """Go there, and back or to the end."""
    async with stress(world.stage.dsn, world.conn, shape, keys) as clients:
        passage = Passage(world, shape, clients, each)
        async with world.stage.worker():
            await passage.there()
            if crossing:
                await cross(world)
            await (passage.back() if back else passage.to_the_end())


every_shape = pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.label)


@on_newest
@every_shape
async def test_nothing_is_lost_in_any_phase(world: World, shape: Shape) -> None:
    await passed(world, shape, back=False)


@on_newest
@pytest.mark.parametrize("shape", [shapes.KEY, shapes.ATTACHED], ids=lambda shape: shape.label)
async def test_nothing_is_lost_on_the_way_back(world: World, shape: Shape) -> None:
    """Of the other shapes, Chinook's plans and the long runs."""
    await passed(world, shape, back=True)


UNLOCKED = Clause(
    "who writes the shadow holds the table's row",
    "shadow",
    "lock_body",
    "{lock}\n",
)


def twice_unique() -> Shape:
    """Give the shape of a table that is unique by an expression, too, which goes along where a row gets another key."""
    put: LiteralString = (
        "INSERT INTO items (id, updates, note) VALUES ({id}, 0, concat('Note ', {id}::int)) ON CONFLICT DO NOTHING"
    )
    side = replace(shapes.SHADOW.old, put=put)
    table = shapes.SHADOW.table + "; CREATE UNIQUE INDEX by_note ON public.items (lower(note))"
    return replace(shapes.SHADOW, table=table, old=side, new=side)


@on_newest
async def test_on_rows_that_everybody_wants_nobody_is_a_deadlock_s_victim(world: World) -> None:
    await passed(world, twice_unique(), back=False, keys=5, each=HOT, crossing=True)


@on_newest
async def test_without_the_clause_somebody_is(world: World) -> None:
    await must_fail(passed(world, twice_unique(), back=False, keys=5, each=HOT, crossing=True), UNLOCKED, says=ERRORS)


@pytest.mark.long
@pytest.mark.timeout(600)
@every_shape
@pytest.mark.parametrize("version", [16, 18], ids=lambda version: f"postgresql-{version}")
@pytest.mark.parametrize("run", range(LONG_RUNS))
async def test_nothing_is_lost_in_twenty_runs(world: World, shape: Shape, run: int) -> None:
    await passed(world, shape, back=run % 2 == 1, each=LONG)
