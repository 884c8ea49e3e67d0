"""The journey is one line with one way back, up to the point of no return."""

import pytest

from pgduet.phases import JOURNEY, TRANSITIONS, Phase


def test_every_phase_but_the_ends_leads_to_the_next() -> None:
    for phase in JOURNEY[: JOURNEY.index(Phase.DONE)]:
        assert JOURNEY[phase.position + 1] in TRANSITIONS[phase]


@pytest.mark.parametrize("phase", JOURNEY[: JOURNEY.index(Phase.CONTRACT)])
def test_before_contract_every_phase_can_be_rolled_back(phase: Phase) -> None:
    assert Phase.ROLLED_BACK in TRANSITIONS[phase]


def test_from_contract_on_there_is_no_way_back() -> None:
    assert TRANSITIONS[Phase.CONTRACT] == {Phase.DONE}
    assert TRANSITIONS[Phase.DONE] == TRANSITIONS[Phase.ROLLED_BACK] == frozenset()


def test_a_phase_is_reached_by_itself_and_by_all_later_ones() -> None:
    assert Phase.BACKFILL.reached(Phase.BACKFILL)
    assert Phase.BACKFILL.reached(Phase.SOAK)
    assert not Phase.SOAK.reached(Phase.BACKFILL)


def test_a_migration_that_was_rolled_back_has_reached_only_that() -> None:
    assert Phase.ROLLED_BACK.reached(Phase.ROLLED_BACK)
    assert not Phase.EXPAND.reached(Phase.ROLLED_BACK)
    assert not Phase.ROLLED_BACK.reached(Phase.DONE)
