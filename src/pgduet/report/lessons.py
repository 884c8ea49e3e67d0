"""What the measurements teach, and how the plan's calendar fared: for people now, and for the next plan's check. Pure."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime

from pgduet.acts import Message
from pgduet.describe import plain
from pgduet.phases import Phase, State
from pgduet.report.facts import Attempt, Report, TableLock
from pgduet.report.findings import Finding
from pgduet.report.words import count, millis, took

NOTABLE_S = 1.0


class Reached(Message):
    """A milestone: when it was due, and when what it was measured by came."""

    name: str
    due: str
    measured_by: str
    at: datetime | None = None
    days: int
    """Before (positive) or after (negative) the due date; of today where it has not come."""


def locks(report: Report) -> list[TableLock]:
    """Give all attempts' locks that were had."""
    return [lock for attempt in report.facts.attempts for lock in attempt.locks if lock.held_ms is not None]


def longest_held(report: Report) -> TableLock | None:
    """Find the lock that was held longest."""
    return max(locks(report), key=lambda lock: lock.held_ms or 0, default=None)


def lessons(report: Report) -> list[Finding]:
    """Say what the measurements teach; the next plan for these tables can go by them."""
    return [*_of_locks(report), *_of_times(report), *_of_backfill(report), *_of_comparisons(report), *_of_turns(report)]


def _of_locks(report: Report) -> Iterator[Finding]:
    held = longest_held(report)
    if held:
        text = f"The longest table lock was held for {millis(held.held_ms or 0)} ({held.step}, {_relations(held)})."
        yield Finding(kind="lock_held", text=text)
    waited = max(locks(report), key=lambda lock: lock.waited_ms, default=None)
    if waited and waited.tries > 1:
        text = (
            f"The longest wait for a lock was {millis(waited.waited_ms)} in {waited.tries} tries ({waited.step},"
            f" {_relations(waited)}): somebody's transaction held the table."
        )
        yield Finding(kind="lock_wait", text=text)


def _of_times(report: Report) -> Iterator[Finding]:
    times = [phase for attempt in report.facts.attempts for phase in attempt.phases if phase.worked_s is not None]
    slowest = max(times, key=lambda phase: phase.worked_s or 0, default=None)
    if slowest:
        text = f"The phase that took longest was {slowest.phase}: {took(slowest.worked_s or 0)}."
        yield Finding(kind="slowest_phase", text=text)
    waits = [phase for attempt in report.facts.attempts for phase in attempt.phases]
    gate = max(waits, key=lambda phase: phase.waited_s or 0, default=None)
    if gate and (gate.waited_s or 0) >= NOTABLE_S:
        text = f"The longest wait at a gate was before {gate.phase}: {took(gate.waited_s or 0)}."
        yield Finding(kind="longest_gate", text=text)
    for attempt in report.facts.attempts:
        paused_s = paused(attempt, report.facts.read_at)
        if paused_s:
            yield Finding(kind="paused", text=f"Attempt {attempt.number} was paused for {took(paused_s)}.")


def paused(attempt: Attempt, now: datetime) -> float:
    """Add up how long people held an attempt, in seconds."""
    total, since = 0.0, None
    for decision in attempt.decisions:
        if decision.what == "paused":
            since = since or decision.at
        elif decision.what == "resumed" and since:
            total, since = total + (decision.at - since).total_seconds(), None
    return total + ((attempt.ended_at or now) - since).total_seconds() if since else total


def _of_backfill(report: Report) -> Iterator[Finding]:
    for attempt in report.facts.attempts:
        filled = attempt.filled
        seconds = backfill_s(attempt)
        if filled is None or seconds is None or not filled.rows:
            continue
        text = f"Attempt {attempt.number}: the backfill wrote {filled.rows / max(seconds, 0.001):,.0f} rows a second"
        expected = attempt.estimate.get("backfill_s")
        compared = f", in {seconds / expected:.1f} times the time that was estimated" if expected else ""
        yield Finding(kind="backfill_rate", text=f"{text}{compared}.")
        for why, held_s in filled.held_s.items():
            text = f"Attempt {attempt.number}: the backfill held back for at least {took(held_s)} because of {why}."
            yield Finding(kind="held_back", text=text)


def backfill_s(attempt: Attempt) -> float | None:
    """Tell how long a backfill took that has ended."""
    filled = attempt.filled
    if filled is None or filled.began_at is None or filled.ended_at is None:
        return None
    return (filled.ended_at - filled.began_at).total_seconds()


def _of_comparisons(report: Report) -> Iterator[Finding]:
    compared = [one for attempt in report.facts.attempts for one in attempt.comparisons]
    if compared:
        worst = max(compared, key=lambda one: one.mismatches)
        repaired = sum(one.repaired for one in compared)
        text = (
            f"Drift was seen: up to {count(worst.mismatches, 'row')} differed, {repaired:,} were repaired."
            if worst.mismatches or repaired
            else f"No drift was seen in {count(sum(a.comparisons_total for a in report.facts.attempts), 'full comparison')}."
        )
        yield Finding(kind="drift", text=text)
    for attempt in report.facts.attempts:
        timed = [one for one in attempt.sampled if one.old_ms is not None and one.new_ms is not None]
        if timed and timed[-1].old_ms and timed[-1].new_ms:
            slow = timed[-1].new_ms / timed[-1].old_ms
            text = f"Attempt {attempt.number}: reads of the new version took {slow:.2f} times those of the old one (medians)."
            yield Finding(kind="latency", text=text)


def _of_turns(report: Report) -> Iterator[Finding]:
    for attempt in report.facts.attempts:
        if attempt.turn and attempt.turn.safe_s is not None:
            why = f" ({attempt.turn.reason})" if attempt.turn.reason else ""
            safe = f"the old version was in charge again after {took(attempt.turn.safe_s)}"
            text = f"Attempt {attempt.number} was rolled back from {attempt.turn.phase or 'its phase'}{why}; {safe}."
            yield Finding(kind="rolled_back", text=text)


# The calendar


def milestones(report: Report) -> list[Reached]:
    """Set each milestone beside what it can be measured by: the phase that its name names, else the end."""
    last = report.last
    if last is None:
        return []
    entered = {each.phase: each.entered_at for each in last.phases}
    today = report.facts.read_at.astimezone(UTC).date()
    found = []
    for name, due in last.milestones.items():
        words = re.findall(r"[a-z_]+", name.lower())
        named = next((each for each in Phase if each.value in words and each is not Phase.DONE), None)
        at = entered.get(named) if named else last.ended_at if last.state == State.DONE else None
        by = f"entered {named}" if named else "done"
        days = (date.fromisoformat(due) - (at.astimezone(UTC).date() if at else today)).days
        found.append(Reached(name=name, due=due, measured_by=by, at=at, days=days))
    return found


def slowest(attempt: Attempt) -> float:
    """Tell how long the longest phase took, for bars to be drawn against."""
    return max((each.worked_s or 0 for each in attempt.phases), default=0.0)


def _relations(lock: TableLock) -> str:
    return ", ".join(f"{mode} on {plain(name)}" for name, mode in lock.locks.items())
