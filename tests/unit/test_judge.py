"""The verdict on a bake: the same evidence, the same answer."""

import re
from datetime import UTC, datetime

import pytest

from pgduet.messages import Parity, Traffic
from pgduet.plan.policy import Policy
from pgduet.sketch import Sketch
from pgduet.workflows.judge import Breach, describe, judge_look, judge_traffic, may_be_chance, too_few
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


FAILED = [
    ("both versions", (50, 1000), (5, 90), True),
    ("one of ten", (0, 1000), (1, 10), True),
    ("the new one alone", (0, 1000), (5, 90), False),
    ("the new one surely more", (1, 1000), (90, 90), False),
    ("nobody reads the old one", (0, 0), (5, 90), False),
]


@pytest.mark.parametrize(("old", "new", "chance"), [each[1:] for each in FAILED], ids=[each[0] for each in FAILED])
def test_what_may_be_chance_or_both_versions_fault_is_told_from_the_new_one_s(
    old: tuple[int, int], new: tuple[int, int], *, chance: bool
) -> None:
    bake = Traffic(errors_old=old[0], reads_old=old[1], errors_new=new[0], reads_new=new[1])
    told, breach = judge_traffic(Traffic(), bake, policy())
    assert breach is not None, "reads go back all the same"
    assert breach.criterion == "error_ratio"
    assert may_be_chance(breach, told, policy()) is chance


def test_a_mismatch_that_may_be_chance_is_told_from_one_that_is_not() -> None:
    few, many = Traffic(compared=100, mismatches=1), Traffic(compared=10_000, mismatches=100)
    for bake, chance in ((few, True), (many, False)):
        told, breach = judge_traffic(Traffic(), bake, policy(max_mismatch_ratio=0.005))
        assert breach is not None
        assert may_be_chance(breach, told, policy(max_mismatch_ratio=0.005)) is chance


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


def around(reads: int, ms: float, *wild_ms: float) -> dict[str, int]:
    """Give the sketch of reads that take from half to twice a time, and of some more."""
    sketch = Sketch()
    for number in range(reads):
        sketch.add(ms / 1000 * 2 ** (2 * (number * 0.618 % 1) - 1))
    for wild in wild_ms:
        sketch.add(wild / 1000)
    return sketch.written()


def more(before: dict[str, int], then: dict[str, int]) -> dict[str, int]:
    """Add a sketch to another."""
    sketch = Sketch.read(before)
    sketch.merge(Sketch.read(then))
    return sketch.written()


def told(old: dict[str, int], new: dict[str, int]) -> Traffic:
    """Give what routers report with the sketches of their reads."""
    means = {"seconds_old": 1e9, "seconds_new": 1e9}
    return Traffic(reads_old=sum(old.values()), reads_new=sum(new.values()), latency_old=old, latency_new=new, **means)


def test_half_of_the_reads_twice_as_slow_breach_the_latency_ratio() -> None:
    for judge in (judge_traffic, judge_look):
        bake, breach = judge(Traffic(), told(around(900, 10), around(100, 20)), policy())
        assert breach is not None
        assert breach.criterion == "latency"
        assert re.fullmatch(
            r"routers' reads of the new version take (19|20|21)\.\d+ ms \(p50 of 100\), (1\.8|1\.9|2\.\d)\d × those of the old one"
            r" \(limit 1\.25 ×\)",
            breach.detail,
        )
        assert bake.p50_old_ms == pytest.approx(10, rel=0.1)
        assert (bake.latency_old, bake.latency_new) == ({}, {}), "people are told quantiles"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (around(400, 10), around(400, 10, 60_000)),
        (around(400, 10), around(60, 10, 60_000, 60_000)),
        (around(5000, 10), around(5000, 10, *[3000] * 40)),
        (around(400, 10), around(49, 90)),
        (around(400, 10), around(400, 12)),
        (around(9000, 0.1), around(9000, 0.25)),
        ({}, around(400, 10)),
        (around(400, 10), {}),
    ],
    ids=["one wild", "two wild of few", "under a hundredth", "too few", "within the limit", "tiny", "no old", "no new"],
)
def test_what_a_few_reads_take_or_what_few_reads_tell_breaches_nothing(
    old: dict[str, int], new: dict[str, int]
) -> None:
    assert judge_traffic(Traffic(), told(old, new), policy())[1] is None


def test_a_slow_part_of_the_reads_breaches_though_half_of_them_are_as_fast_as_ever() -> None:
    slow = told(around(5000, 10), around(5000, 10, *[90] * 150))
    breach = judge_traffic(Traffic(), slow, policy())[1]
    assert breach is not None
    assert "(p99 of 5150)" in breach.detail


def test_where_nobody_reads_the_old_version_any_more_it_counts_what_its_reads_took_before() -> None:
    before = told(around(900, 10, *[1] * 10), around(100, 10))
    after = before.model_copy(update={"latency_new": more(before.latency_new, around(300, 20))})
    breach = judge_look(before, after, policy())[1]
    assert breach is not None
    assert breach.detail.endswith("those of the old one before (limit 1.25 ×)")
    same = before.model_copy(update={"latency_new": more(before.latency_new, around(300, 10))})
    assert judge_look(before, same, policy())[1] is None


def test_the_ceiling_is_for_half_of_the_reads() -> None:
    assert judge_traffic(Traffic(), told({}, around(60, 4, 60_000)), policy(max_latency_ms=5))[1] is None
    breach = judge_traffic(Traffic(), told({}, around(200, 9)), policy(max_latency_ms=5))[1]
    assert breach is not None
    assert breach.detail.endswith("(p50 of 200; limit 5 ms)")


def test_means_of_routers_that_tell_no_more_breach_the_latency_ratio() -> None:
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
