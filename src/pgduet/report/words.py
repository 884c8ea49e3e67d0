"""Times and amounts as a report writes them: UTC, and as exact as they were measured. Pure."""

from datetime import UTC, datetime

from pgduet.cli.words import span


def when(at: datetime) -> str:
    """Render a point in time in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def took(seconds: float) -> str:
    """Render a length of time: `82 ms`, `4.1 s`, `3 min 12 s`."""
    if seconds < 1:
        return millis(seconds * 1000)
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def millis(milliseconds: float) -> str:
    """Render milliseconds: `0.4 ms`, `12 ms`, `1.3 s`."""
    if milliseconds >= 1000:
        return took(milliseconds / 1000)
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def count(number: int, word: str, many: str | None = None) -> str:
    """Render a number with its noun: `1 row`, `336,776 rows`."""
    return f"{number:,} {word if number == 1 else many or word + 's'}"


def size(amount: int) -> str:
    """Render bytes: `24 kB`, `41 MB`."""
    return f"{amount / 1e6:,.0f} MB" if amount >= 10_000_000 else f"{amount / 1e3:,.0f} kB"


def ordinal(number: int) -> str:
    """Render an attempt's number: `first`, `second`, `4th`."""
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
