"""Scenario 1: pgbench inserts and updates `reviews` while a plan turns `rating` from text into int, rolls back and completes."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from support.mutants import Clause, Code, must_fail
from support.pgbench import Pgbench
from support.plans import create_reviews
from support.worlds import World, on_newest

from pgduet import barriers
from pgduet.activities.dual_write import DualWrite
from pgduet.phases import Phase, State

ROWS = 2_000
POLICY: dict[str, Any] = {
    "backfill": {"parallelism": 1},
    "shadow": {"min_samples": 1},
    "shift": {"steps": [100], "bake_s": 0},
    "soak": {"legacy_idle_s": 0.5},
    "gates": {"contract": "auto"},
}
RATING = {
    "alter_column": {
        "table": "public.reviews",
        "column": "rating",
        "type": "int",
        "up": "rating::int",
        "down": "rating::text",
    }
}
SCRIPT = r"""
\set id random(1, {rows})
\set rating random(1, 5)
INSERT INTO reviews (rating, note) VALUES (:rating::{kind}, '{name}');
UPDATE reviews SET rating = :rating::{kind} WHERE id = :id;
SELECT rating, note FROM reviews WHERE id = :id;
"""
MOMENTS = [
    name
    for name in barriers.NAMES
    if name.endswith(".after_commit") and name.split(".")[0] not in {"batch", "record", "note", "open", "claim"}
]
"""After each change of the schema or of who decides: that is where clients get time to see what it means to them."""

UNBOUND = Clause(
    "a new column is bound by nothing until its sync is there",
    "columns",
    "add",
    "ADD COLUMN IF NOT EXISTS {column} {type}",
    "ADD COLUMN IF NOT EXISTS {column} {type}, ADD CHECK ({column} IS NOT NULL) NOT VALID",
)
TRIGGERS_GO_FIRST = Code(
    "the triggers go before the columns that they fill",
    DualWrite.undo_dual_write,
    "for table in design.synced:",
    "for table in ():",
)
ERRORS = "clients saw errors"


def pgbench(world: World, name: str, kind: str = "text", **how: Any) -> Pgbench:
    return Pgbench(world, name, SCRIPT.format(rows=ROWS, kind=kind, name=name), **how)


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


async def started_rolled_back_and_completed(world: World) -> None:
    """Take `rating` there, back, there again and to the end, under clients of both versions."""
    stage = world.stage
    await create_reviews(world.conn, ROWS)
    clients: list[Pgbench] = []
    old = [
        pgbench(world, "base", clients=3, protocol="simple", search_path="public"),
        pgbench(world, "v1", clients=2, protocol="prepared", search_path="public_v1,public"),
    ]
    new = [
        pgbench(world, f"v2-{turn}", "int", clients=2, protocol="prepared", search_path="public_v2") for turn in "ab"
    ]

    async def begin(*some: Pgbench) -> None:
        for each in some:
            await running.enter_async_context(each)
            clients.append(each)

    async def end(*some: Pgbench) -> None:
        nobody_has_seen_an_error()
        for each in some:
            clients.remove(each)
            done, failed = await each.end()
            assert failed == 0, f"{ERRORS}: {failed} of {each.name} failed"
            assert await each.written() == done, "what was acknowledged is not there"

    def nobody_has_seen_an_error() -> None:
        assert [error for each in (*old, *new) if each.process for error in each.errors] == [], ERRORS

    async with stage.worker(), AsyncExitStack() as running:
        await begin(*old)
        with holding(clients):
            await stage.start(stage.plan(RATING, **POLICY))
            await stage.waits("window", Phase.SOAK)
            await begin(new[0])
            await end(new[0])
            await stage.act("abort")
            assert (await stage.result()).state is State.ROLLED_BACK
            nobody_has_seen_an_error()
            await stage.start(stage.plan(RATING, **POLICY))
            await stage.waits("window", Phase.SOAK)
            await begin(new[1])
            await end(*old)
            await stage.act("advance")
            assert (await stage.result()).state is State.DONE
            await end(new[1])
    kind = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'reviews'::regclass AND attname = 'rating'"
    assert await world.one(kind) == "integer"


async def test_clients_that_never_retry_see_no_error(world: World) -> None:
    await started_rolled_back_and_completed(world)


@on_newest
@pytest.mark.parametrize("mutant", [UNBOUND, TRIGGERS_GO_FIRST], ids=lambda mutant: mutant.name)
async def test_without_the_clause_they_see_errors(world: World, mutant: Clause | Code) -> None:
    await must_fail(started_rolled_back_and_completed(world), mutant, says=ERRORS)
