"""Queries of other sessions as they may be shown: their shape, without any value.

`pg_stat_activity.query` holds what a client sent, data included, and it is cut at `track_activity_query_size`, so no parser can be
relied on. It is scanned as PostgreSQL's own lexer would: strings of every kind, numbers and bit strings become `?`, comments go,
keywords and names stay. Where two readings are possible (a backslash before a quote, which depends on a setting of that session),
the rest is left out. So is what follows the name in commands whose values may be bare words (`SET x TO secret`).
Limit: a value that somebody has made a name (`CREATE TABLE "4711"`) is a name.
"""

import re
from collections.abc import Iterator

from pgduet.texts import shown

QUERY_CHARS = 120
_CUT = "…"
_HIDDEN = "?"

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\r\f\v]+)
    | (?P<line>--[^\r\n]*)
    | (?P<block>/\*)
    | (?P<escaped>[eE]')
    | (?P<string>(?:[nNbBxX]|[uU]&)?')
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$)
    | (?P<parameter>\$\d+)
    | (?P<quoted>(?:[uU]&)?")
    | (?P<number>(?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d+)?)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BARE_VALUES = frozenset({"SET", "RESET", "NOTIFY", "LISTEN", "UNLISTEN", "EXECUTE", "CALL", "LOAD", "IMPORT"})
_OF_SYSTEM = frozenset({"ROLE", "USER", "DATABASE", "SYSTEM", "SERVER", "GROUP", "SUBSCRIPTION", "FOREIGN"})
_ROUTINES = frozenset({"FUNCTION", "PROCEDURE", "ROUTINE"})
_MANY = re.compile(r"\?(?:\s*,\s*\?)+")


class _Unclear(Exception):
    """From here on it cannot be told what is a value."""


def without_literals(query: str, limit: int = QUERY_CHARS) -> str:
    """Give the shape of a query, in one line of at most `limit` characters."""
    parts: list[str] = []
    try:
        parts.extend(_shape(query))
    except _Unclear:
        parts.append(_CUT)
    text = _MANY.sub("?, …", " ".join("".join(parts).split()))
    return shown(text, limit)


def _shape(query: str) -> Iterator[str]:
    place = 0
    words: list[str] = []
    while place < len(query):
        found = _TOKEN.match(query, place)
        assert found is not None  # noqa: S101  (one of the alternatives matches any character)
        kind, text = str(found.lastgroup), found.group()
        place = found.end()
        match kind:
            case "space" | "line":
                yield " "
            case "block":
                place = _after_comment(query, place)
                yield " "
            case "string" | "escaped":
                place = _after_string(query, place, escapes=kind == "escaped")
                yield _HIDDEN
            case "dollar":
                end = query.find(text, place)
                place = len(query) if end < 0 else end + len(text)
                yield _HIDDEN
            case "number":
                yield _HIDDEN
            case "quoted":
                end = _after_name(query, place)
                yield query[found.start() : end]
                place = end
            case _:
                if text == ";":
                    words.clear()
                yield text
                if kind == "word":
                    words.append(text.upper())
                    _stop_at_bare_values(words)


def _stop_at_bare_values(words: list[str]) -> None:
    """Leave out the rest of a command that takes values as bare words, once it is told which command it is."""
    if words[0] in _BARE_VALUES:
        raise _Unclear
    of_routine = words[-1] == "SET" and not _ROUTINES.isdisjoint(words[1:4])
    if words[0] in {"ALTER", "CREATE"} and (of_routine or (len(words) == 2 and words[1] in _OF_SYSTEM)):
        raise _Unclear


def _after_comment(query: str, place: int) -> int:
    """Find the end of a comment; they nest."""
    depth = 1
    while depth:
        found = re.compile(r"/\*|\*/").search(query, place)
        if found is None:
            raise _Unclear
        depth += 1 if found.group() == "/*" else -1
        place = found.end()
    return place


def _after_string(query: str, place: int, *, escapes: bool) -> int:
    """Find the end of a string, or the end of the query where it was cut."""
    while place < len(query):
        char = query[place]
        if char == "\\":
            if escapes:
                place += 2
                continue
            if query[place + 1 : place + 2] == "'":
                raise _Unclear
        if char == "'":
            if query[place + 1 : place + 2] != "'":
                return place + 1
            place += 1
        place += 1
    return len(query)


def _after_name(query: str, place: int) -> int:
    """Find the end of a quoted name."""
    while place < len(query):
        if query[place] == '"':
            if query[place + 1 : place + 2] != '"':
                return place + 1
            place += 1
        place += 1
    raise _Unclear
