"""Judges measurements against the plan's criteria; pure, so that the same evidence always gives the same verdict."""

import math
from typing import NamedTuple

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Parity, Traffic
    from pgduet.plan.policy import Policy
    from pgduet.sketch import Sketch

NOISE_MS = 1.0
"""Differences of latency below this are the machine's, not the version's."""
NOISE_OF_MANY_MS = 0.2
"""The same for medians of many reads."""
TIMED_LEAST = 50
"""Fewer reads say nothing worth judging."""
QUANTILES = {"p50": 0.5, "p99": 0.99}
HARDLY_EVER = 0.001
MANY = 500


class Breach(NamedTuple):
    """A criterion of the plan that is not held, and what was measured."""

    criterion: str
    detail: str


def judge_traffic(since: Traffic, now: Traffic, policy: Policy) -> tuple[Traffic, Breach | None]:
    """Give a bake's own traffic, and the criterion that it breaches, if any."""
    bake = now.since(since)
    return bake.told(), _breach(since, bake, policy, early=False)


def judge_look(since: Traffic, now: Traffic, policy: Policy) -> tuple[Traffic, Breach | None]:
    """Judge a bake that goes on: as at its end, but shares of few reads count only where they cannot be chance."""
    bake = now.since(since)
    return bake.told(), _breach(since, bake, policy, early=True)


def too_few(bake: Traffic | None, policy: Policy) -> str | None:
    """Say that a step has brought fewer reads than the plan asks for, where there are routers to bring them."""
    return short_of_reads(bake, policy) if bake and bake.routers_new else None


def short_of_reads(bake: Traffic, policy: Policy) -> str | None:
    """Say the same whether there are routers or not."""
    wanted, there = policy.shift.min_samples, bake.routers_new
    if bake.reads_new >= wanted:
        return None
    return f"reads of the new version by routers: {bake.reads_new} of {wanted} ({there or 'no'} routers there)"


def _breach(since: Traffic, bake: Traffic, policy: Policy, *, early: bool) -> Breach | None:
    limits = policy.shift
    if _exceeds(bake.errors_new, bake.reads_new, limits.max_error_ratio, early=early):
        beside = f", {bake.errors_old} of {bake.reads_old} of the old one" if bake.errors_old else ""
        return Breach("error_ratio", f"{bake.errors_new} of {bake.reads_new} reads of the new version failed{beside}")
    differs = judge_compared(bake, limits.max_mismatch_ratio, early=early)
    return differs or _slow_routers(since, bake, policy) or _slow_probe(bake, policy)


def judge_compared(seen: Traffic, limit: float, *, early: bool) -> Breach | None:
    """Judge the reads that routers made through both versions, beside how often the old one differs from itself."""
    own = seen.noise / seen.calibrated if seen.calibrated else 0.0
    if not _exceeds(seen.mismatches, seen.compared, limit + own, early=early):
        return None
    beside = f", {seen.noise} of {seen.calibrated} of the old one from itself" if seen.calibrated else ""
    return Breach(
        "mismatch", f"{seen.mismatches} of {seen.compared} reads of the new version differ from the old one's{beside}"
    )


def may_be_chance(breach: Breach, seen: Traffic, policy: Policy) -> bool:
    """Tell whether what failed or differed may be chance, or no fault of the new version: the old one's reads fail as well.

    So it is while a server is replaced. It is reason enough to send reads back, but not to undo what took days.
    """
    if breach.criterion == "mismatch":
        return judge_compared(seen, policy.shift.max_mismatch_ratio, early=True) is None
    own = seen.errors_old / seen.reads_old if seen.reads_old else 0.0
    sure = _exceeds(seen.errors_new, seen.reads_new, policy.shift.max_error_ratio + own, early=True)
    return breach.criterion == "error_ratio" and not sure


def judge_failed(seen: Traffic, limit: float, *, early: bool) -> Breach | None:
    """Judge the reads of the new version that routers made beside: in shadow it is all that tells that it raises."""
    tried = seen.compared + seen.failed
    if not _exceeds(seen.failed, tried, limit, early=early):
        return None
    return Breach("error_ratio", f"{seen.failed} of {tried} reads of the new version that nobody waited for failed")


def _slow_routers(since: Traffic, bake: Traffic, policy: Policy) -> Breach | None:
    """Judge what routers' reads take: half of them, and all but the slowest hundredth.

    Quantiles do not move by a few wild reads, as a mean does, and are judged only where there are enough reads for them.
    Where hardly anybody reads the old version any more, it is compared by what its reads took before; by the half of them
    alone, for the slowest ones are what a moment makes of them.
    """
    old, new = bake.sketch_old, bake.sketch_new
    if not old.total and not new.total:
        return _slow_by_mean(bake, policy)
    if new.total < TIMED_LEAST:
        return None
    beside = old.total >= TIMED_LEAST
    if breach := _too_slow(new, policy):
        return breach
    breach = _slower(new, old if beside else since.sketch_old, "p50", policy, NOISE_OF_MANY_MS, beside=beside)
    return breach or (_slower(new, old, "p99", policy, NOISE_MS, beside=True) if beside else None)


def _too_slow(new: Sketch, policy: Policy) -> Breach | None:
    limit, (above, _) = policy.shift.max_latency_ms, new.surely(0.5)
    if limit is None or above is None or 1000 * above <= limit:
        return None
    half_ms = 1000 * (new.quantile(0.5) or 0)
    return Breach(
        "latency", f"routers' reads of the new version take {half_ms:.2f} ms (p50 of {new.total}; limit {limit:g} ms)"
    )


def _slower(new: Sketch, old: Sketch, quantile: str, policy: Policy, noise_ms: float, *, beside: bool) -> Breach | None:
    limit, share = policy.shift.max_latency_ratio, QUANTILES[quantile]
    (above, _), (_, below) = new.surely(share), old.surely(share)
    if above is None or below is None or old.total < TIMED_LEAST:
        return None
    if above <= limit * below or 1000 * (above - below) <= noise_ms:
        return None
    new_ms, old_ms = (1000 * (sketch.quantile(share) or 0) for sketch in (new, old))
    before = "" if beside else " before"
    return Breach(
        "latency",
        f"routers' reads of the new version take {new_ms:.2f} ms ({quantile} of {new.total}), {new_ms / old_ms:.2f} ×"
        f" those of the old one{before} (limit {limit:g} ×)",
    )


def _slow_by_mean(bake: Traffic, policy: Policy) -> Breach | None:
    """Judge the mean, where routers of an earlier release tell no more."""
    limits, old, new = policy.shift, bake.reads_old, bake.reads_new
    new_ms = 1000 * bake.seconds_new / new if new else 0.0
    if limits.max_latency_ms is not None and new >= TIMED_LEAST and new_ms > limits.max_latency_ms:
        return Breach(
            "latency", f"{new} reads of the new version take {new_ms:.2f} ms (limit {limits.max_latency_ms:g} ms)"
        )
    if min(old, new) < TIMED_LEAST or not bake.seconds_old:
        return None
    old_ms = 1000 * bake.seconds_old / old
    ratio = new_ms / old_ms
    # A mean of n reads varies by about its own size over the root of n: what is within three times that is chance.
    surely = ratio * (1 - 3 * math.sqrt(1 / old + 1 / new))
    if surely <= limits.max_latency_ratio or new_ms - old_ms <= NOISE_OF_MANY_MS:
        return None
    return Breach(
        "latency",
        f"routers' reads of the new version take {new_ms:.2f} ms, {ratio:.2f} × those of the old one"
        f" (limit {limits.max_latency_ratio:g} ×)",
    )


def _slow_probe(bake: Traffic, policy: Policy) -> Breach | None:
    """Judge the medians of the engine's own reads."""
    limits = policy.shift
    if bake.old_ms is None or bake.new_ms is None:
        return None
    if limits.max_latency_ms is not None and bake.new_ms > limits.max_latency_ms:
        return Breach(
            "latency", f"reads of the new version take {bake.new_ms:.2f} ms (limit {limits.max_latency_ms:g} ms)"
        )
    if bake.new_ms <= limits.max_latency_ratio * bake.old_ms or bake.new_ms - bake.old_ms <= NOISE_MS:
        return None
    ratio = bake.new_ms / bake.old_ms
    return Breach(
        "latency",
        f"reads of the new version take {ratio:.2f} × those of the old one (limit {limits.max_latency_ratio:g} ×)",
    )


def _exceeds(bad: int, of: int, limit: float, *, early: bool) -> bool:
    """Tell whether a share is beyond its limit; early, only where a share at the limit would hardly ever show so many."""
    if not of or bad / of <= limit:
        return False
    return not early or _chance_of_at_least(bad, of * limit) < HARDLY_EVER


def _chance_of_at_least(count: int, expected: float) -> float:
    """Give the chance that so many or more happen where so many are expected (Poisson); 0 far out, where it is nearly that."""
    if count > expected + 10 * math.sqrt(expected) + 20:
        return 0.0
    if expected > MANY:
        return 0.0 if count > expected + 4 * math.sqrt(expected) else 1.0
    term = below = math.exp(-expected)
    for number in range(1, count):
        term *= expected / number
        below += term
    return 1 - below if count else 1.0


def stands_in_the_way(parity: Parity, policy: Policy) -> bool:
    """Tell whether a comparison found what neither publication nor cutover may pass; aggregates have no tolerance."""
    return bool(parity.mismatches > policy.verify.max_drift_rows or parity.violations or parity.off)


def drifted(parity: Parity, policy: Policy) -> bool:
    """Tell whether both versions have come apart beyond what the plan bears; what breaks a coming constraint has not."""
    return bool(parity.mismatches > policy.verify.max_drift_rows or parity.off)


def describe(parity: Parity) -> str:
    """Say what a comparison found, with the first rows by name."""
    rows = "; ".join(f"{row['relation']} {row['key']} ({row['kind']})" for row in parity.examples[:5])
    told = f"{parity.mismatches} of {parity.rows} rows differ, {parity.violations} break a coming constraint"
    told += f": {rows}" if rows else ""
    return "; ".join([told, *(each.told for each in parity.off[:5])])
