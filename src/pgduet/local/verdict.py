"""The demo's verdict: the closing table, and everything that did not hold. Pure."""

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pgduet.local.measures import BEFORE, MIN_SAMPLES, GroupReport, Report

_SHOWN = 5


@dataclass
class Verdict:
    """What was proved on the way, and what failed."""

    lost: int = 0
    """Acknowledged writes that were not found, at any of the readings."""
    archived: int = 0
    restored: int = 0
    safe_s: float = 0.0
    withdrawn_s: float = 0.0
    flights: int = 0
    rows_compared: int = 0
    audit_entries: int = 0
    failures: list[str] = field(default_factory=list)
    report: Report | None = None

    def require(self, holds: object, otherwise: str) -> None:
        """Note a failure unless something holds."""
        if not holds:
            self.failures.append(otherwise)

    @property
    def holds(self) -> bool:
        """Tell whether all of it was proved."""
        return not self.failures

    def judge_traffic(self, report: Report) -> None:
        """Take the traffic's last report: no client error, no write in doubt, something done on both sides."""
        self.report = report
        for error in report.errors[:_SHOWN]:
            what = f"{error.sqlstate or 'wrong answer'}: {error.text}"
            self.failures.append(f"client error of {error.client} in {error.phase}, {error.statement}: {what}")
        self.require(not report.errors[_SHOWN:], f"{len(report.errors) - _SHOWN} more client errors")
        doubt = sum(group.in_doubt for group in report.groups.values())
        self.require(not doubt, f"{doubt} writes are in doubt: their connection was lost")
        for name, group in report.groups.items():
            self.require(group.acknowledged, f"the {name} clients wrote nothing")
            self.require(group.through_new, f"the {name} clients never used the new version")


def closing(verdict: Verdict) -> RenderableType:
    """Render the closing table and the lines below it."""
    parts: list[RenderableType] = []
    if verdict.report:
        parts.append(_table(verdict, verdict.report))
    if verdict.holds:
        parts += [Text(line) for line in _lines(verdict)]
    else:
        parts += [Text(f"failed  {failure}", style="red") for failure in verdict.failures]
    return Group("", *parts)


def _table(verdict: Verdict, report: Report) -> Table:
    old, new = report.groups["old"], report.groups["new"]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("old version", justify="right", min_width=14)
    table.add_column("new version", justify="right", min_width=14)
    found = "all" if not verdict.lost else "not all of"
    table.add_row("  transactions", f"{old.transactions:,}", f"{new.transactions:,}")
    table.add_row("  through public_v2", f"{old.through_new:,}", f"{new.through_new:,}")
    table.add_row("  client errors", f"{old.errors:,}", f"{new.errors:,}")
    table.add_row("  acknowledged writes found", f"{found} {old.acknowledged:,}", f"{found} {new.acknowledged:,}")
    table.add_row("  p99 before / worst phase", _p99(old), _p99(new))
    table.add_row("  worst phase", _worst(old), _worst(new))
    table.add_row("  longest stall", f"{old.stall_ms:.0f} ms", f"{new.stall_ms:.0f} ms")
    return table


def _lines(verdict: Verdict) -> list[str]:
    return [
        f"rolled back once from soak: 0 rows lost, {verdict.archived:,} new-only values archived and restored",
        f"  old version in charge again after {verdict.safe_s:.1f} s, new one withdrawn after {verdict.withdrawn_s:.1f} s",
        f"{verdict.flights:,} flights migrated · parity exact · audit log verifies ({verdict.audit_entries} entries)",
    ]


def _p99(group: GroupReport) -> str:
    return f"{group.before_ms:.1f} / {group.worst_ms:.1f} ms"


def _worst(group: GroupReport) -> str:
    known = {name: phase.p99 for name, phase in group.phases.items() if name != BEFORE and phase.count >= MIN_SAMPLES}
    return max(known, key=lambda name: known[name]) if known else "none"


def stalls(report: Report, count: int = 5) -> str:
    """Name the slowest statements, for whoever looks into them."""
    lines = [
        f"  {slow.ms:6.0f} ms  {slow.phase}, {slow.client}: {slow.statement}"
        + (f" ({slow.own_ms:.0f} ms of it the client's own process)" if slow.own_ms else "")
        for slow in report.slowest[:count]
    ]
    return "\n".join(lines)
