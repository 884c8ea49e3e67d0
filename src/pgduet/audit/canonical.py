"""The bytes that are hashed: RFC 8785 canonical JSON of an entry, by SHA-256.

RFC 8785 and jsonb disagree on some values, so `plain` brings a value to what both hold alike before anything is hashed
or stored: numbers beyond ±(2^53 - 1) (ints and floats), NaN and infinities become strings; NUL and lone surrogates are
written as escapes; tuples and sets become arrays; anything else that JSON does not know becomes `str(value)`.

Limit: two numbers that are the same double (0.1 and 0.10) are one number here, as in every JSON reader.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import TypeAlias

import rfc8785

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

ZERO_HASH = "0" * 64
"""What the first entry follows."""

HASHED = ("seq", "at", "actor", "action", "migration", "affected", "reason", "evidence", "prev_hash")
"""The fields of an entry that its hash covers."""

_SAFE = 2**53 - 1


def plain(value: object) -> Json:
    """Bring a value to the JSON that RFC 8785 and jsonb hold alike."""
    match value:
        case None | bool():
            return value
        case int():
            return int(value) if -_SAFE <= value <= _SAFE else str(value)
        case float():
            return float(value) if math.isfinite(value) and abs(value) <= _SAFE else str(value)
        case str():
            return _text(value)
        case Mapping():
            return {_text(str(key)): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return [plain(item) for item in sorted(value, key=str)]
        case _:
            return _text(str(value))


def _text(value: str) -> str:
    """Write what PostgreSQL's text cannot hold as an escape; enums become their plain value."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def dumps(value: Json) -> str:
    """Give the canonical JSON text; ValueError for a value that `plain` would have changed."""
    return rfc8785.dumps(value).decode("utf-8")


def digest(fields: Mapping[str, Json]) -> str:
    """Give the hash of an entry, 64 hex digits, from its fields; others than `HASHED` are left out."""
    return hashlib.sha256(rfc8785.dumps({name: fields[name] for name in HASHED})).hexdigest()
