"""The few pieces of Markdown that generated pages are made of."""

_NOTE = "<!-- Written by `python -m pgduet.reference`; change the code, not this page. -->"


def page(title: str, *parts: str) -> str:
    """Put a page together."""
    return "\n\n".join([f"# {title}", _NOTE, *parts]) + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
