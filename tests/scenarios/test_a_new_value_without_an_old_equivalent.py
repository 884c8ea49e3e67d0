"""Scenario 3: a new client writes a value with no old equivalent, then an old client updates an unrelated column.

Under `unmappable: archive` the new value survives, and a rollback archives and reports it. Under `refuse` the write is refused
with a clear error.
"""

from typing import Any

import pytest
from psycopg import errors
from support.harness import schema_dump
from support.mutants import Clause, Mutant, must_fail
from support.plans import create_reviews, replace
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

ROWS = 500
UPPER = replace(
    "public.reviews",
    {"note": "upper(remark)"},
    {"name": "remark", "type": "text", "nullable": True, "up": "lower(note)"},
)
"""A map that loses: what is neither all upper nor all lower case has no equivalent on the other side."""
SHADOW = {
    "shadow_table": {
        "table": "public.reviews",
        "columns": [{"name": "remark", "type": "text", "up": "lower(note)"}],
        "replaces": ["note"],
        "down": {"note": "upper(remark)"},
    }
}
"""The same by a second table."""
REMARKS = """
SELECT id, remark, old.note FROM public_v2.reviews JOIN public_v1.reviews old USING (id) WHERE id IN (7, 8, 9) ORDER BY id
"""

ONLY_A_CHANGE_IS_MAPPED = Clause(
    "only a change of what is mapped is mapped", "sync", "update_mapping", "IF {sources_changed} AND", "IF true AND"
)
WHAT_DIFFERS_IS_SAVED = Clause(
    "what `up` does not give back is saved", "rows", "archive", "WHERE {pages} AND {differs}", "WHERE {pages} AND false"
)
THERE_AND_BACK = Clause(
    "a value must come back the same, there and back", "sync", "down_refuse", "IF {lossy} THEN", "IF false THEN"
)
LOST = "the new client's value is lost"
NOT_REPORTED = "the rollback does not report what it takes away"
TAKEN = "a value is taken that the old version cannot give back"


async def accepted_and_archived(world: World, operation: dict[str, Any] = UPPER) -> None:
    """Write such values and go back; they come back with the next start."""
    stage = world.stage
    await create_reviews(world.conn, ROWS)
    await world.conn.execute("UPDATE reviews SET note = 'NOTE ' || id")
    before = schema_dump(world.server.bin_dir, stage.dsn)
    plan = stage.plan(operation, unmappable="archive")
    async with stage.worker():
        await stage.start(plan)
        await stage.waits("window", Phase.SOAK)
        await world.conn.execute("UPDATE public_v2.reviews SET remark = 'Mixed' WHERE id = 7")
        await world.conn.execute("UPDATE public_v2.reviews SET remark = 'Mixed too' WHERE id IN (8, 9)")
        # Old clients: of an unrelated column, and of the very value, through the view and the table.
        await world.conn.execute("UPDATE public_v1.reviews SET rating = '1' WHERE id = 7")
        await world.conn.execute("UPDATE reviews SET note = 'LATER' WHERE id = 9")
        kept = [(7, "Mixed", "MIXED"), (8, "Mixed too", "MIXED TOO"), (9, "later", "LATER")]
        assert await world.rows(REMARKS) == kept, LOST
        assert (await stage.act("verify")).message.startswith("0 of "), "each side follows from the other: no drift"
        await stage.act("abort")
        status = await stage.result()
        assert status.archived == 2, NOT_REPORTED
        assert status.state is State.ROLLED_BACK
        assert schema_dump(world.server.bin_dir, stage.dsn) == before
        assert await world.one("SELECT note FROM reviews WHERE id = 7") == "MIXED"
        saved = await world.rows("SELECT key, kept FROM pgduet_archive.value ORDER BY key ->> 'id'")
        assert saved == [({"id": 7}, {"remark": "Mixed"}), ({"id": 8}, {"remark": "Mixed too"})], NOT_REPORTED
        await stage.start(plan)
        assert (await stage.waits("window", Phase.SOAK)).restored == 2
        assert await world.rows(REMARKS) == kept, LOST


async def refused(world: World) -> None:
    """Write such a value where the plan says that it is refused, by update and by insert."""
    stage = world.stage
    await create_reviews(world.conn, ROWS)
    await world.conn.execute("UPDATE reviews SET note = 'NOTE ' || id")
    async with stage.worker():
        await stage.start(stage.plan(UPPER, gates={"shadow": "manual"}))
        await stage.waits("gate", Phase.VERIFY)
        for statement in (
            "UPDATE public_v2.reviews SET remark = 'Mixed' WHERE id = 7",
            "INSERT INTO public_v2.reviews (rating, remark) VALUES ('1', 'Mixed')",
        ):
            said = await refusal(world, statement)
            assert said is not None, TAKEN
            assert said.diag.message_primary == ('value of remark in "public"."reviews" has no equivalent in version 1')
            assert "policy.unmappable: refuse" in (said.diag.message_hint or "")
            assert (said.diag.schema_name, said.diag.table_name) == ("public", "reviews")
        assert await world.one("SELECT note FROM public_v1.reviews WHERE id = 7") == "NOTE 7"
        assert await world.one("SELECT count(*) FROM reviews") == ROWS
        await world.conn.execute("UPDATE public_v2.reviews SET remark = 'mixed' WHERE id = 7")
        assert (await stage.act("verify")).message.startswith("0 of ")


async def refusal(world: World, statement: str) -> errors.DataException | None:
    """Run a statement; gives the error that refuses it."""
    try:
        await world.conn.execute(statement.encode())
    except errors.DataException as error:
        return error
    return None


async def test_under_archive_it_survives_old_clients_a_rollback_and_comes_back(world: World) -> None:
    await accepted_and_archived(world)


async def test_under_refuse_the_write_is_refused_before_commit_with_what_to_know(world: World) -> None:
    await refused(world)


@on_newest
async def test_so_it_does_where_the_table_gets_another_shape(world: World) -> None:
    await accepted_and_archived(world, SHADOW)


@on_newest
@pytest.mark.parametrize(
    ("mutant", "says"),
    [
        pytest.param(ONLY_A_CHANGE_IS_MAPPED, LOST, id=ONLY_A_CHANGE_IS_MAPPED.name),
        pytest.param(WHAT_DIFFERS_IS_SAVED, NOT_REPORTED, id=WHAT_DIFFERS_IS_SAVED.name),
    ],
)
async def test_without_the_clause_it_is_lost(world: World, mutant: Mutant, says: str) -> None:
    await must_fail(accepted_and_archived(world), mutant, says=says)


@on_newest
async def test_without_the_way_there_and_back_it_is_taken(world: World) -> None:
    await must_fail(refused(world), THERE_AND_BACK, says=TAKEN)
