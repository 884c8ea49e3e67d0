"""Numbers and times as people read them: `336,776`, `212 k`, `13 d 23 h`, `14:02:11`. Pure."""

from datetime import datetime

from rich.text import Text

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span(seconds: float) -> str:
    """Render a length of time by its two greatest units."""
    rest = round(seconds)
    if rest <= 0:
        return "0 s"
    told: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count or told:
            told.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in told[:2] if count)


def clock(seconds: float) -> str:
    """Render a time that is left as `0:01:12`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def short(number: float) -> str:
    """Render a count in three digits or so: `870`, `212 k`, `1.2 M`."""
    if number < 10_000:
        return f"{number:,.0f}"
    if number < 1_000_000:
        return f"{number / 1000:.0f} k"
    return f"{number / 1_000_000:.1f} M"


def moment(when: datetime, now: datetime) -> str:
    """Render a point in time in the reader's zone; with its date unless it was within the last 20 hours."""
    local = when.astimezone()
    recent = abs((now - when).total_seconds()) < 20 * 3600
    return local.strftime("%H:%M:%S" if recent else "%Y-%m-%d %H:%M")


def times(count: int, word: str) -> str:
    """Render a count with its noun: `1 session`, `14 sessions`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def bar(percent: float, width: int = 10) -> str:
    """Draw a share as blocks."""
    full = min(width, max(0, int(percent / 100 * width)))
    return "▇" * full + "▁" * (width - full)


def flow(items: list[Text], width: int, indent: int = 2, gap: int = 2) -> Text:
    """Lay items side by side, a new line where the next would not fit; an item is never broken."""
    page, used = Text(" " * indent), indent
    for index, item in enumerate(items):
        if index and used + gap + item.cell_len > width:
            page.append("\n" + " " * indent)
            used = indent
        elif index:
            page.append(" " * gap)
            used += gap
        page.append_text(item)
        used += item.cell_len
    return page
