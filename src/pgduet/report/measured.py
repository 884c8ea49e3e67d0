"""The sections of a report that show measurements: locks, backfill, parity, reads, rollbacks, the estimate beside them. Pure."""

from collections.abc import Iterable

from pgduet.describe import plain
from pgduet.report import lessons
from pgduet.report.document import Cell, Mono, Paragraph, Section
from pgduet.report.facts import Attempt, Baked, Report, Sampled
from pgduet.report.tables import NOT_KNOWN, across, table
from pgduet.report.words import count, millis, took, when


def locks(report: Report) -> Section | None:
    """Each transaction that locked tables."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        for lock in attempt.locks:
            tables = ", ".join(f"{mode} on {plain(name)}" for name, mode in lock.locks.items())
            held = millis(lock.held_ms) if lock.held_ms is not None else "given up"
            yield (lock.step, tables, str(lock.tries), millis(lock.waited_ms), held)

    blocks = across(report, ("step", "lock", "tries", "waited", "held"), rows)
    left_out = sum(attempt.locks_total - len(attempt.locks) for attempt in report.facts.attempts)
    if blocks and report.last:
        words = f"A try waits for at most {report.last.lock_timeout_ms} ms; between tries clients have the table for themselves."
        blocks.insert(0, Paragraph(words + (f" {left_out:,} are left out." if left_out else "")))
    return Section("Locks", tuple(blocks))


def backfill(report: Report) -> Section | None:
    """How existing rows were filled."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        filled, seconds = attempt.filled, lessons.backfill_s(attempt)
        if filled is None:
            return
        rate = f"{filled.rows / max(seconds, 0.001):,.0f}/s" if seconds is not None else "not over"
        held = ", ".join(f"{why}: {took(held_s)}" for why, held_s in filled.held_s.items()) or "nothing"
        pages = f"{filled.pages_done:,} of {filled.pages:,}"
        yield (
            f"{filled.rows:,}",
            f"{filled.batches:,}",
            pages,
            took(seconds) if seconds is not None else "",
            rate,
            held,
        )

    return Section(
        "Backfill", tuple(across(report, ("rows", "batches", "pages", "took", "rate", "held back by"), rows))
    )


def _aggregates(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
    for one in attempt.comparisons:
        for each in one.aggregates:
            groups = ", ".join(" / ".join(str(value) for value in group) for group in each.groups[:5])
            found = f"{each.differing}: {groups}" if any(each.groups) else str(each.differing)
            yield (when(one.at), each.name, each.measure, Mono(plain(each.relation)), found)


def parity(report: Report) -> Section | None:
    """Every full comparison, and the keys of rows that differed."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        for one in attempt.comparisons:
            figures = (one.rows, one.mismatches, one.violations, one.repaired)
            yield (when(one.at), one.actor, *(f"{figure:,}" for figure in figures))

    def keys(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        for one in attempt.comparisons:
            for example in one.examples:
                row = Mono(f"{plain(str(example.get('relation')))} {example.get('key')}")
                yield (when(one.at), row, str(example.get("kind", "")))

    blocks = across(report, ("when", "by", "rows", "differ", "violate", "repaired"), rows)
    left_out = sum(attempt.comparisons_total - len(attempt.comparisons) for attempt in report.facts.attempts)
    if left_out:
        blocks.append(Paragraph(f"{count(left_out, 'comparison')} without a difference are left out."))
    totals = across(report, ("when", "aggregate", "measure", "table", "groups that differ"), _aggregates)
    if totals:
        blocks += [Paragraph("Declared aggregates, of both versions in the same snapshot:"), *totals]
    named = across(report, ("when", "row", "kind"), keys)
    if named:
        blocks += [Paragraph("Rows that differed, by key, at most five for each comparison:"), *named]
    probes = across(report, ("step", "table", "seen"), _probed)
    if probes:
        blocks.append(Paragraph("Probe writes: one row sent through the triggers, looked at, and rolled back:"))
    return Section("Parity", (*blocks, *probes))


def _probed(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
    return ((probe.step, plain(table), seen) for probe in attempt.probes for table, seen in probe.seen.items())


def reads(report: Report) -> Section | None:
    """Shadow reads, the steps of the shift, and what each showed while it baked."""

    def shadow(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        return ((when(s.at), f"{s.samples:,}", f"{s.mismatches:,}", *_latency(s)) for s in attempt.sampled)

    def shift(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        for bake in attempt.baked:
            counted = (f"{bake.reads_old:,}", f"{bake.reads_new:,}", f"{bake.errors_old:,}", f"{bake.errors_new:,}")
            yield (f"{bake.read_percent} %", when(bake.at), *counted, *_latency(bake))

    def routes(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        return ((when(r.at), f"{r.read_percent} %", r.authority.value, r.step, r.actor) for r in attempt.routed)

    blocks = across(report, ("when", "samples", "differ", "old", "new"), shadow)
    if blocks:
        blocks.insert(0, Paragraph("Sampled keys read through both versions by the engine (medians of latency):"))
    baked = across(
        report, ("at", "bake ended", "reads old", "reads new", "errors old", "errors new", "old", "new"), shift
    )
    if baked:
        blocks += [
            Paragraph("Steps of the shift: what routers counted during each bake, and the engine's own probe:"),
            *baked,
        ]
    routed = across(report, ("when", "reads on the new version", "authority", "step", "by"), routes)
    if routed:
        blocks += [Paragraph("Changes of the route:"), *routed]
    return Section("Shadow and shift", tuple(blocks))


def _latency(timed: Sampled | Baked) -> tuple[str, str]:
    old, new = timed.old_ms, timed.new_ms
    return (f"{old:.2f} ms" if old is not None else NOT_KNOWN, f"{new:.2f} ms" if new is not None else NOT_KNOWN)


def rollbacks(report: Report) -> Section | None:
    """What each rollback took, saved, and what came back of it."""

    def rows(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
        turn = attempt.turn
        if turn is None:
            return
        safe = took(turn.safe_s) if turn.safe_s is not None else "not yet"
        gone = took(turn.withdrawn_s) if turn.withdrawn_s is not None else "not yet"
        yield (
            when(turn.at),
            turn.phase.value if turn.phase else "",
            turn.actor,
            turn.reason or "",
            safe,
            gone,
            f"{attempt.archived:,}",
        )

    head = ("when", "from", "by", "why", "old in charge after", "withdrawn after", "saved")
    blocks = across(report, head, rows)
    if report.facts.kept:
        kept = (
            (str(k.attempt), plain(k.relation), f"{k.side} version", f"{k.saved:,}", f"{k.restored:,}")
            for k in report.facts.kept
        )
        blocks += [
            Paragraph("Values in the archive, by the attempt that saved them:"),
            *table(("attempt", "table", "values of the", "saved", "restored"), kept),
        ]
    return Section("Rolled back, archived, restored", tuple(blocks))


def estimates(report: Report) -> Section | None:
    """What was expected at the start, beside what was measured."""
    head = ("what", "estimate at the start", "measured", "remark")
    return Section("Estimate against actual", tuple(across(report, head, _compared)))


def _compared(attempt: Attempt) -> Iterable[tuple[Cell, ...]]:
    expected, filled, seconds = attempt.estimate, attempt.filled, lessons.backfill_s(attempt)
    if not expected:
        return
    told = took(expected["backfill_s"]) if "backfill_s" in expected else None
    rows = f"{filled.rows:,} written" if filled else None
    wal = f"{filled.server_wal_mb:,.1f} MB" if filled and filled.server_wal_mb is not None else None
    pages = f"{filled.pages_after:,} after the backfill" if filled and filled.pages_after is not None else None
    held = max((lock.held_ms for lock in attempt.locks if lock.held_ms is not None), default=None)
    longest = f"{attempt.locks_total:,} transactions, the longest {millis(held)}" if held is not None else None
    yield _beside("rows to fill", expected.get("rows"), rows, "clients' own writes fill the rest")
    yield _beside("time of the backfill", told, took(seconds) if seconds is not None else None, "pauses included")
    yield _beside(
        "WAL of the backfill",
        _with(expected.get("wal_mb"), "MB"),
        wal,
        "measured: the whole server's, clients included",
    )
    yield _beside(
        "pages of the tables", _with(expected.get("pages_now"), "at the start"), pages, "a page has 8 kB as a rule"
    )
    yield _beside("locks", expected.get("locks"), longest, "held, not waited for")


def _with(amount: object, unit: str) -> str | None:
    return f"{amount:,} {unit}" if isinstance(amount, int | float) else None


def _beside(what: str, expected: object, actual: str | None, remark: str) -> tuple[Cell, ...]:
    told = f"{expected:,}" if isinstance(expected, int) else str(expected) if expected is not None else "none"
    return (what, told, actual or NOT_KNOWN, remark)
