"""The check of a chain, entry by entry, in constant memory; pure, so that an export can be checked anywhere.

| tampering | shows as |
|---|---|
| edit | the content does not match the hash |
| edit with the hash made anew | the next entry does not follow; at the tail, the head differs |
| deletion | a gap in the numbers, and an entry that does not follow |
| reorder | contents that do not match (the number is hashed), entries that do not follow |
| fork | two entries with one predecessor |
| tail cut off | the head row is ahead; with the head row rewritten too, only an anchor shows it |
| chain written anew from some entry on | only an anchor shows it |

Limits: problems beyond the first hundred are only counted; an anchor vouches for what comes before it, not after it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pgduet.audit import canonical
from pgduet.audit.records import Anchor, Problem, Receipt, Verification

KEPT_PROBLEMS = 100


class Checker:
    """Take a log's entries in order of their numbers, then give the verdict.

    Args:
        outside: a head (number, hex hash) that was kept outside the database; the chain must run through it.
        anchors: more of them, each with where it was.
    """

    def __init__(self, outside: tuple[int, str] | None = None, anchors: Iterable[Anchor] = ()) -> None:
        self._anchors: dict[int, list[Anchor]] = {}
        self._agreed = self._anchored_to = self._entries = self._found_count = 0
        for anchor in (*([Anchor(*outside)] if outside else []), *anchors):
            if (anchor.seq, anchor.hash) == (0, canonical.ZERO_HASH):
                self._agreed += 1
            else:
                self._anchors.setdefault(anchor.seq, []).append(anchor)
        self._last = Receipt(0, canonical.ZERO_HASH)
        self._last_prev: str | None = None
        self._problems: list[Problem] = []
        self._doubtful_from: int | None = None

    def take(self, row: Mapping[str, Any]) -> None:
        """Check one entry against its own hash, against the entry before it, and against the anchors of its number."""
        seq, stored = int(row["seq"]), str(row["hash"])
        self._check_place(seq, str(row["prev_hash"]))
        if recompute(row) != stored:
            self.found("edited", seq, "its content does not match its hash")
        for anchor in self._anchors.pop(seq, ()):
            self._check_anchor(anchor, stored)
        self._entries += 1
        self._last, self._last_prev = Receipt(seq, stored), str(row["prev_hash"])

    def _check_place(self, seq: int, prev_hash: str) -> None:
        last = self._last
        if seq > last.seq + 1:
            self.found("missing", last.seq + 1, f"missing: the next entry found is {seq}")
        elif seq <= last.seq:
            self.found("order", seq, f"stands after entry {last.seq}")
        if prev_hash == last.hash:
            return
        if prev_hash == self._last_prev:
            self.found("fork", seq, f"fork: it follows the same entry as entry {last.seq}", since=last.seq)
        else:
            self.found("order", seq, f"does not follow entry {last.seq}", since=last.seq)

    def _check_anchor(self, anchor: Anchor, stored: str) -> None:
        if stored == anchor.hash:
            self._agreed += 1
            self._anchored_to = max(self._anchored_to, anchor.seq)
        else:
            what = f"its hash is not the one {anchor.where}"
            self.found("anchor", anchor.seq, what, since=self._anchored_to + 1)

    def finish(self, head: tuple[int, str] | None) -> Verification:
        """Compare the end of the chain with the head row (None: there is no such row) and give what was found."""
        last = self._last
        if head is None:
            self.found("head", last.seq, "the head row is missing")
        elif head[0] > last.seq:
            self.found("missing", last.seq + 1, f"missing at the tail: the head row says {head[0]} entries")
        elif head != (last.seq, last.hash):
            self.found("head", last.seq, f"is not the entry that the head row names ({head[0]})")
        return self.verdict()

    def verdict(self) -> Verification:
        """Give what was found where there is no head row to compare with, as in an export."""
        for seq in sorted(self._anchors):
            for anchor in self._anchors.pop(seq):
                what = f"missing: this entry was the head {anchor.where}"
                self.found("anchor", seq, what, since=min(seq, self._last.seq + 1))
        return Verification(
            self._entries,
            self._last.seq,
            self._last.hash,
            self._problems,
            found=self._found_count,
            doubtful_from=self._doubtful_from,
            agreed=self._agreed,
            anchored_to=self._anchored_to,
        )

    def found(self, kind: str, seq: int, what: str, *, since: int | None = None) -> None:
        """Note a problem; `since` is the first entry that may be wrong because of it, where that is an earlier one."""
        self._found_count += 1
        if len(self._problems) < KEPT_PROBLEMS:
            self._problems.append(Problem(seq, what, kind))
        first = max(1, seq if since is None else since)
        self._doubtful_from = min(first, self._doubtful_from or first)

    @property
    def expected(self) -> int:
        """The number of the entry that should come next."""
        return self._last.seq + 1


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
