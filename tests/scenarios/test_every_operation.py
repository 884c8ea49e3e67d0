"""Every operation goes through one cycle on every PostgreSQL: start, roll back, start, complete, with both versions in use."""

import pytest
from support.cycle import Case, Cycle
from support.operations import CASES, WORLD
from support.worlds import World


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_start_roll_back_start_complete(world: World, case: Case) -> None:
    await world.conn.execute(WORLD.encode())
    if case.setup:
        await world.conn.execute(case.setup.encode())
    await Cycle(world.stage, world.conn, world.server.bin_dir, case).go()
