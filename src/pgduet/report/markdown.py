"""Renders a document as Markdown (CommonMark with tables). Pure.

Every character that Markdown could take for markup is escaped where it could be; newlines in a text become spaces.
"""

import re

from pgduet.report.document import (
    Bar,
    Block,
    Cell,
    Code,
    Document,
    Figures,
    Items,
    Mono,
    Paragraph,
    Table,
    Words,
    pieces,
    shown,
)

_BARS = 12
_ALWAYS = re.compile(r"([\\`*\[\]<>|&~])")
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_SPACE = re.compile(r"\s+")
_AT_START = re.compile(r"^([#+\-=]|\d{1,9}(?=[.)](?:\s|$)))")


def render(document: Document) -> str:
    """Render a page."""
    parts = [f"# {escaped(document.title)}", *map(_block, document.answer)]
    for section in document.sections:
        parts += [f"## {escaped(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join([*parts, "---", _words(document.foot)]) + "\n"


def escaped(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, wherever in a line it stands."""
    return _UNDERSCORE.sub(r"\\_", _ALWAYS.sub(r"\\\1", _SPACE.sub(" ", shown(text))))


def _not_a_mark(start: re.Match[str]) -> str:
    """Escape what would begin a heading or a list; of a number what follows it."""
    return f"{start[1]}\\" if start[1].isdigit() else f"\\{start[1]}"


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return _words(block.words)
        case Items():
            return "\n".join(f"- {_words(item)}" for item in block.items)
        case Code():
            return _fenced(block.text)
        case Figures():
            return _table(
                Table(("", "", ""), tuple((what, how_much, note) for what, how_much, note in block.figures)),
            )
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    marks = ("---:" if head in table.right else "---" for head in table.head)
    lines = [map(escaped, table.head), marks, *(map(_cell, row) for row in table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Bar):
        return "▇" * max(0, min(_BARS, round(cell.share * _BARS)))
    # A table's row is cut at every bar that is not escaped, in code as well.
    return "".join(
        _mono(piece).replace("|", "\\|") if isinstance(piece, Mono) else escaped(piece) for piece in pieces(cell)
    )


def _words(words: Words) -> str:
    line = "".join(_mono(piece) if isinstance(piece, Mono) else escaped(piece) for piece in pieces(words))
    return _AT_START.sub(_not_a_mark, line.strip())


def _mono(mono: Mono) -> str:
    text = " ".join(shown(mono.text).split())
    fence = "`" * (_longest(text) + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}" if text else ""


def _fenced(text: str) -> str:
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}\n{shown(text)}\n{fence}"


def _longest(text: str) -> int:
    """Measure the longest run of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)
