"""Scenario 18: int to bigint; after the cutover new clients write values beyond 2³¹; then the migration is rolled back.

Under `unmappable: refuse` such a value is refused at the write, with a clear error. Under `archive` it is accepted, and the
rollback saves it exactly and names its row. Nowhere is it ever truncated.
"""

from typing import Any

import psycopg
from support.asking import client_error, one
from support.harness import Harness, pgduet, schema_dump
from support.mutants import Clause, Code, must_fail
from support.worlds import World

from pgduet.activities import verify
from pgduet.local import EmbeddedPostgres
from pgduet.phases import Authority, Phase, State

Connection = psycopg.AsyncConnection[Any]

TABLE = """
CREATE TABLE public.views (id int PRIMARY KEY, hits int NOT NULL, page text NOT NULL DEFAULT '/');
INSERT INTO public.views SELECT i, i * 1000 FROM generate_series(1, 500) i;
"""
LARGEST = 2**31 - 1
BEYOND = {7: 2**31, 8: 3_000_000_007, 9: 2**63 - 1, 601: 5_000_000_001}
WRAPPED = {value: (value + 2**31) % 2**32 - 2**31 for value in BEYOND.values()}
"""What a careless cast would leave of them."""


def to_bigint(stage: Harness, unmappable: str, down: str) -> dict[str, Any]:
    """Write the plan."""
    change = {"alter_column": {"table": "public.views", "column": "hits", "type": "bigint", "down": down}}
    return stage.plan(change, unmappable=unmappable)


async def write(conn: Connection, key: int, value: int) -> psycopg.Error | None:
    """Write as a new client: an update, or an insert where there is no such row."""
    if await one(conn, "SELECT count(*) FROM public_v2.views WHERE id = %s", (key,)):
        return await client_error(conn, "UPDATE public_v2.views SET hits = %s WHERE id = %s", (value, key))
    return await client_error(conn, "INSERT INTO public_v2.views (id, hits) VALUES (%s, %s)", (key, value))


async def in_soak(stage: Harness, plan: dict[str, Any]) -> None:
    """Go as far as the soak."""
    await stage.start(plan)
    assert (await stage.waits("window", Phase.SOAK)).authority is Authority.NEW


async def refused(stage: Harness, conn: Connection, down: str) -> None:
    await conn.execute(TABLE.encode())
    async with stage.worker():
        await in_soak(stage, to_bigint(stage, "refuse", down))
        for key, value in BEYOND.items():
            error = await write(conn, key, value)
            assert error is not None, "a value without an old equivalent is accepted"
            assert isinstance(error, psycopg.errors.DataException)
            assert error.diag.message_primary == 'value of hits in "public"."views" has no equivalent in version 1'
            assert "policy.unmappable: refuse" in (error.diag.message_hint or "")
        assert await write(conn, 10, LARGEST) is None, "what the old version can hold is not refused"
        await stage.act("abort")
        status = await stage.result()
    assert (status.state, status.archived) == (State.ROLLED_BACK, 0)
    assert await one(conn, "SELECT hits FROM public.views WHERE id = 10") == LARGEST
    assert await one(conn, "SELECT sum(hits) FROM public.views WHERE id IN (7, 8, 9)") == 24_000
    assert await one(conn, "SELECT count(*) FROM public.views") == 500


async def archived(stage: Harness, conn: Connection, postgres: EmbeddedPostgres, down: str) -> None:
    await conn.execute(TABLE.encode())
    before = schema_dump(postgres.bin_dir, stage.dsn)
    plan = to_bigint(stage, "archive", down)
    async with stage.worker():
        await in_soak(stage, plan)
        for key, value in BEYOND.items():
            assert await write(conn, key, value) is None
        await conn.execute("UPDATE public_v1.views SET page = '/old' WHERE id = 7")
        assert await stored(conn, "public_v2.views") == BEYOND, "a new client's value is not what it wrote"
        await stage.act("abort")
        status = await stage.result()
        kept = await conn.execute("SELECT (key ->> 'id')::int, (kept ->> 'hits')::bigint FROM pgduet_archive.value")
        assert dict(await kept.fetchall()) == BEYOND, "a value that only the new version could hold is lost"
        assert (status.state, status.archived) == (State.ROLLED_BACK, len(BEYOND))
        code, said = await pgduet(stage, "report", "review-stars", "--database", stage.database)
        assert code == 0, said
        assert "archived" in said
        assert schema_dump(postgres.bin_dir, stage.dsn) == before
        for key, value in (await stored(conn, "public.views")).items():
            assert value != WRAPPED[BEYOND[key]], "a value is truncated"
            assert value in {LARGEST, key * 1000}
        await in_soak(stage, plan)
        assert await stored(conn, "public_v2.views") == BEYOND


async def stored(conn: Connection, relation: str) -> dict[int, int]:
    """Give the rows in question as a version shows them."""
    query = f"SELECT id, hits FROM {relation} WHERE id = ANY (%s)"
    return dict(await (await conn.execute(query.encode(), (list(BEYOND),))).fetchall())


DOWNS = {"refuse": "hits::int", "archive": f"least(hits, {LARGEST})::int"}


async def test_under_refuse_a_value_beyond_is_refused_at_the_write(world: World) -> None:
    await refused(world.stage, world.conn, DOWNS["refuse"])


async def test_under_refuse_a_down_that_cuts_it_off_is_seen_through(stage: Harness, conn: Connection) -> None:
    await refused(stage, conn, DOWNS["archive"])


async def test_under_archive_a_value_beyond_is_saved_and_named_at_rollback(world: World) -> None:
    await archived(world.stage, world.conn, world.server, DOWNS["archive"])


async def test_without_the_words_in_the_trigger_such_a_value_is_accepted(stage: Harness, conn: Connection) -> None:
    lossy = Clause(
        "the comparison with what `up` gives back", "sync", "down_refuse", "IF {lossy} THEN", "IF false THEN"
    )
    says = "a value without an old equivalent is accepted"
    await must_fail(refused(stage, conn, DOWNS["archive"]), lossy, says=says)


async def test_without_the_archive_such_a_value_is_lost(
    stage: Harness, conn: Connection, postgres: EmbeddedPostgres
) -> None:
    unsaved = Code("the archive", verify._save_new, "count += (await work.conn.execute(query)).rowcount", "count += 1")
    says = "a value that only the new version could hold is lost"
    await must_fail(archived(stage, conn, postgres, DOWNS["archive"]), unsaved, says=says)


async def test_under_archive_a_down_that_raises_keeps_the_old_value_and_a_new_row_is_refused_in_clear_words(
    stage: Harness, conn: Connection
) -> None:
    await conn.execute(TABLE.encode())
    async with stage.worker():
        await in_soak(stage, to_bigint(stage, "archive", DOWNS["refuse"]))
        assert await write(conn, 7, BEYOND[7]) is None
        error = await write(conn, 601, BEYOND[601])
        assert isinstance(error, psycopg.errors.DataException)
        assert error.diag.message_primary == 'value of hits in "public"."views" has no equivalent in version 1'
        assert "let it fall back on a value" in (error.diag.message_hint or "")
        assert await stored(conn, "public_v1.views") == {7: 7000, 8: 8000, 9: 9000}
        await stage.act("abort")
        assert (await stage.result()).archived == 1
    assert await stored(conn, "public.views") == {7: 7000, 8: 8000, 9: 9000}
