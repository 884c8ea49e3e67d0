"""Every operation goes through one cycle on every PostgreSQL: start, roll back, start, complete, with both versions in use."""

import pytest
from support.attached import CASES as ATTACHED
from support.constraint_operations import CASES as CONSTRAINTS
from support.cycle import Case, Cycle
from support.merged import CASES as MERGED
from support.operations import CASES, WORLD
from support.rekeyed import CASES as REKEYED
from support.shaped import CASES as SHAPED
from support.witness import Witness
from support.worlds import World


@pytest.fixture
async def cycle(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> Cycle:
    """Give a case in a database of its own."""
    await world.conn.execute(WORLD.encode())
    if case.setup:
        await world.conn.execute(case.setup.encode())
    found = Cycle(world.stage, world.conn, world.server.bin_dir, case)
    found.witness = Witness.watch(monkeypatch)
    return found


@pytest.mark.parametrize("case", [*CASES, *CONSTRAINTS, *REKEYED, *SHAPED, *MERGED, *ATTACHED], ids=str)
async def test_start_roll_back_start_complete(cycle: Cycle) -> None:
    await cycle.go()
