"""Scenario 17: CREATE INDEX CONCURRENTLY is cancelled half way; the INVALID index that it leaves is found and built again."""

from support.building import NO_BUILD, found, half_way, states
from support.mutants import Clause, must_fail
from support.plans import create_reviews
from support.worlds import World, on_newest

from pgduet.phases import Phase, State

LOOKS_WHETHER_IT_IS_VALID = Clause(
    "an index that is there is asked whether it is valid", "building", "index_state", "i.indisvalid AS", "true AS"
)
INVALID = "the index that the cancelled build left was taken for a good one"


async def cancelled_half_way(world: World) -> None:
    """Cancel a build, look at what becomes of its index, and roll back."""
    stage, conn = world.stage, world.conn
    await create_reviews(conn, 500)
    async with stage.worker():
        async with half_way(stage, conn) as (pid, _):
            await conn.execute("SELECT pg_cancel_backend(%s)", [pid])
            await found(conn, NO_BUILD)
            assert await states(conn) == {"by_note": False}
        await stage.waits("gate", Phase.EXPAND)
        assert await states(conn) == {"by_note": True}, INVALID
        assert await world.rows("SELECT id FROM public_v1.reviews WHERE note = 'note 77'") == [(77,)]
        await stage.act("abort")
        assert (await stage.result()).state is State.ROLLED_BACK
    assert await states(conn) == {}


async def test_the_invalid_index_is_found_and_built_again(world: World) -> None:
    await cancelled_half_way(world)


@on_newest
async def test_without_a_look_whether_it_is_valid_it_stays_invalid(world: World) -> None:
    await must_fail(cancelled_half_way(world), LOOKS_WHETHER_IT_IS_VALID, says=INVALID)
