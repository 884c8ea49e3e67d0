"""What goes over the wire for the audit log: heads, pages, verdicts; and how a verdict becomes an error.

A head is the last entry's number and hash, written `seq:hash`. Kept outside the database, it is an anchor: the chain must
run through it. Migrations keep theirs in the memo of their workflow, under `ANCHORS`.
"""

import re
from typing import Annotated

from pydantic import Field

from pgduet.acts import Message
from pgduet.errors import AuditBroken, AuditDiverged

ANCHORS = "PgduetAuditAnchors"
"""The memo's key: a list of heads, one for each phase."""
KEPT = "kept outside"
"""Where a head was that a person has kept."""
_HEAD = r"^(\d{1,18}):([0-9a-f]{64})$"
_SHOWN = 10

Head = Annotated[str, Field(pattern=_HEAD)]
Database = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/'\"\\]+$")]


def read_head(text: object) -> tuple[int, str] | None:
    """Read `seq:hash`; None for anything else."""
    found = re.match(_HEAD, text) if isinstance(text, str) else None
    return (int(found[1]), found[2]) if found else None


class AuditInput(Message):
    """Input of the AuditHead and AuditVerify workflows; `heads` were kept outside by somebody."""

    database: Database
    heads: list[Head] = Field(default=[], max_length=1000)


class AuditHead(Message):
    """The last entry, as `seq:hash`."""

    database: str
    head: str


class AuditPageInput(Message):
    """Input of the AuditExport workflow: the page after a place; without one, the first."""

    database: Database
    after_seq: int | None = None
    after_hash: str = ""


class AuditPage(Message):
    """Lines of an export, and the place to go on from; `last` where there is no more."""

    lines: list[str]
    after_seq: int | None = None
    after_hash: str = ""
    last: bool = False


class AuditProblem(Message):
    """Something that an untouched log does not have, and the entry at which it shows."""

    seq: int
    kind: str
    what: str


class AuditVerdict(Message):
    """What a check of the whole log found."""

    source: str
    """The database, or the file of an export."""
    entries: int
    head: str
    problems: list[AuditProblem] = Field(default_factory=list)
    """The first ones; `found` counts all."""
    found: int = 0
    doubtful_from: int | None = None
    """The first entry that cannot be trusted; null where the log is intact."""
    heads: int = 0
    """How many heads kept by somebody were compared."""
    anchors: int = 0
    """How many heads in Temporal were compared."""
    migrations: int = 0
    """How many migrations had kept them there."""
    agreed: int = 0
    """How many of both are in the chain as they were kept."""
    anchored_to: int = 0
    """The last entry that such a head vouches for; those after it have only the head row beside them."""

    @property
    def intact(self) -> bool:
        """Tell whether nothing was found."""
        return not self.found

    def error(self) -> AuditBroken | None:
        """Make the error that says what is wrong, at which entry, and what to do; None where the log is intact."""
        if self.intact:
            return None
        kinds = {problem.kind for problem in self.problems}
        family = AuditDiverged if kinds <= {"anchor"} else AuditBroken
        told = [f"entry {problem.seq}: {problem.what}" for problem in self.problems[:_SHOWN]]
        if self.found > _SHOWN:
            told.append(f"… and {self.found - _SHOWN:,} more")
        first = f"the audit log of {self.source} does not verify: no entry from {self.doubtful_from} on can be trusted"
        cures = [cure for kind, cure in _CURES.items() if kind in kinds]
        return family("\n  ".join([first, *told]), hint="\n  ".join([*cures, _KEEP]))


_CURES = {
    "edited": "Edited: an export made before has the entry as it was written.",
    "missing": "Missing: an export made before has the entries; the histories of the workflows in Temporal have the acts.",
    "order": "Out of order: an entry before it was changed with its hash, moved or taken out.",
    "fork": "Fork: entries were written past the log's lock, by hand; an export made before has the true ones.",
    "head": "Head row: it was changed by hand. Do not write it anew: that would hide what happened.",
    "anchor": (
        "Anchors: the log was rewritten or cut off with its hashes made anew, or the database is an older copy or another"
        " one. An export made before, and the histories of the workflows in Temporal, have what it said."
    ),
}
_KEEP = "Change nothing, keep the log as it is (`pgduet audit export`), and find out who could write as its owner."
