"""A caret under the spot of an expression that PostgreSQL complains about, and that spot's place in the file.

PostgreSQL counts characters in the expression; the file may hold it quoted, with escapes. In a plain or quoted scalar
of one line the exact column is found; otherwise the place is where the value begins, and only the snippet shows the
spot.
"""

import re
from dataclasses import replace

from pgduet.errors import Place
from pgduet.plan.load import Located
from pgduet.plan.locate import Mark
from pgduet.plan.problems import KeyPath

_PIECES = {
    None: re.compile(r"."),
    "'": re.compile(r"''|."),
    '"': re.compile(r"\\x.{2}|\\u.{4}|\\U.{8}|\\.|."),
}
_WORD = re.compile(r"[\w$]+|\"(?:[^\"]|\"\")+\"")


def place_of(located: Located, path: KeyPath, offset: int = 0) -> tuple[Place, str]:
    """Give the place of the character at `offset` (from 0) of a text in the plan, and its line with carets below."""
    place = located.place(path)
    mark = located.places.values.get(path)
    if mark is not None and place.column is not None:
        place = replace(place, column=place.column + _columns(mark, offset))
    text = _text(located, path)
    return place, snippet(text, offset) if text else ""


def snippet(text: str, offset: int) -> str:
    """Give the line of `text` that holds `offset`, and below it carets under the word there."""
    spot = max(0, min(offset, len(text)))
    start = text.rfind("\n", 0, spot) + 1
    line = text[start:].split("\n", 1)[0]
    word = _WORD.match(line, spot - start)
    # Tabs stay tabs, so that the carets stand below the word whatever a tab's width is.
    indent = re.sub(r"[^\t]", " ", line[: spot - start])
    return f"{line}\n{indent}{'^' * (len(word[0]) if word else 1)}"


def _columns(mark: Mark, offset: int) -> int:
    """Count the columns from a scalar's start to its character at `offset`; 0 where they are not on one line."""
    pieces = _PIECES.get(mark.quote)
    if pieces is None or "\n" in mark.raw or not mark.raw:
        return 0
    quote = len(mark.quote or "")
    inner = mark.raw[quote : len(mark.raw) - quote]
    return quote + sum(len(piece) for piece in pieces.findall(inner)[:offset])


def _text(located: Located, path: KeyPath) -> str | None:
    value: object = located.plan.model_dump(mode="json", by_alias=True)
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value if isinstance(value, str) else None
