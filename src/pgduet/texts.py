"""Texts from outside as they may be kept and shown: bounded, one line where one line is meant, no control characters.

A message may carry anything: a name of a megabyte, an escape sequence for the terminal of whoever reads the log, a NUL that
PostgreSQL cannot store. What names somebody is refused unless it is plain; what is only quoted is made plain here.
"""

import re
from collections.abc import Mapping
from typing import Any

SHOWN = 300
FACT_CHARS = 4_000
MOST_FACTS = 50
FAILURE_CHARS = 20_000
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, separators that some programs take for a new line, marks that turn the direction of
writing around, and halves of surrogate pairs."""


def one_line(text: str) -> str:
    """Take a text that is one line of printable characters.

    Raises:
        ValueError: it is not.
    """
    if not text.isprintable():
        message = "it must be one line of printable characters"
        raise ValueError(message)
    return text


def some_lines(text: str) -> str:
    """Take a text of any number of lines, without control characters.

    Raises:
        ValueError: it has some.
    """
    if _UNSAFE.search(text):
        message = "it must not hold control characters"
        raise ValueError(message)
    return text


def shown(text: str, limit: int = SHOWN) -> str:
    """Make a text fit to be quoted: one line, printable, no longer than `limit`."""
    if len(text) <= limit and text.isprintable():
        return text
    head = text[: limit + 1]
    plain = "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in head)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def cut(text: str, limit: int = FAILURE_CHARS) -> str:
    """Cut an error's text to what a failure can carry."""
    return text if len(text) <= limit else text[:limit] + "…"


def bounded(value: Any) -> Any:
    """Cut an error's facts likewise: whatever a plan holds can be quoted in them."""
    if isinstance(value, str):
        return cut(value, FACT_CHARS)
    if isinstance(value, Mapping):
        return {name: bounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [bounded(each) for each in value[:MOST_FACTS]]
    return value
