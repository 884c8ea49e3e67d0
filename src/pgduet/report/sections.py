"""The sections of a report, each from the facts to its blocks; None or no blocks where there is nothing to tell. Pure."""

import re
from collections.abc import Iterable

from pgduet.describe import plain
from pgduet.report import findings, lessons
from pgduet.report.document import Bar, Block, Cell, Code, Items, Mono, Paragraph, Section, Words
from pgduet.report.facts import Attempt, Report
from pgduet.report.tables import NOT_KNOWN, across, table
from pgduet.report.words import count, millis, size, took, when

_ACTS = re.compile(r"^[\d-]+ [\d:]+ (advance|approve|abort|pause|resume|throttle|route|verify) by ")


def plan(report: Report) -> Section | None:
    """What was to be done, by whom."""
    last = report.last
    if last is None:
        return None
    blocks: list[Block] = [Paragraph(last.description)] if last.description else []
    blocks.append(Items(tuple(Mono(operation) for operation in last.operations)))
    rows: list[tuple[Cell, ...]] = [
        ("versions", f"{last.from_version} → {last.to_version}"),
        ("database", report.facts.database),
        ("checksum", Mono(last.checksum)),
        *((f"owner, {role}", who) for role, who in last.owners.items()),
    ]
    return Section("Plan", (*blocks, *table(("what", "as planned"), rows)))


def timeline(report: Report) -> Section | None:
    """When each phase began, how long it took, how long its gate was waited for."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        longest = max(lessons.slowest(attempt), 0.001)
        for each in attempt.phases:
            worked = took(each.worked_s) if each.worked_s is not None else "not over"
            gate = took(each.waited_s) if each.waited_s is not None else NOT_KNOWN
            yield (each.phase.value, when(each.entered_at), worked, Bar((each.worked_s or 0) / longest), gate)
        turn = attempt.turn
        if turn:
            yield (
                "rollback",
                when(turn.at),
                took(turn.withdrawn_s) if turn.withdrawn_s is not None else "not over",
                "",
                "",
            )

    return Section(
        "Timeline", tuple(across(report, ("phase", "entered", "took", "of the longest", "gate before"), rows))
    )


def decisions(report: Report) -> Section | None:
    """Who decided what, and why; then what the workflow noted beside it."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        return ((when(each.at), each.actor, each.what, each.reason or "") for each in attempt.decisions)

    noted = [line for line in (report.status.decisions if report.status else []) if not _ACTS.match(line)]
    blocks = across(report, ("when", "who", "what", "why"), rows)
    if noted:
        blocks += [Paragraph("The workflow noted beside that:"), Items(tuple(noted))]
    return Section("Decisions", tuple(blocks))


def effects(report: Report) -> Section | None:
    """What clients could notice, counted."""
    last = report.last
    if last is None:
        return None
    attempts, clients = report.facts.attempts, report.facts.clients
    held = lessons.longest_held(report)
    longest = f"{millis(held.held_ms or 0)} in {held.step}" if held else "none"
    queued = f"a try queues for at most {last.lock_timeout_ms} ms before it; a client may stand behind both"
    reads, errors = sum(c.reads_old + c.reads_new for c in clients), sum(c.errors_old + c.errors_new for c in clients)
    violated = last.comparisons[-1].violations if last.comparisons else None
    rows: list[tuple[Cell, ...]] = [
        (
            "transactions that locked tables",
            f"{sum(a.locks_total for a in attempts):,}",
            "each commits before the next begins",
        ),
        ("longest that a table lock was held", longest, queued),
        ("rows noted for a person", f"{sum(d.rows for a in attempts for d in a.drift):,}", _drift(attempts)),
        (
            "rows against a coming constraint",
            NOT_KNOWN if violated is None else f"{violated:,}",
            "by the last full comparison",
        ),
        ("errors of reads that routers counted", f"{errors:,} of {reads:,}" if reads else "no router read", ""),
        (
            "writes refused",
            "not counted",
            f"unmappable: {last.unmappable}; a refused write takes its record with it: the server's log and the clients have it",
        ),
    ]
    blocks = table(("what", "how much", "remark"), rows)
    if clients:
        seen = (
            (c.who, f"{c.side} ({c.version})", c.via, str(c.sessions), when(c.first_at), when(c.last_at))
            for c in clients
        )
        blocks += [
            Paragraph("Clients that were seen, by their routers' word or by the census:"),
            *table(("client", "version", "by", "sessions", "first seen", "last seen"), seen),
        ]
    return Section("Effects on clients", tuple(blocks))


def _drift(attempts: list[Attempt]) -> str:
    kinds = [f"{d.rows:,} {d.kind} ({d.open:,} open)" for attempt in attempts for d in attempt.drift]
    return ", ".join(kinds)


def _found(title: str, found: list[findings.Finding], otherwise: str) -> Section:
    """Render findings: those with commands as a paragraph and its lines, the others as a list."""
    blocks: list[Block] = []
    listed: list[Words] = []
    for each in found:
        if each.command is None:
            listed.append(each.text)
        else:
            blocks += [Paragraph(each.text), Code(each.command)]
    items: list[Block] = [Items(tuple(listed))] if listed else []
    return Section(title, tuple([*blocks, *items] or [Paragraph(otherwise)]))


def remains(report: Report) -> Section | None:
    """What can still be had back, and the tables as they are now."""
    section = _found("What remains", findings.fallbacks(report), "Nothing.")
    tables = (
        (
            plain(table.label),
            size(table.bytes),
            f"{table.live:,}",
            f"{table.dead:,}",
            when(table.vacuumed_at) if table.vacuumed_at else "never",
            when(table.analysed_at) if table.analysed_at else "never",
        )
        for table in report.facts.tables
    )
    now = table(("table, now", "size with indexes", "live rows", "dead rows", "vacuumed", "analysed"), tables)
    told: list[Block] = (
        [Paragraph("The tables as they are now (rows by PostgreSQL's statistics):"), *now] if now else []
    )
    return Section(section.title, (*section.blocks, *told))


def follow_ups(report: Report) -> Section | None:
    """What somebody should do now."""
    return _found("Follow-ups", findings.follow_ups(report), "None: nothing was found that somebody would have to do.")


def learnt(report: Report) -> Section | None:
    """What the measurements teach."""
    found = lessons.lessons(report)
    return Section("Lessons", (Items(tuple(each.text for each in found)),)) if found else None


def calendar(report: Report) -> Section | None:
    """The plan's risks and milestones, beside what came of them."""
    last = report.last
    if last is None:
        return None
    risks = table(("risk", "mitigation", "owner"), ((r["risk"], r["mitigation"], r["owner"]) for r in last.risks))
    rows = []
    for each in lessons.milestones(report):
        distance = count(abs(each.days), "day")
        ahead, behind = ("before it was due", "late") if each.at else ("left", "overdue")
        came = when(each.at) if each.at else "not yet"
        told = "on the day" if each.at and not each.days else f"{distance} {ahead if each.days >= 0 else behind}"
        rows.append((each.name, each.due, each.measured_by, came, told))
    return Section(
        "Risks and milestones", (*risks, *table(("milestone", "due", "measured by", "came", "that is"), rows))
    )
