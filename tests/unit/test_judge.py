"""The verdict on a bake: the same evidence, the same answer."""

from datetime import UTC, datetime

import pytest

from pgduet.messages import Parity, Traffic
from pgduet.plan.policy import Policy
from pgduet.workflows.judge import Breach, describe, judge_look, judge_traffic, too_few
from pgduet.workflows.steering import look_every_s


def policy(**shift: object) -> Policy:
    return Policy.model_validate({"shift": shift})


def test_only_what_happened_during_the_bake_counts() -> None:
    since = Traffic(reads_new=1000, errors_new=900)
    bake, breach = judge_traffic(since, Traffic(reads_new=3000, errors_new=900), policy())
    assert (bake.reads_new, bake.errors_new, breach) == (2000, 0, None)


def test_too_many_errors_breach_the_error_ratio() -> None:
    _, breach = judge_traffic(Traffic(), Traffic(reads_new=1000, errors_new=2), policy(max_error_ratio=0.001))
    assert breach == ("error_ratio", "2 of 1000 reads of the new version failed")


def test_an_error_ratio_at_the_limit_passes() -> None:
    assert judge_traffic(Traffic(), Traffic(reads_new=1000, errors_new=1), policy(max_error_ratio=0.001))[1] is None


def test_slower_reads_breach_the_latency_ratio() -> None:
    _, breach = judge_traffic(Traffic(), Traffic(old_ms=4.0, new_ms=8.0), policy(max_latency_ratio=1.25))
    assert breach is not None
    assert breach[0] == "latency"
    assert "2.00 ×" in breach[1]


def test_a_ratio_of_tiny_latencies_is_noise() -> None:
    assert judge_traffic(Traffic(), Traffic(old_ms=0.2, new_ms=0.6), policy(max_latency_ratio=1.25))[1] is None


def test_an_absolute_ceiling_holds_whatever_the_old_version_takes() -> None:
    _, breach = judge_traffic(Traffic(), Traffic(old_ms=9.0, new_ms=9.0), policy(max_latency_ms=5))
    assert breach == ("latency", "reads of the new version take 9.00 ms (limit 5 ms)")


@pytest.mark.parametrize("traffic", [Traffic(), Traffic(old_ms=1.0), Traffic(new_ms=1.0)])
def test_what_was_not_measured_breaches_nothing(traffic: Traffic) -> None:
    assert judge_traffic(Traffic(), traffic, policy())[1] is None


def test_a_comparison_names_its_first_rows() -> None:
    parity = Parity(
        checked_at=datetime(2026, 1, 1, tzinfo=UTC),
        rows=10,
        mismatches=1,
        violations=2,
        examples=[{"relation": "public.t", "key": {"id": 7}, "kind": "mismatch"}],
    )
    assert describe(parity) == "1 of 10 rows differ, 2 break a coming constraint: public.t {'id': 7} (mismatch)"


def routed(old: int, new: int, old_ms: float, new_ms: float) -> Traffic:
    """What routers report whose reads take so long."""
    return Traffic(reads_old=old, reads_new=new, seconds_old=old * old_ms / 1000, seconds_new=new * new_ms / 1000)


def test_reads_of_routers_that_are_twice_as_slow_breach_the_latency_ratio() -> None:
    for judge in (judge_traffic, judge_look):
        _, breach = judge(Traffic(), routed(400, 400, 10, 20), policy())
        assert breach == Breach(
            "latency", "routers' reads of the new version take 20.00 ms, 2.00 × those of the old one (limit 1.25 ×)"
        )


@pytest.mark.parametrize(
    "traffic",
    [routed(400, 400, 10, 12), routed(400, 30, 10, 90), routed(400, 60, 10, 15), routed(9000, 9000, 0.1, 0.25)],
    ids=["within the limit", "too few", "within chance", "a fraction of a millisecond"],
)
def test_reads_of_routers_that_are_not_surely_slower_pass(traffic: Traffic) -> None:
    assert judge_traffic(Traffic(), traffic, policy())[1] is None


def test_the_ceiling_holds_for_reads_of_routers() -> None:
    _, breach = judge_traffic(Traffic(), routed(0, 60, 1, 9), policy(max_latency_ms=5))
    assert breach == ("latency", "60 reads of the new version take 9.00 ms (limit 5 ms)")


def test_one_read_in_two_hundred_that_differs_breaches_at_once() -> None:
    _, breach = judge_look(Traffic(), Traffic(compared=2000, mismatches=10), policy())
    assert breach == ("mismatch", "10 of 2000 reads of the new version differ from the old one's")


def test_what_differs_from_itself_is_no_mismatch() -> None:
    noisy = Traffic(compared=2000, mismatches=10, calibrated=1000, noise=5)
    assert judge_traffic(Traffic(), noisy, policy())[1] is None
    breach = judge_traffic(Traffic(), noisy.model_copy(update={"mismatches": 30}), policy())[1]
    assert breach is not None
    assert breach.detail.endswith("differ from the old one's, 5 of 1000 of the old one from itself")


@pytest.mark.parametrize(
    ("errors", "reads", "early"),
    [
        (1, 3, False),
        (1, 100, False),
        (2, 100, False),
        (3, 100, True),
        (30, 1000, True),
        (1100, 1_000_000, False),
        (1500, 1_000_000, True),
        (900_000, 1_000_000, True),
    ],
)
def test_while_a_step_bakes_only_what_is_no_chance_stops_it(errors: int, reads: int, *, early: bool) -> None:
    seen = Traffic(reads_new=reads, errors_new=errors)
    assert (judge_look(Traffic(), seen, policy(max_error_ratio=0.001))[1] is not None) is early
    assert judge_traffic(Traffic(), seen, policy(max_error_ratio=0.001))[1] is not None


def test_where_no_error_is_borne_the_first_one_stops_it() -> None:
    assert judge_look(Traffic(), Traffic(reads_new=1, errors_new=1), policy(max_error_ratio=0))[1] is not None


def test_a_step_needs_reads_where_routers_are_there() -> None:
    assert too_few(Traffic(reads_new=99, routers_new=2), policy()) == (
        "reads of the new version by routers: 99 of 100 (2 routers there)"
    )
    assert too_few(Traffic(reads_new=100, routers_new=2), policy()) is None
    assert too_few(Traffic(), policy()) is None, "the census and the engine's probe decide"


@pytest.mark.parametrize(("bake_s", "every_s"), [(0.2, 1), (30, 1), (600, 10), (3600, 30), (86_400, 172.8)])
def test_a_bake_is_looked_at_often_but_not_without_bound(bake_s: float, every_s: float) -> None:
    assert look_every_s(bake_s) == every_s
