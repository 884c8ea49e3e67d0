"""What the gauges mean for a backfill: each strain as a share of its limit. Pure.

At its limit and beyond, a strain holds the backfill; as it comes near, it slows it down, so that the limit is rarely met. A standby
or a slot is given more WAL to carry by every batch, so these count from half or most of their limit. An ordinary vacuum is given
way to for a while, since it makes room that the backfill uses, and then shared with; one against wraparound, and other
holds, for as long as the plan's `max_hold_s`. Clients' statements that take longer than they did slow it down and never hold it.
Only what would be lost for good is given way to without end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pgduet.plan.policy import Backfill
from pgduet.plan.probes import Probe
from pgduet.postgres.concurrency import Concurrency
from pgduet.postgres.gauges import Reading
from pgduet.postgres.pace import Pace
from pgduet.postgres.probed import Probed
from pgduet.texts import shown

SLOWEST = 0.1
"""The share of the full rate that is left just below a limit."""
BESIDE_VACUUM = 0.5
AT_RISK_SHARE = 0.1
"""A slot is about to be lost when less than this share of `max_slot_wal_keep_size` is left to it."""
LATE_S = 6.0

LABELS = {
    "replica_lag": "replica lag",
    "wal_retained": "WAL retained by slots",
    "slot_at_risk": "a slot about to be lost",
    "vacuum": "vacuum",
    "blocked_clients": "clients waiting for rows",
    "probe": "probe",
    "late": "gauges that do not answer",
    "window": "closed window",
    "paused": "paused",
    "parallelism": "parallelism",
}
"""How the report calls each kind."""


@dataclass(frozen=True, slots=True)
class Strain:
    """Something that the server bears, with the share of its limit: from 1 on the backfill holds."""

    kind: str
    text: str
    share: float
    soft: float = 1.0
    """From this share on it slows the backfill down."""
    binding: bool = False
    """No patience is ever long enough to go on."""
    left: float | None = None
    """The share of the full rate that it leaves, where that is known by itself."""

    @property
    def holds(self) -> bool:
        """Tell whether it holds the backfill."""
        return self.share >= 1

    @property
    def rate(self) -> float:
        """Give the share of the full rate that it leaves."""
        if self.holds:
            return 0.0
        if self.left is not None:
            return self.left
        if self.share <= self.soft:
            return 1.0
        return max(SLOWEST, 1 - (1 - SLOWEST) * (self.share - self.soft) / (1 - self.soft))


def strains(seen: Reading, pace: Pace, policy: Backfill, now_s: float) -> list[Strain]:
    """Tell what the server bears, what binds most first."""
    found = [
        *_slots(seen, pace),
        *_standbys(seen, pace),
        *_vacuums(seen, policy),
        *(_probe(probe, seen.probed.get(probe.name)) for probe in policy.probes),
        *_clients(seen.clients),
        *_late(now_s - seen.looked_s),
    ]
    return sorted(found, key=lambda strain: (not strain.binding, strain.rate, -strain.share))


def _slots(seen: Reading, pace: Pace) -> Iterator[Strain]:
    for slot in seen.slots:
        name = f'"{shown(slot["name"], 63)}"' + ("" if slot["active"] else " (inactive)")
        safe_mb, keep_mb = slot["safe_mb"], slot["keep_mb"]
        if slot["unreserved"] or (safe_mb is not None and keep_mb and safe_mb < AT_RISK_SHARE * keep_mb):
            told = f"slot {name} is about to be lost: {max(0.0, safe_mb or 0.0):.0f} MB of WAL left to it"
            told += f" (limit {AT_RISK_SHARE * keep_mb:.0f} MB, a tenth of max_slot_wal_keep_size)" if keep_mb else ""
            yield Strain("slot_at_risk", told, float("inf"), binding=True)
    if worst := max(seen.slots, key=lambda slot: float(slot["retained_mb"]), default=None):
        limit, retained = pace.max_wal_retained_mb, worst["retained_mb"]
        which = f'"{shown(worst["name"], 63)}"' + ("" if worst["active"] else ", inactive")
        told = f"WAL retained by slots {retained:.0f} MB (limit {limit:g} MB): {which}"
        yield Strain("wal_retained", told, _over(retained, limit), soft=0.8)


def _standbys(seen: Reading, pace: Pace) -> Iterator[Strain]:
    limit = pace.max_replica_lag_s
    for name, lag_s in seen.standbys:
        which = shown(name, 63)
        if lag_s is None:
            told = f"replica lag not known (limit {limit:g} s): {which} does not answer, or is no standby"
            yield Strain("replica_lag", told, float("inf"))
        else:
            yield Strain(
                "replica_lag", f"replica lag {lag_s:.0f} s (limit {limit:g} s): {which}", _over(lag_s, limit), soft=0.5
            )


def _vacuums(seen: Reading, policy: Backfill) -> Iterator[Strain]:
    for vacuum in seen.vacuums:
        running_s = vacuum["running_s"] or 0.0
        name = f"{'auto' if vacuum['auto'] else ''}vacuum of {shown(vacuum['relation'], 130)}"
        if vacuum["wraparound"]:
            yield Strain("vacuum", f"{name} to prevent wraparound, running for {running_s:.0f} s", 1.0)
        else:
            limit = policy.max_vacuum_wait_s
            told = f"{name} running for {running_s:.0f} s (limit {limit:g} s)"
            waits = running_s < limit
            yield Strain("vacuum", told, 1.0 if waits else 1 - BESIDE_VACUUM, left=BESIDE_VACUUM)


def _probe(probe: Probe, found: Probed | None) -> Strain:
    if found is None:
        return Strain("probe", f"probe {probe.name} has not answered (limit {probe.max:g})", 1.0)
    if found.error is not None:
        return Strain("probe", f"probe {probe.name} failed (limit {probe.max:g}): {found.error}", float("inf"))
    told = f"probe {probe.name} {found.value or 0:g} (limit {probe.max:g})"
    if found.value is None or found.value <= 0 < probe.max:
        return Strain("probe", told, 0.0)
    if probe.max <= 0:
        return Strain("probe", told, float("inf") if found.value > probe.max else 0.0)
    return Strain("probe", told, _over(found.value, probe.max), soft=0.8)


def _clients(clients: Concurrency) -> Iterator[Strain]:
    if clients.gives_way and clients.usual is not None:
        told = (
            f"clients run {clients.usual:.1f} statements at a time, {clients.beside:.1f} beside the backfill"
            f" (limit {clients.limit:g} x)"
        )
        yield Strain("clients", told, 1 - clients.share, left=clients.share)


def _late(since_s: float) -> Iterator[Strain]:
    if since_s > LATE_S:
        yield Strain("late", f"the server was last looked at {since_s:.0f} s ago (limit {LATE_S:g} s)", 1.0)


def _over(value: float, limit: float) -> float:
    """Give the share of a limit; at the limit itself nothing is beyond it yet."""
    if value > limit:
        return max(1.0, value / limit) if limit > 0 else float("inf")
    return min(value / limit, 0.999) if limit > 0 else 0.0
