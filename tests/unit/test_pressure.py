"""What the gauges mean: limits, slowing down before them, patience that ends, and reasons that know none."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.plans import parsed

from pgduet.messages import SliceResult
from pgduet.plan.models import Policy
from pgduet.postgres import pressure, strain
from pgduet.postgres.concurrency import Concurrency
from pgduet.postgres.gauges import Blocked, Reading, Standby
from pgduet.postgres.pressure import TRICKLE, UNSEEN, Pressure, Verdict
from pgduet.postgres.probed import Probed
from pgduet.postgres.trail import Age, Trail

NOW = datetime(2026, 11, 26, 14, 2, 11, tzinfo=UTC)
PART = "public.reviews/0"
SLOT: dict[str, Any] = {
    "name": "etl", "active": True, "retained_mb": 10.0, "safe_mb": None, "unreserved": False, "keep_mb": None,
}  # fmt: skip
VACUUM: dict[str, Any] = {"relation": "public.reviews", "auto": True, "wraparound": False, "running_s": 10.0}
PROBE = {"name": "queue", "sql": "SELECT 1", "max": 100.0}


def policy(**backfill: Any) -> Policy:
    return parsed(backfill=backfill).policy


class Server:
    """A server as the gauges show it, and its clock."""

    def __init__(self, clock: Callable[[float], None]) -> None:
        self.reading = Reading(at=NOW, number=1)
        self.clock = clock
        self.turn = asyncio.Lock()

    def look(self) -> Reading:
        return self.reading

    def later(self, seconds: float, **seen: Any) -> Reading:
        """Look again after a while."""
        old = self.reading
        self.clock(seconds)
        self.reading = Reading(number=old.number + 1, at=old.at + timedelta(seconds=seconds), blocked=old.blocked)
        self.reading.looked_s = pressure.time.monotonic()
        for name, value in seen.items():
            setattr(self.reading, name, value)
        return self.reading


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Give a server whose time is the test's."""
    now = [1000.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    def go_on(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(pressure, "time", Clock)
    made = Server(go_on)
    made.reading.looked_s = now[0]
    return made


def crowd(share: float) -> Concurrency:
    """Clients who leave it so much of its time."""
    clients = Concurrency()
    clients.share, clients.usual, clients.beside, clients.limit = share, 2.04, 3.5, 1.25
    return clients


def judged(server: Server, plan: Policy | None = None, **seen: Any) -> Verdict:
    server.later(1, **seen)
    return Pressure(server, plan or policy(), PART).check()


def reason(verdict: Verdict) -> str:
    assert verdict.throttled is not None
    return verdict.throttled.reason


def test_without_strain_it_works_at_its_full_rate(server: Server) -> None:
    assert judged(server, standbys=[Standby("paris", 0.0)], slots=[SLOT]) == Verdict(1.0)


@pytest.mark.parametrize(
    ("seen", "plan", "told"),
    [
        ({"standbys": [Standby("paris", 6.2), Standby("rome", 0.0)]}, {}, "replica lag 6 s (limit 5 s): paris"),
        ({"standbys": [Standby("rome", None)]}, {}, "replica lag not known (limit 5 s): rome does not answer, or is no standby"),
        ({"slots": [SLOT | {"retained_mb": 5000.0}]}, {}, 'WAL retained by slots 5000 MB (limit 4096 MB): "etl"'),
        ({"slots": [SLOT, SLOT | {"name": "x", "active": False, "retained_mb": 11.0}]}, {"max_wal_retained_mb": 10},
         'WAL retained by slots 11 MB (limit 10 MB): "x", inactive'),
        ({"slots": [SLOT | {"unreserved": True, "safe_mb": -3.0, "keep_mb": 64.0}]}, {},
         'slot "etl" is about to be lost: 0 MB of WAL left to it (limit 6 MB, a tenth of max_slot_wal_keep_size)'),
        ({"slots": [SLOT | {"safe_mb": 6.0, "keep_mb": 64.0}]}, {},
         'slot "etl" is about to be lost: 6 MB of WAL left to it (limit 6 MB, a tenth of max_slot_wal_keep_size)'),
        ({"vacuums": [VACUUM]}, {}, "autovacuum of public.reviews running for 10 s (limit 60 s)"),
        ({"vacuums": [VACUUM | {"wraparound": True, "running_s": 900.0}]}, {},
         "autovacuum of public.reviews to prevent wraparound, running for 900 s"),
        ({"probed": {"queue": Probed(101.0)}}, {"probes": [PROBE]}, "probe queue 101 (limit 100)"),
        ({"probed": {"queue": Probed(None, "query canceled (57014)")}}, {"probes": [PROBE]},
         "probe queue failed (limit 100): query canceled (57014)"),
        ({}, {"probes": [PROBE]}, "probe queue has not answered (limit 100)"),
        ({"probed": {"queue": Probed(1.0)}}, {"probes": [PROBE | {"max": 0.0}]}, "probe queue 1 (limit 0)"),
    ],
)  # fmt: skip
def test_beyond_a_limit_it_holds_and_says_figure_and_limit(
    server: Server, seen: dict[str, Any], plan: dict[str, Any], told: str
) -> None:
    verdict = judged(server, policy(**plan), **seen)
    assert (reason(verdict), verdict.rate, verdict.stops) == (told, 0.0, False)


@pytest.mark.parametrize("found", [Probed(0.0), Probed(None), Probed(-5.0), Probed(80.0)])
def test_a_probe_within_its_limit_or_with_nothing_to_tell_holds_nothing(server: Server, found: Probed) -> None:
    assert judged(server, policy(probes=[PROBE]), probed={"queue": found}) == Verdict()


def test_it_slows_down_as_a_limit_comes_near(server: Server) -> None:
    rates = [judged(server, standbys=[Standby("paris", lag_s)]).rate for lag_s in (0, 2.5, 3, 4, 4.9, 5, 5.1)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[1], rates[-1]) == (1.0, 0.0)
    assert 0.7 < rates[2] < 0.9
    assert rates[4] >= strain.SLOWEST
    assert rates[5] == pytest.approx(strain.SLOWEST, abs=0.01), "at its limit it is not yet beyond it"
    told = judged(server, standbys=[Standby("paris", 4.0)]).throttled
    assert told is not None
    assert (told.kind, told.since) == ("replica_lag", None)


def test_the_worst_strain_is_told(server: Server) -> None:
    verdict = judged(server, standbys=[Standby("a", 4.0), Standby("b", 9.0)], slots=[SLOT | {"retained_mb": 4100.0}])
    assert reason(verdict).endswith("b")


def test_an_ordinary_vacuum_is_given_way_to_and_then_shared_with(server: Server) -> None:
    verdict = judged(server, vacuums=[VACUUM | {"running_s": 61.0}])
    assert verdict.rate == pytest.approx(strain.BESIDE_VACUUM)
    assert judged(server, policy(max_vacuum_wait_s=0), vacuums=[VACUUM]).rate == pytest.approx(strain.BESIDE_VACUUM)


def test_patience_ends_and_it_goes_on_at_a_quarter_of_its_rate(server: Server) -> None:
    behind = {"standbys": [Standby("paris", 9.0)]}
    range_ = Pressure(server, policy(max_hold_s=100), PART)
    server.later(1, **behind)
    first = range_.check().throttled
    assert first is not None
    assert first.since == NOW + timedelta(seconds=1)
    assert first.until == first.since + timedelta(seconds=100)
    # A moment of relief changes nothing.
    server.later(40)
    assert range_.check() == Verdict()
    server.later(5, **behind)
    again = range_.check().throttled
    assert again is not None
    assert (again.since, again.until) == (first.since, first.until)
    server.later(60, **behind)
    slow = range_.check()
    assert (slow.rate, slow.stops) == (TRICKLE, False)
    assert slow.throttled is not None
    assert slow.throttled.since == first.until
    # After a tenth of it without a hold, it begins anew.
    server.later(1)
    range_.check()
    server.later(10)
    range_.check()
    server.later(1, **behind)
    held = range_.check().throttled
    assert held is not None
    assert held.since == server.reading.at


def test_the_patience_of_the_slices_before_counts(server: Server) -> None:
    held = Pressure(server, policy(), PART, NOW - timedelta(seconds=3599))
    server.later(2, standbys=[Standby("paris", 9.0)])
    assert held.check().rate == TRICKLE
    assert held.applied(SliceResult(cursor_block=0, finished=False)).held_since == NOW - timedelta(seconds=3599)


def test_what_would_be_lost_for_good_is_waited_for_without_end(server: Server) -> None:
    lost = {"slots": [SLOT | {"unreserved": True}], "standbys": [Standby("paris", 1e6)]}
    held = Pressure(server, policy(max_hold_s=0), PART)
    server.later(1e6, **lost)
    verdict = held.check()
    assert (verdict.rate, reason(verdict)[:10]) == (0.0, 'slot "etl"')
    assert verdict.throttled is not None
    assert verdict.throttled.until is None


@pytest.mark.parametrize(
    ("controls", "told"),
    [
        ({"paused": True}, "paused"),
        ({"held": [PART]}, "parallelism: fewer ranges at once than were begun"),
        ({"window": {"from": "22:00", "to": "05:00", "timezone": "Europe/Berlin"}},
         "outside its window: 22:00-05:00 Europe/Berlin (opens 2026-11-26 21:00 UTC)"),
    ],
)  # fmt: skip
def test_an_operator_and_the_window_end_the_slice_and_no_patience_runs(
    server: Server, controls: dict[str, Any], told: str
) -> None:
    held = Pressure(server, policy(max_hold_s=0), PART, NOW)
    server.later(1e4, controls=controls, standbys=[Standby("paris", 9.0)])
    verdict = held.check()
    assert (reason(verdict), verdict.stops, held.held_since) == (told, True, None)
    result = held.applied(SliceResult(cursor_block=0, finished=False))
    assert (result.paused, result.closed_until is not None) == ("window" not in controls, "window" in controls)


def test_an_operators_limits_are_obeyed_and_taken_back(server: Server) -> None:
    plan = policy(window={"from": "22:00", "to": "05:00", "timezone": "UTC"})
    range_ = Pressure(server, plan, PART)
    server.later(1)
    assert range_.check().stops
    server.later(1, controls={"window": "none", "max_replica_lag_s": 100, "pause_ms": 7, "batch_target_ms": 9},
                 standbys=[Standby("paris", 9.0)])  # fmt: skip
    assert range_.check() == Verdict()
    assert (range_.pace.pause_ms, range_.pace.target_ms) == (7, 9)
    server.later(1)
    assert range_.check().stops


def test_clients_who_wait_make_batches_smaller_at_once_and_larger_again_slowly(server: Server) -> None:
    range_ = Pressure(server, policy(batch_target_ms=24, pause_ms=2), PART)

    def looked(blocked: int, waited_ms: float = 0) -> Verdict:
        server.later(0.25).blocked.append(Blocked(len(server.reading.blocked) + 1, blocked, waited_ms))
        return range_.check()

    verdict = looked(2, 20.0)
    assert (range_.pace.target_ms, range_.pace.pause_ms) == (12, 4)
    assert (verdict.rate, reason(verdict)) == (
        1.0,
        "2 clients waited for rows of a batch, 20 ms: batches of 12 ms (limit 24 ms), pauses of 4 ms",
    )
    looked(1, 60.0)
    assert range_.pace.target_ms == 24 * pressure.LEAST_EASE, "who waits for longer than two batches is not asked twice"
    looks = 0
    while range_.pace.target_ms < 24:
        verdict = looked(0)
        looks += 1
    assert (verdict, range_.pace.pause_ms) == (Verdict(), 2)
    assert looks > 30
    # A batch can be longer than the time between two looks: none of them is lost.
    for number, clients in ((900, 1), (901, 0)):
        server.reading.blocked.append(Blocked(number, clients, 20.0))
    assert range_.check().throttled is not None


def test_gauges_that_do_not_answer_hold_it(server: Server) -> None:
    range_ = Pressure(server, policy(), PART)
    server.clock(7)
    assert reason(range_.check()) == "the server was last looked at 7 s ago (limit 6 s)"


def test_what_may_not_be_seen_is_said(server: Server) -> None:
    range_ = Pressure(server, policy(), PART)
    server.later(1, sees_all=False)
    range_.check()
    assert range_.applied(SliceResult(cursor_block=0, finished=False)).unmeasured == UNSEEN


# The trail


def test_a_standbys_lag_is_the_age_of_the_oldest_wal_that_it_lacks() -> None:
    trail = Trail()
    for now_s, position in ((0, 100), (1, 200), (2, 200), (3, 300)):
        trail.mark(position, now_s)
    assert trail.age(300, 3) == Age(0.0)
    assert trail.age(299, 5) == Age(2.0)
    assert trail.age(200, 5) == Age(2.0), "nothing was written between 1 and 3: nothing is missing for longer"
    assert trail.age(100, 5) == Age(4.0)
    assert trail.age(99, 5) == Age(5.0, least=True)


def test_a_server_whose_wal_begins_anew_begins_a_new_trail() -> None:
    trail = Trail()
    trail.mark(1000, 0)
    trail.mark(10, 5)
    assert trail.age(9, 6) == Age(1.0, least=True)


def test_a_trail_does_not_grow_without_end() -> None:
    trail = Trail()
    for number in range(20_000):
        trail.mark(number, number)
    assert len(trail.positions) < 15_000
    assert trail.age(19_000, 20_000) == Age(20_000 - 19_001)


def test_clients_who_take_longer_leave_it_a_share_of_its_time_and_smaller_batches(server: Server) -> None:
    found = Pressure(server, policy(batch_target_ms=40), PART)
    server.later(1, clients=crowd(0.1))
    verdict = found.check()
    assert verdict.rate == 0.1
    assert reason(verdict) == "clients run 2.0 statements at a time, 3.5 beside the backfill (limit 1.25 x)"
    assert found.pace.target_ms == 5.0
    server.later(1, clients=crowd(0.5))
    assert (found.check().rate, found.pace.target_ms) == (0.5, 20.0)
    server.later(1, clients=crowd(1.0))
    assert found.check() == Verdict(1.0)
    assert found.pace.target_ms == 40.0


def test_a_batch_target_below_the_small_one_is_kept_to(server: Server) -> None:
    found = Pressure(server, policy(batch_target_ms=2), PART)
    server.later(1, clients=crowd(0.02))
    found.check()
    assert found.pace.target_ms == 2.0


async def test_while_clients_are_given_way_to_ranges_take_turns(server: Server) -> None:
    found = Pressure(server, policy(), PART)
    server.later(1, clients=crowd(0.5))
    async with found.turn():
        assert server.turn.locked()
    server.later(1, clients=crowd(1.0))
    async with found.turn():
        assert not server.turn.locked()


def test_a_strain_that_holds_binds_more_than_clients_who_slow_it_down(server: Server) -> None:
    assert reason(judged(server, clients=crowd(0.1), standbys=[Standby("paris", 6.0)])).startswith("replica lag")
