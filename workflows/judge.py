"""Judges measurements against the plan's criteria; pure, so that the same evidence always gives the same verdict."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pgduet.messages import Parity, Traffic
    from pgduet.plan.policy import Policy

NOISE_MS = 1.0
"""Differences of latency below this are the machine's, not the version's."""


def judge_traffic(since: Traffic, now: Traffic, policy: Policy) -> tuple[Traffic, tuple[str, str] | None]:
    """Give a bake's own traffic, and the criterion that it breaches with the reason, if any."""
    bake = now.since(since)
    limits = policy.shift
    if bake.reads_new and bake.errors_new / bake.reads_new > limits.max_error_ratio:
        return bake, ("error_ratio", f"{bake.errors_new} of {bake.reads_new} reads of the new version failed")
    if bake.old_ms is None or bake.new_ms is None:
        return bake, None
    if limits.max_latency_ms is not None and bake.new_ms > limits.max_latency_ms:
        return bake, (
            "latency",
            f"reads of the new version take {bake.new_ms:.2f} ms (limit {limits.max_latency_ms:g} ms)",
        )
    slower = bake.new_ms > limits.max_latency_ratio * bake.old_ms and bake.new_ms - bake.old_ms > NOISE_MS
    if slower:
        ratio = bake.new_ms / bake.old_ms
        detail = (
            f"reads of the new version take {ratio:.2f} × those of the old one (limit {limits.max_latency_ratio:g} ×)"
        )
        return bake, ("latency", detail)
    return bake, None


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
