"""The pace of censuses in a soak: close where something is decided or changes, wide in between."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import pytest

from pgduet.messages import CensusResult, Client
from pgduet.plan.policy import Soak
from pgduet.workflows.pace import CENSUS_EVERY_S, CensusPace

DAY_S = 86_400.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seen(*who: str, side: Literal["old", "new"] = "old") -> CensusResult:
    return CensusResult(clients=[Client(who=each, version="1", side=side, via="view", last_seen=NOW) for each in who])


def pauses(soak: Soak, census: CensusResult | None = None) -> list[tuple[float, float]]:
    """Go through a whole window in which always the same is seen: what was left at each census, and the pause after it."""
    pace, left_s, found = CensusPace(soak), soak.window_s, []
    while left_s > 0:
        pause_s = pace.pause_s(census or seen(), left_s)
        found.append((left_s, pause_s))
        left_s -= pause_s
    assert left_s == 0, "the last pause ends with the window"
    return found


def test_a_quiet_soak_of_two_weeks_widens_to_minutes_and_is_close_again_in_the_time_that_decides() -> None:
    soak = Soak()
    found = pauses(soak)
    assert [pause for _, pause in found[:6]] == [30, 60, 120, 240, 300, 300]
    assert all(pause <= 300 for _, pause in found)
    deciding = [pause for left, pause in found if left <= soak.legacy_idle_s]
    assert set(deciding) == {CENSUS_EVERY_S}
    assert sum(deciding) == soak.legacy_idle_s


def test_who_comes_or_goes_brings_the_close_pace_back() -> None:
    pace = CensusPace(Soak())
    quiet = [pace.pause_s(seen("billing"), 14 * DAY_S) for _ in range(4)]
    assert all(later > earlier for earlier, later in pairwise(quiet))
    assert pace.pause_s(seen("billing", "reports"), 13 * DAY_S) == CENSUS_EVERY_S
    assert pace.pause_s(seen("billing", "reports"), 13 * DAY_S) == 2 * CENSUS_EVERY_S
    assert pace.pause_s(seen("reports"), 13 * DAY_S) == CENSUS_EVERY_S
    assert pace.pause_s(seen("reports", side="new"), 13 * DAY_S) == CENSUS_EVERY_S


def test_when_the_window_is_over_the_pace_is_close() -> None:
    pace = CensusPace(Soak())
    for _ in range(10):
        pace.pause_s(seen("billing"), 14 * DAY_S)
    assert pace.pause_s(seen("billing"), 0) == CENSUS_EVERY_S
    assert pace.pause_s(seen("billing"), -5) == CENSUS_EVERY_S


@pytest.mark.parametrize("window_s", [20.0, 3_600.0, DAY_S, 30 * DAY_S])
def test_the_pause_is_a_small_share_of_the_window(window_s: float) -> None:
    soak = Soak(window_s=window_s, legacy_idle_s=0, census_every_s=DAY_S)
    assert max(pause for _, pause in pauses(soak)) <= max(0.5, window_s / 500)


def test_a_window_no_longer_than_what_decides_is_close_all_the_way() -> None:
    assert {pause for _, pause in pauses(Soak(window_s=600, legacy_idle_s=600))} == {CENSUS_EVERY_S}
    assert {pause for _, pause in pauses(Soak(window_s=10, legacy_idle_s=1))} == {1}
