"""Lays a report out as a document: the answer first, then section by section what was measured. Pure.

A section that has nothing to say is left out; what was not measured is said to be so, never shown as zero.
"""

from importlib.metadata import version

from pgduet.describe import plain
from pgduet.phases import State
from pgduet.report import findings, lessons, measured, sections
from pgduet.report.document import Block, Document, Figures, Paragraph
from pgduet.report.facts import Report
from pgduet.report.words import count, millis, ordinal, took, when

_TONES = {State.DONE: "good", State.ROLLED_BACK: "back", State.FAILED: "bad"}


def document(report: Report) -> Document:
    """Lay a report out."""
    facts = report.facts
    state = findings.state(report)
    made = (
        sections.plan(report),
        sections.timeline(report),
        sections.decisions(report),
        sections.effects(report),
        measured.locks(report),
        measured.backfill(report),
        measured.parity(report),
        measured.reads(report),
        measured.rollbacks(report),
        measured.estimates(report),
        sections.remains(report),
        sections.follow_ups(report),
        sections.learnt(report),
        sections.calendar(report),
    )
    workflow = "" if report.status else " Temporal no longer knows its workflow: this is told from the database alone."
    return Document(
        title=facts.name,
        standing=state.replace("_", " "),
        tone=_TONES.get(State(state), "open") if state in list(State) else "open",
        answer=(Paragraph(answer(report)), *_figures(report)),
        sections=tuple(section for section in made if section and section.blocks),
        foot=(
            f"Made {when(facts.read_at)} UTC by pgduet {version('pgduet')} from the records of database {facts.database}"
            f" (PostgreSQL {facts.postgres or 'unknown'}, {count(facts.audit_entries, 'audit entry', 'audit entries')},"
            f" head {facts.audit_head or 'none'}).{workflow} All times are UTC; a figure is a measurement unless it is called an"
            " estimate."
        ),
    )


def answer(report: Report) -> str:
    """Answer what everybody asks first, in a paragraph."""
    return " ".join(part for part in (_outcome(report), _attempts(report), _rows(report), _clients(report)) if part)


def _outcome(report: Report) -> str:
    facts, last, status = report.facts, report.last, report.status
    if last is None:
        reason = f": {' '.join(status.failure.split())}" if status and status.failure else ""
        return f"{facts.name} has touched nothing in database {facts.database}; it stands in {findings.phase(report)}{reason}."
    begun = when(facts.attempts[0].started_at)
    what = f"database {facts.database} from version {last.from_version} to version {last.to_version}"
    if last.ended_at:
        spent = took((last.ended_at - facts.attempts[0].started_at).total_seconds())
        ending = f"from {begun} to {when(last.ended_at)} UTC, {spent}"
        if last.state == State.DONE:
            return f"{facts.name} moved {what}: {ending}."
        return f"{facts.name} would have moved {what} and was rolled back: {ending}."
    state = findings.state(report)
    doing = "has failed" if state == State.FAILED else f"is {state.replace('_', ' ')}"
    waits = f": it waits for {status.waiting_for.detail}" if status and status.waiting_for else ""
    stopped = f": {' '.join(status.failure.split())}" if status and status.failure and not waits else ""
    return f"{facts.name} moves {what} since {begun} UTC and {doing} in {findings.phase(report)}{waits}{stopped}."


def _attempts(report: Report) -> str:
    told = []
    for attempt in report.facts.attempts[:-1] if report.facts.attempts else []:
        if attempt.turn:
            reason = f" ({attempt.turn.reason})" if attempt.turn.reason else ""
            told.append(
                f"The {ordinal(attempt.number)} attempt was rolled back from {attempt.turn.phase or 'its phase'} by"
                f" {attempt.turn.actor}{reason}."
            )
    last = report.last
    if last and last.turn:
        reason = f": {last.turn.reason}" if last.turn.reason else ""
        told.append(f"{last.turn.actor} rolled it back from {last.turn.phase or 'its phase'}{reason}.")
    if last and last.restored:
        told.append(f"{count(last.restored, 'value')} that earlier attempts had archived came back.")
    return " ".join(told)


def _rows(report: Report) -> str:
    last = report.last
    if last is None:
        return ""
    told = ""
    if last.filled and last.filled.batches:
        told = (
            f"The backfill wrote {count(last.filled.rows, 'row')} in {count(last.filled.batches, 'batch', 'batches')}."
        )
    if last.comparisons:
        compared = last.comparisons[-1]
        told += f" The last full comparison found {compared.mismatches:,} of {count(compared.rows, 'row')} different."
    return told.strip()


def _clients(report: Report) -> str:
    held = lessons.longest_held(report)
    if held is None:
        return ""
    noted = sum(drift.rows for attempt in report.facts.attempts for drift in attempt.drift)
    reads = sum(client.reads_old + client.reads_new for client in report.facts.clients)
    errors = sum(client.errors_old + client.errors_new for client in report.facts.clients)
    routers = f"; routers counted {count(errors, 'error')} in {count(reads, 'read')}" if reads else ""
    return (
        f"No table lock was held for longer than {millis(held.held_ms or 0)} ({held.step});"
        f" {count(noted, 'row')} had to be noted for a person{routers}."
    )


def _figures(report: Report) -> tuple[Block, ...]:
    last = report.last
    if last is None:
        return ()
    spent = (last.ended_at or report.facts.read_at) - report.facts.attempts[0].started_at
    figures = [("from start to end" if last.ended else "so far", took(spent.total_seconds()), _of_attempts(report))]
    if last.filled:
        seconds = lessons.backfill_s(last)
        figures.append(
            ("rows backfilled", f"{last.filled.rows:,}", f"in {took(seconds)}" if seconds is not None else "so far")
        )
    if last.comparisons:
        compared = last.comparisons[-1]
        figures.append(("rows that differed last", f"{compared.mismatches:,}", f"of {compared.rows:,}"))
    held = lessons.longest_held(report)
    if held:
        tables = ", ".join(plain(name) for name in held.locks)
        figures.append(("longest table lock", millis(held.held_ms or 0), f"{held.step}, {tables}"))
    left = len(findings.follow_ups(report))
    figures.append(("follow-ups", str(left), "see below" if left else "nothing is left to do"))
    return (Figures(tuple(figures)),)


def _of_attempts(report: Report) -> str:
    total = report.facts.attempts_total
    return count(total, "attempt") + (
        f", {len(report.facts.attempts)} shown" if total > len(report.facts.attempts) else ""
    )
