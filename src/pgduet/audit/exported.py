"""An export: one line for each entry, in order, each the RFC 8785 canonical JSON of the entry with its hash.

So the bytes that were hashed are the line without its member `"hash":"…",`, and who checks an export needs no JSON library
of ours: see docs/explanation/audit.md for the recipe. An entry that holds what pgduet never writes (tampered with) is
written as near to that as JSON can, so that a broken log can be kept too.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pgduet.audit import canonical
from pgduet.audit.checker import Checker
from pgduet.audit.records import Anchor, Verification

FIELDS = (*canonical.HASHED, "hash")
_TEXTS = {"at", "actor", "action", "prev_hash", "hash"}


def line(entry: Mapping[str, Any]) -> str:
    """Write an entry as a line of an export, without the line's end."""
    fields = {name: entry[name] for name in FIELDS}
    try:
        return canonical.dumps(fields)
    except (ValueError, RecursionError):
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def check(lines: Iterable[bytes], anchors: Iterable[Anchor] = ()) -> Verification:
    """Check an export, line by line in constant memory; every byte but the end of a line counts."""
    checker = Checker(anchors=anchors)
    for number, raw in enumerate(lines, 1):
        text = raw.removesuffix(b"\n")
        try:
            entry = _read(text)
        except (ValueError, RecursionError):
            checker.found("edited", checker.expected, f"line {number} of the file is no entry")
            continue
        checker.take(entry)
        if line(entry).encode() != text:
            checker.found("edited", entry["seq"], f"line {number} of the file is not as it was written")
    return checker.verdict()


def _read(text: bytes) -> dict[str, Any]:
    """Read a line; ValueError where it is not an entry's."""
    entry = json.loads(text)
    if not isinstance(entry, dict) or set(entry) != set(FIELDS) or type(entry["seq"]) is not int:
        raise ValueError("not the fields of an entry")
    if not all(isinstance(entry[name], str) for name in _TEXTS):
        raise ValueError("not the types of an entry")
    return entry
