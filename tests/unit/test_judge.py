"""The verdict on a bake: the same evidence, the same answer."""

from datetime import UTC, datetime

import pytest

from pgduet.messages import Parity, Traffic
from pgduet.plan.policy import Policy
from pgduet.workflows.judge import describe, judge_traffic


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
