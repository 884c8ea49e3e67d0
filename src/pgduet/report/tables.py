"""Tables of a report: which columns hold numbers, and how attempts stand side by side. Pure."""

from collections.abc import Callable, Iterable

from pgduet.report.document import Block, Cell, Table
from pgduet.report.facts import Attempt, Report

NOT_KNOWN = "not measured"
_NUMBERS = frozenset(
    {
        "#",
        "tries",
        "waited",
        "held",
        "rows",
        "batches",
        "pages",
        "differ",
        "violate",
        "repaired",
        "samples",
        "old",
        "new",
    }
    | {
        "took",
        "gate before",
        "reads old",
        "reads new",
        "errors old",
        "errors new",
        "at",
        "saved",
        "restored",
        "open",
        "rate",
    }
)


def table(head: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> list[Block]:
    """Make a table, or nothing where there are no rows."""
    made = tuple(rows)
    return [Table(head, made, _NUMBERS & set(head))] if made else []


def across(report: Report, head: tuple[str, ...], rows: Callable[[Attempt], Iterable[tuple[Cell, ...]]]) -> list[Block]:
    """Make a table over all attempts; their number stands in front where there are several."""
    attempts = report.facts.attempts
    if len(attempts) == 1:
        return table(head, rows(attempts[0]))
    return table(("attempt", *head), ((str(attempt.number), *row) for attempt in attempts for row in rows(attempt)))
