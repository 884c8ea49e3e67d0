"""The check of a chain, entry by entry, in constant memory; pure, so that an export can be checked anywhere.

| tampering | shows as |
|---|---|
| edit | the content does not match the hash |
| edit with the hash made anew | the next entry does not follow; at the tail, the head differs |
| deletion | a gap in the numbers, and an entry that does not follow |
| reorder | contents that do not match (the number is hashed), entries that do not follow |
| fork | two entries with one predecessor |
| tail cut off | the head row is ahead; with the head row rewritten too, only a head kept outside shows it |
"""

import json
from collections.abc import Mapping
from typing import Any

from pgduet.audit import canonical
from pgduet.audit.records import Problem, Receipt, Verification


class Checker:
    """Take a log's entries in order of their numbers, then give the verdict.

    Args:
        outside: a head (number, hex hash) that was kept outside the database; the chain must run through it.
    """

    def __init__(self, outside: tuple[int, str] | None = None) -> None:
        self._outside = outside
        self._outside_seen = outside is None or outside == (0, canonical.ZERO_HASH)
        self._entries = 0
        self._last = Receipt(0, canonical.ZERO_HASH)
        self._last_prev: str | None = None
        self._problems: list[Problem] = []

    def take(self, row: Mapping[str, Any]) -> None:
        """Check one entry against its own hash and against the entry before it."""
        seq, stored = int(row["seq"]), str(row["hash"])
        self._check_place(seq, str(row["prev_hash"]))
        if recompute(row) != stored:
            self._found(seq, "its content does not match its hash")
        if self._outside is not None and seq == self._outside[0]:
            self._outside_seen = True
            if stored != self._outside[1]:
                self._found(seq, "its hash is not the one kept outside")
        self._entries += 1
        self._last, self._last_prev = Receipt(seq, stored), str(row["prev_hash"])

    def _check_place(self, seq: int, prev_hash: str) -> None:
        last = self._last
        if seq > last.seq + 1:
            self._found(last.seq + 1, f"missing: the next entry found is {seq}")
        elif seq <= last.seq:
            self._found(seq, f"stands after entry {last.seq}")
        if prev_hash == last.hash:
            return
        if prev_hash == self._last_prev:
            self._found(seq, f"fork: it follows the same entry as entry {last.seq}")
        else:
            self._found(seq, f"does not follow entry {last.seq}")

    def finish(self, head: tuple[int, str] | None) -> Verification:
        """Compare the end of the chain with the head row (None: there is no such row) and give what was found."""
        last = self._last
        if head is None:
            self._found(last.seq, "the head row is missing")
        elif head[0] > last.seq:
            self._found(last.seq + 1, f"missing at the tail: the head row says {head[0]} entries")
        elif head != (last.seq, last.hash):
            self._found(last.seq, f"is not the entry that the head row names ({head[0]})")
        if self._outside is not None and not self._outside_seen:
            self._found(self._outside[0], "missing: this entry was the head kept outside")
        return Verification(self._entries, last.seq, last.hash, self._problems)

    def _found(self, seq: int, what: str) -> None:
        self._problems.append(Problem(seq, what))


def recompute(row: Mapping[str, Any]) -> str | None:
    """Hash what an entry holds now; None when it holds something that `append` would never have written."""
    try:
        fields = {
            name: _parsed(row[name]) if name in {"affected", "evidence"} else row[name] for name in canonical.HASHED
        }
        return canonical.digest(fields)
    except (ValueError, RecursionError):  # numbers out of range, text that is no JSON, depth without end
        return None


def _parsed(value: object) -> Any:
    """Read jsonb that came as text; an exported entry has it read already."""
    return json.loads(value) if isinstance(value, str) else value
