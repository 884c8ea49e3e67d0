"""A page as values: sections of paragraphs, lists, tables and code, which `markdown` and `html` render alike. Pure.

Text is plain: whatever stands in it is shown as it is, so that no name or reason can break a page or bring markup into it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mono:
    """Text in a typewriter's face: a command, a name in the database."""

    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of something, from 0 to 1, drawn."""

    share: float


Words = str | Mono | tuple[str | Mono, ...]
Cell = Words | Bar


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    words: Words


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Words, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to be copied."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns whose heads are in `right` hold numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Figures:
    """A few numbers that answer most questions: what, how much, and a remark."""

    figures: tuple[tuple[str, str, str], ...]


Block = Paragraph | Items | Code | Table | Figures


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole page: the answer first."""

    title: str
    standing: str
    """In a word or two, such as `done`."""
    tone: str
    """How it ended: good, back, bad, open."""
    answer: tuple[Block, ...]
    sections: tuple[Section, ...]
    foot: str


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Give a text without characters that steer a terminal or turn the direction of what follows."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def pieces(words: Words) -> tuple[str | Mono, ...]:
    """Give text as its pieces."""
    return words if isinstance(words, tuple) else (words,)
