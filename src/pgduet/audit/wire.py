"""From what a check found to the verdict that goes over the wire; and the check of an export by its file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pgduet.audit import exported
from pgduet.audit.records import Anchor, Verification
from pgduet.audits import KEPT, AuditProblem, AuditVerdict, read_head


def verdict(source: str, found: Verification) -> AuditVerdict:
    """Put what was found into the words of a message."""
    return AuditVerdict(
        source=source,
        entries=found.entries,
        head=f"{found.head_seq}:{found.head_hash}",
        problems=[AuditProblem(seq=each.seq, kind=each.kind, what=each.what) for each in found.problems],
        found=found.found,
        doubtful_from=found.doubtful_from,
        agreed=found.agreed,
        anchored_to=found.anchored_to,
    )


def theirs(heads: Iterable[str]) -> list[Anchor]:
    """Read heads that somebody kept."""
    return [Anchor(*head, where=KEPT) for head in map(read_head, heads) if head]


def check_file(file: Path, heads: Sequence[str] = ()) -> AuditVerdict:
    """Check an export by its file, against itself and against heads that somebody kept; needs no server.

    Raises:
        OSError: the file cannot be read.
    """
    anchors = theirs(heads)
    with file.open("rb") as lines:
        found = exported.check(lines, anchors)
    return verdict(str(file), found).model_copy(update={"heads": len(anchors)})
